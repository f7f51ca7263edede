package processor

import (
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// spareFor is how long GOMAXPROCS stays raised after the last long run. Changing it stops everybody for a moment.
const spareFor = time.Second

// spare raises GOMAXPROCS while runs are long, and has runs that arrive take the tokens of others meanwhile: a long run may take a while up to its next
// tick, where the kernel runs others first, and needs a P until then. Ps that are there for nothing cost: Go wakes a thread for whatever there is to do
// as long as one of them is idle. Its methods are safe for concurrent use.
type spare struct {
	p     *Processor
	clock clock.Clock
	most  int                          // GOMAXPROCS meanwhile; 0: it stays as it is
	set   func(procs int) (before int) // GOMAXPROCS of the runtime

	mu       sync.Mutex // taken before the processor's
	long     int        // runs
	raised   bool
	changing bool      // GOMAXPROCS is about to change, by another goroutine, without mu
	usual    int       // GOMAXPROCS otherwise
	until    time.Time // raised, if long is 0
}

// begin notes a run that is about to be long, unless GOMAXPROCS has to be raised first: then it has that done, and the run is not long yet. Changing it
// waits for a garbage collection to end, and the run that called has a token that others could use.
func (s *spare) begin() bool {
	if s.most == 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.raised && !s.changing {
		s.long++
		return true
	}
	if !s.changing {
		s.changing = true
		go s.raise()
	}
	return false
}

// raise raises GOMAXPROCS, for a run that is long soon.
func (s *spare) raise() {
	usual := s.set(max(s.most, s.set(0)))
	s.p.overlap(s.most)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usual, s.raised, s.changing = usual, true, false
	s.until = s.clock.Now().Add(spareFor)
	s.clock.AfterFunc(spareFor, s.look)
}

// end notes that such a run is not long any more.
func (s *spare) end() {
	if s.most == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.long--; s.long == 0 {
		s.until = s.clock.Now().Add(spareFor)
	}
}

// look takes GOMAXPROCS back if there was no long run for a while, and looks again later if there was.
func (s *spare) look() {
	if s.stays() {
		return
	}
	s.p.overlap(s.usual)
	s.set(s.usual)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raised, s.changing = false, false
}

// stays reports whether GOMAXPROCS stays raised, and has look look again then.
func (s *spare) stays() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := spareFor
	if s.long == 0 {
		wait = s.until.Sub(s.clock.Now())
	}
	if wait > 0 {
		s.clock.AfterFunc(wait, s.look)
		return true
	}
	s.changing = true
	return false
}

// overlap has as many runs lose their tokens before they know as there is a P for, with procs in all.
func (p *Processor) overlap(procs int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.overlap = min(procs-1-p.tokens, p.tokens)
}
