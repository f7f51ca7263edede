package model

import (
	"sync"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Bug is a mistake that can be switched on.
type Bug string

// The mistakes. Each breaks one promise of package broker.
const (
	ResultBeforeLeaseCheck Bug = "a result is stored before the lease is checked"
	RevisionReused         Bug = "a commit that only deletes does not take a revision of its own"
	ConditionsForgotten    Bug = "a commit checks its first condition only"
	BlobSweptEarly         Bug = "a sweep does not wait for the grace to end"
	DelayedForgotten       Bug = "an invocation given back with a delay is never offered again"
	LateRenewalAccepted    Bug = "a lease that ended is renewed if nobody took it since"
	ForeignExtension       Bug = "an extension does not check whose lease it is"
	ReasonLost             Bug = "a dead letter loses its reason"
	KeyForgotten           Bug = "an idempotency key is forgotten when its invocation ends"
	RetryLimitIgnored      Bug = "a lease that runs out at the last attempt is offered again"
	CallbackTwice          Bug = "a result that comes too late queues the callback again"
	OrderIgnored           Bug = "an invocation starts before the one before it in its order has ended"
)

// Options configures a Broker.
type Options struct {
	Clock   clock.Clock // nil means the system clock
	Mark    string      // of the records' history, without '-'; empty means "model"
	History int         // commits that a watcher may be behind; 0 means all
	Bugs    []Bug
}

// Broker is all contracts over one state. Its parts are safe for concurrent use. There is nothing to close.
type Broker struct {
	opts Options
	bugs map[Bug]bool

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
	records records
	leases  map[string]*tenure
	blobs   map[broker.Digest]*blob
	jobs    map[broker.Job]*jobQueue
	turn    int    // of Lease: which of its jobs it begins with
	tokens  uint64 // given out
	seq     int    // of the invocation that was enqueued or requeued last
	buckets buckets
}

// New makes an empty broker.
func New(opts Options) *Broker {
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.Mark == "" {
		opts.Mark = "model"
	}
	b := &Broker{
		opts: opts, bugs: map[Bug]bool{}, changed: make(chan struct{}),
		records: records{data: map[string]broker.Record{}},
		leases:  map[string]*tenure{}, blobs: map[broker.Digest]*blob{}, jobs: map[broker.Job]*jobQueue{},
		buckets: buckets{data: map[string]map[string]broker.Item{}},
	}
	for _, bug := range opts.Bugs {
		b.bugs[bug] = true
	}
	return b
}

// Records are the broker's records.
func (b *Broker) Records() *Records { return (*Records)(b) }

// Leases are the broker's leases.
func (b *Broker) Leases() *Leases { return (*Leases)(b) }

// Blobs are the broker's blobs.
func (b *Broker) Blobs() *Blobs { return (*Blobs)(b) }

// Queue is the broker's queue.
func (b *Broker) Queue() *Queue { return (*Queue)(b) }

// Buckets are the broker's buckets.
func (b *Broker) Buckets() *Buckets { return (*Buckets)(b) }

// wakeLocked tells all who wait that something has changed.
func (b *Broker) wakeLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}
