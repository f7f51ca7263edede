package broker

import (
	"context"
	"time"
)

// Bounds of queues. What is larger fails with ErrTooLarge, what has no valid form with ErrInvalid; nothing changes then.
const (
	MaxJobName        = 128                 // bytes of a job's name and of an entitlement's
	MaxInvocationID   = 64                  // bytes of an invocation's ID
	MaxPayload        = 1 << 20             // bytes of an invocation's payload
	MaxResult         = 1 << 20             // bytes of a result's payload
	MaxCallback       = 16 << 10            // bytes of a callback's document
	MaxIdempotencyKey = 256                 // bytes of an idempotency key and of an order
	MaxReason         = 4 << 10             // bytes of a reason; a longer one is cut, not refused
	MaxBatch          = 1000                // invocations in one batch, and leases of one call
	MaxBatchBytes     = 8 << 20             // payloads and callbacks of one batch, together; results of one call to Lease end early there
	MaxPriority       = 9                   // of 0 to 9
	MaxAttempts       = 100                 // of an invocation or a callback
	MaxDelay          = 30 * 24 * time.Hour // of a delayed start or a release
	MaxResultTTL      = 30 * 24 * time.Hour
	MinResultTTL      = time.Second
	MaxQueueLength    = 10_000_000 // the largest Batch.Limit
	MaxLeaseJobs      = 1000       // jobs of one call to Lease, Wait or Counts
	MaxListFrom       = 512        // bytes of what List answers to go on from
)

// What zero values stand for.
const (
	DefaultAttempts    = 5
	DefaultResultTTL   = 24 * time.Hour
	DefaultQueueLength = 100_000
	DefaultEntitlement = "default"
)

// QueueSchema is the version of the documents that backends keep for queues. A backend refuses documents of a newer one
// with ErrNewer.
const QueueSchema = 1

// Job names the job that an invocation is for. Everything that a queue keeps is kept by job, and no step of a queue
// concerns two jobs. Both names are 1 to MaxJobName bytes of ASCII letters, digits, '-', '_' and '.'.
type Job struct {
	Entitlement string // DefaultEntitlement until there are others
	Name        string
}

// String is "entitlement/name".
func (j Job) String() string { return j.Entitlement + "/" + j.Name }

// InvocationID names an invocation within its job: 1 to MaxInvocationID bytes of ASCII letters, digits, '-' and '_'.
type InvocationID string

// Invocation is a queued request to a job.
type Invocation struct {
	ID          InvocationID // made by who enqueues it, so that trying again is safe
	Payload     []byte       // the request. A queue keeps it byte for byte; it says its own schema version
	Priority    int          // 0 to MaxPriority; higher ones are leased first
	Order       string       // of the invocations of a job with one Order, each starts after the one before has ended; empty: none
	Delay       time.Duration
	Key         string        // idempotency key; empty: none. Within a job, it stands for the invocation that had it first, while that one is known
	MaxAttempts int           // 0 means DefaultAttempts
	Backoff     Backoff       // for who runs it: a queue only keeps it
	ResultTTL   time.Duration // how long after its end (that of its callback, if it has one) it is known; 0 means DefaultResultTTL
	Callback    *Callback     // nil: none
}

// Callback is what is to be told to somebody when an invocation has ended.
type Callback struct {
	Document    []byte // whom to tell, and how; kept byte for byte
	MaxAttempts int    // 0 means DefaultAttempts
}

// Batch is invocations for one job.
type Batch struct {
	Job         Job
	Limit       int // how many invocations of the job may be unfinished after it; 0 means DefaultQueueLength
	Invocations []Invocation
}

// Receipt says what became of an invocation that was enqueued.
type Receipt struct {
	ID    InvocationID // its own, or that of the one that has its idempotency key
	Known bool         // that one was there before, and stays as it was
}

// Lane tells what is leased.
type Lane string

const (
	LaneRun      Lane = "run"      // invocations
	LaneCallback Lane = "callback" // callbacks of those that have ended
)

// Want is what a worker can take.
type Want struct {
	Worker string // who; for people. 1 to MaxLeaseName bytes
	Lane   Lane   // empty means LaneRun
	Jobs   []Job
	Max    int           // at most so many; 1 to MaxBatch
	TTL    time.Duration // MinLeaseTTL to MaxLeaseTTL
}

