package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/ripstop-vm/ripstop/agent/codecache"
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// Store is what the supervisor reads and writes for its worker. *control.Store is one.
type Store interface {
	WatchAssignments(ctx context.Context, from uint64) <-chan control.Change
	Module(ctx context.Context, digest string) (io.ReadCloser, int64, error)
	Secret(ctx context.Context, job, name string) ([]byte, error)
	Audit(ctx context.Context, e control.AuditEntry) error
	KVGet(ctx context.Context, job, bucket, key string) (broker.Item, error)
	KVPut(ctx context.Context, job, bucket, key string, value []byte, expect *uint64) (uint64, error)
	KVDelete(ctx context.Context, job, bucket, key string, expect *uint64) error
	Enqueue(ctx context.Context, job string, v control.NewInvocation) (broker.Receipt, error)
	KVList(ctx context.Context, job, bucket, prefix, after string, limit int) ([]broker.Item, error)
}

var (
	_ control.Runner = (*Supervisor)(nil)
	_ Store          = (*control.Store)(nil)
)

// Options configures a Supervisor. Ingress is required.
type Options struct {
	Program string       // the ripstop binary; empty means this one
	Args    []string     // of the worker; nil means "worker"
	Env     []string     // of the worker: its whole environment
	Ingress *os.File     // the listener for ingress, handed to each worker
	Metrics func([]byte) // takes what a worker measured; may be nil
	Spans   func([]byte) // takes the spans of a worker; may be nil
	// Code is where compiled code is kept, by engine. For one that is not in it nothing can be deployed or started.
	Code          map[runtime.Engine]*codecache.Cache
	ProgramDigest string        // of this program's file (SHA-256): compilers and workers have to be of it
	Queue         broker.Queue  // of invocations that workers run; nil: none
	Name          string        // who leases them, for people; empty means the host's name
	CompileTime   time.Duration // of the processor, that a module may take to compile, in whole seconds; 0 means one minute
	Clock         clock.Clock   // nil means the system clock
	Log           *slog.Logger  // nil means slog.Default()
}

// Supervisor keeps one worker running. Its methods are safe for concurrent use.
type Supervisor struct {
	opts       Options
	hub        *Hub
	dispatcher *dispatcher // nil: nothing is queued
	compilers  chan struct{}
	stop       chan struct{} // closed by Drain

	mu           sync.Mutex
	store        Store
	worker       *worker       // nil while none runs
	changed      chan struct{} // closed, and made anew, when worker, its state or applied changes
	applied      uint64        // revision that the running worker serves
	prepared     map[string]*preparation
	grants       map[string]*jobGrants
	statuses     map[string]status
	compilations map[target]*compilation // under way
	draining     bool
}

type preparation struct {
	worker *worker
	done   chan struct{} // closed when problem is set, or lost
	once   sync.Once
	result *wire.Problem
	lost   bool
}

func (p *preparation) finish(problem *wire.Problem, lost bool) {
	p.once.Do(func() { p.result, p.lost = problem, lost; close(p.done) })
}

// jobGrants are what the recent versions of a job may do. Older invocations may still be under way.
type jobGrants struct {
	enqueues *rate.Limiter // of all versions
	versions map[uint64]*grant
	order    []uint64
}

// keepGrants is how many versions of a job a worker may speak for at once.
const keepGrants = 8

type grant struct {
	grants    *policy.Grants
	transport *policy.Transport
	entitled  string
	enqueues  *rate.Limiter // its job's
}

// New makes a Supervisor. Nothing runs until Run is called.
func New(opts Options) (*Supervisor, error) {
	if opts.Ingress == nil {
		return nil, errors.New("supervisor: there is no ingress listener")
	}
	if opts.Program == "" {
		p, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		opts.Program = p
	}
	if opts.Args == nil {
		opts.Args = []string{"worker"}
	}
	if opts.Env == nil {
		opts.Env = []string{} // os/exec takes nil for the whole of ours
	}
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find this host's name: %w", err)
		}
		opts.Name = host[:min(len(host), broker.MaxLeaseName)]
	}
	if opts.CompileTime <= 0 {
		opts.CompileTime = compileTime
	}
	s := &Supervisor{opts: opts, compilers: make(chan struct{}, max(min(goruntime.NumCPU()-1, compilers), 1)), compilations: map[target]*compilation{}, stop: make(chan struct{}), changed: make(chan struct{}),
		prepared: map[string]*preparation{}, grants: map[string]*jobGrants{}, statuses: map[string]status{}}
	s.hub = NewHub(s.follow)
	if opts.Queue != nil {
		s.dispatcher = newDispatcher(s, opts.Queue)
	}
	return s, nil
}

