package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/ids"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// NewInvocation is a request that is to be queued. A zero field means what the job's manifest says.
type NewInvocation struct {
	ID        broker.InvocationID // empty: a new one
	Request   envelope.Request
	Key       string // idempotency key
	Order     string // of those with one Order, each starts after the one before has ended
	Priority  int
	Delay     time.Duration
	Attempts  int
	ResultTTL time.Duration
	Callback  string // URL, which the job's fetch grant has to allow; empty: none
	From      string // the job whose guest asks for it; empty: somebody with a token does
}

// JobQueue names the queue of a job. It carries the job's ID, so that a job never sees what was queued for another one that
// had its name before.
func JobQueue(j Job) broker.Job { return broker.Job{Entitlement: j.Entitlement, Name: j.ID} }

// callbackAttempts bounds how often the end of an invocation is told to somebody who does not take it.
const callbackAttempts = 8

// ours begins the orders and keys of schedules.
const ours = "@"

// Enqueue queues a request for a job, and returns once it is durable. One whose ID or key is known stays as it was. Orders and keys that begin
// with an @ are refused: they are those of schedules.
func (s *Store) Enqueue(ctx context.Context, job string, v NewInvocation) (broker.Receipt, error) {
	if strings.HasPrefix(v.Order, ours) || strings.HasPrefix(v.Key, ours) {
		return broker.Receipt{}, &refusal{&wire.Problem{Code: "invocation-invalid", Status: http.StatusBadRequest, Title: "Invalid invocation",
			Detail: "an order or idempotency key that begins with " + ours + " belongs to a schedule"}, broker.ErrInvalid}
	}
	now, q, err := s.queueOf(ctx, job)
	if err != nil {
		return broker.Receipt{}, err
	}
	return s.enqueue(ctx, now, q, v)
}

func (s *Store) enqueue(ctx context.Context, now state, q broker.Job, v NewInvocation) (broker.Receipt, error) {
	if err := v.check(); err != nil {
		return broker.Receipt{}, err
	}
	job, settings := now.job.Name, now.version.Manifest
	settings.Fill(job) // of a version from before there were queues
	order := v.Order
	if settings.Queue.Ordered {
		if v.Delay > 0 && v.From != "" && v.From != job {
			return broker.Receipt{}, unfit(fmt.Errorf("%w: job %s runs its queue in order (queue.ordered), and another job's delay would hold it up", broker.ErrInvalid, job))
		}
		order = "*"
	}
	one := broker.Invocation{ID: v.ID, Priority: v.Priority, Order: order, Delay: v.Delay, Key: v.Key, MaxAttempts: v.Attempts, ResultTTL: v.ResultTTL,
		Backoff: broker.Backoff{First: time.Duration(settings.Queue.Backoff.First), Max: time.Duration(settings.Queue.Backoff.Max)}}
	setDefault(&one.ID, broker.InvocationID(ids.New()))
	setDefault(&one.MaxAttempts, settings.Queue.Attempts)
	setDefault(&one.ResultTTL, time.Duration(settings.Queue.TTL))
	var err error
	if one.Payload, err = v.Request.Encode(); err != nil {
		return broker.Receipt{}, unfit(err)
	}
	if v.Callback != "" {
		if one.Callback, err = callback(settings.Capabilities, job, v.Callback); err != nil {
			return broker.Receipt{}, err
		}
	}
	got, err := s.queue.Enqueue(ctx, broker.Batch{Job: q, Limit: settings.Queue.Length, Invocations: []broker.Invocation{one}})
	switch {
	case errors.Is(err, broker.ErrQueueFull):
		return broker.Receipt{}, refuse(http.StatusTooManyRequests, "queue-full", "Queue is full",
			"job %s has %d unfinished invocations, dead letters included, which is as many as its manifest allows (queue.length); try again later: %w", job, settings.Queue.Length, err)
	case err != nil:
		return broker.Receipt{}, unfit(storage(err))
	}
	return got[0], nil
}

