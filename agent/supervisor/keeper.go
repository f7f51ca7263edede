package supervisor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// keeper extends leases while they are worked on.
type keeper struct {
	queue broker.Queue
	clock clock.Clock

	mu   sync.Mutex
	held map[*held]struct{}
}

// held is a lease that is worked on.
type held struct {
	lease broker.Lease
	safe  time.Time     // by the keeper's clock: nobody else has it before
	lost  chan struct{} // closed when somebody else may have it
	over  bool          // lost is closed
}

func newKeeper(q broker.Queue, c clock.Clock) *keeper {
	return &keeper{queue: q, clock: c, held: map[*held]struct{}{}}
}

// hold has a lease extended until drop is called. What was leased a moment ago is safe for a while; how long the call of Lease took
// is within the difference between a lease's time and what is safe of it.
func (k *keeper) hold(l broker.Lease) *held {
	h := &held{lease: l, safe: k.clock.Now().Add(l.Safe()), lost: make(chan struct{})}
	k.mu.Lock()
	k.held[h] = struct{}{}
	k.mu.Unlock()
	return h
}

func (k *keeper) drop(h *held) {
	k.mu.Lock()
	delete(k.held, h)
	k.mu.Unlock()
}

func (h *held) loseLocked() {
	if !h.over {
		h.over = true
		close(h.lost)
	}
}

// Run extends leases until ctx ends.
func (k *keeper) Run(ctx context.Context) {
	tick := k.clock.NewTicker(leaseTTL / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
		k.extend(ctx)
	}
}

// extend extends all leases once, and says which are lost.
func (k *keeper) extend(ctx context.Context) {
	k.mu.Lock()
	all := make([]*held, 0, len(k.held))
	for h := range k.held {
		all = append(all, h)
	}
	k.mu.Unlock()
	for len(all) > 0 {
		some := all[:min(len(all), broker.MaxBatch)]
		all = all[len(some):]
		ls := make([]broker.Lease, len(some))
		for i, h := range some {
			ls[i] = h.lease
			ls[i].Payload = nil // who extends a lease need not know what it is of
		}
		asked := k.clock.Now()
		ctx, cancel := context.WithTimeout(ctx, leaseTTL/4)
		extended, err := k.queue.Extend(ctx, ls...)
		cancel()
		still, lost := map[string]bool{}, lostOf(err)
		for _, l := range extended {
			still[string(l.ID)+"/"+l.Token] = true
		}
		k.mu.Lock()
		for i, h := range some {
			switch {
			case lost[i]:
				h.loseLocked()
			case still[string(h.lease.ID)+"/"+h.lease.Token]:
				h.safe = asked.Add(h.lease.Safe())
			case !k.clock.Now().Before(h.safe):
				h.loseLocked()
			}
		}
		k.mu.Unlock()
	}
}

// lostOf answers which of the leases of a call are lost, as its error says.
func lostOf(err error) map[int]bool {
	lost := map[int]bool{}
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) {
		case nil:
		case *broker.LostError:
			lost[e.Index] = true
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		default:
			walk(errors.Unwrap(err))
		}
	}
	walk(err)
	return lost
}
