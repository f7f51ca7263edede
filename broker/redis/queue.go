package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Queue = (*Queue)(nil)

var (
	enqueueScript  = load("queue_enqueue")
	leaseScript    = load("queue_lease")
	peekScript     = load("queue_peek")
	extendScript   = load("queue_extend")
	completeScript = load("queue_complete")
	releaseScript  = load("queue_release")
	settleScript   = load("queue_settle")
	statusScript   = load("queue_status")
	countsScript   = load("queue_counts")
	lettersScript  = load("queue_letters")
	requeueScript  = load("queue_requeue")
	discardScript  = load("queue_discard")
	purgeScript    = load("queue_purge")
)

// Queue keeps each job's invocations under a hash tag of its own; lua/queue.lua says how.
type Queue struct {
	link *link
	bell *bell
	turn atomic.Uint64 // of the job that a call of Lease begins with
}

func newQueue(l *link) *Queue { return &Queue{link: l, bell: newBell(l)} }

var queueKeys = []string{
	"meta", "items", "payloads", "results", "documents", "keys", "ready", "delayed", "leased", "calls", "calling", "expires", "letters", "orders",
}

// run runs a script of a job's queue.
func (q *Queue) run(ctx context.Context, s *script, j broker.Job, args ...any) (reply, error) {
	g := q.link.keys.queue(j)
	keys := make([]string, len(queueKeys))
	for i, name := range queueKeys {
		keys[i] = g.key(name)
	}
	rep, err := q.link.run(ctx, s, g, keys, args...)
	if err == nil && rep.text(0) == "newer" {
		return nil, fmt.Errorf("%s: queue of %s: %w: a document's schema is %d, this program's is %d; use a newer version of ripstop",
			q.link.target, j, broker.ErrNewer, rep.number(1), broker.QueueSchema)
	}
	return rep, err
}

// Enqueue implements broker.Queue.
func (q *Queue) Enqueue(ctx context.Context, b broker.Batch) ([]broker.Receipt, error) {
	if err := cmp.Or(context.Cause(ctx), b.Check()); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	b = b.Filled()
	if len(b.Invocations) == 0 {
		return []broker.Receipt{}, nil
	}
	args := make([]any, 0, 3+12*len(b.Invocations))
	args = append(args, b.Limit, q.bell.channel, b.Job.String())
	for _, v := range b.Invocations {
		attempts, document := 0, ""
		if v.Callback != nil {
			attempts, document = v.Callback.MaxAttempts, string(v.Callback.Document)
		}
		args = append(args, string(v.ID), string(v.Payload), v.Priority, v.Order, v.Delay.Microseconds(), v.Key, v.MaxAttempts,
			int64(v.Backoff.First), int64(v.Backoff.Max), int64(v.ResultTTL), attempts, document)
	}
	rep, err := q.run(ctx, enqueueScript, b.Job, args...)
	switch {
	case err != nil:
		return nil, fmt.Errorf("enqueue: %w", err)
	case rep.text(0) == "full":
		return nil, fmt.Errorf("enqueue: %d invocations of %s are unfinished, %d more are over the limit of %d: %w", rep.number(1), b.Job, rep.number(2), b.Limit, broker.ErrQueueFull)
	}
	receipts := make([]broker.Receipt, len(b.Invocations))
	for i := range receipts {
		receipts[i] = broker.Receipt{ID: broker.InvocationID(rep.text(2 + 2*i)), Known: rep.number(1+2*i) == 1}
	}
	return receipts, nil
}

// Lease implements broker.Queue. All jobs but one are asked first, together, which of them have something.
func (q *Queue) Lease(ctx context.Context, w broker.Want) ([]broker.Lease, error) {
	if err := cmp.Or(context.Cause(ctx), w.Check()); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	jobs := slices.Clone(w.Jobs)
	if n := uint64(len(jobs)); n > 1 {
		first := q.turn.Add(1) % n
		jobs = slices.Concat(jobs[first:], jobs[:first])
		ready, _, err := q.peek(ctx, w.Lane, jobs)
		if err != nil {
			return nil, fmt.Errorf("lease: %w", err)
		}
		jobs = ready
	}
	var ls []broker.Lease
	room := broker.MaxBatchBytes
	for _, j := range jobs {
		if len(ls) == w.Max {
			break
		}
		more, full, err := q.leaseOf(ctx, j, w, w.Max-len(ls), room, len(ls) == 0)
		if err != nil {
			return nil, fmt.Errorf("lease: %w", err)
		}
		for _, l := range more {
			room -= len(l.Payload)
		}
		ls = append(ls, more...)
		if full {
			break
		}
	}
	return ls, nil
}

