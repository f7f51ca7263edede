package brokertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Leases runs the suite of broker.Leases. open answers leases of which none is held, and ends them with the test. Their
// server goes by the clock; one with a clock of its own runs ahead of it by as much as the given one was advanced.
func Leases(t *testing.T, open func(*testing.T, clock.Clock) broker.Leases) {
	timedSuite(t, open, map[string]func(*testing.T, broker.Leases, *clock.Manual){
		"a name is held by one until the lease ends":                     nameIsHeldByOne,
		"a renewed lease goes on":                                        renewedLeaseGoesOn,
		"a lease that ended is not renewed, though nobody took the name": lateRenewal,
		"a lease that another took over is not renewed":                  renewalAfterTakeover,
		"the same holder cannot hold a name twice":                       holderTwice,
		"each tenure has a higher epoch":                                 epochsGrow,
		"a released name is free at once":                                releasedName,
		"an old hold releases nothing":                                   oldRelease,
		"many renewals are answered one by one":                          manyRenewals,
		"holders are those who hold now":                                 holdersNow,
		"names and times out of bounds are refused":                      leaseBounds,
		"of many who want a name one gets it":                            contendedName,
		"a name passes through many hands, one at a time":                passedName,
		"a cancelled context takes nothing":                              cancelledAcquire,
	})
}

func acquire(t *testing.T, l broker.Leases, name, holder string) broker.Hold {
	t.Helper()
	h, err := l.Acquire(t.Context(), name, holder, 10*time.Second)
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	if h.Name != name || h.Holder != holder || h.Epoch == 0 || h.TTL != 10*time.Second || h.Until.IsZero() {
		t.Fatalf("acquire answers %+v", h)
	}
	return h
}

func wantHeld(t *testing.T, l broker.Leases, by broker.Hold) {
	t.Helper()
	_, err := l.Acquire(t.Context(), by.Name, "somebody else", 10*time.Second)
	var held *broker.HeldError
	if !errors.Is(err, broker.ErrHeld) || !errors.As(err, &held) || held.Hold.Holder != by.Holder || held.Hold.Name != by.Name || held.Left <= 0 {
		t.Errorf("acquiring what %s holds answers %v", by.Holder, err)
	}
}

func wantNotRenewed(t *testing.T, l broker.Leases, h broker.Hold) {
	t.Helper()
	got, err := l.Renew(t.Context(), h)
	var lost *broker.LostError
	if len(got) > 0 || !errors.Is(err, broker.ErrLeaseLost) || !errors.As(err, &lost) || lost.Name != h.Name || lost.Index != 0 {
		t.Errorf("renewing answers %+v, %v", got, err)
	}
}

func nameIsHeldByOne(t *testing.T, l broker.Leases, c *clock.Manual) {
	h := acquire(t, l, "leader", "a")
	wantHeld(t, l, h)
	c.Advance(8 * time.Second)
	wantHeld(t, l, h)
	acquire(t, l, "another name", "b")
	c.Advance(2 * time.Second)
	acquire(t, l, "leader", "b")
}

