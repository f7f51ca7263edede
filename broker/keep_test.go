package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/faulty"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

var leaderHold = broker.Hold{Name: "leader", Holder: "me", TTL: 8 * time.Second}

// toldLeases tells of each renewal.
type toldLeases struct {
	broker.Leases
	renewed chan error
}

func (l toldLeases) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	got, err := l.Leases.Renew(ctx, holds...)
	l.renewed <- err
	return got, err
}

func holderOf(t *testing.T, m *model.Broker) string {
	t.Helper()
	holds, err := m.Leases().Holders(t.Context(), leaderHold.Name)
	if err != nil {
		t.Fatal(err)
	}
	return holds[0].Holder
}

func TestKeepRenewsWhileRunLastsAndReleasesAfter(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	m := model.New(model.Options{Clock: c})
	renewed := make(chan error)
	started, stop, ended := make(chan broker.Hold), make(chan struct{}), make(chan error)
	reason := errors.New("enough")
	go func() {
		ended <- broker.Keep(t.Context(), toldLeases{m.Leases(), renewed}, c, leaderHold, func(ctx context.Context, h broker.Hold) error {
			started <- h
			<-stop
			if ctx.Err() != nil {
				t.Error("the context of run has ended")
			}
			return reason
		})
	}()
	if h := <-started; h.Epoch == 0 || h.Holder != "me" {
		t.Errorf("run is told %+v", h)
	}
	for range 20 {
		c.Advance(2 * time.Second)
		if err := <-renewed; err != nil {
			t.Fatal(err)
		}
	}
	if by := holderOf(t, m); by != "me" {
		t.Errorf("after 40 s the name is held by %q", by)
	}
	close(stop)
	if err := <-ended; !errors.Is(err, reason) {
		t.Errorf("keep answers %v", err)
	}
	if by := holderOf(t, m); by != "" {
		t.Errorf("afterwards the name is held by %q", by)
	}
}

func TestKeepEndsRunBeforeTheLeaseWhenRenewalsFail(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	m := model.New(model.Options{Clock: c})
	faults := faulty.New(faulty.Options{Rate: 1})
	renewed := make(chan error, 100)
	started, ended := make(chan struct{}), make(chan error)
	// Acquire succeeds, all after it fail.
	go func() {
		ended <- broker.Keep(t.Context(), mixed{m.Leases(), toldLeases{faulty.NewLeases(m.Leases(), faults), renewed}}, c, leaderHold, func(ctx context.Context, _ broker.Hold) error {
			close(started)
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), broker.ErrLeaseLost) {
				t.Errorf("the context ended because of %v", context.Cause(ctx))
			}
			return context.Cause(ctx)
		})
	}()
	<-started
	c.Advance(leaderHold.Safe()) // all in one step: nothing was renewed by then
	if by := holderOf(t, m); by != "me" {
		t.Errorf("the lease was over before run ended: the name is held by %q", by)
	}
	if err := <-ended; !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("keep answers %v", err)
	}
}

// mixed takes Acquire from one and all else from another.
type mixed struct {
	broker.Leases
	others broker.Leases
}

func (m mixed) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	return m.others.Renew(ctx, holds...)
}

func (m mixed) Release(ctx context.Context, h broker.Hold) error { return m.others.Release(ctx, h) }

func TestKeepEndsRunWhenTheLeaseIsLost(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	m := model.New(model.Options{Clock: c})
	started, ended := make(chan broker.Hold), make(chan error)
	go func() {
		ended <- broker.Keep(t.Context(), m.Leases(), c, leaderHold, func(ctx context.Context, h broker.Hold) error {
			started <- h
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	if err := m.Leases().Release(t.Context(), <-started); err != nil {
		t.Fatal(err)
	}
	c.Advance(2 * time.Second)
	if err := <-ended; !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("keep answers %v", err)
	}
}

func TestKeepFailsWhileAnotherHoldsTheName(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	m := model.New(model.Options{Clock: c})
	if _, err := m.Leases().Acquire(t.Context(), "leader", "another", time.Minute); err != nil {
		t.Fatal(err)
	}
	err := broker.Keep(t.Context(), m.Leases(), c, leaderHold, func(context.Context, broker.Hold) error {
		t.Error("run was called")
		return nil
	})
	if !errors.Is(err, broker.ErrHeld) {
		t.Errorf("keep answers %v", err)
	}
}

func TestKeepEndsWithItsContext(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	m := model.New(model.Options{Clock: c})
	ctx, cancel := context.WithCancel(t.Context())
	err := broker.Keep(ctx, m.Leases(), c, leaderHold, func(ctx context.Context, _ broker.Hold) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("keep answers %v", err)
	}
	if by := holderOf(t, m); by != "" {
		t.Errorf("afterwards the name is held by %q", by)
	}
}
