package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/image"
)

// task is one version of a job at work: slots, a queue, and sandboxes made ahead. It ends when it is retired and its
// last user has left.
type task struct {
	agent    *Agent
	assigned wire.Assignment
	manifest *manifest.Manifest
	limits   manifest.Limits
	program  *guest.Program
	module   *loadedModule
	slots    *slots
	keep     bool // isolation: task
	size     int  // of one job's sandboxes ahead, at most
	most     int  // the same, with those that served and are as new again
	audits   *bucket
	follow   *following

	mu         sync.Mutex
	users      int // invocations, and fills under way
	retired    bool
	closed     bool
	ready      []made
	generation int // of the pool; sandboxes of an older one are not put back
	filling    bool
	used       time.Time // when a sandbox was last taken
}

// made is a sandbox of a pool's generation.
type made struct {
	sandbox    *guest.Sandbox
	generation int
	bytes      int64 // of guest memory, when it was made
}

// enter makes the caller a user of the task; false if it is over.
func (t *task) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retired {
		return false
	}
	t.users++
	return true
}

// leave ends what enter began.
func (t *task) leave() {
	t.mu.Lock()
	t.users--
	t.mu.Unlock()
	t.endIfDone()
}

// retire lets the task end once its users have left.
func (t *task) retire() {
	t.mu.Lock()
	t.retired = true
	t.mu.Unlock()
	t.endIfDone()
}

func (t *task) endIfDone() {
	t.mu.Lock()
	if !t.retired || t.users > 0 || t.closed {
		t.mu.Unlock()
		return
	}
	t.closed = true
	t.mu.Unlock()
	t.empty()
	if err := t.program.Close(); err != nil {
		t.agent.opts.Log.Error("close program", "job", t.assigned.Job, "error", err)
	}
	t.module.release()
}

// empty closes the sandboxes made ahead. Those in use are closed when they come back.
func (t *task) empty() {
	t.mu.Lock()
	gone := t.ready
	t.ready = nil
	t.generation++
	t.mu.Unlock()
	for _, m := range gone {
		t.agent.count(m, -1)
		t.discard(m)
	}
}

func (t *task) discard(m made) {
	if err := m.sandbox.Close(); err != nil {
		t.agent.opts.Log.Error("close sandbox", "job", t.assigned.Job, "error", err)
	}
}

// make makes a sandbox within the job's start limit.
func (t *task) make(ctx context.Context) (made, error) {
	t.mu.Lock()
	g := t.generation
	t.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(t.limits.Start), errStart)
	defer cancel()
	began := t.agent.opts.Clock.Now()
	s, err := t.program.NewSandbox(ctx)
	if err != nil {
		return made{}, err
	}
	t.agent.opts.Recorder.Start(t.assigned.Job, t.agent.opts.Clock.Now().Sub(began))
	return made{s, g, int64(s.MemoryBytes())}, nil
}

// errStart is the cause of a context that ended because a sandbox took too long to start.
var errStart = fmt.Errorf("the start limit passed: %w", context.DeadlineExceeded)

// take gives a sandbox to serve with: one made ahead, or a new one. cold says that it had to be made.
func (t *task) take(ctx context.Context) (m made, cold bool, err error) {
	t.mu.Lock()
	t.used = t.agent.opts.Clock.Now()
	if n := len(t.ready); n > 0 {
		m = t.ready[n-1]
		t.ready[n-1] = made{}
		t.ready = t.ready[:n-1]
		t.mu.Unlock()
		t.agent.count(m, -1)
		t.fill()
		return m, false, nil
	}
	t.mu.Unlock()
	m, err = t.make(ctx)
	t.fill()
	return m, true, err
}

// back puts a sandbox that served into the pool, or closes it: under isolation: task if it may serve again as it is, else if it
// returns to its image.
func (t *task) back(m made, reusable bool) {
	if !t.keep {
		reusable = t.wants(m) && t.returned(m)
	}
	if reusable {
		t.mu.Lock()
		if t.wantsLocked(m) {
			t.ready = append(t.ready, m)
			t.mu.Unlock()
			t.agent.count(m, 1)
			return
		}
		t.mu.Unlock()
	}
	t.discard(m)
}

// wants reports whether there is room for m in the pool.
func (t *task) wants(m made) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wantsLocked(m)
}

func (t *task) wantsLocked(m made) bool {
	a := t.agent
	room := len(t.ready) < t.size || len(t.ready) < t.most && a.ahead.Load() < int64(a.opts.Ahead) && a.aheadBytes.Load() < a.opts.AheadBytes
	return room && !t.retired && m.generation == t.generation
}

// returned brings a sandbox back to its image, and counts why not if it cannot.
func (t *task) returned(m made) bool {
	err := m.sandbox.Return()
	var why *image.DiscardError
	switch {
	case err == nil:
		t.agent.opts.Recorder.Return(t.assigned.Job, "returned")
	case errors.Is(err, guest.ErrNoImage): // it was made before there was one, or there is none: nothing went wrong
	case errors.As(err, &why):
		t.agent.opts.Recorder.Return(t.assigned.Job, string(why.Reason))
	default:
		t.agent.opts.Recorder.Return(t.assigned.Job, string(image.NoReturn))
	}
	return err == nil
}

// fill makes sandboxes ahead until there are enough, in one goroutine at a time. A kept sandbox is made on demand.
func (t *task) fill() {
	if t.keep {
		return
	}
	t.mu.Lock()
	if t.filling || t.retired || len(t.ready) >= t.size {
		t.mu.Unlock()
		return
	}
	t.filling = true
	t.users++
	t.mu.Unlock()
	t.agent.background.Go(func() {
		defer t.leave()
		for t.fillOne() {
		}
		t.mu.Lock()
		t.filling = false
		t.mu.Unlock()
	})
}

func (t *task) fillOne() bool {
	ctx := t.agent.life
	select {
	case t.agent.makers <- struct{}{}:
		defer func() { <-t.agent.makers }()
	case <-ctx.Done():
		return false
	}
	t.mu.Lock()
	enough := t.retired || len(t.ready) >= t.size
	t.mu.Unlock()
	if enough || t.agent.ahead.Load() >= int64(t.agent.opts.Ahead) || t.agent.aheadBytes.Load() >= t.agent.opts.AheadBytes {
		return false
	}
	m, err := t.make(ctx)
	if err != nil {
		return false // the next invocation meets the same failure and reports it
	}
	t.mu.Lock()
	if t.retired || m.generation != t.generation {
		t.mu.Unlock()
		t.discard(m)
		return true
	}
	t.ready = append(t.ready, m)
	more := len(t.ready) < t.size
	t.mu.Unlock()
	t.agent.count(m, 1)
	return more
}

// shrink closes the sandboxes ahead of a task that has not been used since before. State that is kept is not lost.
func (t *task) shrink(before time.Time) {
	t.mu.Lock()
	idle := !t.keep && t.used.Before(before) && len(t.ready) > 0
	t.mu.Unlock()
	if idle {
		t.empty()
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