func renewedLeaseGoesOn(t *testing.T, l broker.Leases, c *clock.Manual) {
	h := acquire(t, l, "leader", "a")
	for range 3 {
		c.Advance(8 * time.Second)
		got, err := l.Renew(t.Context(), h)
		if err != nil || len(got) != 1 || got[0].Name != h.Name || got[0].Epoch != h.Epoch || !got[0].Until.After(h.Until) {
			t.Fatalf("renew answers %+v, %v", got, err)
		}
		h = got[0]
	}
	h.TTL = 30 * time.Second
	if _, err := l.Renew(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	c.Advance(28 * time.Second)
	wantHeld(t, l, h)
	c.Advance(2 * time.Second)
	acquire(t, l, "leader", "b")
}

func lateRenewal(t *testing.T, l broker.Leases, c *clock.Manual) {
	h := acquire(t, l, "leader", "a")
	c.Advance(10 * time.Second)
	wantNotRenewed(t, l, h)
	acquire(t, l, "leader", "b")
}

func renewalAfterTakeover(t *testing.T, l broker.Leases, c *clock.Manual) {
	h := acquire(t, l, "leader", "a")
	c.Advance(10 * time.Second)
	next := acquire(t, l, "leader", "a")
	wantNotRenewed(t, l, h)
	if _, err := l.Renew(t.Context(), next); err != nil {
		t.Error(err)
	}
	wantNotRenewed(t, l, broker.Hold{Name: "nobody's", Holder: "a", Epoch: 1, TTL: time.Minute})
}

func holderTwice(t *testing.T, l broker.Leases, _ *clock.Manual) {
	acquire(t, l, "leader", "a")
	if _, err := l.Acquire(t.Context(), "leader", "a", 10*time.Second); !errors.Is(err, broker.ErrHeld) {
		t.Errorf("acquire answers %v", err)
	}
}

func epochsGrow(t *testing.T, l broker.Leases, c *clock.Manual) {
	last := uint64(0)
	for i := range 6 {
		h := acquire(t, l, "leader", "a")
		if h.Epoch <= last {
			t.Errorf("epoch %d came after %d", h.Epoch, last)
		}
		last = h.Epoch
		if i%2 == 0 {
			c.Advance(10 * time.Second)
		} else if err := l.Release(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
}

func releasedName(t *testing.T, l broker.Leases, _ *clock.Manual) {
	h := acquire(t, l, "leader", "a")
	for range 2 {
		if err := l.Release(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	wantNotRenewed(t, l, h)
	acquire(t, l, "leader", "b")
}

func oldRelease(t *testing.T, l broker.Leases, c *clock.Manual) {
	old := acquire(t, l, "leader", "a")
	c.Advance(10 * time.Second)
	now := acquire(t, l, "leader", "a")
	if err := l.Release(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, l, now)
}

func manyRenewals(t *testing.T, l broker.Leases, c *clock.Manual) {
	var holds []broker.Hold
	for i := range 30 {
		holds = append(holds, acquire(t, l, fmt.Sprint("host ", i), "a"))
	}
	lost := map[int]bool{3: true, 17: true, 29: true}
	for i := range lost {
		if err := l.Release(t.Context(), holds[i]); err != nil {
			t.Fatal(err)
		}
	}
	got, err := l.Renew(t.Context(), holds...)
	if len(got) != len(holds)-len(lost) || !errors.Is(err, broker.ErrLeaseLost) {
		t.Fatalf("%d were renewed, %v", len(got), err)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != len(lost) {
		t.Fatalf("the error is %v", err)
	}
	for _, err := range joined.Unwrap() {
		var e *broker.LostError
		if !errors.As(err, &e) || !lost[e.Index] || e.Name != holds[e.Index].Name {
			t.Errorf("an error is %v", err)
		}
	}
	next := 0
	for i, h := range holds {
		if lost[i] {
			continue
		}
		if got[next].Name != h.Name || got[next].Epoch != h.Epoch {
			t.Errorf("renewal %d is of %s, want %s", next, got[next].Name, h.Name)
		}
		next++
	}
	if got, err := l.Renew(t.Context()); len(got) > 0 || err != nil {
		t.Errorf("renewing nothing answers %+v, %v", got, err)
	}
	c.Advance(10 * time.Second)
	wantNotRenewed(t, l, holds[0])
}

func holdersNow(t *testing.T, l broker.Leases, c *clock.Manual) {
	a, b := acquire(t, l, "a", "x"), acquire(t, l, "b", "y")
	want := func(holders string) {
		t.Helper()
		got, err := l.Holders(t.Context(), "b", "nobody's", "a")
		if err != nil || len(got) != 3 {
			t.Fatalf("holders answers %+v, %v", got, err)
		}
		if text := fmt.Sprintf("%s/%s/%s", got[0].Holder, got[1].Holder, got[2].Holder); text != holders {
			t.Errorf("the holders are %s, want %s", text, holders)
		}
		if got[1] != (broker.Hold{}) {
			t.Errorf("a name that nobody holds answers %+v", got[1])
		}
	}
	want("y//x")
	c.Advance(8 * time.Second)
	if _, err := l.Renew(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.Advance(2 * time.Second)
	want("y//")
	if err := l.Release(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want("//")
	if h := acquire(t, l, "a", "z"); h.Epoch <= a.Epoch {
		t.Errorf("epoch %d came after %d", h.Epoch, a.Epoch)
	}
	want("//z")
}

func leaseBounds(t *testing.T, l broker.Leases, _ *clock.Manual) {
	long := strings.Repeat("x", broker.MaxLeaseName)
	for _, c := range []struct {
		name, holder string
		ttl          time.Duration
		ok           bool
	}{
		{long, long, broker.MinLeaseTTL, true},
		{"\x00 {any} bytes\xff", "}{", broker.MaxLeaseTTL, true},
		{"", "a", time.Minute, false},
		{"n", "", time.Minute, false},
		{long + "x", "a", time.Minute, false},
		{"n", long + "x", time.Minute, false},
		{"n", "a", broker.MinLeaseTTL - 1, false},
		{"n", "a", broker.MaxLeaseTTL + 1, false},
	} {
		h, err := l.Acquire(t.Context(), c.name, c.holder, c.ttl)
		if c.ok && (err != nil || h.Name != c.name || h.Holder != c.holder) || !c.ok && !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%.20q, %.20q, %s: acquire answers %+v, %v", c.name, c.holder, c.ttl, h, err)
		}
		if c.ok {
			if got, err := l.Holders(t.Context(), c.name); err != nil || got[0].Holder != c.holder {
				t.Errorf("%.20q is held by %.20q, %v", c.name, got[0].Holder, err)
			}
		}
	}
	if _, err := l.Renew(t.Context(), broker.Hold{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("renewing the zero hold answers %v", err)
	}
	if _, err := l.Renew(t.Context(), make([]broker.Hold, broker.MaxRenewals+1)...); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("renewing too many answers %v", err)
	}
	if _, err := l.Holders(t.Context(), ""); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("the holder of no name answers %v", err)
	}
}

func contendedName(t *testing.T, l broker.Leases, _ *clock.Manual) {
	var got atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			switch _, err := l.Acquire(t.Context(), "leader", fmt.Sprint(i), 10*time.Second); {
			case err == nil:
				got.Add(1)
			case !errors.Is(err, broker.ErrHeld):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 {
		t.Errorf("%d hold the name", got.Load())
	}
}

func passedName(t *testing.T, l broker.Leases, _ *clock.Manual) {
	var inside atomic.Int32
	var epochs sync.Map
	compete(t, 6, 5, func(i int) error {
		h, err := l.Acquire(t.Context(), "leader", fmt.Sprint(i), time.Hour)
		if err != nil {
			return err
		}
		if n := inside.Add(1); n != 1 {
			t.Errorf("%d hold the name at once", n)
		}
		if _, twice := epochs.LoadOrStore(h.Epoch, true); twice {
			t.Errorf("epoch %d came twice", h.Epoch)
		}
		inside.Add(-1)
		return l.Release(t.Context(), h)
	})
}

func cancelledAcquire(t *testing.T, l broker.Leases, _ *clock.Manual) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Acquire(ctx, "leader", "a", 10*time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("acquire answers %v", err)
	}
	acquire(t, l, "leader", "b")
}
