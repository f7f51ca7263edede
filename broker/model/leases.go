package model

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Leases = (*Leases)(nil)

// Leases are a Broker's leases.
type Leases Broker

// tenure is the last one of a name; its hold is the zero Hold once it was released.
type tenure struct {
	epoch uint64
	hold  broker.Hold
}

func (l *Leases) heldLocked(name string) (broker.Hold, bool) {
	if t := l.leases[name]; t != nil && t.hold.Epoch != 0 && l.opts.Clock.Now().Before(t.hold.Until) {
		return t.hold, true
	}
	return broker.Hold{}, false
}

// Acquire implements broker.Leases.
func (l *Leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (broker.Hold, error) {
	h := broker.Hold{Name: name, Holder: holder, TTL: ttl}
	if err := cmp.Or(context.Cause(ctx), h.Check()); err != nil {
		return broker.Hold{}, fmt.Errorf("acquire: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.opts.Clock.Now()
	if have, ok := l.heldLocked(name); ok {
		return broker.Hold{}, &broker.HeldError{Hold: have, Left: have.Until.Sub(now)}
	}
	t := l.leases[name]
	if t == nil {
		t = &tenure{}
		l.leases[name] = t
	}
	t.epoch++
	h.Epoch, h.Until = t.epoch, now.Add(ttl)
	t.hold = h
	return h, nil
}

// Renew implements broker.Leases.
func (l *Leases) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckRenewals(holds)); err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var renewed []broker.Hold
	var errs []error
	for i, h := range holds {
		have, ok := l.heldLocked(h.Name)
		if t := l.leases[h.Name]; !ok && t != nil && l.bugs[LateRenewalAccepted] {
			have, ok = t.hold, true
		}
		if !ok || have.Epoch != h.Epoch {
			errs = append(errs, &broker.LostError{Name: h.Name, Index: i})
			continue
		}
		have.TTL, have.Until = h.TTL, l.opts.Clock.Now().Add(h.TTL)
		l.leases[h.Name].hold = have
		renewed = append(renewed, have)
	}
	return renewed, errors.Join(errs...)
}

// Release implements broker.Leases.
func (l *Leases) Release(ctx context.Context, h broker.Hold) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if have, ok := l.heldLocked(h.Name); ok && have.Epoch == h.Epoch {
		l.leases[h.Name].hold = broker.Hold{}
	}
	return nil
}

// Holders implements broker.Leases.
func (l *Leases) Holders(ctx context.Context, names ...string) ([]broker.Hold, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckNames(names)); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	holds := make([]broker.Hold, len(names))
	for i, name := range names {
		holds[i], _ = l.heldLocked(name)
	}
	return holds, nil
}
