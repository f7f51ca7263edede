package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/processor"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// Recorder takes note of what tasks do. Its methods do not wait.
type Recorder interface {
	// Job is who takes note of one job, each time the same.
	Job(name string) JobRecorder
	// HostCalls is called once: read tells how many host calls guests made so far, by job, function ("module.name") and
	// outcome ("ok", "error", "denied", "ended").
	HostCalls(read func(each func(job, function, outcome string, n uint64)))
	// Processor is called once: read tells what jobs have used so far, and for how long they waited for it.
	Processor(read func(each func(job string, used, waited time.Duration)))
}

// JobRecorder takes note of what one job's tasks do. Its methods do not wait.
type JobRecorder interface {
	// Invocation is one that ended. outcome is "ok", "error" (the guest's failure), "timeout", "rejected" (no slot, no
	// task), "cancelled" (the client left) or "fault" (ours).
	Invocation(outcome string, cold bool, took time.Duration)
	// Start is a sandbox that was made.
	Start(took time.Duration)
	// CPU is what an invocation used of the processor.
	CPU(used time.Duration)
	// Return is a sandbox that served and was to be as new again. outcome is "returned", or why it was thrown away instead (the
	// reasons of package image).
	Return(outcome string)
	// Inflight says that invocations began (1) or ended (-1).
	Inflight(change int64)
	// Metric is what a guest measured: kind is "counter", "gauge" or "histogram".
	Metric(kind, name string, value float64)
}

// Options configures an Agent. Link is required.
type Options struct {
	Link *Link
	// CodeDirs is where the control process puts code, by the engine that it is compiled for. This process only reads there.
	CodeDirs map[runtime.Engine]string
	Program  string            // digest of this program's file: code is loaded only if the control process is of it, too
	Volumes  map[string]string // what file grants' sources stand for: name → directory
	ReadOnly []string          // names of volumes in which nothing may be changed
	// Routes is told of every change of what is to be served: the routes of all jobs.
	Routes     func(map[string][]manifest.Route)
	Recorder   Recorder      // nil: nobody takes note
	Tracer     trace.Tracer  // nil: invocations are no spans
	Compiles   int           // modules read at once; 0 means 2
	Ahead      int           // sandboxes that wait for invocations of all jobs; 0 means 4096
	AheadBytes int64         // and the memory that is their own; 0 means 512 MiB
	Idle       time.Duration // a job unused for so long keeps none ahead; 0 means one minute
	// Processor is shared by the guests of all jobs. nil: one with fewer tokens than GOMAXPROCS, which has to be at least 2.
	Processor *processor.Processor
	// Apart reports whether the calling goroutine's thread has to end with it. Guests run in goroutines that are not their connections' then, which
	// are asked after each run that was a slice long. nil: no thread ever has to.
	Apart func() bool
	Clock clock.Clock  // nil means the system clock
	Log   *slog.Logger // nil means slog.Default()
}

// Agent runs tasks. Its methods are safe for concurrent use.
type Agent struct {
	opts       Options
	engines    *engines
	reports    *reports
	compiles   chan struct{}
	makers     chan struct{}
	ahead      budget
	background sync.WaitGroup
	life       context.Context // ends with Run, and so do sandboxes being made ahead
	end        context.CancelFunc
	synced     chan struct{}
	drain      chan struct{}
	inflight   sync.WaitGroup
	files      *wasi.Gate // of all guests' file calls
	processor  *processor.Processor
	apart      apart

	changes    atomic.Int64 // of what is served where
	publishing sync.Mutex
	published  int64 // the last change that is told; under publishing

	mu       sync.RWMutex
	jobs     map[string]*job
	prepared map[string]*task                   // by order id
	queued   map[string]context.CancelCauseFunc // of queued invocations under way, by order id
	counts   map[string]*hostcall.Counts        // of jobs' host calls; all versions of a job share them
	shares   map[string]*processor.Share        // of jobs; all versions of a job share them
	parts    map[string]*image.Part             // of jobs, of the mappings that images take; all versions of a job share them
	modules  map[moduleKey]*loadedModule
	draining bool
}

