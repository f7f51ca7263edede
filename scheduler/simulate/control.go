package simulate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

const epochRecord = "leader/epoch"

// control is a control process: one leads and commits plans, the others stand by.
type control struct {
	*machine
	hold  broker.Hold
	safe  time.Time
	fence uint64 // revision of the epoch record that this tenure wrote; 0: it does not lead
}

func (w *world) newControl(i int) {
	c := &control{}
	c.machine = w.newMachine(fmt.Sprint("control", i), func() {
		c.hold, c.fence = broker.Hold{}, 0
		c.campaign()
		c.lead()
	})
}

func (c *control) leads() bool { return c.fence != 0 && c.w.Now().Before(c.safe) }

// campaign gets the leader's name, or keeps it.
func (c *control) campaign() {
	c.after(c.w.Between(2*time.Second, 4*time.Second), c.campaign)
	asked := c.w.Now()
	if c.leads() {
		hold := c.hold
		c.send(func() {
			_, err := c.w.b.Leases.Renew(background, hold)
			c.logf("renews its lead, epoch %d: %v", hold.Epoch, err)
			switch {
			case err == nil:
				c.safe = asked.Add(hold.Safe())
				c.w.check.held(hold.Name, hold.Epoch, c.safe)
			case errors.Is(err, broker.ErrLeaseLost):
				c.fence = 0
			}
		})
		return
	}
	c.fence = 0
	c.send(func() {
		hold, err := c.w.b.Leases.Acquire(background, "leader", c.name, leaseTTL)
		if err != nil {
			return
		}
		c.hold, c.safe = hold, asked.Add(hold.Safe())
		c.w.check.held(hold.Name, hold.Epoch, c.safe)
		have, err := c.w.b.Records.Get(background, epochRecord)
		if err != nil && !errors.Is(err, broker.ErrNotFound) {
			return
		}
		at, err := c.w.b.Records.Commit(background, broker.Commit{
			Conditions: []broker.Condition{{Key: epochRecord, Revision: have.Revision}},
			Writes:     []broker.Write{{Key: epochRecord, Value: fmt.Appendf(nil, "%s %d", c.name, hold.Epoch)}},
		})
		c.logf("begins to lead, epoch %d: %s %v", hold.Epoch, at, err)
		if err == nil {
			c.fence, c.w.leader = at.Number, c.machine
			c.w.check.leads(c.fence)
		}
	})
}

// lead commits a plan: what it does is of no interest, only that nobody else leads.
func (c *control) lead() {
	c.after(c.w.Between(500*time.Millisecond, 2*time.Second), c.lead)
	if !c.leads() {
		return
	}
	fence, key := c.fence, fmt.Sprint("plan/", c.w.Rand.IntN(24))
	have, err := c.w.b.Records.Get(background, key)
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		return
	}
	commit := broker.Commit{
		Conditions: []broker.Condition{{Key: key, Revision: have.Revision}, {Key: epochRecord, Revision: fence}},
		Writes:     []broker.Write{{Key: key, Value: fmt.Appendf(nil, "by %s", c.name), Delete: have.Revision != 0 && c.w.Chance(2)}},
	}
	if c.w.bugs[NoEpochCondition] {
		commit.Conditions = commit.Conditions[:1]
	}
	c.send(func() {
		at, err := c.w.b.Records.Commit(background, commit)
		c.logf("commits %s: %s %v", key, at, err)
		switch {
		case err == nil:
			c.w.check.planned(c.name, fence)
		case errors.Is(err, broker.ErrConflict):
			c.fence = 0 // it cannot tell which condition; it will know when it leads again
		}
	})
}

// newWatcher follows the records, and compares what it knows with a list.
func (w *world) newWatcher() {
	var m *machine
	var at broker.Revision
	var known map[string]uint64
	list := func() (map[string]uint64, broker.Revision, error) {
		records, rev, err := w.b.Records.List(background, broker.Range{})
		if err != nil {
			return nil, rev, err
		}
		found := map[string]uint64{}
		for _, rec := range records {
			found[rec.Key] = rec.Revision
		}
		return found, rev, nil
	}
	over, cancel := context.WithCancel(background) // a watch with it yields what there is, and ends
	cancel()
	follow := func() {
		for e, err := range w.b.Records.Watch(over, "", at) {
			if err != nil {
				if errors.Is(err, broker.ErrCompacted) {
					w.check.fail("the watcher at %s is told to list again, though nothing was compacted", at)
				}
				break
			}
			if e.Revision.Number <= at.Number {
				w.check.fail("the watcher at %s is told of %s", at, e.Revision)
			}
			at = e.Revision
			for _, ch := range e.Changes {
				if ch.Deleted {
					delete(known, ch.Key)
				} else {
					known[ch.Key] = ch.Revision
				}
			}
		}
		if found, rev, err := list(); err == nil && rev == at && !maps.Equal(found, known) {
			w.check.fail("at %s the watcher knows %v, while there are %v", at, known, found)
		}
	}
	var again func()
	again = func() {
		if known == nil {
			if found, rev, err := list(); err == nil {
				known, at = found, rev
			}
		} else {
			follow()
		}
		m.after(w.Between(time.Second, 4*time.Second), again)
	}
	m = w.newMachine("watcher", func() { known = nil; again() })
}

// newObserver looks at who holds what, as a health check does.
func (w *world) newObserver() {
	names := []string{"leader"}
	for i := range w.opts.Workers {
		names = append(names, fmt.Sprint("host/worker", i))
	}
	var look func()
	look = func() {
		holds, err := w.plain.Leases.Holders(background, names...)
		if err != nil {
			w.check.fail("holders: %v", err)
			return
		}
		for i, h := range holds {
			w.check.observed(names[i], h.Epoch)
		}
		w.After(w.Between(500*time.Millisecond, time.Second), look)
	}
	w.After(0, look)
}
