package simulate

import (
	"fmt"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// client enqueues, and tries again when it hears nothing.
type client struct {
	*machine
	made int
	sent int // invocations of batches that were acknowledged, or are being tried
}

func (w *world) newClient() {
	c := &client{}
	c.machine = w.newMachine("client", func() {
		c.sent, w.enqueued = w.check.acked, false // what was under way when it crashed is lost
		c.next()
	})
}

func (c *client) next() {
	if c.sent >= c.w.opts.Invocations {
		c.w.enqueued = true
		return
	}
	b := broker.Batch{Job: c.w.jobs[c.w.Rand.IntN(len(c.w.jobs))]}
	for range min(1+c.w.Rand.IntN(5), c.w.opts.Invocations-c.sent) {
		b.Invocations = append(b.Invocations, c.invocation())
		c.sent++
	}
	c.enqueue(b, func() {})
	c.after(c.w.Between(200*time.Millisecond, 2*time.Second), c.next)
}

func (c *client) id() broker.InvocationID {
	c.made++
	return broker.InvocationID(fmt.Sprintf("%05d", c.made))
}

func (c *client) invocation() broker.Invocation {
	r := c.w.Rand
	v := broker.Invocation{
		ID: c.id(), Priority: r.IntN(3), MaxAttempts: 1 + r.IntN(5), Backoff: broker.Backoff{Max: time.Minute}, ResultTTL: 24 * time.Hour,
	}
	v.Payload = []byte("payload of " + v.ID)
	if r.IntN(3) == 0 {
		v.Key = "key of " + string(v.ID)
	}
	if r.IntN(4) == 0 {
		v.Order = fmt.Sprint("order ", r.IntN(5))
	}
	if r.IntN(5) == 0 {
		v.Delay = c.w.Between(time.Second, time.Minute)
	}
	if r.IntN(2) == 0 {
		v.Callback = &broker.Callback{Document: []byte("tell " + v.ID), MaxAttempts: 1 + r.IntN(4)}
	}
	return v
}

// enqueue tries until it is told that a batch is stored. What has a key is tried under another ID, as a client does that
// does not know the first.
func (c *client) enqueue(b broker.Batch, then func()) {
	c.w.check.tries(b)
	c.send(func() {
		receipts, err := c.w.b.Queue.Enqueue(background, b)
		c.logf("enqueues %d to %s: %v %v", len(b.Invocations), b.Job.Name, receipts, err)
		if err == nil {
			c.w.check.acknowledged(b, receipts)
			c.later(b)
			then()
			return
		}
		again := broker.Batch{Job: b.Job}
		for _, v := range b.Invocations {
			if v.Key != "" {
				v.ID = c.id()
			}
			again.Invocations = append(again.Invocations, v)
		}
		c.enqueue(again, then)
	})
}

// later enqueues under a key that is known, when what has it may have ended.
func (c *client) later(b broker.Batch) {
	v := b.Invocations[0]
	if v.Key == "" || c.w.Chance(2) {
		return
	}
	c.after(c.w.Between(time.Minute, 3*time.Minute), func() {
		v.ID = c.id()
		again := broker.Batch{Job: b.Job, Invocations: []broker.Invocation{v}}
		c.w.check.tries(again)
		c.send(func() {
			receipts, err := c.w.b.Queue.Enqueue(background, again)
			c.logf("enqueues again under %s: %v %v", v.Key, receipts, err)
			if err == nil {
				c.w.check.acknowledged(again, receipts)
			}
		})
	})
}