// check says in the user's words what the broker would refuse in its own, where it names an ID that nobody was told.
func (v NewInvocation) check() error {
	outside := func(kind error, format string, args ...any) error {
		p := &wire.Problem{Code: "invocation-invalid", Status: http.StatusBadRequest, Title: "Invalid invocation", Detail: fmt.Sprintf(format, args...)}
		if kind == broker.ErrTooLarge {
			p.Code, p.Status, p.Title = "too-large", http.StatusRequestEntityTooLarge, "Too large"
		}
		return &refusal{p, kind}
	}
	days := func(d time.Duration) string { return fmt.Sprintf("%dd", d/(24*time.Hour)) }
	switch {
	case v.Priority < 0 || v.Priority > broker.MaxPriority:
		return outside(broker.ErrInvalid, "priority %d is out of range: 0 to %d is allowed", v.Priority, broker.MaxPriority)
	case v.Attempts < 0 || v.Attempts > broker.MaxAttempts:
		return outside(broker.ErrInvalid, "%d attempts are out of range: 1 to %d are allowed", v.Attempts, broker.MaxAttempts)
	case v.Delay < 0 || v.Delay > broker.MaxDelay:
		return outside(broker.ErrInvalid, "delay %s is out of range: at most %s is allowed", manifest.Duration(v.Delay), days(broker.MaxDelay))
	case v.ResultTTL != 0 && (v.ResultTTL < broker.MinResultTTL || v.ResultTTL > broker.MaxResultTTL):
		return outside(broker.ErrInvalid, "ttl %s is out of range: %s to %s is allowed", manifest.Duration(v.ResultTTL), broker.MinResultTTL, days(broker.MaxResultTTL))
	case len(v.Key) > broker.MaxIdempotencyKey:
		return outside(broker.ErrTooLarge, "the idempotency key has %d bytes: at most %d are allowed", len(v.Key), broker.MaxIdempotencyKey)
	case len(v.Order) > broker.MaxIdempotencyKey:
		return outside(broker.ErrTooLarge, "the order has %d bytes: at most %d are allowed", len(v.Order), broker.MaxIdempotencyKey)
	}
	return nil
}

// unfit turns what cannot be queued into a problem.
func unfit(err error) error {
	switch {
	case errors.Is(err, envelope.ErrTooLarge):
		return refuse(http.StatusRequestEntityTooLarge, "too-large", "Too large", "%w", err)
	case errors.Is(err, envelope.ErrInvalid), errors.Is(err, broker.ErrInvalid):
		return refuse(http.StatusBadRequest, "invocation-invalid", "Invalid invocation", "%w", err)
	}
	return err
}

// callback makes what the queue keeps of a callback, if the job may fetch from its URL.
func callback(granted policy.Capabilities, job, to string) (*broker.Callback, error) {
	u, err := url.Parse(to)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, &refusal{&wire.Problem{Code: "callback-invalid", Status: http.StatusBadRequest, Title: "Invalid callback",
			Detail: "the callback is no http or https URL"}, broker.ErrInvalid}
	}
	grants, err := policy.Grant(granted)
	if err != nil {
		return nil, err
	}
	if err := grants.Fetch(u); err != nil {
		return nil, &refusal{&wire.Problem{Code: "callback-refused", Status: http.StatusUnprocessableEntity, Title: "Callback is not granted",
			Detail: fmt.Sprintf("job %s may not send to %s; name %s://%s under capabilities.fetch in its manifest", job, u.Redacted(), u.Scheme, u.Host)}, err}
	}
	doc, err := envelope.Callback{URL: to}.Encode()
	if err != nil || len(doc) > broker.MaxCallback {
		return nil, &refusal{&wire.Problem{Code: "too-large", Status: http.StatusRequestEntityTooLarge, Title: "Too large", Detail: "the callback's URL is too long"},
			envelope.ErrTooLarge}
	}
	return &broker.Callback{Document: doc, MaxAttempts: callbackAttempts}, nil
}

// queueOf finds a job and the name of its queue.
func (s *Store) queueOf(ctx context.Context, job string) (state, broker.Job, error) {
	if err := checkName(job); err != nil {
		return state{}, broker.Job{}, err
	}
	now, err := s.load(ctx, job)
	if err == nil && !now.exists() {
		err = unknownJob(job)
	}
	return now, JobQueue(now.job), err
}

func unknownInvocation(job, id string, err error) error {
	if errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrInvalid) {
		return refuse(http.StatusNotFound, "invocation-unknown", "Unknown invocation", "job %s has no invocation %.80q, or has forgotten it", job, id)
	}
	return err
}

