package embedded

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

var _ broker.Queue = (*Queue)(nil)

// queueBucket has a bucket for each job. Its sequence is what numbers places and leases, so that none comes twice, even
// after a job was purged.
var queueBucket = []byte("queue")

// Queue keeps queued invocations in a bbolt file. All of it is on the disk, with its indexes: opening it takes no time, and
// memory does not grow with it.
type Queue struct {
	db    *database
	clock clock.Clock
	turn  atomic.Uint64 // of Lease: which of its jobs it begins with

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil when the queue is closed
}

func newQueue(db *database, c clock.Clock) *Queue {
	return &Queue{db: db, clock: c, changed: make(chan struct{})}
}

func (q *Queue) now() stamp { return stampOf(q.clock.Now()) }

func (q *Queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.changed != nil {
		close(q.changed)
		q.changed = make(chan struct{})
	}
}

// close ends those who wait.
func (q *Queue) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
	return nil
}

// update does a step of a job and wakes who waits. f checks everything before it writes.
func (q *Queue) update(ctx context.Context, j broker.Job, f func(*bolt.Tx, *step) error) error {
	return q.db.update(ctx, &change{
		do: func(tx *bolt.Tx) (bool, error) {
			s, err := q.step(tx, j, q.now())
			if err == nil {
				if err = f(tx, s); s.b != nil {
					s.finish()
				}
			}
			return s != nil && s.wrote, err
		},
		after: q.wake,
	})
}

func (q *Queue) view(j broker.Job, f func(*step) error) error {
	return q.db.view(func(tx *bolt.Tx) error {
		s, err := q.step(tx, j, q.now())
		if err != nil {
			return err
		}
		return f(s)
	})
}

