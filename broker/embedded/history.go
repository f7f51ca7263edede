package embedded

import (
	"slices"
	"sync"

	"github.com/ripstop-vm/ripstop/broker"
)

// history is the last commits, for those who watch. Their numbers follow each other without a gap.
type history struct {
	maxCommits, maxBytes int

	mu     sync.Mutex
	floor  uint64 // commits after this one are known
	events []broker.Event
	bytes  int
	closed bool
	wake   chan struct{} // closed at the next change
}

func newHistory(last uint64, maxCommits, maxBytes int) *history {
	return &history{maxCommits: maxCommits, maxBytes: maxBytes, floor: last, wake: make(chan struct{})}
}

func eventBytes(e broker.Event) int {
	n := 64
	for _, c := range e.Changes {
		n += 64 + len(c.Key) + len(c.Value)
	}
	return n
}

// add remembers a commit, and forgets the oldest over the bounds.
func (h *history) add(e broker.Event) {
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
		h.floor = h.events[drop].Revision.Number
		h.events[drop] = broker.Event{} // lets go of the values
		drop++
	}
	h.events = h.events[drop:]
	close(h.wake)
	h.wake = make(chan struct{})
}

// after answers the commits after a number, or if there are none, a channel that is closed when there may be.
func (h *history) after(number uint64) ([]broker.Event, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, nil, broker.ErrClosed
	case number < h.floor:
		return nil, nil, broker.ErrCompacted
	}
	skip := min(number-h.floor, uint64(len(h.events)))
	return slices.Clone(h.events[skip:]), h.wake, nil
}

func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.wake)
	}
}
