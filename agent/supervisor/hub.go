package supervisor

import (
	"sync"

	"github.com/ripstop-vm/ripstop/internal/wire"
)

// Bounds of what is kept and sent of a job's log.
const (
	keepLines = 2000    // reports kept of a job
	keepBytes = 1 << 20 // of their text, in bytes
	maxText   = 16 << 10
	ahead     = 1024 // reports that a subscriber may be behind; one that is more is dropped
	maxFollow = 64   // subscribers of one job, of logs and traces each
)

// Hub keeps the recent log of each job and hands logs and traces to whoever follows. Its methods are safe for concurrent
// use and never wait for a subscriber: one that is too slow is dropped, and its channel closed.
type Hub struct {
	// follow is told when the first subscriber to a job's traces comes (true), and when the last leaves.
	follow func(job string, on bool)

	mu   sync.Mutex
	jobs map[string]*feed
}

type feed struct {
	lines  []wire.Report // the oldest first
	bytes  int
	logs   map[*subscriber]bool
	traces map[*subscriber]bool
}

type subscriber struct{ c chan wire.Report }

// NewHub makes a Hub. follow may be nil; it is called without a lock held.
func NewHub(follow func(job string, on bool)) *Hub {
	if follow == nil {
		follow = func(string, bool) {}
	}
	return &Hub{follow: follow, jobs: map[string]*feed{}}
}

func (h *Hub) feedLocked(job string) *feed {
	f := h.jobs[job]
	if f == nil {
		f = &feed{logs: map[*subscriber]bool{}, traces: map[*subscriber]bool{}}
		h.jobs[job] = f
	}
	return f
}

// Log keeps a line and hands it to those who follow.
func (h *Hub) Log(r wire.Report) {
	if len(r.Text) > maxText {
		r.Text = r.Text[:maxText]
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feedLocked(r.Job)
	f.lines = append(f.lines, r)
	f.bytes += len(r.Text)
	drop := 0
	for len(f.lines)-drop > keepLines || f.bytes > keepBytes {
		f.bytes -= len(f.lines[drop].Text)
		f.lines[drop] = wire.Report{}
		drop++
	}
	f.lines = f.lines[drop:]
	send(f.logs, r)
}

// Trace hands a host call to those who follow.
func (h *Hub) Trace(r wire.Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.jobs[r.Job]; f != nil {
		send(f.traces, r)
	}
}

func send(to map[*subscriber]bool, r wire.Report) {
	for s := range to {
		select {
		case s.c <- r:
		default:
			delete(to, s)
			close(s.c)
		}
	}
}

// Logs answers up to tail recent lines of job, the oldest first, and those that follow. stop ends it; the channel is
// closed then, and when the caller reads too slowly.
func (h *Hub) Logs(job string, tail int) (backlog []wire.Report, live <-chan wire.Report, stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feedLocked(job)
	if tail > 0 {
		backlog = append(backlog, f.lines[len(f.lines)-min(tail, len(f.lines)):]...)
	}
	s := &subscriber{make(chan wire.Report, ahead)}
	if len(f.logs) >= maxFollow {
		close(s.c)
		return backlog, s.c, func() {}
	}
	f.logs[s] = true
	return backlog, s.c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if f.logs[s] {
			delete(f.logs, s)
			close(s.c)
		}
	}
}

// Traces has job traced until the last one who asked stops.
func (h *Hub) Traces(job string) (live <-chan wire.Report, stop func()) {
	h.mu.Lock()
	f := h.feedLocked(job)
	s := &subscriber{make(chan wire.Report, ahead)}
	if len(f.traces) >= maxFollow {
		h.mu.Unlock()
		close(s.c)
		return s.c, func() {}
	}
	f.traces[s] = true
	h.mu.Unlock()
	h.follow(job, true)
	return s.c, func() {
		h.mu.Lock()
		if f.traces[s] {
			delete(f.traces, s)
			close(s.c)
		}
		last := len(f.traces) == 0
		h.mu.Unlock()
		if last {
			h.follow(job, false)
		}
	}
}

// Traced lists the jobs that someone follows.
func (h *Hub) Traced() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var jobs []string
	for name, f := range h.jobs {
		if len(f.traces) > 0 {
			jobs = append(jobs, name)
		}
	}
	return jobs
}

// Forget drops the log of a job that was removed. Those who follow stay.
func (h *Hub) Forget(job string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.jobs[job]
	if f == nil {
		return
	}
	f.lines, f.bytes = nil, 0
	if len(f.logs) == 0 && len(f.traces) == 0 {
		delete(h.jobs, job)
	}
}