// What guests leave to everybody else.
const (
	fileCalls   = 256       // file calls in the kernel at once, each of which holds a thread
	diskReserve = 256 << 20 // bytes that stay free on the disks of volumes
)

// job is what is served under a name.
type job struct {
	wanted   wire.Assignment
	manifest *manifest.Manifest // of wanted, or of the task if it is not ready
	task     *task              // nil while the first one starts
	ready    chan struct{}      // closed when the first task is there, or could not be made
	failure  *wire.Problem
	starting chan struct{} // while wanted is started, or is to be again: closed when others need not wait for it any more; else nil
	follow   *following
	running  *running
}

// moduleCode is a compiled module.
type moduleCode interface{ Close() error }

// Open makes an Agent with nothing to serve.
func Open(ctx context.Context, opts Options) (*Agent, error) {
	if opts.Link == nil {
		return nil, errors.New("open agent: there is no link")
	}
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Recorder == nil {
		opts.Recorder = nobody{}
	}
	if opts.Routes == nil {
		opts.Routes = func(map[string][]manifest.Route) {}
	}
	opts.Compiles = orDefault(opts.Compiles, 2)
	opts.Ahead = orDefault(opts.Ahead, 4096)
	if opts.AheadBytes <= 0 {
		opts.AheadBytes = 512 << 20
	}
	if opts.Idle <= 0 {
		opts.Idle = time.Minute
	}
	if opts.Processor == nil {
		p, err := processor.New(processor.Options{})
		if err != nil {
			return nil, fmt.Errorf("open agent: %w", err)
		}
		opts.Processor = p
	}
	engines, err := openEngines(ctx, opts.CodeDirs)
	if err != nil {
		return nil, fmt.Errorf("open agent: %w", err)
	}
	// What returning to images opens has to be open before the worker confines itself. Without it sandboxes return more slowly.
	if _, err := engines.first.Space(); err != nil {
		opts.Log.Warn("memory of images", "error", err)
	}
	a := &Agent{
		opts: opts, engines: engines, reports: newReports(opts.Clock),
		compiles: make(chan struct{}, opts.Compiles), makers: make(chan struct{}, goruntime.GOMAXPROCS(0)),
		synced: make(chan struct{}), drain: make(chan struct{}), ahead: budget{mostCount: int64(opts.Ahead), mostBytes: opts.AheadBytes}, files: wasi.NewGate(fileCalls), processor: opts.Processor,
		apart: apart{spoils: opts.Processor.Least(), spoiled: opts.Apart},
		jobs:  map[string]*job{}, prepared: map[string]*task{}, queued: map[string]context.CancelCauseFunc{}, counts: map[string]*hostcall.Counts{}, shares: map[string]*processor.Share{}, parts: map[string]*image.Part{}, modules: map[moduleKey]*loadedModule{},
	}
	a.life, a.end = context.WithCancel(context.WithoutCancel(ctx))
	opts.Recorder.HostCalls(a.hostCalls)
	opts.Recorder.Processor(a.processorUse)
	return a, nil
}

// hostCalls tells how many host calls the jobs that are served have made.
func (a *Agent) hostCalls(each func(job, function, outcome string, n uint64)) {
	a.mu.RLock()
	counts := maps.Clone(a.counts)
	a.mu.RUnlock()
	for job, c := range counts {
		c.Each(func(f *hostcall.Func, o hostcall.Outcome, n uint64) { each(job, f.String(), o.String(), n) })
	}
}

// processorUse tells what the jobs that are served have used of the processor.
func (a *Agent) processorUse(each func(job string, used, waited time.Duration)) {
	a.mu.RLock()
	shares := maps.Clone(a.shares)
	a.mu.RUnlock()
	for job, s := range shares {
		u := s.Usage()
		each(job, u.CPU+u.Host, u.Waited)
	}
}

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

type nobody struct{}

