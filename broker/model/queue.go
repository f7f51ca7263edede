package model

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Queue = (*Queue)(nil)

// Queue is a Broker's queue.
type Queue Broker

type jobQueue struct {
	items map[broker.InvocationID]*item
	list  []*item                        // the same, in the order in which they were enqueued or requeued
	keys  map[string]broker.InvocationID // by idempotency key
}

// turn is what an invocation and its callback have each: attempts under leases.
type turn struct {
	attempts, max int
	due           time.Time
	token         string // empty unless it is leased
	worker        string
	until         time.Time
	reason        string // why the last attempt failed
}

func (u *turn) endLease() { u.token, u.worker, u.until = "", "", time.Time{} }

type item struct {
	broker.Invocation
	seq      int // its place in the order in which they were enqueued or requeued
	enqueued time.Time
	state    broker.State
	run      turn
	letter   bool // dead, and neither requeued nor discarded
	dropped  time.Time
	finished time.Time
	result   broker.Result
	callback broker.CallbackState
	call     turn
	called   time.Time // when the callback was over
	lost     bool      // by DelayedForgotten
}

func (it *item) live() bool { return it.state == broker.StateWaiting || it.state == broker.StateLeased }

// calling: the callback is to be delivered, or is being.
func (it *item) calling() bool { return !it.live() && it.callback == broker.CallbackPending }

// expires is when it is forgotten; zero while that is not known.
func (it *item) expires() time.Time {
	if it.live() || it.letter || it.calling() {
		return time.Time{}
	}
	last := it.finished
	for _, t := range []time.Time{it.called, it.dropped} {
		if t.After(last) {
			last = t
		}
	}
	return last.Add(it.ResultTTL)
}

func lapsed(attempt int) string { return fmt.Sprintf("attempt %d: its lease ran out", attempt) }

// settleLocked does what time has done to an invocation. It answers nil if there is none.
func (q *Queue) settleLocked(j *jobQueue, id broker.InvocationID) *item {
	it := j.items[id]
	if it == nil {
		return nil
	}
	now := q.opts.Clock.Now()
	if it.state == broker.StateLeased && !now.Before(it.run.until) {
		q.giveBackLocked(j, it, it.run.until, broker.Return{Reason: lapsed(it.run.attempts)}, true)
	}
	if it.calling() && it.call.token != "" && !now.Before(it.call.until) {
		q.giveBackCallLocked(it, it.call.until, broker.Return{Reason: lapsed(it.call.attempts)})
	}
	if at := it.expires(); !at.IsZero() && !now.Before(at) {
		delete(j.items, id)
		j.list = slices.DeleteFunc(j.list, func(other *item) bool { return other == it })
		if j.keys[it.Key] == id {
			delete(j.keys, it.Key)
		}
		return nil
	}
	return it
}

// settleAllLocked settles all of a job, in the order in which it was enqueued.
func (q *Queue) settleAllLocked(j *jobQueue) []*item {
	return slices.DeleteFunc(slices.Clone(j.list), func(it *item) bool { return q.settleLocked(j, it.ID) == nil })
}

// giveBackLocked ends an attempt without a result.
func (q *Queue) giveBackLocked(j *jobQueue, it *item, at time.Time, r broker.Return, lapse bool) {
	if r.Reason = broker.CutReason(r.Reason); r.Reason != "" {
		it.run.reason = r.Reason
	}
	if r.Unstarted {
		it.run.attempts--
	} else if it.run.attempts >= it.run.max && !(lapse && q.bugs[RetryLimitIgnored]) {
		q.endLocked(j, it, at, broker.Result{Outcome: broker.OutcomeDead, Reason: it.run.reason})
		return
	}
	it.run.endLease()
	it.state, it.run.due = broker.StateWaiting, at.Add(r.Delay)
	it.lost = r.Delay > 0 && q.bugs[DelayedForgotten]
}