// Lease is an invocation, or its callback, that a worker may work on until the lease ends.
type Lease struct {
	Job        Job
	Lane       Lane
	Invocation           // as it was enqueued, with defaults filled in; for LaneCallback without its Payload
	Token      string    // tells this lease from all others of the invocation
	Attempt    int       // which one it is: 1 for the first
	Enqueued   time.Time // by the server's clock, as Until
	Until      time.Time // for people: a worker goes by Safe
	TTL        time.Duration
}

// Safe answers for how long a worker may go on: counted by a monotonic clock from before its call of Lease or Extend.
func (l Lease) Safe() time.Duration { return Hold{TTL: l.TTL}.Safe() }

// Outcome is how an invocation ended.
type Outcome string

const (
	OutcomeDone Outcome = "done" // there is a response, whatever it says
	OutcomeDead Outcome = "dead" // given up on; it stays as a dead letter
)

// Result is the end of an invocation.
type Result struct {
	Outcome Outcome
	Payload []byte // the response, kept byte for byte; it says its own schema version. The receiver's own
	Reason  string // why it was given up
}

// Return says how an invocation is given back.
type Return struct {
	Delay     time.Duration // it is not leased again sooner
	Reason    string        // why this attempt failed
	Unstarted bool          // nothing of it has begun, so the attempt does not count
}

// State is where an invocation is.
type State string

const (
	StateWaiting State = "waiting" // to be leased: now, after its delay, or after those before it in its order
	StateLeased  State = "leased"
	StateDone    State = "done" // it has a result
	StateDead    State = "dead" // it has a result that says so, and is a dead letter until it is requeued or discarded
)

// CallbackState is where the callback of an invocation is.
type CallbackState string

const (
	CallbackNone    CallbackState = ""
	CallbackPending CallbackState = "pending" // the invocation has not ended, or its callback waits or is being delivered
	CallbackDone    CallbackState = "done"
	CallbackDead    CallbackState = "dead" // given up on
)

// Status is what is known of an invocation. Times are by the server's clock.
type Status struct {
	ID               InvocationID
	State            State
	Attempts         int // begun, and not given back as unstarted
	MaxAttempts      int
	Priority         int
	Order, Key       string
	Enqueued         time.Time // or requeued
	Due              time.Time // waiting: since when, or when at the earliest, it may be leased
	Worker           string    // leased: by whom
	Until            time.Time // leased: for how long
	Reason           string    // why the last attempt failed, if one did
	Finished         time.Time // done or dead: when; else zero
	Callback         CallbackState
	CallbackAttempts int
	CallbackReason   string
	Expires          time.Time // when it will be forgotten; zero while that is not known
	PayloadBytes     int       // of the invocation; 0 once it is gone
	ResultBytes      int
}

// Counts says how many invocations of a job there are. All but Done count against a batch's limit.
type Counts struct {
	Waiting   int       // StateWaiting
	Ready     int       // those among them that could be leased now
	Leased    int       // StateLeased
	Dead      int       // dead letters; their callbacks are not counted besides
	Callbacks int       // ended and no dead letter, with a callback that is not over
	Oldest    time.Time // since when the first in line has been ready, that of all priorities that has been so longest; zero if none is
}

// Length is how many there are that count against a batch's limit.
func (c Counts) Length() int { return c.Waiting + c.Leased + c.Dead + c.Callbacks }