func (n nobody) Job(string) JobRecorder                                   { return n }
func (nobody) HostCalls(func(func(string, string, string, uint64)))       {}
func (nobody) Processor(func(func(string, time.Duration, time.Duration))) {}
func (nobody) Invocation(string, bool, time.Duration)                     {}
func (nobody) Start(time.Duration)                                        {}
func (nobody) CPU(time.Duration)                                          {}
func (nobody) Return(string)                                              {}
func (nobody) Inflight(int64)                                             {}
func (nobody) Metric(string, string, float64)                             {}

// Synced is closed once all that was assigned when the agent started is known, whether or not it is ready.
func (a *Agent) Synced() <-chan struct{} { return a.synced }

// Draining is closed when the control process asks to end.
func (a *Agent) Draining() <-chan struct{} { return a.drain }

// Run follows orders until the link breaks or ctx ends, and ends all tasks. It fails when the link broke.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	orders := make(chan effect, 1024)
	wg.Go(func() { failed <- a.reports.run(ctx, a.opts.Link); cancel() })
	wg.Go(func() {
		defer close(orders)
		failed <- a.opts.Link.Orders(ctx, func(o wire.Order) { a.order(ctx, o, orders) })
		cancel()
	})
	wg.Go(func() { a.confirm(orders) })
	wg.Go(func() { a.tidy(ctx) })
	<-ctx.Done()
	wg.Wait()
	a.end()
	a.background.Wait()
	err := <-failed
	if errors.Is(err, context.Canceled) || err == nil {
		err = nil
		if other := <-failed; other != nil && !errors.Is(other, context.Canceled) {
			err = other
		}
	}
	return err
}

// settling is how long Wait waits for the control process to read what there is to report.
const settling = time.Second

// Wait returns when no invocation is under way, or ctx ended, and the control process knows what there was to report. Nothing is reported any more.
func (a *Agent) Wait(ctx context.Context) {
	a.mu.Lock()
	a.draining = true
	a.mu.Unlock()
	done := make(chan struct{})
	go func() { a.inflight.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settling)
	defer cancel()
	a.reports.settle(ctx)
}

// Close ends the runtime, and with it all sandboxes. Run has to have returned.
func (a *Agent) Close() error {
	a.end()
	a.background.Wait()
	a.mu.Lock()
	var tasks []*task
	for _, j := range a.jobs {
		if j.task != nil {
			tasks = append(tasks, j.task)
		}
	}
	for _, t := range a.prepared {
		tasks = append(tasks, t)
	}
	a.jobs, a.prepared = map[string]*job{}, map[string]*task{}
	a.mu.Unlock()
	for _, t := range tasks {
		t.retire()
	}
	a.apart.close()
	return a.engines.close()
}

// effect is an order whose end the control process may wait for.
type effect struct {
	revision uint64
	done     <-chan struct{}
}

// confirm reports revisions as applied, in order, once all orders up to them have taken effect.
func (a *Agent) confirm(effects <-chan effect) {
	for e := range effects {
		select {
		case <-e.done:
		case <-a.life.Done():
			continue
		}
		if e.revision > 0 {
			a.reports.must(wire.Report{Kind: wire.ReportApplied, Revision: e.revision})
		}
	}
}

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// order does what an order says. What takes long goes on in the background.
func (a *Agent) order(ctx context.Context, o wire.Order, effects chan<- effect) {
	var done <-chan struct{} = closedChannel
	switch o.Kind {
	case wire.OrderAssign:
		if o.Assignment != nil {
			done = a.assign(*o.Assignment)
		}
	case wire.OrderRemove:
		a.remove(o.Job)
	case wire.OrderSynced:
		select {
		case <-a.synced:
		default:
			a.publishChange(a.changes.Add(1)) // requests come in once it is closed
			close(a.synced)
			a.publish() // what has changed meanwhile
			a.reports.must(wire.Report{Kind: wire.ReportReady, PID: os.Getpid()})
		}
	case wire.OrderPrepare:
		if o.Assignment != nil {
			a.prepare(o.ID, *o.Assignment)
		}
		return
	case wire.OrderDiscard:
		a.mu.Lock()
		t := a.prepared[o.ID]
		delete(a.prepared, o.ID)
		a.mu.Unlock()
		if t != nil {
			a.forget(t.assigned.Job)
			t.retire()
		}
		return
	case wire.OrderFollow, wire.OrderIgnore:
		a.setFollow(o.Job, o.Kind == wire.OrderFollow)
		return
	case wire.OrderInvoke:
		a.invoke(o.ID, o.Job)
		return
	case wire.OrderCancel:
		a.cancel(o.ID)
		return
	case wire.OrderDrain:
		select {
		case <-a.drain:
		default:
			close(a.drain)
		}
		return
	default:
		a.opts.Log.Warn("unknown order", "kind", o.Kind)
		return
	}
	select {
	case effects <- effect{o.Revision, done}:
	case <-ctx.Done():
	}
}