// Hub has the logs and traces of all jobs.
func (s *Supervisor) Hub() *Hub { return s.hub }

// Backoff of a worker that dies again and again: none at first, so that it is back within a second.
const (
	firstPause = 50 * time.Millisecond
	longPause  = 5 * time.Second
	healthy    = 10 * time.Second // a worker that ran so long starts the count anew
)

// Run keeps a worker running for what store has, until ctx ends; the worker is killed then if it still runs.
func (s *Supervisor) Run(ctx context.Context, store Store) error {
	s.mu.Lock()
	s.store = store
	s.mu.Unlock()
	var tidying sync.WaitGroup
	defer tidying.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tidying.Go(func() { s.tidyCode(ctx, store) })
	if s.dispatcher != nil {
		tidying.Go(func() { s.dispatcher.Run(ctx) })
	}
	pause := firstPause
	for {
		began := s.opts.Clock.Now()
		err := s.runOne(ctx)
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-s.stop:
			return nil
		default:
		}
		s.opts.Log.Error("the worker ended; starting another", "error", err)
		if s.opts.Clock.Now().Sub(began) > healthy {
			pause = firstPause
		}
		t := s.opts.Clock.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		pause = min(2*pause, longPause)
	}
}

// notifyLocked wakes those who wait for the worker's state.
func (s *Supervisor) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait returns when ready answers true, or fails with ctx's cause.
func (s *Supervisor) wait(ctx context.Context, readyLocked func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := readyLocked(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Ready is nil when a worker serves what was assigned.
func (s *Supervisor) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return errors.New("shutting down")
	case s.worker == nil || !s.worker.synced:
		return errors.New("the worker is starting")
	}
	return nil
}

// WorkerPID is the process id of the running worker; 0 if there is none.
func (s *Supervisor) WorkerPID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker == nil {
		return 0
	}
	return s.worker.process.pid
}

// Prepare has the worker get a ready. See control.Runner.
func (s *Supervisor) Prepare(ctx context.Context, a wire.Assignment) (func(committed bool), error) {
	id := uuid.NewString()
	p := &preparation{done: make(chan struct{})}
	err := s.wait(ctx, func() bool {
		if s.worker == nil || !s.worker.synced {
			return false
		}
		p.worker = s.worker
		s.prepared[id] = p
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the worker: %w", err)
	}
	if err := s.allow(a); err != nil {
		s.mu.Lock()
		delete(s.prepared, id)
		s.mu.Unlock()
		return nil, err
	}
	p.worker.send(wire.Order{Kind: wire.OrderPrepare, ID: id, Assignment: &a})
	discard := func() {
		s.mu.Lock()
		delete(s.prepared, id)
		s.mu.Unlock()
		p.worker.send(wire.Order{Kind: wire.OrderDiscard, ID: id})
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		discard()
		return nil, fmt.Errorf("wait until version %d of %s is ready: %w", a.Version, a.Job, context.Cause(ctx))
	}
	if p.lost {
		discard()
		return nil, &wire.Problem{Code: "start-crashed", Status: http.StatusUnprocessableEntity, Title: "The module could not be started",
			Detail: "the process that started the module's first sandbox died; nothing was changed"}
	}
	if p.result != nil {
		discard()
		return nil, p.result
	}
	return func(committed bool) {
		if !committed {
			discard()
			return
		}
		s.mu.Lock()
		delete(s.prepared, id)
		s.mu.Unlock()
	}, nil
}

// appliedWait bounds Applied: a worker that is starting may have many modules to compile.
const appliedWait = 30 * time.Second

// Applied waits until the worker serves what was committed at revision. See control.Runner.
func (s *Supervisor) Applied(ctx context.Context, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, appliedWait)
	defer cancel()
	if err := s.wait(ctx, func() bool { return s.applied >= revision }); err != nil {
		return fmt.Errorf("wait until the worker serves revision %d: %w", revision, err)
	}
	return nil
}

