package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// renewer sends the renewals of many callers together: the first waits for a short while for others to come along.
type renewer struct {
	leases broker.Leases
	window time.Duration

	ctx    context.Context // of all calls; ends with close
	cancel context.CancelFunc
	calls  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiting []*renewal
	holds   int // of those that wait
}

// renewal is what one caller renews.
type renewal struct {
	holds   []broker.Hold
	done    chan struct{} // closed when the rest is there
	renewed []broker.Hold
	err     error
}

// renewLimit is how long a call to the broker may take that several wait for. It is well over the backends' own limits.
const renewLimit = 30 * time.Second

func newRenewer(l broker.Leases, window time.Duration) *renewer {
	r := &renewer{leases: l, window: window}
	r.ctx, r.cancel = context.WithCancel(context.Background()) // none of the callers may end a call for the others
	return r
}

// close ends what is under way, and waits for it.
func (r *renewer) close() {
	r.cancel()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.calls.Wait()
}

// renew is broker.Leases.Renew. holds have been checked.
func (r *renewer) renew(ctx context.Context, holds []broker.Hold) ([]broker.Hold, error) {
	mine := &renewal{holds: holds, done: make(chan struct{})}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, broker.ErrClosed
	}
	var full []*renewal
	if r.holds+len(holds) > broker.MaxRenewals {
		full, r.waiting, r.holds = r.waiting, nil, 0
	}
	r.waiting = append(r.waiting, mine)
	r.holds += len(holds)
	if len(r.waiting) == 1 {
		r.calls.Add(1)
		clock.System.AfterFunc(r.window, func() {
			defer r.calls.Done()
			r.send(r.take(mine))
		})
	}
	if full != nil {
		r.calls.Go(func() { r.send(full) })
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.renewed, mine.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// take takes all who wait, if the first of them still does.
func (r *renewer) take(first *renewal) []*renewal {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 || r.waiting[0] != first {
		return nil
	}
	all := r.waiting
	r.waiting, r.holds = nil, 0
	return all
}

// send renews what several callers hold with one call, and tells each what became of its own.
func (r *renewer) send(all []*renewal) {
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, renewLimit)
	defer cancel()
	var holds []broker.Hold
	for _, one := range all {
		holds = append(holds, one.holds...)
	}
	got, err := r.leases.Renew(ctx, holds...)
	failures := flatten(err, nil)
	for _, one := range all {
		one.renewed, got, failures, one.err = share(one.holds, got, failures)
		close(one.done)
	}
}

// flatten answers what an error joins.
func flatten(err error, all []error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = flatten(e, all)
		}
		return all
	}
	if err != nil {
		all = append(all, err)
	}
	return all
}

// share takes what became of a caller's holds off what became of all: those renewed are in order, and so are the errors of the others, one
// for each, unless the call failed as a whole with a single one.
func share(holds, got []broker.Hold, failures []error) (mine, restGot []broker.Hold, rest []error, err error) {
	var errs []error
	for i, h := range holds {
		if len(got) > 0 && got[0].Name == h.Name && got[0].Epoch == h.Epoch {
			mine, got = append(mine, got[0]), got[1:]
			continue
		}
		if len(failures) == 0 {
			errs = append(errs, broker.ErrUnavailable)
			continue
		}
		failure := failures[0]
		var lost *broker.LostError
		if errors.As(failure, &lost) {
			failure = &broker.LostError{Name: h.Name, Index: i}
		}
		errs = append(errs, failure)
		if len(failures) > 1 {
			failures = failures[1:]
		}
	}
	return mine, got, failures, errors.Join(errs...)
}