// prepare builds a task in the background and keeps it under an order's id.
func (a *Agent) prepare(id string, as wire.Assignment) {
	a.background.Go(func() {
		t, err := a.build(as)
		r := wire.Report{Kind: wire.ReportPrepared, ID: id, Job: as.Job, Version: as.Version}
		if err != nil {
			r.Problem = startProblem(err)
			if failed, ok := errors.AsType[*startError](err); ok {
				about := *r.Problem
				about.Detail += failed.wrote
				r.Problem = &about
			}
			a.forget(as.Job)
		} else {
			a.mu.Lock()
			a.prepared[id] = t
			a.mu.Unlock()
		}
		a.reports.must(r)
	})
}

// forget drops what a job that never came to be has left.
func (a *Agent) forget(job string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs[job] == nil {
		a.forgetLocked(job)
	}
}

func (a *Agent) forgetLocked(job string) {
	delete(a.counts, job)
	delete(a.shares, job)
	delete(a.parts, job)
	a.processor.Remove(job)
}

// startProblem is why a version cannot be served.
func startProblem(err error) *wire.Problem {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p
	}
	var bad *module.Error
	if errors.As(err, &bad) {
		return &wire.Problem{Code: "module-invalid", Status: http.StatusUnprocessableEntity, Title: "The module was refused", Detail: bad.Error()}
	}
	if errors.Is(err, errStart) || errors.Is(err, context.DeadlineExceeded) {
		return &wire.Problem{Code: "start-timeout", Status: http.StatusUnprocessableEntity, Title: "The module did not start in time",
			Detail: "a first sandbox did not start within limits.start: do less before the first request, or raise the limit"}
	}
	detail := err.Error()
	var trap *runtime.Trap
	if errors.As(err, &trap) {
		detail = trap.Backtrace()
	}
	return &wire.Problem{Code: "start-failed", Status: http.StatusUnprocessableEntity, Title: "The module could not be started", Detail: detail}
}