func (q *Queue) giveBackCallLocked(it *item, at time.Time, r broker.Return) {
	if r.Reason = broker.CutReason(r.Reason); r.Reason != "" {
		it.call.reason = r.Reason
	}
	if r.Unstarted {
		it.call.attempts--
	} else if it.call.attempts >= it.call.max {
		it.callback, it.called = broker.CallbackDead, at
	}
	it.call.endLease()
	it.call.due = at.Add(r.Delay)
}

// endLocked stores a result.
func (q *Queue) endLocked(j *jobQueue, it *item, at time.Time, r broker.Result) {
	r.Payload, r.Reason = bytes.Clone(r.Payload), broker.CutReason(r.Reason)
	first := firstOf(j, it.Order) == it // one that is cancelled may be behind another
	it.run.endLease()
	it.result, it.finished = r, at
	it.state, it.letter = broker.StateDone, false
	if r.Outcome == broker.OutcomeDead {
		it.state, it.letter = broker.StateDead, true
		if it.run.reason = r.Reason; q.bugs[ReasonLost] {
			it.run.reason, it.result.Reason = "", ""
		}
	} else {
		it.Payload = nil
	}
	if it.Callback != nil {
		it.callback, it.call = broker.CallbackPending, turn{max: it.Callback.MaxAttempts, due: at}
	}
	if q.bugs[KeyForgotten] && j.keys[it.Key] == it.ID {
		delete(j.keys, it.Key)
	}
	if next := firstOf(j, it.Order); it.Order != "" && first && next != nil && next.run.due.Before(at) {
		next.run.due = at
	}
}

// firstOf answers the first invocation of an order that has not ended.
func firstOf(j *jobQueue, order string) *item {
	for _, it := range j.list {
		if it.Order == order && it.live() {
			return it
		}
	}
	return nil
}

func (q *Queue) readyLocked(j *jobQueue, it *item, lane broker.Lane) bool {
	now := q.opts.Clock.Now()
	if lane == broker.LaneCallback {
		return it.calling() && it.call.token == "" && !now.Before(it.call.due)
	}
	return it.state == broker.StateWaiting && !now.Before(it.run.due) && !it.lost &&
		(it.Order == "" || q.bugs[OrderIgnored] || firstOf(j, it.Order) == it)
}

func (q *Queue) jobLocked(name broker.Job) *jobQueue {
	j := q.jobs[name]
	if j == nil {
		j = &jobQueue{items: map[broker.InvocationID]*item{}, keys: map[string]broker.InvocationID{}}
		q.jobs[name] = j
	}
	return j
}

func (q *Queue) countsLocked(j *jobQueue) (c broker.Counts) {
	firsts := map[int]bool{} // priorities of which the first in line was seen
	for _, it := range q.settleAllLocked(j) {
		switch {
		case it.state == broker.StateWaiting:
			c.Waiting++
		case it.state == broker.StateLeased:
			c.Leased++
		case it.letter:
			c.Dead++
		case it.calling():
			c.Callbacks++
		}
		if q.readyLocked(j, it, broker.LaneRun) {
			c.Ready++
			if !firsts[it.Priority] && (c.Oldest.IsZero() || it.run.due.Before(c.Oldest)) {
				c.Oldest = it.run.due
			}
			firsts[it.Priority] = true
		}
	}
	return c
}

