package agent

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// errQueueFull reports that as many invocations wait as may.
var errQueueFull = errors.New("the queue is full")

// slots lets so many invocations run at once, and so many wait for their turn, first come, first served.
type slots struct {
	mu    sync.Mutex
	free  int
	room  int        // for waiters
	queue *list.List // of chan struct{}
}

func newSlots(n, queue int) *slots {
	return &slots{free: n, room: max(queue, 0), queue: list.New()}
}

// take waits for a slot. It fails with errQueueFull, or with ctx's cause.
func (s *slots) take(ctx context.Context) error {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	if s.queue.Len() >= s.room {
		s.mu.Unlock()
		return errQueueFull
	}
	turn := make(chan struct{})
	e := s.queue.PushBack(turn)
	s.mu.Unlock()
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
		s.queue.Remove(e)
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
		s.queue.Remove(e)
		close(e.Value.(chan struct{}))
		return
	}
	s.free++
}
