package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Leases = (*Leases)(nil)

var (
	leaseAcquireScript = load("lease_acquire")
	leaseRenewScript   = load("lease_renew")
	leaseReleaseScript = load("lease_release")
	leaseHolderScript  = load("lease_holder")
)

// Leases keeps each name in a hash of its own. An epoch is the time at which a tenure began, in microseconds, so that it does not
// repeat when the server lost the last one.
type Leases struct{ link *link }

func (l *Leases) at(name string) (group, []string) {
	g := l.link.keys.lease(name)
	return g, []string{g.tag}
}

// Acquire implements broker.Leases.
func (l *Leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (broker.Hold, error) {
	h := broker.Hold{Name: name, Holder: holder, TTL: ttl}
	if err := h.Check(); err != nil {
		return broker.Hold{}, fmt.Errorf("acquire: %w", err)
	}
	g, keys := l.at(name)
	rep, err := l.link.run(ctx, leaseAcquireScript, g, keys, holder, ttl.Microseconds())
	if err != nil {
		return broker.Hold{}, fmt.Errorf("acquire %.200s: %w", name, err)
	}
	if rep.text(0) == "held" {
		return broker.Hold{}, &broker.HeldError{
			Hold: broker.Hold{Name: name, Holder: rep.text(1), Epoch: rep.number(2), Until: rep.time(3), TTL: micros(rep.number(4))},
			Left: micros(rep.number(5)),
		}
	}
	h.Epoch, h.Until = rep.number(1), rep.time(2)
	return h, nil
}

func micros(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }

// Renew implements broker.Leases. The names go to the server together.
func (l *Leases) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	if err := broker.CheckRenewals(holds); err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	holds = slices.Clone(holds)
	errs := together(len(holds), func(i int) error {
		h := &holds[i]
		g, keys := l.at(h.Name)
		rep, err := l.link.run(ctx, leaseRenewScript, g, keys, strconv.FormatUint(h.Epoch, 10), h.TTL.Microseconds())
		switch {
		case err != nil:
			return fmt.Errorf("renew %.200s: %w", h.Name, err)
		case rep.text(0) == "lost":
			return &broker.LostError{Name: h.Name, Index: i}
		}
		h.Until = rep.time(1)
		return nil
	})
	var renewed []broker.Hold
	for i, h := range holds {
		if errs[i] == nil {
			renewed = append(renewed, h)
		}
	}
	return renewed, errors.Join(errs...)
}

// Release implements broker.Leases.
func (l *Leases) Release(ctx context.Context, h broker.Hold) error {
	g, keys := l.at(h.Name)
	if _, err := l.link.run(ctx, leaseReleaseScript, g, keys, strconv.FormatUint(h.Epoch, 10)); err != nil {
		return fmt.Errorf("release %.200s: %w", h.Name, err)
	}
	return nil
}

// Holders implements broker.Leases.
func (l *Leases) Holders(ctx context.Context, names ...string) ([]broker.Hold, error) {
	if err := broker.CheckNames(names); err != nil {
		return nil, fmt.Errorf("holders: %w", err)
	}
	holds := make([]broker.Hold, len(names))
	errs := together(len(names), func(i int) error {
		g, keys := l.at(names[i])
		rep, err := l.link.run(ctx, leaseHolderScript, g, keys)
		if err != nil || rep.text(0) == "free" {
			return err
		}
		holds[i] = broker.Hold{Name: names[i], Holder: rep.text(1), Epoch: rep.number(2), Until: rep.time(3), TTL: micros(rep.number(4))}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("holders: %w", err)
	}
	return holds, nil
}
