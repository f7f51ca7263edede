package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/loop"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/image"
)

// task is one version of a job at work: slots, a queue, and sandboxes that wait. It ends when it is retired and its
// last user has left.
type task struct {
	agent    *Agent
	assigned wire.Assignment
	manifest *manifest.Manifest
	limits   manifest.Limits
	program  *guest.Program
	module   *loadedModule
	slots    *slots
	keep     bool  // isolation: task
	most     int64 // sandboxes in use at once
	denials  denials
	untraced atomic.Uint64 // records of a trace that found no room, and of which none that did has told yet
	follow   *following
	recorder JobRecorder

	pool    pool
	users   atomic.Int64 // invocations, and fills under way
	retired atomic.Bool
	closed  atomic.Bool
	filling atomic.Bool
	used    atomic.Bool // since the last look
	idle    time.Time   // since when it is not used; of the goroutine that looks

	starting atomic.Pointer[startOutput] // while its first sandbox starts
}

// enter makes the caller a user of the task; false if it is over.
func (t *task) enter() bool {
	t.users.Add(1)
	if t.retired.Load() {
		t.leave()
		return false
	}
	return true
}

// leave ends what enter began.
func (t *task) leave() {
	t.users.Add(-1)
	if t.retired.Load() {
		t.endIfDone()
	}
}

// retire lets the task end once its users have left, which may be an hour. Nothing is kept for sandboxes until then.
func (t *task) retire() {
	t.retired.Store(true)
	if err := t.program.Retire(); err != nil {
		t.agent.opts.Log.Error("give memory back", "job", t.assigned.Job, "error", err)
	}
	t.endIfDone()
}

func (t *task) endIfDone() {
	if t.users.Load() > 0 || t.closed.Swap(true) {
		return
	}
	t.tellOmitted()
	t.empty()
	if err := t.program.Close(); err != nil {
		t.agent.opts.Log.Error("close program", "job", t.assigned.Job, "error", err)
	}
	t.module.release()
}

// empty closes the sandboxes that wait. Those in use are closed when they come back.
func (t *task) empty() {
	t.pool.generation.Add(1)
	for _, m := range t.pool.stale() {
		t.discard(m)
	}
}

func (t *task) discard(m made) {
	t.pool.alive.Add(-1)
	if err := m.sandbox.Close(); err != nil {
		t.agent.opts.Log.Error("close sandbox", "job", t.assigned.Job, "error", err)
	}
}

// make makes a sandbox within the job's start limit. discard ends it.
func (t *task) make(ctx context.Context) (made, error) {
	t.pool.alive.Add(1)
	g := t.pool.generation.Load()
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(t.limits.Start), errStart)
	defer cancel()
	began := t.agent.opts.Clock.Now()
	s, err := t.program.NewSandbox(ctx)
	if err != nil {
		t.pool.alive.Add(-1)
		return made{}, err
	}
	t.recorder.Start(t.agent.opts.Clock.Now().Sub(began))
	return made{s, g, int64(s.PrivateBytes())}, nil
}

// errStart is the cause of a context that ended because a sandbox took too long to start.
var errStart = fmt.Errorf("the start limit passed: %w", context.DeadlineExceeded)

// take gives a sandbox to serve with: one that waits, or a new one. cold says that it had to be made, for which the turn ends. back ends what take
// began, unless it failed.
func (t *task) take(ctx context.Context, turn *guest.Turn) (m made, cold bool, err error) {
	t.pool.begin()
	if !t.used.Load() {
		t.used.Store(true)
	}
	m, ok := t.pool.pop()
	if !ok {
		turn.End()
		loop.Leave(ctx)
		if m, err = t.make(ctx); err != nil {
			t.pool.end()
		}
	}
	t.fill()
	return m, !ok, err
}

// back ends what take began: the sandbox waits for the next invocation, or is closed. Under isolation: task it is kept if it may serve again as it
// is, else if it returns to its image, in the place of ctx's loop.
func (t *task) back(ctx context.Context, m made, reusable bool) {
	t.pool.end()
	if !t.keep {
		reusable = t.wants(m) && t.returned(ctx, m)
	}
	if m.bytes = int64(m.sandbox.PrivateBytes()); !reusable || !t.put(m) {
		t.discard(m)
	}
}