// Invocation tells where an invocation of a job is.
func (s *Store) Invocation(ctx context.Context, job, id string) (broker.Status, error) {
	_, q, err := s.queueOf(ctx, job)
	if err != nil {
		return broker.Status{}, err
	}
	st, err := s.queue.Status(ctx, q, broker.InvocationID(id))
	return st, unknownInvocation(job, id, err)
}

// InvocationResult answers what a guest answered. Until there is an answer, and for an invocation that was given up, it is a problem.
func (s *Store) InvocationResult(ctx context.Context, job, id string) (envelope.Response, error) {
	_, q, err := s.queueOf(ctx, job)
	if err != nil {
		return envelope.Response{}, err
	}
	r, err := s.queue.Result(ctx, q, broker.InvocationID(id))
	if errors.Is(err, broker.ErrNotFound) {
		if st, err := s.queue.Status(ctx, q, broker.InvocationID(id)); err == nil {
			return envelope.Response{}, refuse(http.StatusNotFound, "result-none", "No result yet", "invocation %s is %s, after %d of at most %d attempts", id, StateName(st.State), st.Attempts, st.MaxAttempts)
		}
	}
	if err != nil {
		return envelope.Response{}, unknownInvocation(job, id, err)
	}
	if r.Outcome != broker.OutcomeDone {
		return envelope.Response{}, refuse(http.StatusBadGateway, "invocation-dead", "The invocation was given up", "there is no response to invocation %s: %s", id, r.Reason)
	}
	return envelope.DecodeResponse(r.Payload)
}

// StateName is what a state is called outside: whoever asks has heard of no leases, and what is leased is running.
func StateName(s broker.State) string {
	if s == broker.StateLeased {
		return "running"
	}
	return string(s)
}

// Invocations answers a page of a job's invocations that wait or are leased, and from where to go on, as broker.Queue's List does.
func (s *Store) Invocations(ctx context.Context, job, after string, limit int) ([]broker.Status, string, error) {
	_, q, err := s.queueOf(ctx, job)
	if err != nil {
		return nil, "", err
	}
	list, next, err := s.queue.List(ctx, q, after, limit)
	if errors.Is(err, broker.ErrInvalid) {
		err = refuse(http.StatusBadRequest, "bad-parameter", "Bad parameter", "after is %.80q, which is no page's next", after)
	}
	return list, next, err
}

// cancelled is the reason of an invocation that somebody cancelled. Who did is in the audit log: callbacks tell reasons to others.
const cancelled = "cancelled"

// cancelTries is how often an invocation is found under way, and waits again by the time one looks.
const cancelTries = 3

// Cancel ends an invocation that waits.
func (s *Store) Cancel(ctx context.Context, by, job, id string) error {
	now, q, err := s.queueOf(ctx, job)
	if err != nil {
		return err
	}
	for tries := 1; ; tries++ {
		if err = s.queue.Cancel(ctx, q, broker.InvocationID(id), cancelled); !errors.Is(err, broker.ErrNotWaiting) {
			break
		}
		st, err := s.queue.Status(ctx, q, broker.InvocationID(id))
		switch {
		case err != nil:
			return unknownInvocation(job, id, err)
		case st.State == broker.StateWaiting && tries < cancelTries: // it was given back between the two
			continue
		case st.State == broker.StateWaiting, st.State == broker.StateLeased:
			return refuse(http.StatusConflict, "invocation-running", "The invocation is under way",
				"attempt %d of invocation %s of job %s is under way, and only one that waits can be cancelled; it ends by itself, after limits.time at the latest", st.Attempts, id, job)
		}
		how := string(st.State)
		if st.Reason != "" {
			how += " (" + st.Reason + ")"
		}
		return refuse(http.StatusConflict, "invocation-ended", "The invocation does not wait", "invocation %s of job %s is %s already: there is nothing to cancel", id, job, how)
	}
	if err != nil {
		return unknownInvocation(job, id, storage(err))
	}
	s.auditEnd(ctx, AuditCancel, by, now, id)
	return nil
}