// leaseOf leases from one job. full says that the bound in bytes was met.
func (q *Queue) leaseOf(ctx context.Context, j broker.Job, w broker.Want, n, room int, first bool) (ls []broker.Lease, full bool, err error) {
	whatever := 0
	if first {
		whatever = 1
	}
	rep, err := q.run(ctx, leaseScript, j, w.Worker, string(w.Lane), n, w.TTL.Microseconds(), rand.Text(), room, whatever)
	if err != nil {
		return nil, false, err
	}
	const width = statusWidth + 5
	for i := 2; i+width <= len(rep); i += width {
		r := rep[i : i+width]
		s, more := readStatus(r)
		v := more.invocation(s, r.text(statusWidth), r.text(statusWidth+1))
		if w.Lane == broker.LaneCallback {
			v.Payload = nil
		}
		ls = append(ls, broker.Lease{
			Job: j, Lane: w.Lane, Invocation: v, Token: r.text(statusWidth + 2), Attempt: int(r.number(statusWidth + 3)),
			Enqueued: s.Enqueued, Until: r.time(statusWidth + 4), TTL: w.TTL,
		})
	}
	return ls, rep.number(1) == 1, nil
}

// statusWidth is how many elements a status is in a reply.
const statusWidth = 26

// rest is what a reply has of an invocation besides its status.
type rest struct {
	ttl, first, longest time.Duration
	calls               int // attempts of its callback; 0: it has none
	outcome             broker.Outcome
	why                 string
	letter              bool
}

// readStatus reads a status.
func readStatus(r reply) (broker.Status, rest) {
	states := map[string]broker.State{"w": broker.StateWaiting, "l": broker.StateLeased, "d": broker.StateDone, "x": broker.StateDead}
	callbacks := map[string]broker.CallbackState{"p": broker.CallbackPending, "d": broker.CallbackDone, "x": broker.CallbackDead}
	s := broker.Status{
		ID: broker.InvocationID(r.text(0)), State: states[r.text(1)], Attempts: int(r.number(2)), MaxAttempts: int(r.number(3)), Priority: int(r.number(4)),
		Order: r.text(5), Key: r.text(6), Enqueued: r.time(7), Worker: r.text(9), Until: r.time(10), Reason: r.text(11),
		Finished: r.time(12), Callback: callbacks[r.text(13)], CallbackAttempts: int(r.number(14)), CallbackReason: r.text(15),
		Expires: r.time(16), PayloadBytes: int(r.number(17)), ResultBytes: int(r.number(18)),
	}
	if s.State == broker.StateWaiting {
		s.Due = r.time(8)
	}
	return s, rest{
		ttl: time.Duration(r.number(19)), first: time.Duration(r.number(20)), longest: time.Duration(r.number(21)), calls: int(r.number(22)),
		outcome: broker.Outcome(r.text(23)), why: r.text(24), letter: r.number(25) == 1,
	}
}

// invocation is the invocation as it was enqueued.
func (m rest) invocation(s broker.Status, payload, document string) broker.Invocation {
	v := broker.Invocation{
		ID: s.ID, Payload: []byte(payload), Priority: s.Priority, Order: s.Order, Key: s.Key, MaxAttempts: s.MaxAttempts,
		Backoff: broker.Backoff{First: m.first, Max: m.longest}, ResultTTL: m.ttl,
	}
	if m.calls > 0 {
		v.Callback = &broker.Callback{Document: []byte(document), MaxAttempts: m.calls}
	}
	return v
}