// lose ends what take began for a sandbox that a panic of ours left as nobody knows.
func (t *task) lose(m made) {
	m.sandbox.Abandon()
	t.pool.end()
	t.pool.alive.Add(-1)
}

// put has a sandbox wait; false if it must not.
func (t *task) put(m made) bool {
	if t.retired.Load() || !t.pool.push(m) {
		return false
	}
	if t.closed.Load() || m.generation != t.pool.generation.Load() { // the pool was emptied at the same time, and may not have seen it
		for _, m := range t.pool.stale() {
			t.discard(m)
		}
	}
	return true
}

// wants reports whether it is worth while to have m return.
func (t *task) wants(m made) bool {
	p := &t.pool
	return p.alive.Load() <= p.wanted(t.most) && m.generation == p.generation.Load() && !t.retired.Load() && !p.budget.full()
}

// returned brings a sandbox back to its image, and counts why not if it cannot.
func (t *task) returned(ctx context.Context, m made) bool {
	err := m.sandbox.ReturnIn(ctx)
	switch why, discarded := errors.AsType[*image.DiscardError](err); {
	case err == nil:
		t.recorder.Return("returned")
	case errors.Is(err, guest.ErrNoImage): // it was made before there was one, or there is none: nothing went wrong
	case discarded:
		t.recorder.Return(string(why.Reason))
	default:
		t.recorder.Return(string(image.NoReturn))
	}
	return err == nil
}

// fill makes sandboxes until enough wait, in one goroutine at a time. A kept sandbox is made on demand.
func (t *task) fill() {
	if t.keep || !t.short() || t.filling.Swap(true) {
		return
	}
	if !t.enter() {
		t.filling.Store(false)
		return
	}
	t.agent.background.Go(func() {
		defer t.leave()
		defer t.filling.Store(false)
		for t.short() && t.fillOne() {
		}
	})
}

// short reports that there are fewer sandboxes than are wanted, and that there is room for more.
func (t *task) short() bool {
	return t.pool.alive.Load() < t.pool.wanted(t.most) && !t.pool.budget.full() && !t.retired.Load()
}

func (t *task) fillOne() bool {
	ctx := t.agent.life
	select {
	case t.agent.makers <- struct{}{}:
		defer func() { <-t.agent.makers }()
	case <-ctx.Done():
		return false
	}
	m, err := t.make(ctx)
	if err != nil {
		return false // the next invocation meets the same failure and reports it
	}
	if !t.put(m) {
		t.discard(m)
		return m.generation != t.pool.generation.Load()
	}
	return true
}

// forgetting is the part of a pool's peak that is forgotten at each look, five times a second: half of it in nine seconds.
const forgetting = 64

// shrink closes the sandboxes that wait beyond what was in use lately, and all of them once the task was idle for long enough. State that is
// kept is not lost. One goroutine calls it, now and then.
func (t *task) shrink(now time.Time, idle time.Duration) {
	if t.used.Swap(false) || t.pool.busy.Load() > 0 {
		t.idle = now
	}
	if t.keep {
		return
	}
	defer t.trim()
	if now.Sub(t.idle) >= idle {
		if t.pool.peak.Store(0); t.pool.ready.Load() > 0 {
			t.empty()
		}
		return
	}
	t.pool.decay(forgetting)
	for t.pool.alive.Load() > t.pool.wanted(t.most) {
		m, ok := t.pool.pop()
		if !ok {
			return
		}
		t.discard(m)
	}
}

func (t *task) trim() {
	if err := t.program.Trim(); err != nil {
		t.agent.opts.Log.Error("give memory back", "job", t.assigned.Job, "error", err)
	}
}

// moduleKey is what tasks have to agree in to share a module.
type moduleKey struct {
	engine runtime.Engine
	digest string
}

// loadedModule is a compiled module that tasks share.
type loadedModule struct {
	agent *Agent
	key   moduleKey
	ready chan struct{} // closed when code or err is set
	code  moduleCode
	err   error
	users int // under agent.mu
}

func (m *loadedModule) release() {
	a := m.agent
	a.mu.Lock()
	m.users--
	last := m.users == 0
	if last {
		delete(a.modules, m.key)
	}
	a.mu.Unlock()
	if last && m.code != nil {
		if err := m.code.Close(); err != nil && !errors.Is(err, context.Canceled) {
			a.opts.Log.Error("close module", "module", m.key.digest, "error", err)
		}
	}
}
