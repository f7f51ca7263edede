package server

import (
	"fmt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

// hold answers the one hold that a call has to have.
func (c *call) hold() (broker.Hold, error) {
	if len(c.Holds) != 1 {
		return broker.Hold{}, fmt.Errorf("%d leases instead of one: %w", len(c.Holds), broker.ErrInvalid)
	}
	return c.Holds[0], nil
}

func leasesOf(holds []broker.Hold, write bool) []Access {
	all := make([]Access, len(holds))
	for i, h := range holds {
		all[i] = Access{Kind: KindLease, Write: write, Name: h.Name}
	}
	return all
}

func (c *call) leasesAcquire(rep *protocol.Reply) error {
	h, err := c.hold()
	if err != nil {
		return err
	}
	if err := c.allow(leasesOf(c.Holds, true)...); err != nil {
		return err
	}
	h, err = c.s.opts.Leases.Acquire(c.ctx, h.Name, h.Holder, h.TTL)
	if err != nil {
		return err
	}
	rep.Holds = []broker.Hold{h}
	return nil
}

func (c *call) leasesRenew(rep *protocol.Reply) (err error) {
	if err := broker.CheckRenewals(c.Holds); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	if err := c.allow(leasesOf(c.Holds, true)...); err != nil {
		return err
	}
	rep.Holds, err = c.s.renewer.renew(c.ctx, c.Holds)
	return err
}

func (c *call) leasesRelease(*protocol.Reply) error {
	h, err := c.hold()
	if err != nil {
		return err
	}
	if err := c.allow(leasesOf(c.Holds, true)...); err != nil {
		return err
	}
	return c.s.opts.Leases.Release(c.ctx, h)
}

func (c *call) leasesHolders(rep *protocol.Reply) (err error) {
	all := make([]Access, len(c.Names))
	for i, name := range c.Names {
		all[i] = Access{Kind: KindLease, Name: name}
	}
	if err := c.allow(all...); err != nil {
		return err
	}
	rep.Holds, err = c.s.opts.Leases.Holders(c.ctx, c.Names...)
	return err
}
