package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

var _ broker.Queue = (*Queue)(nil)

// Queue is the broker's queue.
type Queue struct{ c *Client }

// Enqueue implements broker.Queue.
func (q *Queue) Enqueue(ctx context.Context, b broker.Batch) ([]broker.Receipt, error) {
	if err := b.Check(); err != nil { // what is too large is not sent
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	rep, err := q.c.call(ctx, protocol.QueueEnqueue, &protocol.Call{Batch: b})
	return rep.Receipts, err
}

// Lease implements broker.Queue.
func (q *Queue) Lease(ctx context.Context, w broker.Want) ([]broker.Lease, error) {
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	rep, err := q.c.call(ctx, protocol.QueueLease, &protocol.Call{Want: w})
	return rep.Leases, err
}

// Wait implements broker.Queue. When the connection breaks, it waits with this control process or another.
func (q *Queue) Wait(ctx context.Context, w broker.Want) error {
	if err := w.Check(); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	for failures := 1; ; failures++ {
		_, err := q.c.call(ctx, protocol.QueueWait, &protocol.Call{Want: w})
		if !errors.Is(err, broker.ErrUnavailable) {
			return err
		}
		pause(ctx, failures)
		q.c.next()
	}
}

// claim is what a server needs of a lease.
func claim(l broker.Lease) broker.Lease {
	return broker.Lease{Job: l.Job, Lane: l.Lane, Invocation: broker.Invocation{ID: l.ID}, Token: l.Token, Attempt: l.Attempt, TTL: l.TTL}
}

// Extend implements broker.Queue.
func (q *Queue) Extend(ctx context.Context, ls ...broker.Lease) ([]broker.Lease, error) {
	if err := broker.CheckExtensions(ls); err != nil {
		return nil, fmt.Errorf("extend: %w", err)
	}
	claims := make([]broker.Lease, len(ls))
	for i, l := range ls {
		claims[i] = claim(l)
	}
	rep, err := q.c.call(ctx, protocol.QueueExtend, &protocol.Call{Leases: claims})
	// The answer has those that were extended, in their order, without what the caller has already.
	extended := make([]broker.Lease, 0, len(rep.Leases))
	i := 0
	for _, got := range rep.Leases {
		for i < len(ls) && (ls[i].ID != got.ID || ls[i].Job != got.Job || ls[i].Token != got.Token || ls[i].Lane != got.Lane) {
			i++
		}
		if i == len(ls) {
			return nil, cmp.Or(err, short("extend"))
		}
		l := ls[i]
		l.Until, l.TTL = got.Until, got.TTL
		extended = append(extended, l)
		i++
	}
	return extended, err
}

// Complete implements broker.Queue.
func (q *Queue) Complete(ctx context.Context, l broker.Lease, r broker.Result) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("complete %.80s: %w", l.ID, err)
	}
	r.Reason = broker.CutReason(r.Reason)
	_, err := q.c.call(ctx, protocol.QueueComplete, &protocol.Call{Leases: []broker.Lease{claim(l)}, Result: r})
	return err
}

// Release implements broker.Queue.
func (q *Queue) Release(ctx context.Context, l broker.Lease, r broker.Return) error {
	r.Reason = broker.CutReason(r.Reason)
	_, err := q.c.call(ctx, protocol.QueueRelease, &protocol.Call{Leases: []broker.Lease{claim(l)}, Return: r})
	return err
}

// Status implements broker.Queue.
func (q *Queue) Status(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Status, error) {
	rep, err := q.c.ask(ctx, protocol.QueueStatus, &protocol.Call{Job: j, ID: id})
	if err == nil && len(rep.Statuses) != 1 {
		err = short("status")
	}
	if err != nil {
		return broker.Status{}, err
	}
	return rep.Statuses[0], nil
}

// Result implements broker.Queue.
func (q *Queue) Result(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Result, error) {
	rep, err := q.c.ask(ctx, protocol.QueueResult, &protocol.Call{Job: j, ID: id})
	return rep.Result, err
}

// Counts implements broker.Queue.
func (q *Queue) Counts(ctx context.Context, jobs ...broker.Job) ([]broker.Counts, error) {
	if err := broker.CheckJobs(jobs); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	rep, err := q.c.ask(ctx, protocol.QueueCounts, &protocol.Call{Jobs: jobs})
	if err == nil && len(rep.Counts) != len(jobs) {
		err = short("counts")
	}
	if err != nil {
		return nil, err
	}
	return rep.Counts, nil
}

// List implements broker.Queue.
func (q *Queue) List(ctx context.Context, j broker.Job, from string, limit int) ([]broker.Status, string, error) {
	rep, err := q.c.ask(ctx, protocol.QueueList, &protocol.Call{Job: j, Key: from, Range: broker.Range{Limit: limit}})
	return rep.Statuses, rep.Next, err
}

// Cancel implements broker.Queue.
func (q *Queue) Cancel(ctx context.Context, j broker.Job, id broker.InvocationID, reason string) error {
	_, err := q.c.call(ctx, protocol.QueueCancel, &protocol.Call{Job: j, ID: id, Return: broker.Return{Reason: broker.CutReason(reason)}})
	return err
}

// Letters implements broker.Queue.
func (q *Queue) Letters(ctx context.Context, j broker.Job, after broker.InvocationID, limit int) ([]broker.Status, error) {
	rep, err := q.c.ask(ctx, protocol.QueueLetters, &protocol.Call{Job: j, ID: after, Range: broker.Range{Limit: limit}})
	return rep.Statuses, err
}

// Letter implements broker.Queue.
func (q *Queue) Letter(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Invocation, error) {
	rep, err := q.c.ask(ctx, protocol.QueueLetter, &protocol.Call{Job: j, ID: id})
	return rep.Invocation, err
}

// Requeue implements broker.Queue.
func (q *Queue) Requeue(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	_, err := q.c.call(ctx, protocol.QueueRequeue, &protocol.Call{Job: j, ID: id})
	return err
}

// Discard implements broker.Queue.
func (q *Queue) Discard(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	_, err := q.c.call(ctx, protocol.QueueDiscard, &protocol.Call{Job: j, ID: id})
	return err
}

// Purge implements broker.Queue.
func (q *Queue) Purge(ctx context.Context, j broker.Job) error {
	_, err := q.c.call(ctx, protocol.QueuePurge, &protocol.Call{Job: j})
	return err
}
