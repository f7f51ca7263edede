package supervisor

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// leaseTTL is how long an invocation is not offered to anybody else after the server that ran it was killed. Leases are extended
// every quarter of it.
const leaseTTL = 10 * time.Second

// leaseAtOnce bounds the leases that one call takes: what is leased and waits for its turn is out of others' reach.
const leaseAtOnce = 16

// intake leases what is ready in one lane of the queues of jobs, as much of each job as there is room for.
//
// A job is cold until something of it is ready: all cold jobs are waited for together. Then it is hot, and a loop of its own leases
// more whenever there is room, until nothing is ready any more.
type intake struct {
	queue broker.Queue
	lane  broker.Lane
	who   string
	// run works on a lease to its end. The lease is the intake's before and after.
	run   func(ctx context.Context, l broker.Lease)
	clock clock.Clock
	log   *slog.Logger

	mu      sync.Mutex
	jobs    map[broker.Job]*fed
	open    bool
	changed chan struct{} // closed, and made anew, when a job may be cold that was not, or is gone, or open changes
}

// fed is a job as an intake knows it.
type fed struct {
	job      broker.Job
	room     int // at once
	running  int
	hot      bool
	released chan struct{} // has one in it after running went down, or room up
}

func newIntake(q broker.Queue, lane broker.Lane, who string, c clock.Clock, log *slog.Logger, run func(context.Context, broker.Lease)) *intake {
	return &intake{queue: q, lane: lane, who: who, run: run, clock: c, log: log, jobs: map[broker.Job]*fed{}, changed: make(chan struct{})}
}

func (f *intake) notifyLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// put lets a job be fed, room at once.
func (f *intake) put(j broker.Job, room int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.jobs[j]; one != nil {
		one.room = room
		one.wake()
		return
	}
	f.jobs[j] = &fed{job: j, room: room, released: make(chan struct{}, 1)}
	f.notifyLocked()
}

// remove ends the feeding of a job. What runs is not ended.
func (f *intake) remove(j broker.Job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.jobs[j]; one != nil {
		delete(f.jobs, j)
		one.wake()
		f.notifyLocked()
	}
}

// set opens or closes the intake: while it is closed nothing is leased.
func (f *intake) set(open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == open {
		return
	}
	f.open = open
	for _, one := range f.jobs {
		one.wake()
	}
	f.notifyLocked()
}

func (j *fed) wake() {
	select {
	case j.released <- struct{}{}:
	default:
	}
}

// Run feeds until ctx ends, and waits for what runs.
func (f *intake) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	for ctx.Err() == nil {
		cold, changed := f.cold()
		if f.rest(ctx, len(cold)) {
			cold, changed = f.cold() // with what has changed meanwhile
		}
		var watches sync.WaitGroup
		waiting, stop := context.WithCancel(ctx)
		for part := range slices.Chunk(cold, broker.MaxLeaseJobs) {
			watches.Go(func() { f.watch(ctx, waiting, part, &work) })
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
		stop()
		watches.Wait()
	}
}

// A look at the queues of so many jobs or more is put off by restEach for each of them, which is some times what the look takes: jobs that are deployed one
// after another by the thousand would each have all the others looked at.
const (
	restFrom = 256
	restEach = 10 * time.Microsecond
)

// rest waits before a look at the queues of n jobs, if they are many.
func (f *intake) rest(ctx context.Context, n int) bool {
	if n < restFrom {
		return false
	}
	t := f.clock.NewTimer(time.Duration(n) * restEach)
	defer t.Stop()
	select {
	case <-t.C():
	case <-ctx.Done():
	}
	return true
}

func (f *intake) cold() ([]broker.Job, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []broker.Job
	if f.open {
		for j, one := range f.jobs {
			if !one.hot && one.running < one.room {
				list = append(list, j)
			}
		}
	}
	return list, f.changed
}

func (f *intake) want(n int, jobs ...broker.Job) broker.Want {
	return broker.Want{Worker: f.who, Lane: f.lane, Jobs: jobs, Max: n, TTL: leaseTTL}
}

// pauses after errors of the queue.
const (
	firstQueuePause = 50 * time.Millisecond
	longQueuePause  = 2 * time.Second
)

// failed says that the queue failed, and waits for longer each time in a row.
func (f *intake) failed(ctx context.Context, pause *time.Duration, err error) {
	if ctx.Err() != nil {
		return
	}
	*pause = min(max(2**pause, firstQueuePause), longQueuePause)
	f.log.Warn("the queue cannot be read", "lane", f.lane, "error", err)
	t := f.clock.NewTimer(*pause)
	defer t.Stop()
	select {
	case <-t.C():
	case <-ctx.Done():
	}
}

// watch waits for cold jobs until waiting ends, and makes those hot of which something is ready.
func (f *intake) watch(ctx, waiting context.Context, jobs []broker.Job, work *sync.WaitGroup) {
	pause := time.Duration(0)
	for len(jobs) > 0 && waiting.Err() == nil {
		if err := f.queue.Wait(waiting, f.want(1, jobs...)); err != nil {
			f.failed(waiting, &pause, err)
			continue
		}
		// With ctx: a lease that is taken while the wait is called off must not be lost.
		ls, err := f.queue.Lease(ctx, f.want(1, jobs...))
		if err != nil {
			f.failed(waiting, &pause, err)
			continue
		}
		pause = 0
		for _, l := range ls {
			jobs = slices.DeleteFunc(slices.Clone(jobs), func(j broker.Job) bool { return j == l.Job })
			f.heat(ctx, l, work)
		}
	}
}

// heat starts the loop of a job, with its first lease.
func (f *intake) heat(ctx context.Context, l broker.Lease, work *sync.WaitGroup) {
	f.mu.Lock()
	one := f.jobs[l.Job]
	if one == nil { // it was removed meanwhile: its queue is being forgotten
		f.mu.Unlock()
		return
	}
	one.hot = true
	one.running++
	f.mu.Unlock()
	work.Go(func() { f.start(ctx, one, l) })
	work.Go(func() { f.pump(ctx, one, work) })
}

func (f *intake) start(ctx context.Context, one *fed, l broker.Lease) {
	f.run(ctx, l)
	f.mu.Lock()
	one.running--
	f.mu.Unlock()
	one.wake()
}

// pump leases more of a hot job while there is room, until nothing is ready.
func (f *intake) pump(ctx context.Context, one *fed, work *sync.WaitGroup) {
	pause := time.Duration(0)
	for {
		f.mu.Lock()
		goes := f.open && f.jobs[one.job] == one && ctx.Err() == nil
		free := min(one.room-one.running, leaseAtOnce)
		f.mu.Unlock()
		if !goes {
			break
		}
		if free <= 0 {
			select {
			case <-one.released:
			case <-ctx.Done():
			}
			continue
		}
		ls, err := f.queue.Lease(ctx, f.want(free, one.job))
		if err != nil {
			f.failed(ctx, &pause, err)
			continue
		}
		if len(ls) == 0 {
			break
		}
		pause = 0
		f.mu.Lock()
		one.running += len(ls)
		f.mu.Unlock()
		for _, l := range ls {
			work.Go(func() { f.start(ctx, one, l) })
		}
	}
	f.mu.Lock()
	one.hot = false
	f.notifyLocked()
	f.mu.Unlock()
}