// assign serves as from now on, in place of the job's earlier version. The channel is closed when that is so, or when
// it turned out that it cannot be.
func (a *Agent) assign(as wire.Assignment) <-chan struct{} {
	a.mu.Lock()
	var t *task
	for id, p := range a.prepared {
		if p.assigned.Job == as.Job && p.assigned.Version == as.Version && p.assigned.Module == as.Module && bytes.Equal(p.assigned.Manifest, as.Manifest) {
			t = p
			delete(a.prepared, id)
			break
		}
	}
	j := a.jobLocked(as.Job)
	if j.task != nil && t == nil && sameAssignment(j.task.assigned, as) {
		j.wanted = as
		a.mu.Unlock()
		a.started(as, nil)
		return closedChannel
	}
	if t == nil && j.starting != nil && sameAssignment(j.wanted, as) {
		done := j.starting
		a.mu.Unlock()
		return done
	}
	j.wanted, j.starting = as, nil
	if t != nil {
		old := a.installLocked(j, t)
		a.mu.Unlock()
		// Not here: routes are published as a whole, and many orders that come together are published once.
		done := make(chan struct{})
		a.background.Go(func() {
			defer close(done)
			a.installed(t, old)
		})
		return done
	}
	if j.task == nil {
		if m, err := manifest.ParseJSON(as.Manifest); err == nil {
			j.manifest = m
		}
	}
	done := make(chan struct{})
	j.starting = done
	a.mu.Unlock()
	a.publish()
	a.background.Go(func() {
		release := sync.OnceFunc(func() { close(done) })
		defer release()
		for wait := retryStart; ; wait = min(2*wait, maxRetryStart) {
			a.mu.RLock()
			still := a.jobs[as.Job] == j && j.starting == done
			a.mu.RUnlock()
			if !still {
				return
			}
			t, err := a.build(as)
			a.mu.Lock()
			still = a.jobs[as.Job] == j && j.starting == done
			if still && (err == nil || startProblem(err).Status != http.StatusServiceUnavailable) {
				j.starting = nil
			}
			if err == nil && still {
				old := a.installLocked(j, t)
				a.mu.Unlock()
				a.installed(t, old)
				return
			}
			if err == nil {
				a.mu.Unlock()
				t.retire()
				a.forget(as.Job)
				return
			}
			problem := startProblem(err)
			if still {
				j.failure = problem
				j.open()
			}
			a.mu.Unlock()
			if still {
				a.started(as, problem)
			}
			a.opts.Log.Error("start task", "job", as.Job, "version", as.Version, "error", err)
			a.system(as.Job, as.Version, "", "error", "version cannot be served: "+err.Error())
			if !still || problem.Status != http.StatusServiceUnavailable {
				return
			}
			release() // others need not wait until the storage is back
			timer := a.opts.Clock.NewTimer(wait)
			select {
			case <-timer.C():
			case <-a.life.Done():
				timer.Stop()
				return
			}
		}
	})
	return done
}

// A version that could not be started for want of the storage is started again, after waits from retryStart to maxRetryStart.
const (
	retryStart    = 250 * time.Millisecond
	maxRetryStart = 5 * time.Second
)

func sameAssignment(x, y wire.Assignment) bool {
	return x.Version == y.Version && x.Module == y.Module && bytes.Equal(x.Manifest, y.Manifest)
}

func (a *Agent) jobLocked(name string) *job {
	j := a.jobs[name]
	if j == nil {
		j = &job{ready: make(chan struct{}), follow: &following{}, running: &running{}}
		a.jobs[name] = j
	}
	return j
}

func (j *job) open() {
	select {
	case <-j.ready:
	default:
		close(j.ready)
	}
}

// installLocked makes t what is served, and answers what was.
func (a *Agent) installLocked(j *job, t *task) *task {
	old := j.task
	if t.follow != j.follow { // prepared before the job was known, or for a job that was removed
		t.follow.on.Store(j.follow.on.Load())
		j.follow = t.follow
	}
	j.task, j.manifest, j.failure = t, t.manifest, nil
	a.shares[t.assigned.Job] = a.processor.Job(t.assigned.Job, t.manifest.Weight) // the weight of the version that is served counts
	j.open()
	return old
}

// installed ends what installLocked began: requests go to t, old ends with its last one, and the control process knows.
func (a *Agent) installed(t, old *task) {
	a.publish()
	if old != nil {
		old.retire()
	}
	a.started(t.assigned, nil)
}

// started tells that a version is served, or why it is not.
func (a *Agent) started(as wire.Assignment, problem *wire.Problem) {
	a.reports.must(wire.Report{Kind: wire.ReportStarted, Job: as.Job, Version: as.Version, Problem: problem})
}

func (a *Agent) remove(name string) {
	a.mu.Lock()
	j := a.jobs[name]
	delete(a.jobs, name)
	a.forgetLocked(name)
	a.mu.Unlock()
	if j == nil {
		return
	}
	a.mu.Lock()
	j.open()
	t := j.task
	a.mu.Unlock()
	a.publish()
	if t != nil {
		t.retire()
	}
}

// publish tells what is to be served where, and returns once that holds. Making the routes takes longer the more jobs there are: changes that
// come meanwhile share the next time, and those before the agent is synced are told when it is.
func (a *Agent) publish() {
	change := a.changes.Add(1)
	select {
	case <-a.synced:
		a.publishChange(change)
	default:
	}
}