// Queued counts a job's invocations.
func (s *Store) Queued(ctx context.Context, job string) (broker.Counts, error) {
	_, q, err := s.queueOf(ctx, job)
	if err != nil {
		return broker.Counts{}, err
	}
	counts, err := s.queue.Counts(ctx, q)
	if err != nil {
		return broker.Counts{}, err
	}
	return counts[0], nil
}

// DeadLetters answers a job's dead letters in order of their IDs: those after an ID, at most limit.
func (s *Store) DeadLetters(ctx context.Context, job, after string, limit int) ([]broker.Status, error) {
	_, q, err := s.queueOf(ctx, job)
	if err != nil {
		return nil, err
	}
	return s.queue.Letters(ctx, q, broker.InvocationID(after), limit)
}

// DeadLetter answers a dead letter and its request.
func (s *Store) DeadLetter(ctx context.Context, job, id string) (broker.Status, envelope.Request, error) {
	_, q, err := s.queueOf(ctx, job)
	if err != nil {
		return broker.Status{}, envelope.Request{}, err
	}
	v, err := s.queue.Letter(ctx, q, broker.InvocationID(id))
	if err != nil {
		return broker.Status{}, envelope.Request{}, unknownLetter(job, id, err)
	}
	st, err := s.queue.Status(ctx, q, v.ID)
	if err != nil {
		return broker.Status{}, envelope.Request{}, unknownLetter(job, id, err)
	}
	r, err := envelope.DecodeRequest(v.Payload)
	return st, r, err
}

func unknownLetter(job, id string, err error) error {
	if errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrInvalid) {
		return refuse(http.StatusNotFound, "dead-letter-unknown", "Unknown dead letter", "job %s has no dead letter %.80q", job, id)
	}
	return err
}

// Requeue lets a dead letter wait again, with no attempts behind it.
func (s *Store) Requeue(ctx context.Context, by, job, id string) error {
	return s.endLetter(ctx, AuditRequeue, by, job, id, s.queue.Requeue)
}

// Discard ends a dead letter's keeping.
func (s *Store) Discard(ctx context.Context, by, job, id string) error {
	return s.endLetter(ctx, AuditDiscard, by, job, id, s.queue.Discard)
}

func (s *Store) endLetter(ctx context.Context, kind, by, job, id string, end func(context.Context, broker.Job, broker.InvocationID) error) error {
	now, q, err := s.queueOf(ctx, job)
	if err != nil {
		return err
	}
	if err := end(ctx, q, broker.InvocationID(id)); err != nil {
		return unknownLetter(job, id, storage(err))
	}
	s.auditEnd(ctx, kind, by, now, id)
	return nil
}

// auditEnd writes down what somebody did to an invocation. It is done, whether or not it can be written down.
func (s *Store) auditEnd(ctx context.Context, kind, by string, now state, id string) {
	if err := s.Audit(ctx, AuditEntry{Kind: kind, By: by, Job: now.job.Name, Version: now.job.Current, Invocation: id}); err != nil {
		s.opts.Log.Error("write audit entry", "job", now.job.Name, "kind", kind, "err", err)
	}
}

// purge is the record of a queue whose job was removed.
type purge struct {
	Schema  int       `json:"schema"`
	Removed time.Time `json:"removed"`
}

// sweepQueues forgets what is queued for removed jobs. What was enqueued while a job was being removed may come after a first purge,
// so the record of it stays for the grace period.
func (s *Store) sweepQueues(ctx context.Context) error {
	list, _, err := s.records.List(ctx, broker.Range{Prefix: purgesPrefix})
	if err != nil {
		return err
	}
	for _, r := range list {
		p, err := decode[purge](r)
		if err != nil {
			return err
		}
		if err := s.queue.Purge(ctx, broker.Job{Entitlement: entitlement, Name: r.Key[len(purgesPrefix):]}); err != nil {
			return err
		}
		if s.opts.Clock.Now().Sub(p.Removed) > s.opts.Grace {
			c := broker.Commit{Conditions: []broker.Condition{{Key: r.Key, Revision: r.Revision}}, Writes: []broker.Write{remove(r.Key)}}
			if _, err := s.records.Commit(ctx, c); err != nil && !errors.Is(err, broker.ErrConflict) {
				return err
			}
		}
	}
	return nil
}