// Enqueue implements broker.Queue.
func (q *Queue) Enqueue(ctx context.Context, b broker.Batch) ([]broker.Receipt, error) {
	if err := cmp.Or(context.Cause(ctx), b.Check()); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	b = b.Filled()
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.jobLocked(b.Job)
	receipts := make([]broker.Receipt, len(b.Invocations))
	fresh := map[broker.InvocationID]bool{}
	keys := map[string]broker.InvocationID{} // of those that are new
	for i, v := range b.Invocations {
		receipts[i] = broker.Receipt{ID: v.ID, Known: true}
		if fresh[v.ID] || q.settleLocked(j, v.ID) != nil {
			continue
		}
		if v.Key != "" {
			if id, ok := keys[v.Key]; ok {
				receipts[i].ID = id
				continue
			}
			if id, ok := j.keys[v.Key]; ok && q.settleLocked(j, id) != nil {
				receipts[i].ID = id
				continue
			}
			keys[v.Key] = v.ID
		}
		receipts[i].Known = false
		fresh[v.ID] = true
	}
	if have := q.countsLocked(j).Length(); len(fresh) > 0 && have+len(fresh) > b.Limit {
		return nil, fmt.Errorf("enqueue: %d invocations of %s are unfinished, %d more are over the limit of %d: %w", have, b.Job, len(fresh), b.Limit, broker.ErrQueueFull)
	}
	now := q.opts.Clock.Now()
	for i, v := range b.Invocations {
		if receipts[i].Known {
			continue
		}
		v.Payload = bytes.Clone(v.Payload)
		q.seq++
		it := &item{Invocation: v, seq: q.seq, enqueued: now, state: broker.StateWaiting, run: turn{max: v.MaxAttempts, due: now.Add(v.Delay)}}
		if v.Callback != nil {
			it.Callback = &broker.Callback{Document: bytes.Clone(v.Callback.Document), MaxAttempts: v.Callback.MaxAttempts}
			it.callback = broker.CallbackPending
		}
		j.items[v.ID] = it
		j.list = append(j.list, it)
		if v.Key != "" {
			j.keys[v.Key] = v.ID
		}
	}
	(*Broker)(q).wakeLocked()
	return receipts, nil
}

// nextLocked answers what is to be leased next of a job, or nil.
func (q *Queue) nextLocked(j *jobQueue, lane broker.Lane) (next *item) {
	for _, it := range q.settleAllLocked(j) {
		if !q.readyLocked(j, it, lane) {
			continue
		}
		if next == nil || lane == broker.LaneRun && it.Priority > next.Priority || lane == broker.LaneCallback && it.call.due.Before(next.call.due) {
			next = it
		}
	}
	return next
}

// Lease implements broker.Queue.
func (q *Queue) Lease(ctx context.Context, w broker.Want) (ls []broker.Lease, err error) {
	if err := cmp.Or(context.Cause(ctx), w.Check()); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	q.mu.Lock()
	defer q.mu.Unlock()
	now, size := q.opts.Clock.Now(), 0
	q.turn++
	for i := range w.Jobs {
		name := w.Jobs[(i+q.turn)%len(w.Jobs)]
		j := q.jobs[name]
		for j != nil && len(ls) < w.Max {
			it := q.nextLocked(j, w.Lane)
			if it == nil {
				break
			}
			if size += len(it.Payload); size > broker.MaxBatchBytes && len(ls) > 0 {
				return ls, nil
			}
			q.tokens++
			turn := &it.run
			if w.Lane == broker.LaneCallback {
				turn = &it.call
			} else {
				it.state = broker.StateLeased
			}
			turn.attempts++
			turn.token, turn.worker, turn.until = strconv.FormatUint(q.tokens, 10), w.Worker, now.Add(w.TTL)
			l := broker.Lease{Job: name, Lane: w.Lane, Invocation: copied(it.Invocation), Token: turn.token, Attempt: turn.attempts, Enqueued: it.enqueued, Until: turn.until, TTL: w.TTL}
			if w.Lane == broker.LaneCallback {
				l.Payload = nil
			}
			ls = append(ls, l)
		}
	}
	if len(ls) > 0 {
		(*Broker)(q).wakeLocked() // for Wait, which now has other leases to wait for
	}
	return ls, nil
}

func copied(v broker.Invocation) broker.Invocation {
	v.Payload = bytes.Clone(v.Payload)
	if v.Callback != nil {
		v.Callback = &broker.Callback{Document: bytes.Clone(v.Callback.Document), MaxAttempts: v.Callback.MaxAttempts}
	}
	return v
}