func (a *Agent) publishChange(change int64) {
	a.publishing.Lock()
	defer a.publishing.Unlock()
	if a.published >= change {
		return
	}
	a.published = a.changes.Load()
	a.mu.RLock()
	routes := make(map[string][]manifest.Route, len(a.jobs))
	for name, j := range a.jobs {
		if j.manifest != nil {
			routes[name] = j.manifest.Routes
		}
	}
	a.mu.RUnlock()
	a.opts.Routes(routes)
}

// build loads an assignment's module and starts a first sandbox.
func (a *Agent) build(as wire.Assignment) (*task, error) {
	ctx := a.life
	m, err := manifest.ParseJSON(as.Manifest)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	m.Fill(as.Job)
	mod, code, err := a.load(ctx, moduleKey{runtime.Engine(m.Engine), as.Module})
	if err != nil {
		return nil, err
	}
	t, err := a.newTask(as, m, mod, code)
	if err != nil {
		mod.release()
		return nil, err
	}
	wrote := new(startOutput)
	t.starting.Store(wrote)
	defer t.starting.Store(nil)
	first, err := t.make(ctx)
	if err != nil {
		t.retire()
		return nil, &startError{wrote.String(), fmt.Errorf("start a sandbox: %w", err)}
	}
	t.idle = a.opts.Clock.Now()
	// What the image was taken of cannot return to it, and holds all of its memory for itself.
	if im, _ := t.program.Image(); im != nil {
		t.discard(first)
		if first, err = t.make(ctx); err != nil {
			t.retire()
			return nil, &startError{wrote.String(), fmt.Errorf("start a sandbox from the image: %w", err)}
		}
	}
	if !t.put(first) {
		t.discard(first)
	}
	return t, nil
}

func (a *Agent) newTask(as wire.Assignment, m *manifest.Manifest, mod *loadedModule, code *runtime.Module) (*task, error) {
	grants, err := policy.Grant(m.Capabilities)
	if err != nil {
		return nil, err
	}
	for _, f := range grants.Files {
		if name, _, _ := strings.Cut(f.Source, "/"); !f.ReadOnly() && slices.Contains(a.opts.ReadOnly, name) {
			return nil, fmt.Errorf("files at %s are granted for writing, and volume %q is read-only on this host", f.Guest, name)
		}
	}
	rules, err := policy.Compile(m.Policy, a.engines.first.Table())
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	follow := &following{}
	if j := a.jobs[as.Job]; j != nil {
		follow = j.follow
	}
	counts := a.counts[as.Job]
	if counts == nil {
		counts = hostcall.NewCounts(a.engines.first.Table())
		a.counts[as.Job] = counts
	}
	share := a.shares[as.Job]
	if share == nil { // one that is there has the weight of the version that is served
		share = a.processor.Job(as.Job, m.Weight)
		a.shares[as.Job] = share
	}
	part := a.parts[as.Job]
	if part == nil {
		part = new(image.Part)
		a.parts[as.Job] = part
	}
	a.mu.Unlock()
	t := &task{agent: a, assigned: as, manifest: m, limits: m.Limits, module: mod, follow: follow, recorder: a.opts.Recorder.Job(as.Job),
		pool: pool{budget: &a.ahead}}
	interposers := []hostcall.Interposer{counts, &refusals{task: t}}
	if len(m.Policy) > 0 {
		interposers = append(interposers, rules.With(policy.Options{OnDenied: t.denied}))
	}
	t.program, err = guest.New(guest.Options{
		Module: code, Kind: guest.Kind(m.Kind), Job: as.Job, Args: m.Args, Request: guest.Request(m.Request), Grants: grants, Source: guest.Volumes(a.opts.Volumes),
		MemoryPages: m.Limits.MemoryPages(), Descriptors: m.Limits.Files, Files: a.files, DiskReserve: diskReserve,
		RequestBytes: int64(m.Limits.Request), ResponseBytes: int64(m.Limits.Response), LogBytes: int64(m.Limits.Log), HostCalls: int64(m.Limits.HostCalls),
		Share: share, CPU: time.Duration(m.Limits.CPU), Fuel: uint64(m.Limits.Fuel), ReturnTime: time.Duration(m.Limits.Start),
		Services: &services{task: t, link: a.opts.Link}, Interposers: interposers, Outermost: t.tracers, Images: m.Isolation != "task", Part: part,
	})
	if err != nil {
		return nil, err
	}
	// One sandbox that keeps its state serves one request at a time.
	t.keep = m.Isolation == "task" && t.program.Kind() == guest.Task
	n := m.Limits.Concurrency
	if t.keep {
		n = 1
		t.pool.budget = &budget{mostCount: 1, mostBytes: math.MaxInt64} // nothing may cost it its state
	}
	t.slots, t.most = newSlots(n, m.Limits.Queue), int64(n)
	return t, nil
}