// peek asks which of the jobs may have something, and when some other may have at the latest; 0: not by itself.
func (q *Queue) peek(ctx context.Context, lane broker.Lane, jobs []broker.Job) (ready []broker.Job, next time.Duration, err error) {
	replies := make([]reply, len(jobs))
	errs := together(len(jobs), func(i int) (err error) {
		replies[i], err = q.run(ctx, peekScript, jobs[i], string(lane))
		return err
	})
	if err := errors.Join(errs...); err != nil {
		return nil, 0, err
	}
	for i, rep := range replies {
		if rep.number(1) == 1 {
			ready = append(ready, jobs[i])
		}
		if d := micros(rep.number(2)); d > 0 && (next == 0 || d < next) {
			next = d
		}
	}
	return ready, next, nil
}

// longestWait is after what time Wait asks again, whatever happens: a message that something is ready may get lost.
const longestWait = time.Second

// Wait implements broker.Queue. It is told by the server when something is enqueued, and asks again once a second.
func (q *Queue) Wait(ctx context.Context, w broker.Want) error {
	if err := w.Check(); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		rung := q.bell.listen()
		ready, next, err := q.peek(ctx, w.Lane, w.Jobs)
		switch {
		case context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case len(ready) > 0:
			return nil
		}
		limit := longestWait
		if next > 0 {
			limit = min(limit, next)
		}
		pause(ctx, rung, limit)
	}
}

// Extend implements broker.Queue.
func (q *Queue) Extend(ctx context.Context, ls ...broker.Lease) ([]broker.Lease, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckExtensions(ls)); err != nil {
		return nil, fmt.Errorf("extend: %w", err)
	}
	ls = slices.Clone(ls)
	errs := together(len(ls), func(i int) error {
		l := &ls[i]
		rep, err := q.run(ctx, extendScript, l.Job, string(l.ID), string(l.Lane), l.Token, l.TTL.Microseconds())
		switch {
		case err != nil:
			return fmt.Errorf("extend %s: %w", l.ID, err)
		case rep.text(0) == "lost":
			return &broker.LostError{Name: string(l.ID), Index: i}
		}
		l.Until = rep.time(1)
		return nil
	})
	var extended []broker.Lease
	for i, l := range ls {
		if errs[i] == nil {
			extended = append(extended, l)
		}
	}
	return extended, errors.Join(errs...)
}

// Complete implements broker.Queue.
func (q *Queue) Complete(ctx context.Context, l broker.Lease, r broker.Result) error {
	if err := cmp.Or(context.Cause(ctx), l.Check(), r.Check()); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	rep, err := q.run(ctx, completeScript, l.Job, string(l.ID), string(l.Lane), l.Token, string(r.Outcome), string(r.Payload), broker.CutReason(r.Reason), q.bell.channel, l.Job.String())
	return q.ended("complete", l, rep, err)
}

// Release implements broker.Queue.
func (q *Queue) Release(ctx context.Context, l broker.Lease, r broker.Return) error {
	if err := cmp.Or(context.Cause(ctx), l.Check(), r.Check()); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	unstarted := 0
	if r.Unstarted {
		unstarted = 1
	}
	rep, err := q.run(ctx, releaseScript, l.Job, string(l.ID), string(l.Lane), l.Token, r.Delay.Microseconds(), broker.CutReason(r.Reason), unstarted, q.bell.channel, l.Job.String())
	return q.ended("release", l, rep, err)
}

func (q *Queue) ended(doing string, l broker.Lease, rep reply, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", doing, l.ID, err)
	case rep.text(0) == "lost":
		return fmt.Errorf("%s: %w", doing, &broker.LostError{Name: string(l.ID)})
	}
	return nil
}

// look reads an invocation, after time has done its work on it.
func (q *Queue) look(ctx context.Context, j broker.Job, id broker.InvocationID, doing, what, name string) (reply, error) {
	if err := cmp.Or(context.Cause(ctx), j.Check(), id.Check()); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	for {
		rep, err := q.run(ctx, statusScript, j, string(id), what)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s %s: %w", doing, id, err)
		case rep.text(0) == "missing":
			return nil, fmt.Errorf("%s %s of %s: %w", name, id, j, broker.ErrNotFound)
		case rep.text(0) == "ok":
			return rep[1:], nil
		}
		if err := q.settle(ctx, j, id); err != nil {
			return nil, fmt.Errorf("%s %s: %w", doing, id, err)
		}
	}
}

