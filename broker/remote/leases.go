package remote

import (
	"context"
	"fmt"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

var _ broker.Leases = (*Leases)(nil)

// Leases are the broker's leases.
type Leases struct{ c *Client }

// Acquire implements broker.Leases.
func (l *Leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (broker.Hold, error) {
	h := broker.Hold{Name: name, Holder: holder, TTL: ttl}
	if err := h.Check(); err != nil {
		return broker.Hold{}, fmt.Errorf("acquire: %w", err)
	}
	rep, err := l.c.call(ctx, protocol.LeasesAcquire, &protocol.Call{Holds: []broker.Hold{h}})
	if err == nil && len(rep.Holds) != 1 {
		err = short("acquire")
	}
	if err != nil {
		return broker.Hold{}, err
	}
	return rep.Holds[0], nil
}

// Renew implements broker.Leases. A control process may send the renewals of several callers on together.
func (l *Leases) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	if err := broker.CheckRenewals(holds); err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	rep, err := l.c.call(ctx, protocol.LeasesRenew, &protocol.Call{Holds: holds})
	return rep.Holds, err
}

// Release implements broker.Leases.
func (l *Leases) Release(ctx context.Context, h broker.Hold) error {
	_, err := l.c.call(ctx, protocol.LeasesRelease, &protocol.Call{Holds: []broker.Hold{h}})
	return err
}

// Holders implements broker.Leases.
func (l *Leases) Holders(ctx context.Context, names ...string) ([]broker.Hold, error) {
	if err := broker.CheckNames(names); err != nil {
		return nil, fmt.Errorf("holders: %w", err)
	}
	rep, err := l.c.ask(ctx, protocol.LeasesHolders, &protocol.Call{Names: names})
	if err == nil && len(rep.Holds) != len(names) {
		err = short("holders")
	}
	if err != nil {
		return nil, err
	}
	return rep.Holds, nil
}