// Wait implements broker.Queue.
func (q *Queue) Wait(ctx context.Context, w broker.Want) error {
	if err := w.Check(); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	for {
		ready, next, changed := q.look(w)
		if ready {
			return context.Cause(ctx)
		}
		var due <-chan time.Time
		stop := func() bool { return true }
		if !next.IsZero() {
			timer := q.opts.Clock.NewTimer(next.Sub(q.opts.Clock.Now()))
			due, stop = timer.C(), timer.Stop
			if !q.opts.Clock.Now().Before(next) {
				stop()
				continue // the clock went on between the two
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-due:
		}
		stop()
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

// look answers whether something is ready, when time changes something next, and a channel for any other change.
func (q *Queue) look(w broker.Want) (ready bool, next time.Time, changed <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	sooner := func(t time.Time) {
		if t.After(q.opts.Clock.Now()) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, name := range w.Jobs {
		j := q.jobs[name]
		if j == nil {
			continue
		}
		for _, it := range q.settleAllLocked(j) {
			ready = ready || q.readyLocked(j, it, w.Lane)
			for _, t := range []time.Time{it.run.due, it.run.until, it.call.due, it.call.until} {
				sooner(t)
			}
		}
	}
	return ready, next, q.changed
}

// currentLocked answers the invocation of a lease that is current.
func (q *Queue) currentLocked(l broker.Lease, index int) (*jobQueue, *item, *turn, error) {
	lost := &broker.LostError{Name: string(l.ID), Index: index}
	j := q.jobs[l.Job]
	if j == nil || l.Token == "" {
		return nil, nil, nil, lost
	}
	it := q.settleLocked(j, l.ID)
	switch {
	case it == nil:
	case l.Lane == broker.LaneRun && it.run.token == l.Token:
		return j, it, &it.run, nil
	case l.Lane == broker.LaneCallback && it.call.token == l.Token:
		return j, it, &it.call, nil
	}
	return nil, nil, nil, lost
}

// Extend implements broker.Queue.
func (q *Queue) Extend(ctx context.Context, ls ...broker.Lease) ([]broker.Lease, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckExtensions(ls)); err != nil {
		return nil, fmt.Errorf("extend: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var extended []broker.Lease
	var errs []error
	for i, l := range ls {
		_, it, turn, err := q.currentLocked(l, i)
		if it == nil && q.bugs[ForeignExtension] && l.Lane == broker.LaneRun {
			if it = q.jobs[l.Job].items[l.ID]; it.state == broker.StateLeased {
				turn, err = &it.run, nil
			}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		turn.until = q.opts.Clock.Now().Add(l.TTL)
		l.Until = turn.until
		extended = append(extended, l)
	}
	(*Broker)(q).wakeLocked()
	return extended, errors.Join(errs...)
}

// Complete implements broker.Queue.
func (q *Queue) Complete(ctx context.Context, l broker.Lease, r broker.Result) error {
	if err := cmp.Or(context.Cause(ctx), l.Check(), r.Check()); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.opts.Clock.Now()
	j, it, _, err := q.currentLocked(l, 0)
	if err != nil {
		q.mistakeLocked(l, r)
		return fmt.Errorf("complete: %w", err)
	}
	if l.Lane == broker.LaneRun {
		q.endLocked(j, it, now, r)
	} else {
		it.callback, it.called = broker.CallbackDone, now
		it.call.endLease()
		if r.Outcome == broker.OutcomeDead {
			it.callback, it.call.reason = broker.CallbackDead, broker.CutReason(r.Reason)
		}
	}
	(*Broker)(q).wakeLocked()
	return nil
}

// mistakeLocked is what Complete does wrong, if it was asked to, when the lease is lost.
func (q *Queue) mistakeLocked(l broker.Lease, r broker.Result) {
	j := q.jobs[l.Job]
	if j == nil || l.Lane != broker.LaneRun || j.items[l.ID] == nil {
		return
	}
	it := j.items[l.ID]
	if q.bugs[ResultBeforeLeaseCheck] {
		it.result, it.result.Payload = r, bytes.Clone(r.Payload)
	}
	if q.bugs[CallbackTwice] && it.callback == broker.CallbackDone {
		it.callback, it.call = broker.CallbackPending, turn{max: it.Callback.MaxAttempts, due: q.opts.Clock.Now()}
	}
}

// Release implements broker.Queue.
func (q *Queue) Release(ctx context.Context, l broker.Lease, r broker.Return) error {
	if err := cmp.Or(context.Cause(ctx), l.Check(), r.Check()); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	j, it, _, err := q.currentLocked(l, 0)
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	if l.Lane == broker.LaneRun {
		q.giveBackLocked(j, it, q.opts.Clock.Now(), r, false)
	} else {
		q.giveBackCallLocked(it, q.opts.Clock.Now(), r)
	}
	(*Broker)(q).wakeLocked()
	return nil
}

// findLocked answers an invocation that wanted accepts, or ErrNotFound.
func (q *Queue) findLocked(j broker.Job, id broker.InvocationID, what string, wanted func(*item) bool) (*jobQueue, *item, error) {
	if in := q.jobs[j]; in != nil {
		if it := q.settleLocked(in, id); it != nil && wanted(it) {
			return in, it, nil
		}
	}
	return nil, nil, fmt.Errorf("%s %s of %s: %w", what, id, j, broker.ErrNotFound)
}

func anyItem(*item) bool { return true }

func isLetter(it *item) bool { return it.letter }

func checkID(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return cmp.Or(context.Cause(ctx), j.Check(), id.Check())
}

func (it *item) status() broker.Status {
	s := broker.Status{
		ID: it.ID, State: it.state, Attempts: it.run.attempts, MaxAttempts: it.run.max, Priority: it.Priority, Order: it.Order, Key: it.Key,
		Enqueued: it.enqueued, Worker: it.run.worker, Until: it.run.until, Reason: it.run.reason, Finished: it.finished,
		Callback: it.callback, CallbackAttempts: it.call.attempts, CallbackReason: it.call.reason,
		Expires: it.expires(), PayloadBytes: len(it.Payload), ResultBytes: len(it.result.Payload),
	}
	if it.state == broker.StateWaiting {
		s.Due = it.run.due
	}
	return s
}

// Status implements broker.Queue.
func (q *Queue) Status(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Status, error) {
	if err := checkID(ctx, j, id); err != nil {
		return broker.Status{}, fmt.Errorf("status: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, it, err := q.findLocked(j, id, "invocation", anyItem)
	if err != nil {
		return broker.Status{}, err
	}
	return it.status(), nil
}

// Result implements broker.Queue.
func (q *Queue) Result(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Result, error) {
	if err := checkID(ctx, j, id); err != nil {
		return broker.Result{}, fmt.Errorf("result: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, it, err := q.findLocked(j, id, "result of invocation", func(it *item) bool { return !it.live() })
	if err != nil {
		return broker.Result{}, err
	}
	r := it.result
	r.Payload = bytes.Clone(r.Payload)
	return r, nil
}

// Counts implements broker.Queue.
func (q *Queue) Counts(ctx context.Context, jobs ...broker.Job) ([]broker.Counts, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckJobs(jobs)); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	counts := make([]broker.Counts, len(jobs))
	for i, name := range jobs {
		if j := q.jobs[name]; j != nil {
			counts[i] = q.countsLocked(j)
		}
	}
	return counts, nil
}

// List implements broker.Queue.
func (q *Queue) List(ctx context.Context, name broker.Job, from string, limit int) (list []broker.Status, next string, err error) {
	var rank, seq int // of the last one that was listed
	if from != "" {
		if n, err := fmt.Sscanf(from, "%d.%d", &rank, &seq); n != 2 || err != nil || from != fmt.Sprintf("%d.%d", rank, seq) {
			return nil, "", fmt.Errorf("list: from %.80q: %w", from, broker.ErrInvalid)
		}
	}
	if err := cmp.Or(context.Cause(ctx), name.Check()); err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, broker.MaxBatch)
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.jobs[name]
	if j == nil {
		return nil, "", nil
	}
	rankOf := func(it *item) int {
		switch {
		case it.state == broker.StateLeased:
			return 1
		case q.readyLocked(j, it, broker.LaneRun):
			return 2 + broker.MaxPriority - it.Priority
		}
		return 3 + broker.MaxPriority
	}
	compare := func(a, b *item) int { return cmp.Or(rankOf(a)-rankOf(b), a.seq-b.seq) }
	for _, it := range slices.SortedFunc(slices.Values(q.settleAllLocked(j)), compare) {
		if !it.live() || cmp.Or(rankOf(it)-rank, it.seq-seq) <= 0 {
			continue
		}
		if len(list) == limit {
			last := j.items[list[limit-1].ID]
			return list, fmt.Sprintf("%d.%d", rankOf(last), last.seq), nil
		}
		list = append(list, it.status())
	}
	return list, "", nil
}

// Letters implements broker.Queue.
func (q *Queue) Letters(ctx context.Context, name broker.Job, after broker.InvocationID, limit int) (list []broker.Status, err error) {
	if err := cmp.Or(context.Cause(ctx), name.Check()); err != nil {
		return nil, fmt.Errorf("letters: %w", err)
	}
	if limit <= 0 {
		limit = 100
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.jobs[name]
	if j == nil {
		return nil, nil
	}
	for _, it := range q.settleAllLocked(j) {
		if it.letter && it.ID > after {
			list = append(list, it.status())
		}
	}
	slices.SortFunc(list, func(a, b broker.Status) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return list[:min(len(list), limit, broker.MaxBatch)], nil
}

// Letter implements broker.Queue.
func (q *Queue) Letter(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Invocation, error) {
	if err := checkID(ctx, j, id); err != nil {
		return broker.Invocation{}, fmt.Errorf("letter: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, it, err := q.findLocked(j, id, "dead letter", isLetter)
	if err != nil {
		return broker.Invocation{}, err
	}
	return copied(it.Invocation), nil
}

// Requeue implements broker.Queue.
func (q *Queue) Requeue(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	if err := checkID(ctx, j, id); err != nil {
		return fmt.Errorf("requeue: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	in, it, err := q.findLocked(j, id, "requeue: dead letter", isLetter)
	if err != nil {
		return err
	}
	now := q.opts.Clock.Now()
	q.seq++
	again := &item{Invocation: it.Invocation, seq: q.seq, enqueued: now, state: broker.StateWaiting, run: turn{max: it.MaxAttempts, due: now}}
	if it.Callback != nil {
		again.callback = broker.CallbackPending
	}
	in.items[id] = again
	in.list = append(slices.DeleteFunc(in.list, func(other *item) bool { return other == it }), again)
	(*Broker)(q).wakeLocked()
	return nil
}

// Discard implements broker.Queue.
func (q *Queue) Discard(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	if err := checkID(ctx, j, id); err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, it, err := q.findLocked(j, id, "discard: dead letter", isLetter)
	if err != nil {
		return err
	}
	it.letter, it.dropped, it.Payload = false, q.opts.Clock.Now(), nil
	return nil
}

// Cancel implements broker.Queue.
func (q *Queue) Cancel(ctx context.Context, j broker.Job, id broker.InvocationID, reason string) error {
	if err := checkID(ctx, j, id); err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	in, it, err := q.findLocked(j, id, "cancel: invocation", anyItem)
	if err != nil {
		return err
	}
	if it.state != broker.StateWaiting {
		return fmt.Errorf("cancel: invocation %s of %s is %s: %w", id, j, it.state, broker.ErrNotWaiting)
	}
	now := q.opts.Clock.Now()
	q.endLocked(in, it, now, broker.Result{Outcome: broker.OutcomeDead, Reason: reason})
	it.letter, it.dropped, it.Payload = false, now, nil
	(*Broker)(q).wakeLocked()
	return nil
}

// Purge implements broker.Queue.
func (q *Queue) Purge(ctx context.Context, j broker.Job) error {
	if err := cmp.Or(context.Cause(ctx), j.Check()); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.jobs, j)
	return nil
}
