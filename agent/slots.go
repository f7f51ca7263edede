package agent

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"github.com/ripstop-vm/ripstop/internal/loop"
)

// errQueueFull reports that as many invocations wait as may.
var errQueueFull = errors.New("the queue is full")

// slots lets so many invocations run at once, and so many wait for their turn, first come, first served.
type slots struct {
	mu    sync.Mutex
	free  int
	room  int        // for waiters
	extra int        // waiters beyond room: the queued ones
	queue *list.List // of *waiter
}

type waiter struct {
	turn   chan struct{}
	queued bool
}

func newSlots(n, queue int) *slots {
	return &slots{free: n, room: max(queue, 0), queue: list.New()}
}

// take waits for a slot. It fails with errQueueFull, or with ctx's cause. A queued one may always wait, as who hands it over knows how
// many slots there are, and takes no room of others.
func (s *slots) take(ctx context.Context, queued bool) error {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	if !queued && s.queue.Len()-s.extra >= s.room {
		s.mu.Unlock()
		return errQueueFull
	}
	turn := make(chan struct{})
	e := s.queue.PushBack(&waiter{turn, queued})
	if queued {
		s.extra++
	}
	s.mu.Unlock()
	loop.Leave(ctx)
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	select {
	case <-turn: // it came at the same time, and goes to the next
		s.giveLocked()
	default:
		s.removeLocked(e)
	}
	s.mu.Unlock()
	return context.Cause(ctx)
}

// give ends a turn.
func (s *slots) give() {
	s.mu.Lock()
	s.giveLocked()
	s.mu.Unlock()
}

func (s *slots) giveLocked() {
	if e := s.queue.Front(); e != nil {
		close(s.removeLocked(e).turn)
		return
	}
	s.free++
}

func (s *slots) removeLocked(e *list.Element) *waiter {
	w := s.queue.Remove(e).(*waiter)
	if w.queued {
		s.extra--
	}
	return w
}