func (q *Queue) settle(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	_, err := q.run(ctx, settleScript, j, string(id))
	return err
}

// Status implements broker.Queue.
func (q *Queue) Status(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Status, error) {
	rep, err := q.look(ctx, j, id, "status", "status", "invocation")
	if err != nil {
		return broker.Status{}, err
	}
	s, _ := readStatus(rep)
	return s, nil
}

// Result implements broker.Queue.
func (q *Queue) Result(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Result, error) {
	rep, err := q.look(ctx, j, id, "result", "result", "result of invocation")
	if err != nil {
		return broker.Result{}, err
	}
	_, m := readStatus(rep)
	return broker.Result{Outcome: m.outcome, Payload: []byte(rep.text(statusWidth)), Reason: m.why}, nil
}

// Letter implements broker.Queue.
func (q *Queue) Letter(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Invocation, error) {
	rep, err := q.look(ctx, j, id, "letter", "letter", "dead letter")
	if err != nil {
		return broker.Invocation{}, err
	}
	s, m := readStatus(rep)
	return m.invocation(s, rep.text(statusWidth), rep.text(statusWidth+1)), nil
}

// Counts implements broker.Queue.
func (q *Queue) Counts(ctx context.Context, jobs ...broker.Job) ([]broker.Counts, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckJobs(jobs)); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	counts := make([]broker.Counts, len(jobs))
	errs := together(len(jobs), func(i int) error {
		r, err := q.run(ctx, countsScript, jobs[i])
		if err != nil {
			return err
		}
		counts[i] = broker.Counts{
			Waiting: int(r.number(1)), Ready: int(r.number(2)), Leased: int(r.number(3)), Dead: int(r.number(4)), Callbacks: int(r.number(5)), Oldest: r.time(6),
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	return counts, nil
}

// Letters implements broker.Queue.
func (q *Queue) Letters(ctx context.Context, j broker.Job, after broker.InvocationID, limit int) ([]broker.Status, error) {
	if err := cmp.Or(context.Cause(ctx), j.Check()); err != nil {
		return nil, fmt.Errorf("letters: %w", err)
	}
	if limit <= 0 {
		limit = 100
	}
	rep, err := q.run(ctx, lettersScript, j, "("+string(after), strconv.Itoa(min(limit, broker.MaxBatch)))
	if err != nil {
		return nil, fmt.Errorf("letters: %w", err)
	}
	var list []broker.Status
	for i := 1; i+statusWidth <= len(rep); i += statusWidth {
		s, _ := readStatus(rep[i : i+statusWidth])
		list = append(list, s)
	}
	return list, nil
}

// Requeue implements broker.Queue.
func (q *Queue) Requeue(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return q.letter(ctx, "requeue", requeueScript, j, id, q.bell.channel, j.String())
}

// Discard implements broker.Queue.
func (q *Queue) Discard(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return q.letter(ctx, "discard", discardScript, j, id)
}

// letter does something to a dead letter.
func (q *Queue) letter(ctx context.Context, doing string, s *script, j broker.Job, id broker.InvocationID, args ...any) error {
	if err := cmp.Or(context.Cause(ctx), j.Check(), id.Check()); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := q.settle(ctx, j, id); err != nil {
		return fmt.Errorf("%s %s: %w", doing, id, err)
	}
	rep, err := q.run(ctx, s, j, append([]any{string(id)}, args...)...)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", doing, id, err)
	case rep.text(0) == "missing":
		return fmt.Errorf("%s: dead letter %s of %s: %w", doing, id, j, broker.ErrNotFound)
	}
	return nil
}

// Purge implements broker.Queue.
func (q *Queue) Purge(ctx context.Context, j broker.Job) error {
	if err := cmp.Or(context.Cause(ctx), j.Check()); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	if _, err := q.run(ctx, purgeScript, j); err != nil {
		return fmt.Errorf("purge %s: %w", j, err)
	}
	return nil
}
