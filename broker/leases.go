package broker

import (
	"context"
	"fmt"
	"time"
)

// Bounds of leases. A name or a holder out of its bounds, or a time to live, fails with ErrInvalid.
const (
	MaxLeaseName = 256           // bytes of a name and of a holder
	MinLeaseTTL  = time.Second   // shorter ones would lapse at a pause for garbage
	MaxLeaseTTL  = 1 * time.Hour // longer ones would leave a name useless for too long after a crash
	MaxRenewals  = 1 << 12       // holds of one Renew, names of one Holders
)

// Hold is a name that is held. It is as the server answered it: nothing in it changes by itself.
type Hold struct {
	Name   string
	Holder string        // who holds it; for people
	Epoch  uint64        // which tenure of the name it is: each Acquire has a higher one than all before it; never 0
	TTL    time.Duration // it ends so long after the server last heard of it
	Until  time.Time     // when that is by the server's clock; for people: a holder goes by Safe
}

// Safe answers for how long a holder may act under the name: counted by a monotonic clock from before its call of Acquire or Renew.
// It is less than the TTL by an eighth, at least 125 ms, for clocks that differ in speed and for what is under way:
// the holder has stopped before the server gives the name to another.
func (h Hold) Safe() time.Duration { return h.TTL - h.TTL/8 }

// HeldError says who holds a name. errors.Is finds ErrHeld in it.
type HeldError struct {
	Hold Hold
	Left time.Duration // how long the server will still keep it for its holder, if it isn't renewed
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s is held by %s for another %s", e.Hold.Name, e.Hold.Holder, e.Left.Round(time.Millisecond))
}

// Unwrap answers ErrHeld.
func (e *HeldError) Unwrap() error { return ErrHeld }

// LostError names a hold, or the lease of an invocation, that is over. errors.Is finds ErrLeaseLost in it.
type LostError struct {
	Name  string // of the hold, or the invocation's ID
	Index int    // of it among those that the call was given
}

func (e *LostError) Error() string { return fmt.Sprintf("%s: %v", e.Name, ErrLeaseLost) }

// Unwrap answers ErrLeaseLost.
func (e *LostError) Unwrap() error { return ErrLeaseLost }

// Leases gives names to holders for a time. At any moment of the server's clock a name has one holder at most. A holder
// must stop by its own clock before the lease ends (Hold.Safe, or Keep, which does it): the server cannot make it. To
// fence off a holder that did not, write the tenure into a record and make every commit conditional on that.
//
// Methods are safe for concurrent use; each name is dealt with in one atomic step, and no two names are in the same one.
// A server that restarts may forget holds, as if all had lapsed, but never repeats an epoch.
type Leases interface {
	// Acquire takes a name for ttl. It fails with a *HeldError if somebody holds it, the same holder included: two
	// processes that were given one name are two. After an error that is neither this nor ErrInvalid, the name may have
	// been taken; it is free again after ttl.
	Acquire(ctx context.Context, name, holder string, ttl time.Duration) (Hold, error)
	// Renew lets each hold last for its TTL from now. It answers those it renewed, in their order, and an error that
	// joins what happened to the others: a *LostError for each that has ended, even if nobody has taken the name since.
	// A hold that ended never comes back.
	Renew(ctx context.Context, holds ...Hold) ([]Hold, error)
	// Release ends a hold at once. One that has ended is no error.
	Release(ctx context.Context, h Hold) error
	// Holders answers for each name who holds it: the zero Hold if nobody does. Each is of a moment of its own.
	Holders(ctx context.Context, names ...string) ([]Hold, error)
}