// Queue hands invocations to workers under leases. Delivery is at least once: one whose lease runs out is offered again,
// so a guest may run more than once, but one result is recorded.
//
// An invocation is waiting, leased, done or dead. Leasing it begins an attempt. Complete ends it; Release and a lease that
// runs out give it back, and if that was its last attempt they end it as dead, with the reason. A dead letter keeps the
// whole invocation until it is requeued or discarded, and holds back nothing in its order. An end stores the result and
// makes the callback, if there is one, ready to be leased; callbacks have leases and attempts of their own. ResultTTL after
// the end (of the invocation, of its callback, and for a dead letter of its being discarded, whichever is last) the
// invocation, its result and its idempotency key are forgotten, as if they had never been.
//
// The server's clock decides. What time does (a delay or a lease runs out, a result expires) is seen by each later call
// that names the invocation, and by Lease; Counts, List and Letters may be late with it until the job's next Lease. Ready
// invocations of a job are leased by priority, and those of one priority in the order in which they were enqueued (or
// requeued); one that is given back takes its old place. Callbacks are leased in the order in which they became ready. Methods are safe for concurrent use. What they changed is durable
// when they return. After ErrNotFound, ErrConflict, ErrLeaseLost, ErrNotWaiting, ErrQueueFull, ErrTooLarge, ErrInvalid, ErrFull and
// ErrReadOnly nothing has changed; after any other error the change may have been made, whole.
type Queue interface {
	// Enqueue stores a batch, whole or not at all, and answers a receipt for each invocation. One whose ID or idempotency
	// key is known (or was earlier in the batch) changes nothing: it may be tried again and again. It fails with
	// ErrQueueFull if the limit does not allow all of the new ones.
	Enqueue(ctx context.Context, b Batch) ([]Receipt, error)
	// Lease takes up to w.Max that are ready, and answers none if there are none: it does not wait. Each job is a step of its own,
	// and each call begins with another job, so that none is starved. After an error nothing is answered; what was taken
	// is offered again when its lease runs out. An answer is cut short, but not to nothing, at MaxBatchBytes.
	Lease(ctx context.Context, w Want) ([]Lease, error)
	// Wait returns nil when Lease of the same want may give something. It may return too early, and never waits while
	// something is ready (a backend that asks its server now and then: not for more than a second). It fails when ctx ends.
	Wait(ctx context.Context, w Want) error
	// Extend lets each lease last for its TTL from now. It answers those it extended, in their order, and an error that
	// joins what happened to the others: a *LostError for each that has ended, even if nobody leased it since.
	Extend(ctx context.Context, ls ...Lease) ([]Lease, error)
	// Complete ends an invocation in one step: if the lease is current and there is no result yet, the result is stored,
	// the invocation removed (or made a dead letter) and its callback made ready. Otherwise it fails with ErrLeaseLost and
	// nothing has changed: somebody else may be running it, or it has ended, perhaps by an earlier try of this very call.
	// For LaneCallback, it ends the callback, of which only r.Outcome and r.Reason are kept.
	Complete(ctx context.Context, l Lease, r Result) error
	// Release gives an invocation or a callback back for another attempt, or ends it as dead if this was the last. It
	// fails with ErrLeaseLost unless the lease is current.
	Release(ctx context.Context, l Lease, r Return) error

	// Status tells where an invocation is. It fails with ErrNotFound if it is not known, or not any more.
	Status(ctx context.Context, j Job, id InvocationID) (Status, error)
	// Result answers the end of an invocation. It fails with ErrNotFound until there is one.
	Result(ctx context.Context, j Job, id InvocationID) (Result, error)
	// Counts answers for each job how many invocations there are. Each is of a moment of its own.
	Counts(ctx context.Context, jobs ...Job) ([]Counts, error)

	// List answers a job's invocations that are waiting or leased, at most limit (0: 100, at most MaxBatch), and from where to go
	// on: empty to begin, and in an answer when there are no more. First come those that are leased, then those that are ready, as
	// they will be leased, then the others. An answer may have fewer, or none, though there are more: what it looks at is
	// bounded. Of those that have ended none is looked at, however many are known. One that moves between two calls (it is leased,
	// given back or becomes ready) may be missed, or come twice. It fails with ErrInvalid if from is not what a List answered.
	List(ctx context.Context, j Job, from string, limit int) (list []Status, next string, err error)
	// Cancel ends an invocation that waits as dead, with a reason, and does not keep it as a dead letter: in one step it is what an
	// end and Discard are. So its result is known until it expires, its callback becomes ready, and its order goes on. It fails with
	// ErrNotFound if the invocation is not known, and with ErrNotWaiting if it is leased or has ended: of those who cancel and
	// those who lease at the same moment, one succeeds.
	Cancel(ctx context.Context, j Job, id InvocationID, reason string) error

	// Letters answers a job's dead letters in order of their IDs, bytewise: those after an ID, at most limit (0: 100, at
	// most MaxBatch).
	Letters(ctx context.Context, j Job, after InvocationID, limit int) ([]Status, error)
	// Letter answers a dead letter as it was enqueued. It fails with ErrNotFound if there is no such dead letter.
	Letter(ctx context.Context, j Job, id InvocationID) (Invocation, error)
	// Requeue lets a dead letter wait again, ready at once, behind all others of its priority and its order, with no
	// attempts behind it. Its result is withdrawn, and its callback if it is not over; its next end has one again. It fails
	// with ErrNotFound if there is no such dead letter.
	Requeue(ctx context.Context, j Job, id InvocationID) error
	// Discard ends a dead letter's keeping; its result stays until it expires. It fails with ErrNotFound if there is no
	// such dead letter.
	Discard(ctx context.Context, j Job, id InvocationID) error
	// Purge forgets everything of a job, results too. It is not one step: after an error, and for what is enqueued
	// meanwhile, some of it may be left.
	Purge(ctx context.Context, j Job) error
}
