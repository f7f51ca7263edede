package reactor

import (
	"slices"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// watchOverdue has handlers leave the loop that are at work for too long without saying so, until the loop ends. Each look takes a thread that wakes
// for it, and with it some requests' time: they are few unless there are such handlers.
func (s *Server) watchOverdue() {
	t := clock.System.NewTimer(seldom)
	defer t.Stop()
	last := -alert // when one was overdue
	for quiet := 0; ; {
		if quiet >= watchRounds {
			s.watching.Store(false)
			if !s.atWork() || !s.watching.CompareAndSwap(false, true) { // one may have begun before it could know
				select {
				case <-s.watch:
				case <-s.base.Done():
					return
				}
			}
			quiet = 0
		}
		pause := seldom
		if clock.Elapsed()-last < alert {
			pause = overdue
		}
		t.Reset(pause)
		select {
		case <-t.C():
		case <-s.base.Done():
			return
		}
		now := clock.Elapsed()
		var late []*runner
		quiet++
		s.mu.Lock()
		for _, r := range slices.Concat(s.runners, s.computing) {
			if began := time.Duration(r.began.Load()); began != 0 {
				quiet = 0
				if now-began >= overdue {
					late = append(late, r)
				}
			}
		}
		s.mu.Unlock()
		for _, r := range late {
			if r.place.Load() == inLoop { // who computes has said so
				last = now
			}
			r.leave()
		}
	}
}

// atWork reports whether a handler is, in the loop.
func (s *Server) atWork() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Concat(s.runners, s.computing) {
		if r.began.Load() != 0 {
			return true
		}
	}
	return false
}

// watched sees to it that somebody watches for overdue handlers.
func (s *Server) watched() {
	if !s.watching.Load() && s.watching.CompareAndSwap(false, true) {
		s.watch <- struct{}{}
	}
}

// sweep closes connections on which nothing came for too long, until the loop ends.
func (s *Server) sweep() {
	t := clock.System.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C():
		case <-s.base.Done():
			return
		}
		now := clock.Elapsed()
		for _, c := range s.all() {
			limit := s.opts.HTTP.IdleTimeout
			c.mu.Lock()
			if !c.used {
				limit = s.opts.HTTP.ReadHeaderTimeout
			}
			idle := !c.busy && limit > 0 && now-c.since >= limit
			if idle {
				c.busy = true
			}
			c.mu.Unlock()
			if idle {
				c.close()
			}
		}
	}
}
