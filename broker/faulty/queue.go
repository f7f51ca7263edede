package faulty

import (
	"context"

	"github.com/ripstop-vm/ripstop/broker"
)

// Queue is a queue whose calls may fail.
type Queue struct {
	to     broker.Queue
	faults *Faults
}

// NewQueue wraps a queue.
func NewQueue(to broker.Queue, f *Faults) *Queue { return &Queue{to, f} }

// Enqueue implements broker.Queue.
func (q *Queue) Enqueue(ctx context.Context, b broker.Batch) ([]broker.Receipt, error) {
	return call(q.faults, "enqueue", func() ([]broker.Receipt, error) { return q.to.Enqueue(ctx, b) })
}

// Lease implements broker.Queue.
func (q *Queue) Lease(ctx context.Context, w broker.Want) ([]broker.Lease, error) {
	return call(q.faults, "lease", func() ([]broker.Lease, error) { return q.to.Lease(ctx, w) })
}

// Wait implements broker.Queue.
func (q *Queue) Wait(ctx context.Context, w broker.Want) error {
	return act(q.faults, "wait", func() error { return q.to.Wait(ctx, w) })
}

// Extend implements broker.Queue.
func (q *Queue) Extend(ctx context.Context, ls ...broker.Lease) ([]broker.Lease, error) {
	return call(q.faults, "extend", func() ([]broker.Lease, error) { return q.to.Extend(ctx, ls...) })
}

// Complete implements broker.Queue.
func (q *Queue) Complete(ctx context.Context, l broker.Lease, r broker.Result) error {
	return act(q.faults, "complete", func() error { return q.to.Complete(ctx, l, r) })
}

// Release implements broker.Queue.
func (q *Queue) Release(ctx context.Context, l broker.Lease, r broker.Return) error {
	return act(q.faults, "release", func() error { return q.to.Release(ctx, l, r) })
}

// Status implements broker.Queue.
func (q *Queue) Status(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Status, error) {
	return call(q.faults, "status", func() (broker.Status, error) { return q.to.Status(ctx, j, id) })
}

// Result implements broker.Queue.
func (q *Queue) Result(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Result, error) {
	return call(q.faults, "result", func() (broker.Result, error) { return q.to.Result(ctx, j, id) })
}

// Counts implements broker.Queue.
func (q *Queue) Counts(ctx context.Context, jobs ...broker.Job) ([]broker.Counts, error) {
	return call(q.faults, "counts", func() ([]broker.Counts, error) { return q.to.Counts(ctx, jobs...) })
}

// List implements broker.Queue.
func (q *Queue) List(ctx context.Context, j broker.Job, from string, limit int) (list []broker.Status, next string, err error) {
	err = act(q.faults, "list", func() (err error) {
		list, next, err = q.to.List(ctx, j, from, limit)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return list, next, nil
}

// Cancel implements broker.Queue.
func (q *Queue) Cancel(ctx context.Context, j broker.Job, id broker.InvocationID, reason string) error {
	return act(q.faults, "cancel", func() error { return q.to.Cancel(ctx, j, id, reason) })
}

// Letters implements broker.Queue.
func (q *Queue) Letters(ctx context.Context, j broker.Job, after broker.InvocationID, limit int) ([]broker.Status, error) {
	return call(q.faults, "letters", func() ([]broker.Status, error) { return q.to.Letters(ctx, j, after, limit) })
}

// Letter implements broker.Queue.
func (q *Queue) Letter(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Invocation, error) {
	return call(q.faults, "letter", func() (broker.Invocation, error) { return q.to.Letter(ctx, j, id) })
}

// Requeue implements broker.Queue.
func (q *Queue) Requeue(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return act(q.faults, "requeue", func() error { return q.to.Requeue(ctx, j, id) })
}

// Discard implements broker.Queue.
func (q *Queue) Discard(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return act(q.faults, "discard", func() error { return q.to.Discard(ctx, j, id) })
}

// Purge implements broker.Queue.
func (q *Queue) Purge(ctx context.Context, j broker.Job) error {
	return act(q.faults, "purge", func() error { return q.to.Purge(ctx, j) })
}
