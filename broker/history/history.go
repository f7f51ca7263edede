// Package history keeps the last commits of records in memory for those who watch. Backends share it.
package history

import (
	"slices"
	"strings"
	"sync"

	"github.com/ripstop-vm/ripstop/broker"
)

// Log is the last commits. Their numbers follow each other without a gap. Its methods are safe for concurrent use.
type Log struct {
	maxCommits, maxBytes int

	mu     sync.Mutex
	floor  broker.Revision // commits after this one are known
	events []broker.Event
	bytes  int
	closed bool
	wake   chan struct{} // closed at the next change
}

// New makes a log that begins after a commit, and keeps so many commits and bytes of them.
func New(last broker.Revision, maxCommits, maxBytes int) *Log {
	return &Log{maxCommits: maxCommits, maxBytes: maxBytes, floor: last, wake: make(chan struct{})}
}

func eventBytes(e broker.Event) int {
	n := 64
	for _, c := range e.Changes {
		n += 64 + len(c.Key) + len(c.Value)
	}
	return n
}

// Add remembers a commit, and forgets the oldest over the bounds.
func (h *Log) Add(e broker.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.events = append(h.events, e)
	h.bytes += eventBytes(e)
	drop := 0
	for drop < len(h.events) && (len(h.events)-drop > h.maxCommits || h.bytes > h.maxBytes) {
		h.bytes -= eventBytes(h.events[drop])
		h.floor = h.events[drop].Revision
		h.events[drop] = broker.Event{} // lets go of the values
		drop++
	}
	h.events = h.events[drop:]
	close(h.wake)
	h.wake = make(chan struct{})
}

// After answers the commits after a number, or if there are none, a channel that is closed when there may be. It fails with
// broker.ErrCompacted or broker.ErrClosed.
func (h *Log) After(number uint64) ([]broker.Event, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, nil, broker.ErrClosed
	case number < h.floor.Number:
		return nil, nil, broker.ErrCompacted
	}
	skip := min(number-h.floor.Number, uint64(len(h.events)))
	return slices.Clone(h.events[skip:]), h.wake, nil
}

// Has says whether a revision is one that the log goes on from, and whether it is later than the last that it knows.
func (h *Log) Has(r broker.Revision) (has, later bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.floor.Number + uint64(len(h.events))
	switch {
	case r.Number < h.floor.Number || r.Number > last:
		return false, r.Number > last
	case r.Number > h.floor.Number:
		return h.events[r.Number-h.floor.Number-1].Revision == r, false
	}
	return r == h.floor || r == broker.Revision{}, false
}

// Close ends the log: After fails with broker.ErrClosed from now on. It may be called twice.
func (h *Log) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.wake)
	}
}

// Below answers what an event says about keys that begin with prefix. Changes are in order, so they stand together and are
// shared with e.
func Below(e broker.Event, prefix string) broker.Event {
	lo, _ := slices.BinarySearchFunc(e.Changes, prefix, func(c broker.Change, p string) int { return strings.Compare(c.Key, p) })
	hi := lo
	for hi < len(e.Changes) && strings.HasPrefix(e.Changes[hi].Key, prefix) {
		hi++
	}
	e.Changes = e.Changes[lo:hi:hi]
	return e
}
