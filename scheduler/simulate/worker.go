package simulate

import (
	"errors"
	"fmt"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

const (
	leaseTTL = 10 * time.Second
	slots    = 3
)

// worker leases invocations and callbacks, and holds a name as long as it lives.
type worker struct {
	*machine
	held map[string]*work // by token
	hold broker.Hold
	safe time.Time // until when it may count on hold
}

// work is an invocation or a callback that a worker works on.
type work struct {
	broker.Lease
	safe time.Time // by the worker's clock
	over bool      // it has been given back, completed or abandoned
}

func (w *world) newWorker(i int) {
	k := &worker{}
	k.machine = w.newMachine(fmt.Sprint("worker", i), func() {
		k.held, k.hold = map[string]*work{}, broker.Hold{}
		k.poll()
		k.register()
	})
}

// register holds the worker's name.
func (k *worker) register() {
	asked := k.w.Now()
	if k.hold.Epoch != 0 && asked.Before(k.safe) {
		hold := k.hold
		k.send(func() {
			got, err := k.w.b.Leases.Renew(background, hold)
			k.logf("renews its name at epoch %d: %v", hold.Epoch, err)
			switch {
			case err == nil:
				k.hold, k.safe = got[0], asked.Add(hold.Safe())
				k.w.check.held(hold.Name, hold.Epoch, asked.Add(hold.Safe()))
			case errors.Is(err, broker.ErrLeaseLost):
				k.hold = broker.Hold{}
			}
		})
	} else {
		k.hold = broker.Hold{}
		k.send(func() {
			got, err := k.w.b.Leases.Acquire(background, "host/"+k.name, k.name, leaseTTL)
			k.logf("takes its name: epoch %d, %v", got.Epoch, err)
			if err == nil {
				k.hold, k.safe = got, asked.Add(got.Safe())
				k.w.check.held(got.Name, got.Epoch, k.safe)
			}
		})
	}
	k.after(k.w.Between(2500*time.Millisecond, 3500*time.Millisecond), k.register)
}

// poll asks for work.
func (k *worker) poll() {
	if free := slots - len(k.held); free > 0 && !k.w.Now().Before(k.cut) {
		want := broker.Want{Worker: k.name, Jobs: k.w.jobs, Max: free, TTL: leaseTTL}
		if k.w.Chance(3) {
			want.Lane = broker.LaneCallback
		}
		asked := k.w.Now()
		ls, err := k.w.b.Queue.Lease(background, want)
		if err != nil {
			k.logf("leases: %v", err)
		}
		for _, l := range ls {
			k.w.check.leased(l)
			k.start(&work{Lease: l, safe: asked.Add(l.Safe())})
		}
	}
	k.after(k.w.Between(500*time.Millisecond, 3*time.Second), k.poll)
}

func (k *worker) start(x *work) {
	k.held[x.Token] = x
	k.logf("has %s %s of %s, attempt %d", x.Lane, x.ID, x.Job.Name, x.Attempt)
	took := k.w.Between(200*time.Millisecond, 6*time.Second)
	if x.Lane == broker.LaneCallback {
		took = k.w.Between(50*time.Millisecond, time.Second)
	} else if k.w.Chance(8) {
		took = k.w.Between(10*time.Second, 40*time.Second)
	}
	k.after(took, func() { k.finish(x) })
	k.after(leaseTTL/3, func() { k.extend(x) })
}

// abandon: the worker's clock says that somebody else may have it.
func (k *worker) abandon(x *work) bool {
	if !x.over && !k.w.Now().Before(x.safe) {
		k.logf("abandons %s %s", x.Lane, x.ID)
		k.end(x)
	}
	return x.over
}

func (k *worker) end(x *work) {
	x.over = true
	delete(k.held, x.Token)
}

func (k *worker) extend(x *work) {
	if k.abandon(x) {
		return
	}
	asked := k.w.Now()
	k.send(func() {
		_, err := k.w.b.Queue.Extend(background, x.Lease)
		k.logf("extends %s %s: %v", x.Lane, x.ID, err)
		k.w.check.extended(x.Lease, err)
		switch {
		case err == nil:
			x.safe = asked.Add(x.Safe())
		case errors.Is(err, broker.ErrLeaseLost) && !x.over:
			k.end(x)
		}
	})
	k.after(leaseTTL/3, func() { k.extend(x) })
}

// finish decides how an attempt ends, and says so until it is heard or lost.
func (k *worker) finish(x *work) {
	if k.abandon(x) {
		return
	}
	mine := fmt.Sprintf("%s attempt %d of %s", x.ID, x.Attempt, k.name)
	say := func() error {
		r := broker.Result{Outcome: broker.OutcomeDone, Payload: []byte(mine)}
		return k.completed(x, r, k.w.b.Queue.Complete(background, x.Lease, r))
	}
	switch n := k.w.Rand.IntN(20); {
	case n < 5:
		r := broker.Return{Reason: "failed: " + mine}
		if k.w.Chance(2) {
			r.Delay = x.Backoff.Delay(x.Attempt, k.w.Rand.Float64())
		}
		if k.w.Chance(6) {
			r = broker.Return{Unstarted: true}
		}
		say = func() error {
			err := k.w.b.Queue.Release(background, x.Lease, r)
			k.logf("releases %s %s for %s: %v", x.Lane, x.ID, r.Delay, err)
			k.w.check.released(x.Lease, r, err)
			return err
		}
	case n == 5:
		say = func() error {
			r := broker.Result{Outcome: broker.OutcomeDead, Reason: "given up: " + mine}
			return k.completed(x, r, k.w.b.Queue.Complete(background, x.Lease, r))
		}
	}
	k.say(x, say)
}

func (k *worker) completed(x *work, r broker.Result, err error) error {
	k.logf("completes %s %s, %s: %v", x.Lane, x.ID, r.Outcome, err)
	k.w.check.completed(x.Lease, r, err)
	return err
}

func (k *worker) say(x *work, call func() error) {
	k.send(func() {
		switch err := call(); { // it was under way, so that it arrives though the worker may have given up since
		case x.over:
		case err == nil, errors.Is(err, broker.ErrLeaseLost):
			k.end(x)
		case !k.abandon(x):
			k.say(x, call)
		}
	})
}
