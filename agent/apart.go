package agent

import (
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// maxResting is how many goroutines of an apart wait for their next function.
const maxResting = 256

// apart runs functions in goroutines of their own, whose threads may have to end with them. A goroutine runs one function after another, so that
// its stack has to grow only once, up to one that spoils its thread. Its methods are safe for concurrent use.
type apart struct {
	spoils  time.Duration // how long a function takes at least if it spoils its thread
	spoiled func() bool   // reports whether the calling thread is

	mu      sync.Mutex
	resting []*runner // the last to rest is the first to run, with what the processor's caches still have of its stack
	closed  bool
}

// runner is one goroutine.
type runner struct {
	work chan func() // closed: it ends
	done chan ending
}

// ending is how a function ended.
type ending struct {
	panicked any
	last     bool // the goroutine has ended
}

// run calls f and returns when that is done. f's panic is the caller's.
func (a *apart) run(f func()) {
	r := a.take()
	r.work <- f
	e := <-r.done
	if !e.last {
		a.rest(r)
	}
	if e.panicked != nil {
		panic(e.panicked)
	}
}

// take is a goroutine that rests, or a new one.
func (a *apart) take() *runner {
	a.mu.Lock()
	if n := len(a.resting); n > 0 {
		r := a.resting[n-1]
		a.resting[n-1] = nil
		a.resting = a.resting[:n-1]
		a.mu.Unlock()
		return r
	}
	a.mu.Unlock()
	r := &runner{work: make(chan func()), done: make(chan ending)}
	go r.loop(a)
	return r
}

// rest has a goroutine wait for its next function, or ends it if enough wait.
func (a *apart) rest(r *runner) {
	a.mu.Lock()
	keep := !a.closed && len(a.resting) < maxResting
	if keep {
		a.resting = append(a.resting, r)
	}
	a.mu.Unlock()
	if !keep {
		close(r.work)
	}
}

// close ends the goroutines that rest, and each other one with what it runs.
func (a *apart) close() {
	a.mu.Lock()
	resting := a.resting
	a.resting, a.closed = nil, true
	a.mu.Unlock()
	for _, r := range resting {
		close(r.work)
	}
}

func (r *runner) loop(a *apart) {
	for f := range r.work {
		began := clock.Elapsed()
		panicked := call(f)
		last := panicked != nil || clock.Elapsed()-began >= a.spoils && a.spoiled()
		r.done <- ending{panicked, last}
		if last {
			return
		}
	}
}

// call calls f and answers its panic.
func call(f func()) (panicked any) {
	defer func() { panicked = recover() }()
	f()
	return nil
}
