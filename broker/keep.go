package broker

import (
	"context"
	"errors"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// releaseTime bounds what Keep waits for its last call.
const releaseTime = 2 * time.Second

// Keep acquires want's name for its holder and its TTL, runs run, renews the lease meanwhile, releases it when run has
// returned, and answers run's error. The context of run ends, with ErrLeaseLost as its cause, when the lease is lost and, by
// c alone, when it has been Safe since a renewal that succeeded was sent: before the server may give the name to another.
// Keep waits for run all the same. It fails as Acquire does, and has not called run then.
//
// c must not jump: the system's clock counts monotonically, but stands still while a machine is suspended. Where that
// matters, commits are made conditional on a record of the tenure.
func Keep(ctx context.Context, l Leases, c clock.Clock, want Hold, run func(context.Context, Hold) error) error {
	asked := c.Now()
	h, err := l.Acquire(ctx, want.Name, want.Holder, want.TTL)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
		defer cancel()
		_ = l.Release(last, h) // it lapses anyway
	}()
	held, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	lost := &LostError{Name: h.Name}
	safe := c.AfterFunc(h.Safe()-c.Now().Sub(asked), func() { lose(lost) })
	defer safe.Stop()
	// A quarter of the TTL: two renewals in a row may get lost, and the third still comes before Safe is over.
	tick := c.NewTicker(h.TTL / 4)
	defer tick.Stop()

	running, returned := context.WithCancel(held)
	defer returned()
	done := make(chan error, 1)
	go func() {
		defer returned()
		done <- run(held, h)
	}()
	for {
		select {
		case err := <-done:
			return err
		case <-running.Done():
			return <-done
		case <-tick.C():
		}
		asked := c.Now()
		_, err := l.Renew(running, h)
		switch {
		case errors.Is(err, ErrLeaseLost):
			lose(lost)
		case err == nil && held.Err() == nil:
			safe.Reset(h.Safe() - c.Now().Sub(asked))
		}
	}
}