// load loads a module, or waits for whoever does, and makes the caller one of its users.
func (a *Agent) load(ctx context.Context, key moduleKey) (*loadedModule, *runtime.Module, error) {
	a.mu.Lock()
	m := a.modules[key]
	first := m == nil
	if first {
		m = &loadedModule{agent: a, key: key, ready: make(chan struct{})}
		a.modules[key] = m
	}
	m.users++
	a.mu.Unlock()
	if first {
		code, err := a.read(ctx, key)
		if err == nil {
			m.code = code
		}
		m.err = err
		if err != nil { // the next one tries again
			a.mu.Lock()
			if a.modules[key] == m {
				delete(a.modules, key)
			}
			a.mu.Unlock()
		}
		close(m.ready)
	}
	<-m.ready
	if m.err != nil {
		return nil, nil, m.err
	}
	return m, m.code.(*runtime.Module), nil
}

// read reads a module and its code, which the control process has compiled.
func (a *Agent) read(ctx context.Context, key moduleKey) (*runtime.Module, error) {
	digest := key.digest
	select {
	case a.compiles <- struct{}{}:
		defer func() { <-a.compiles }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var b []byte
	var code *runtime.Module
	for attempt := 1; code == nil; attempt++ {
		where, err := a.opts.Link.Code(ctx, key.engine, digest, a.opts.Program)
		if err != nil {
			return nil, err
		}
		rt, err := a.engines.open(ctx, key.engine)
		if err != nil {
			return nil, err
		}
		if b == nil {
			if b, err = a.opts.Link.Module(ctx, digest); err != nil {
				return nil, err
			}
		}
		// It was there a moment ago. If it is not any more, asking again has it compiled again; here nothing is compiled.
		if code, err = rt.Load(ctx, b, where); err != nil {
			if !errors.Is(err, runtime.ErrNoCode) || attempt == 3 {
				return nil, err
			}
			a.opts.Log.Warn("the code of a module cannot be loaded; asking for it again", "module", digest, "error", err)
		}
	}
	if got := code.Digest().String(); got != digest {
		_ = code.Close() // it is refused anyway
		return nil, fmt.Errorf("module %.12s: its bytes have the digest %.12s", digest, got)
	}
	return code, nil
}

// tidy lets pools of idle tasks shrink, and reports jobs that left their guests and what tasks left out of their reports, until ctx ends.
func (a *Agent) tidy(ctx context.Context) {
	tick := a.opts.Clock.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var jobs []looked
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
		now := a.opts.Clock.Now()
		a.mu.RLock()
		jobs = jobs[:0]
		for name, j := range a.jobs {
			jobs = append(jobs, looked{name, j.task, j.running})
		}
		a.mu.RUnlock()
		for _, j := range jobs {
			if j.task != nil {
				j.task.shrink(now, a.opts.Idle)
				j.task.tellOmitted()
			}
			if j.running.rest() {
				a.reports.offer(wire.Report{Kind: wire.ReportIdle, Job: j.name})
			}
		}
		clear(jobs)
	}
}

// looked is what tidy looks at of a job.
type looked struct {
	name    string
	task    *task
	running *running
}

// system adds a line of ours to a job's log.
func (a *Agent) system(job string, version uint64, invocation, level, text string) {
	a.reports.offer(wire.Report{Kind: wire.ReportLog, Job: job, Version: version, Invocation: invocation, Stream: "system", Level: level, Text: text})
}