// settle does what time has done to a job, in as many changes as it takes.
func (q *Queue) settle(ctx context.Context, j broker.Job) error {
	for more := true; more; {
		due := false
		err := q.view(j, func(s *step) error {
			ids, _ := s.over('t', 1)
			expired, _ := s.over('x', 1)
			due = len(ids)+len(expired) > 0
			return nil
		})
		if err != nil || !due {
			return err
		}
		err = q.update(ctx, j, func(_ *bolt.Tx, s *step) (err error) {
			more, err = s.settle()
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Enqueue implements broker.Queue.
func (q *Queue) Enqueue(ctx context.Context, b broker.Batch) (receipts []broker.Receipt, err error) {
	if err := b.Check(); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	b = b.Filled()
	err = q.update(ctx, b.Job, func(tx *bolt.Tx, s *step) error {
		if _, err := s.settle(); err != nil {
			return err
		}
		var fresh []broker.Invocation
		if receipts, fresh, err = s.receipts(b.Invocations); err != nil || len(fresh) == 0 {
			return err
		}
		if have := s.tally.counts().Length(); have+len(fresh) > b.Limit {
			return fmt.Errorf("enqueue: %d invocations of %s are unfinished, %d more are over the limit of %d: %w", have, b.Job, len(fresh), b.Limit, broker.ErrQueueFull)
		}
		top := tx.Bucket(queueBucket)
		if s.b == nil {
			s.b = must(top.CreateBucket(jobKey(b.Job)))
		}
		for _, v := range fresh {
			if err := s.add(v, must(top.NextSequence())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return receipts, nil
}

// receipts tells which invocations of a batch are new.
func (s *step) receipts(vs []broker.Invocation) (receipts []broker.Receipt, fresh []broker.Invocation, err error) {
	ids := map[broker.InvocationID]bool{}
	keys := map[string]broker.InvocationID{} // of those that are new
	known := func(id broker.InvocationID) bool {
		h, _, ferr := s.find(id)
		err = cmp.Or(err, ferr)
		return h != nil
	}
	for _, v := range vs {
		r := broker.Receipt{ID: v.ID, Known: ids[v.ID] || known(v.ID)}
		if !r.Known && v.Key != "" {
			if id, ok := keys[v.Key]; ok {
				r = broker.Receipt{ID: id, Known: true}
			} else if id := broker.InvocationID(s.get(append([]byte{'k'}, v.Key...))); id != "" && known(id) {
				r = broker.Receipt{ID: id, Known: true}
			} else {
				keys[v.Key] = v.ID
			}
		}
		if !r.Known {
			ids[v.ID] = true
			fresh = append(fresh, v)
		}
		receipts = append(receipts, r)
	}
	return receipts, fresh, cmp.Or(err, s.err)
}

// add stores a new invocation.
func (s *step) add(v broker.Invocation, seq uint64) error {
	if _, stored, err := s.find(v.ID); stored != nil || err != nil { // to be forgotten, and not yet
		if err == nil {
			err = s.save(nil, stored)
		}
		if err != nil {
			return err
		}
	}
	if v.Key != "" {
		if id := broker.InvocationID(s.get(append([]byte{'k'}, v.Key...))); id != "" {
			if _, stored, err := s.find(id); stored != nil || err != nil {
				if err == nil {
					err = s.save(nil, stored)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	h := &head{
		id: v.ID, Seq: seq, Enqueued: s.now, State: broker.StateWaiting, Place: placeReady, Priority: v.Priority, Order: v.Order, Key: v.Key,
		Backoff: v.Backoff, TTL: v.ResultTTL, Run: turn{Max: v.MaxAttempts, Due: s.now.add(v.Delay)}, Payload: len(v.Payload),
	}
	if v.Delay > 0 {
		h.Place = placeDelayed
	}
	if v.Order != "" {
		first, err := s.firstOf(v.Order)
		if err != nil {
			return err
		}
		if first != "" {
			h.Place = placeBehind
		}
	}
	if len(v.Payload) > 0 {
		s.put(idKey('p', v.ID), v.Payload)
	}
	if v.Callback != nil {
		h.Callback, h.Call.Max = broker.CallbackPending, v.Callback.MaxAttempts
		s.put(idKey('d', v.ID), v.Callback.Document)
	}
	return s.save(h, nil)
}

// whole is the invocation of a head, with its bytes.
func (s *step) whole(h *head) (broker.Invocation, error) {
	v := h.invocation()
	if h.Payload > 0 {
		v.Payload = bytes.Clone(s.get(idKey('p', h.id)))
	}
	if h.Callback != broker.CallbackNone {
		v.Callback = &broker.Callback{Document: bytes.Clone(s.get(idKey('d', h.id))), MaxAttempts: h.Call.Max}
	}
	if s.err == nil && len(v.Payload) != h.Payload {
		return v, damaged(s.path, idKey('p', h.id))
	}
	return v, s.err
}

// Lease implements broker.Queue.
func (q *Queue) Lease(ctx context.Context, w broker.Want) (ls []broker.Lease, err error) {
	if err := cmp.Or(context.Cause(ctx), w.Check()); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	// Looking first costs no write when there is nothing, as is most often so.
	ready, _, err := q.look(w, int(q.turn.Add(1)%max(1, uint64(len(w.Jobs)))))
	if err != nil {
		return nil, err
	}
	size := 0
	for _, j := range ready {
		if len(ls) == w.Max || size >= broker.MaxBatchBytes {
			break
		}
		if err := q.settle(ctx, j); err != nil {
			return nil, err
		}
		if ls, size, err = q.leaseOf(ctx, j, w, ls, size); err != nil {
			return nil, err
		}
	}
	return ls, nil
}

// look answers the jobs, beginning with the first, of which something may be ready, and when time changes something next in
// the others (0: never).
func (q *Queue) look(w broker.Want, first int) (ready []broker.Job, next stamp, err error) {
	err = q.db.view(func(tx *bolt.Tx) error {
		now := q.now()
		for i := range w.Jobs {
			j := w.Jobs[(first+i)%len(w.Jobs)]
			s, err := q.step(tx, j, now)
			if err != nil {
				return err
			}
			any, at, err := s.next(w.Lane)
			if err != nil {
				return err
			}
			if any {
				ready = append(ready, j)
			}
			if at != 0 && (next == 0 || at < next) {
				next = at
			}
		}
		return nil
	})
	return ready, next, err
}

// leaseOf adds leases of one job to ls.
func (q *Queue) leaseOf(ctx context.Context, j broker.Job, w broker.Want, ls []broker.Lease, size int) ([]broker.Lease, int, error) {
	had := len(ls)
	err := q.update(ctx, j, func(tx *bolt.Tx, s *step) error {
		ids, err := s.ready(w.Lane, w.Max-had)
		if err != nil {
			return err
		}
		for _, id := range ids {
			h, stored, err := s.find(id)
			if err != nil {
				return err
			}
			if h == nil || h.Place != placeReady && w.Lane == broker.LaneRun {
				return damaged(s.path, idKey('h', id))
			}
			v, err := s.whole(h)
			if err != nil {
				return err
			}
			if w.Lane == broker.LaneCallback {
				v.Payload = nil
			}
			if size += len(v.Payload); size > broker.MaxBatchBytes && len(ls) > 0 {
				return nil
			}
			u := &h.Run
			if w.Lane == broker.LaneCallback {
				u = &h.Call
			} else {
				h.State, h.Place = broker.StateLeased, ""
			}
			u.begin(strconv.FormatUint(must(tx.Bucket(queueBucket).NextSequence()), 10), w.Worker, s.now.add(w.TTL))
			if err := s.save(h, stored); err != nil {
				return err
			}
			ls = append(ls, broker.Lease{Job: j, Lane: w.Lane, Invocation: v, Token: u.Token, Attempt: u.Attempts, Enqueued: h.Enqueued.time(), Until: u.Until.time(), TTL: w.TTL})
		}
		return nil
	})
	return ls, size, err
}

// Wait implements broker.Queue.
func (q *Queue) Wait(ctx context.Context, w broker.Want) error {
	if err := w.Check(); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	for {
		q.mu.Lock()
		changed := q.changed
		q.mu.Unlock()
		if changed == nil {
			return fmt.Errorf("wait: %w", broker.ErrClosed)
		}
		ready, next, err := q.look(w, 0)
		if err != nil {
			return err
		}
		if len(ready) > 0 {
			return context.Cause(ctx)
		}
		if err := q.pause(ctx, changed, next); err != nil {
			return err
		}
	}
}

// pause waits for a change, a time (0: none) or the end of ctx.
func (q *Queue) pause(ctx context.Context, changed <-chan struct{}, until stamp) error {
	var due <-chan time.Time
	if until != 0 {
		timer := q.clock.NewTimer(time.Duration(until - q.now()))
		defer timer.Stop()
		if q.now() >= until { // a clock that was moved between the two
			return context.Cause(ctx)
		}
		due = timer.C()
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-changed:
	case <-due:
	}
	return nil
}

// Extend implements broker.Queue.
func (q *Queue) Extend(ctx context.Context, ls ...broker.Lease) (extended []broker.Lease, err error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckExtensions(ls)); err != nil {
		return nil, fmt.Errorf("extend: %w", err)
	}
	var errs []error
	err = q.db.update(ctx, &change{
		do: func(tx *bolt.Tx) (wrote bool, err error) {
			now, steps := q.now(), map[broker.Job]*step{}
			for i, l := range ls {
				s := steps[l.Job]
				if s == nil {
					if s, err = q.step(tx, l.Job, now); err != nil {
						return wrote, err
					}
					steps[l.Job] = s
				}
				h, stored, err := s.find(l.ID)
				if err != nil {
					return wrote, err
				}
				u := (*turn)(nil)
				if h != nil {
					u = h.turnOf(l)
				}
				if u == nil {
					errs = append(errs, &broker.LostError{Name: string(l.ID), Index: i})
					continue
				}
				u.Until = now.add(l.TTL)
				if err := s.save(h, stored); err != nil {
					return wrote, err
				}
				wrote = true
				l.Until = u.Until.time()
				extended = append(extended, l)
			}
			for _, s := range steps {
				s.finish()
			}
			return wrote, nil
		},
		after: q.wake,
	})
	if err != nil {
		return nil, err
	}
	return extended, errors.Join(errs...)
}

// under does f with the head of a lease that is current, and stores what f made of it.
func (q *Queue) under(ctx context.Context, what string, l broker.Lease, f func(*step, *head)) error {
	err := q.update(ctx, l.Job, func(_ *bolt.Tx, s *step) error {
		h, stored, err := s.find(l.ID)
		if err != nil {
			return err
		}
		if h == nil || h.turnOf(l) == nil {
			return &broker.LostError{Name: string(l.ID)}
		}
		f(s, h)
		return s.save(h, stored)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Complete implements broker.Queue.
func (q *Queue) Complete(ctx context.Context, l broker.Lease, r broker.Result) error {
	if err := cmp.Or(l.Check(), r.Check()); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	return q.under(ctx, "complete", l, func(s *step, h *head) {
		if l.Lane == broker.LaneCallback {
			h.endCall(s.now, r)
			return
		}
		h.end(s.now, r)
		if len(r.Payload) > 0 {
			s.put(idKey('r', h.id), r.Payload)
		}
	})
}

// Release implements broker.Queue.
func (q *Queue) Release(ctx context.Context, l broker.Lease, r broker.Return) error {
	if err := cmp.Or(l.Check(), r.Check()); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return q.under(ctx, "release", l, func(s *step, h *head) {
		if l.Lane == broker.LaneCallback {
			h.giveBackCall(s.now, r)
		} else {
			h.giveBack(s.now, r)
		}
	})
}

// read does f with an invocation that accept accepts, or fails with ErrNotFound.
func (q *Queue) read(ctx context.Context, what string, j broker.Job, id broker.InvocationID, accept func(*head) bool, f func(*step, *head) error) error {
	if err := cmp.Or(context.Cause(ctx), j.Check(), id.Check()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return q.view(j, func(s *step) error {
		h, _, err := s.find(id)
		if err != nil {
			return err
		}
		if h == nil || !accept(h) {
			return notFound(what, j, id)
		}
		return f(s, h)
	})
}

func notFound(what string, j broker.Job, id broker.InvocationID) error {
	return fmt.Errorf("%s %s of %s: %w", what, id, j, broker.ErrNotFound)
}

// Status implements broker.Queue.
func (q *Queue) Status(ctx context.Context, j broker.Job, id broker.InvocationID) (st broker.Status, err error) {
	err = q.read(ctx, "invocation", j, id, func(*head) bool { return true }, func(_ *step, h *head) error {
		st = h.status()
		return nil
	})
	return st, err
}

// Result implements broker.Queue.
func (q *Queue) Result(ctx context.Context, j broker.Job, id broker.InvocationID) (r broker.Result, err error) {
	err = q.read(ctx, "result of invocation", j, id, func(h *head) bool { return !h.live() }, func(s *step, h *head) error {
		r = broker.Result{Outcome: broker.OutcomeDone, Reason: h.Reason}
		if h.State == broker.StateDead {
			r.Outcome = broker.OutcomeDead
		}
		if h.Result > 0 {
			r.Payload = bytes.Clone(s.get(idKey('r', id)))
		}
		if s.err == nil && len(r.Payload) != h.Result {
			return damaged(s.path, idKey('r', id))
		}
		return s.err
	})
	return r, err
}

// Counts implements broker.Queue.
func (q *Queue) Counts(ctx context.Context, jobs ...broker.Job) ([]broker.Counts, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckJobs(jobs)); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	counts := make([]broker.Counts, len(jobs))
	for i, j := range jobs {
		err := q.view(j, func(s *step) error {
			counts[i] = s.tally.counts()
			if s.b == nil {
				return nil
			}
			oldest := stamp(0)
			for p := range broker.MaxPriority + 1 {
				prefix := readyPrefix(p)
				k, v := s.b.Cursor().Seek(prefix)
				if !bytes.HasPrefix(k, prefix) {
					continue
				}
				_, id, ok := unseal(k, v)
				if !ok {
					return damaged(s.path, k)
				}
				h, err := s.load(broker.InvocationID(id))
				if err != nil {
					return err
				}
				if h != nil && (oldest == 0 || h.Run.Due < oldest) {
					oldest = h.Run.Due
				}
			}
			counts[i].Oldest = oldest.time()
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// Letters implements broker.Queue.
func (q *Queue) Letters(ctx context.Context, j broker.Job, after broker.InvocationID, limit int) (list []broker.Status, err error) {
	if err := cmp.Or(context.Cause(ctx), j.Check()); err != nil {
		return nil, fmt.Errorf("letters: %w", err)
	}
	limit = min(cmp.Or(max(limit, 0), 100), broker.MaxBatch)
	err = q.view(j, func(s *step) error {
		if s.b == nil {
			return nil
		}
		return scan(s.b, "l", string(idKey('l', after)), func(k, _ []byte) (bool, error) {
			h, _, err := s.find(broker.InvocationID(k[1:]))
			if err != nil {
				return false, err
			}
			if h == nil {
				return false, damaged(s.path, k)
			}
			list = append(list, h.status())
			return len(list) < limit, nil
		})
	})
	return list, err
}

func isLetter(h *head) bool { return h.Letter }

// Letter implements broker.Queue.
func (q *Queue) Letter(ctx context.Context, j broker.Job, id broker.InvocationID) (v broker.Invocation, err error) {
	err = q.read(ctx, "dead letter", j, id, isLetter, func(s *step, h *head) (err error) {
		v, err = s.whole(h)
		return err
	})
	return v, err
}

// letter changes a dead letter.
func (q *Queue) letter(ctx context.Context, what string, j broker.Job, id broker.InvocationID, f func(*bolt.Tx, *step, *head) error) error {
	if err := cmp.Or(j.Check(), id.Check()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return q.update(ctx, j, func(tx *bolt.Tx, s *step) error {
		h, stored, err := s.find(id)
		if err != nil {
			return err
		}
		if h == nil || !h.Letter {
			return notFound(what+": dead letter", j, id)
		}
		if stored.live() { // its last lease ran out: its end comes first, and lets its order go on
			if err := s.save(h, stored); err != nil {
				return err
			}
			stored = h.copy()
		}
		if err := f(tx, s, h); err != nil {
			return err
		}
		return s.save(h, stored)
	})
}

// Requeue implements broker.Queue.
func (q *Queue) Requeue(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return q.letter(ctx, "requeue", j, id, func(tx *bolt.Tx, s *step, h *head) error {
		h.requeue(s.now, must(tx.Bucket(queueBucket).NextSequence()))
		if h.Order == "" {
			return nil
		}
		first, err := s.firstOf(h.Order)
		if first != "" {
			h.Place = placeBehind
		}
		return err
	})
}

// Discard implements broker.Queue.
func (q *Queue) Discard(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return q.letter(ctx, "discard", j, id, func(_ *bolt.Tx, s *step, h *head) error {
		h.discard(s.now)
		return nil
	})
}

// Cancel implements broker.Queue.
func (q *Queue) Cancel(ctx context.Context, j broker.Job, id broker.InvocationID, reason string) error {
	if err := cmp.Or(j.Check(), id.Check()); err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	return q.update(ctx, j, func(_ *bolt.Tx, s *step) error {
		h, stored, err := s.find(id)
		switch {
		case err != nil:
			return err
		case h == nil:
			return notFound("cancel: invocation", j, id)
		case h.State != broker.StateWaiting:
			return fmt.Errorf("cancel: invocation %s of %s is %s: %w", id, j, h.State, broker.ErrNotWaiting)
		}
		h.end(s.now, broker.Result{Outcome: broker.OutcomeDead, Reason: reason})
		h.discard(s.now)
		return s.save(h, stored)
	})
}

// Purge implements broker.Queue.
func (q *Queue) Purge(ctx context.Context, j broker.Job) error {
	if err := j.Check(); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	return q.db.update(ctx, &change{
		do: func(tx *bolt.Tx) (bool, error) {
			top := tx.Bucket(queueBucket)
			if top.Bucket(jobKey(j)) == nil {
				return false, nil
			}
			try(top.DeleteBucket(jobKey(j)))
			return true, nil
		},
		after: q.wake,
	})
}