// Drain has the worker finish what runs and end, and waits for it until ctx ends.
func (s *Supervisor) Drain(ctx context.Context) error {
	s.mu.Lock()
	first := !s.draining
	s.draining = true
	w := s.worker
	s.mu.Unlock()
	if first {
		close(s.stop)
		if s.dispatcher != nil {
			s.dispatcher.drain()
		}
	}
	if w == nil {
		return nil
	}
	w.send(wire.Order{Kind: wire.OrderDrain})
	select {
	case <-w.process.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the worker to finish: %w", context.Cause(ctx))
	}
}

func (s *Supervisor) follow(job string, on bool) {
	s.mu.Lock()
	w := s.worker
	s.mu.Unlock()
	if w != nil {
		kind := wire.OrderIgnore
		if on {
			kind = wire.OrderFollow
		}
		w.send(wire.Order{Kind: kind, Job: job, What: "trace"})
	}
}

// allow lets the worker speak for a version.
func (s *Supervisor) allow(a wire.Assignment) error {
	var m manifest.Manifest
	if err := json.Unmarshal(a.Manifest, &m); err != nil {
		return fmt.Errorf("read the manifest of %s version %d: %w", a.Job, a.Version, err)
	}
	g, err := policy.Grant(m.Capabilities)
	if err != nil {
		return fmt.Errorf("read the grants of %s version %d: %w", a.Job, a.Version, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.grants[a.Job]
	if j == nil {
		j = &jobGrants{versions: map[uint64]*grant{}, enqueues: rate.NewLimiter(enqueueRate, enqueueBurst)}
		s.grants[a.Job] = j
	}
	if old := j.versions[a.Version]; old != nil {
		old.transport.CloseIdleConnections()
	} else {
		j.order = append(j.order, a.Version)
	}
	j.versions[a.Version] = &grant{grants: g, transport: policy.NewTransport(g), entitled: a.Entitlement, enqueues: j.enqueues}
	for len(j.order) > keepGrants {
		j.versions[j.order[0]].transport.CloseIdleConnections()
		delete(j.versions, j.order[0])
		j.order = j.order[1:]
	}
	return nil
}

// forbid ends what the worker may do for a job.
func (s *Supervisor) forbid(job string) {
	s.mu.Lock()
	j := s.grants[job]
	delete(s.grants, job)
	delete(s.statuses, job)
	s.mu.Unlock()
	if j != nil {
		for _, g := range j.versions {
			g.transport.CloseIdleConnections()
		}
	}
	s.hub.Forget(job)
}

func (s *Supervisor) grantOf(job string, version uint64) *grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.grants[job]; j != nil {
		return j.versions[version]
	}
	return nil
}

// known reports whether the worker was given a job of that name.
func (s *Supervisor) known(job string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grants[job] != nil
}

// died tells the jobs that were in their guests when a worker ended.
func (s *Supervisor) died(ctx context.Context, store Store, w *worker, cause error) {
	jobs := w.runningJobs()
	if len(jobs) == 0 {
		return
	}
	names := make([]string, 0, len(jobs))
	for job := range jobs {
		names = append(names, job)
	}
	s.opts.Log.Error("jobs were running in the worker that died", "jobs", strings.Join(names, " "), "error", cause)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for job, r := range jobs {
		text := fmt.Sprintf("the worker process died (%v) while this job ran in it", cause)
		s.blame(job, text)
		s.hub.Log(wire.Report{Kind: wire.ReportLog, Time: s.opts.Clock.Now(), Job: job, Version: r.Version, Invocation: r.Invocation, Stream: "system", Level: "error", Text: text})
		if err := store.Audit(ctx, control.AuditEntry{Kind: control.AuditWorkerDied, Job: job, Version: r.Version, Invocation: r.Invocation, Detail: text}); err != nil {
			s.opts.Log.Error("write audit entry", "job", job, "error", err)
		}
	}
}
