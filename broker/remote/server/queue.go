package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

func work(jobs ...broker.Job) []Access {
	all := make([]Access, len(jobs))
	for i, j := range jobs {
		all[i] = Access{Kind: KindWork, Write: true, Job: j}
	}
	return all
}

func (c *call) queue(write bool) Access { return Access{Kind: KindQueue, Write: write, Job: c.Job} }

func (c *call) queueEnqueue(rep *protocol.Reply) (err error) {
	if err := c.allow(Access{Kind: KindQueue, Write: true, Job: c.Batch.Job}); err != nil {
		return err
	}
	rep.Receipts, err = c.s.opts.Queue.Enqueue(c.ctx, c.Batch)
	return err
}

func (c *call) queueLease(rep *protocol.Reply) error {
	if err := c.allow(work(c.Want.Jobs...)...); err != nil {
		return err
	}
	ls, err := c.s.opts.Queue.Lease(c.ctx, c.worker())
	for i := range ls {
		ls[i].Token = c.s.bind(c.who, ls[i])
	}
	rep.Leases = ls
	return err
}

// worker is what the caller wants, under its own name: a host may say which part of it wants something, but not that it is another one.
func (c *call) worker() broker.Want {
	w := c.Want
	if c.who.Role != identity.Control && w.Worker != c.who.ID && !strings.HasPrefix(w.Worker, c.who.ID+"/") {
		w.Worker = c.who.ID + "/" + w.Worker
		w.Worker = w.Worker[:min(len(w.Worker), broker.MaxLeaseName)]
	}
	return w
}

func (c *call) queueWait(*protocol.Reply) error {
	if err := c.allow(work(c.Want.Jobs...)...); err != nil {
		return err
	}
	return c.s.opts.Queue.Wait(c.ctx, c.worker())
}

// bind makes a lease's token one that is good for who got it only. Tokens need not be secret among workers that trust each other; hosts do not.
func (s *Server) bind(who identity.Identity, l broker.Lease) string {
	mac := hmac.New(sha256.New, s.opts.Secret)
	for _, part := range []string{"lease of an invocation", who.String(), l.Job.String(), string(l.Lane), string(l.ID), l.Token} {
		_, _ = fmt.Fprintf(mac, "%d:%s", len(part), part) // a hash never fails
	}
	return l.Token + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// unbind answers a lease with the token that the queue gave. A token that is not the caller's becomes one that no lease has.
func (s *Server) unbind(who identity.Identity, l broker.Lease) broker.Lease {
	bound := l.Token
	l.Token = ""
	if i := strings.LastIndexByte(bound, '.'); i > 0 {
		l.Token = bound[:i]
		if !hmac.Equal([]byte(s.bind(who, l)), []byte(bound)) {
			l.Token = ""
		}
	}
	return l
}

// leases answers the leases of a call, as the queue gave them.
func (c *call) leases() ([]broker.Lease, error) {
	all := make([]broker.Job, len(c.Leases))
	ls := make([]broker.Lease, len(c.Leases))
	for i, l := range c.Leases {
		all[i] = l.Job
		ls[i] = c.s.unbind(c.who, l)
	}
	return ls, c.allow(work(all...)...)
}

func (c *call) queueExtend(rep *protocol.Reply) error {
	ls, err := c.leases()
	if err != nil {
		return err
	}
	got, err := c.s.opts.Queue.Extend(c.ctx, ls...)
	for _, l := range got {
		rep.Leases = append(rep.Leases, broker.Lease{
			Job: l.Job, Lane: l.Lane, Invocation: broker.Invocation{ID: l.ID}, Token: c.s.bind(c.who, l), Until: l.Until, TTL: l.TTL,
		})
	}
	return err
}

// lease answers the one lease that a call has to have.
func (c *call) lease() (broker.Lease, error) {
	ls, err := c.leases()
	if err == nil && len(ls) != 1 {
		err = fmt.Errorf("%d leases instead of one: %w", len(ls), broker.ErrInvalid)
	}
	if err != nil {
		return broker.Lease{}, err
	}
	return ls[0], nil
}

func (c *call) queueComplete(*protocol.Reply) error {
	l, err := c.lease()
	if err != nil {
		return err
	}
	return c.s.opts.Queue.Complete(c.ctx, l, c.Result)
}

func (c *call) queueRelease(*protocol.Reply) error {
	l, err := c.lease()
	if err != nil {
		return err
	}
	return c.s.opts.Queue.Release(c.ctx, l, c.Return)
}

func (c *call) queueStatus(rep *protocol.Reply) error {
	if err := c.allow(c.queue(false)); err != nil {
		return err
	}
	st, err := c.s.opts.Queue.Status(c.ctx, c.Job, c.ID)
	if err != nil {
		return err
	}
	rep.Statuses = []broker.Status{st}
	return nil
}

func (c *call) queueResult(rep *protocol.Reply) (err error) {
	if err := c.allow(c.queue(false)); err != nil {
		return err
	}
	rep.Result, err = c.s.opts.Queue.Result(c.ctx, c.Job, c.ID)
	return err
}

func (c *call) queueCounts(rep *protocol.Reply) (err error) {
	all := make([]Access, len(c.Jobs))
	for i, j := range c.Jobs {
		all[i] = Access{Kind: KindQueue, Job: j}
	}
	if err := c.allow(all...); err != nil {
		return err
	}
	rep.Counts, err = c.s.opts.Queue.Counts(c.ctx, c.Jobs...)
	return err
}

func (c *call) queueList(rep *protocol.Reply) (err error) {
	if err := c.allow(c.queue(false)); err != nil {
		return err
	}
	rep.Statuses, rep.Next, err = c.s.opts.Queue.List(c.ctx, c.Job, c.Key, c.Range.Limit)
	return err
}

func (c *call) queueCancel(*protocol.Reply) error {
	if err := c.allow(c.queue(true)); err != nil {
		return err
	}
	return c.s.opts.Queue.Cancel(c.ctx, c.Job, c.ID, c.Return.Reason)
}

func (c *call) queueLetters(rep *protocol.Reply) (err error) {
	if err := c.allow(c.queue(false)); err != nil {
		return err
	}
	rep.Statuses, err = c.s.opts.Queue.Letters(c.ctx, c.Job, c.ID, c.Range.Limit)
	return err
}

func (c *call) queueLetter(rep *protocol.Reply) (err error) {
	if err := c.allow(c.queue(false)); err != nil {
		return err
	}
	rep.Invocation, err = c.s.opts.Queue.Letter(c.ctx, c.Job, c.ID)
	return err
}

func (c *call) queueRequeue(*protocol.Reply) error {
	if err := c.allow(c.queue(true)); err != nil {
		return err
	}
	return c.s.opts.Queue.Requeue(c.ctx, c.Job, c.ID)
}

func (c *call) queueDiscard(*protocol.Reply) error {
	if err := c.allow(c.queue(true)); err != nil {
		return err
	}
	return c.s.opts.Queue.Discard(c.ctx, c.Job, c.ID)
}

func (c *call) queuePurge(*protocol.Reply) error {
	if err := c.allow(c.queue(true)); err != nil {
		return err
	}
	return c.s.opts.Queue.Purge(c.ctx, c.Job)
}
