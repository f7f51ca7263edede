package simulate

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/faulty"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// NoEpochCondition is a mistake of the control process, not of a broker.
const NoEpochCondition model.Bug = "a leader's commits are not conditional on its epoch"

// Parts are the broker that a simulation runs on.
type Parts struct {
	Records broker.Records
	Leases  broker.Leases
	Blobs   broker.Blobs
	Queue   broker.Queue
}

// Options configures Run. The zero value is ready to use.
type Options struct {
	Seed        uint64
	Workers     int                     // 0 means 20
	Invocations int                     // 0 means 500
	Faults      int                     // 0 means 10; below 0: none
	Bugs        []model.Bug             // mistakes to make
	Open        func(clock.Clock) Parts // the broker to run on; nil means a model with Bugs
}

// Report is what came of a simulation.
type Report struct {
	Seed       uint64
	Violations []string // of what the broker promises; each names the moment
	Trace      []string // what happened, a line each
	Digest     string   // the trace's SHA-256 in hex
	Ended      int      // invocations that have ended
	Attempts   int      // leases of invocations
	Faults     int      // that came to pass
	Took       time.Duration
}

// world is what all machines of a simulation share.
type world struct {
	*Loop
	opts  Options
	b     Parts // as the machines see it: calls may fail
	plain Parts // as it is
	bugs  map[model.Bug]bool
	check *checker
	jobs  []broker.Job

	machines []*machine
	leader   *machine // the one that last won an election
	faults   *faulty.Faults
	planned  int // faults of machines that have come to pass
	enqueued bool
}

// limit is how long a simulation may take, far longer than any does that makes progress.
const limit = 45 * time.Minute

// Run simulates until all invocations have ended, and answers what went wrong. It is single-threaded and depends on nothing
// but opts.
func Run(opts Options) Report {
	opts.Workers, opts.Invocations = cmp.Or(opts.Workers, 20), cmp.Or(opts.Invocations, 500)
	opts.Faults = max(cmp.Or(opts.Faults, 10), 0)
	w := &world{Loop: NewLoop(opts.Seed), opts: opts, bugs: map[model.Bug]bool{}}
	for _, bug := range opts.Bugs {
		w.bugs[bug] = true
	}
	if opts.Open != nil {
		w.plain = opts.Open(w.Clock())
	} else {
		m := model.New(model.Options{Clock: w.Clock(), Bugs: opts.Bugs})
		w.plain = Parts{m.Records(), m.Leases(), m.Blobs(), m.Queue()}
	}
	// Of the faults, a third are calls that fail; the others are machines that do.
	calls := opts.Faults / 3
	rate := 0.001 // so that they are spread over some minutes
	if calls == 0 {
		rate = 0
	}
	w.faults = faulty.New(faulty.Options{Seed: opts.Seed, Rate: rate, Max: calls})
	w.b = Parts{
		faulty.NewRecords(w.plain.Records, w.faults), faulty.NewLeases(w.plain.Leases, w.faults),
		faulty.NewBlobs(w.plain.Blobs, w.faults), faulty.NewQueue(w.plain.Queue, w.faults),
	}
	for i := range 3 {
		w.jobs = append(w.jobs, broker.Job{Entitlement: broker.DefaultEntitlement, Name: fmt.Sprint("job", i)})
	}
	w.check = newChecker(w)

	for i := range opts.Workers {
		w.newWorker(i)
	}
	w.newClient()
	for i := range 3 {
		w.newControl(i)
	}
	w.newWatcher()
	for i := range 2 {
		w.newDeployer(i)
	}
	w.newSweeper()
	w.newObserver()
	w.planFaults(opts.Faults - calls)

	if !w.Run(limit, func() bool { return len(w.check.violations) > 0 || w.over() }) {
		w.check.fail("after %s there are still invocations that have not ended: %s", limit, w.check.unfinished())
	}
	w.check.last()
	return Report{
		Seed: opts.Seed, Violations: w.check.violations, Trace: w.Trace(), Digest: w.Digest(),
		Ended: w.check.ended, Attempts: w.check.attempts, Faults: w.planned + w.faults.Count(), Took: w.Now().Sub(Epoch),
	}
}

func (w *world) over() bool {
	return w.enqueued && w.check.finished() && w.planned+w.faults.Count() >= w.opts.Faults && w.Now().Sub(Epoch) > shortest
}

// shortest is how long a simulation lasts at least: blobs are swept in it more than once.
const shortest = 15 * time.Minute

var background = context.Background()

// machine is a process of the simulation. It may crash, and begin anew; stall, and go on as if nothing had happened; or be
// cut off, and what it sent meanwhile arrives late.
type machine struct {
	w       *world
	name    string
	life    int       // which one it is; events of an earlier one do nothing
	stalled time.Time // it does nothing before that
	cut     time.Time // nothing that it sends arrives before that
	begin   func()    // what it does when it starts, and again after a crash
}

func (w *world) newMachine(name string, begin func()) *machine {
	m := &machine{w: w, name: name, begin: begin}
	w.machines = append(w.machines, m)
	w.After(w.Between(0, time.Second), begin)
	return m
}

// after lets f run after d, if the machine lives then, and as soon as it does not stall.
func (m *machine) after(d time.Duration, f func()) {
	life := m.life
	m.w.After(d, func() { m.wake(life, f) })
}

func (m *machine) wake(life int, f func()) {
	switch wait := m.stalled.Sub(m.w.Now()); {
	case life != m.life:
	case wait > 0:
		m.w.After(wait, func() { m.wake(life, f) })
	default:
		f()
	}
}

// send lets a call reach the broker a moment after it was made. Whatever was checked before may not hold any more then.
func (m *machine) send(f func()) {
	m.after(max(m.cut.Sub(m.w.Now()), 0)+m.w.Between(time.Millisecond, 1500*time.Millisecond), f)
}

func (m *machine) logf(format string, args ...any) {
	m.w.Logf("%-10s %s", m.name, fmt.Sprintf(format, args...))
}

// planFaults lets n faults of machines happen within the first minutes.
func (w *world) planFaults(n int) {
	for range n {
		w.After(w.Between(10*time.Second, 5*time.Minute), func() {
			w.planned++
			m := w.machines[w.Rand.IntN(len(w.machines))]
			if w.leader != nil && w.Chance(3) {
				m = w.leader
			}
			d := w.Between(5*time.Second, 90*time.Second)
			switch w.Rand.IntN(4) {
			case 0:
				m.logf("crashes, and starts again after %s", d)
				m.life++
				life := m.life
				w.After(d, func() { m.wake(life, m.begin) })
			case 1:
				m.logf("stalls for %s", d)
				m.stalled = w.Now().Add(d)
			default:
				m.logf("is cut off for %s", d)
				m.cut = w.Now().Add(d)
			}
		})
	}
}
