package processor

import (
	goruntime "runtime"
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
	most  int // GOMAXPROCS meanwhile; 0: it stays as it is

	mu     sync.Mutex // taken before the processor's
	long   int        // runs
	raised bool
	usual  int       // GOMAXPROCS otherwise
	until  time.Time // raised, if long is 0
}

// begin notes a run that is about to be long.
func (s *spare) begin() {
	if s.most == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.long++
	if s.raised {
		return
	}
	s.raised = true
	s.usual = goruntime.GOMAXPROCS(max(s.most, goruntime.GOMAXPROCS(0)))
	s.p.overlap(s.most)
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
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := spareFor
	if s.long == 0 {
		wait = s.until.Sub(s.clock.Now())
	}
	if wait > 0 {
		s.clock.AfterFunc(wait, s.look)
		return
	}
	s.raised = false
	s.p.overlap(s.usual)
	goruntime.GOMAXPROCS(s.usual)
}

// overlap has as many runs lose their tokens before they know as there is a P for, with procs in all.
func (p *Processor) overlap(procs int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.overlap = min(procs-1-p.tokens, p.tokens)
}
