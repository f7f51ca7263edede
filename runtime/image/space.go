package image

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/engine"
)

// SpaceOptions configures a Space. The zero value is ready to use.
type SpaceOptions struct {
	// Method is how Memories return to their images; NewSpace fails if it does not work here.
	Method Method
	// Mappings bounds the kernel's mappings that Memories take together; 0 means seven eighths of what the kernel still allows this
	// process (vm.max_map_count).
	Mappings int
	// Private bounds the pages that a Memory keeps for itself between calls, in bytes: with more written to, it gives them all
	// back to the kernel. 0 means 4 MiB. Copying a kept page back costs some 0.5 µs; one that was given back costs some 4 µs when the
	// guest writes to it again.
	Private uint64
	Clock   clock.Clock // nil means the system clock
}

// ErrMappings reports that Memories take as many mappings as they may, all together or those of one Part. Closing some helps.
var ErrMappings = errors.New("too many memory mappings")

// Space is where memories of sandboxes lie. Its methods are safe for concurrent use.
type Space struct {
	opts   SpaceOptions
	kernel kernel
	trials []Trial
	method Method
	counts bool // page faults of threads are counted, so that memory can be watched

	mu    sync.Mutex
	stats Stats
	left  atomic.Int64 // mappings that nobody takes; changes under mu
}

// Part is what one holder, such as a job, takes of a Space: at most as many mappings as it leaves to everybody else. Whoever is alone gets
// half of them so, and n that want all get one in n+1 each, once those that came first have closed their surplus. The zero value is ready to
// use, in one Space.
type Part struct {
	taken atomic.Int64 // mappings; changes under Space.mu
}

// Stats is what Memories take.
type Stats struct {
	Memories int
	Mappings int    // the most that they can take of the kernel's
	Reserved uint64 // address space, in bytes
	// Private is what Memories held for themselves after they last returned, in bytes; beside the image's own.
	Private uint64
}

// NewSpace makes a space and tries the methods of return on this machine.
func NewSpace(opts SpaceOptions) (*Space, error) {
	if opts.Private == 0 {
		opts.Private = 4 << 20
	}
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	s := &Space{opts: opts}
	if err := s.kernel.open(); err != nil {
		return nil, err
	}
	if s.opts.Mappings == 0 {
		s.opts.Mappings = s.kernel.mappings() / 8 * 7
	}
	s.left.Store(int64(s.opts.Mappings))
	s.counts = counting()
	if err := s.choose(); err != nil {
		return nil, errors.Join(err, s.kernel.close())
	}
	return s, nil
}

// Trials is what came of trying each method. The caller must not change it.
func (s *Space) Trials() []Trial { return s.trials }

// Method is how Memories return.
func (s *Space) Method() Method { return s.method }

// Scans reports whether memories can return by Scan, which costs by what a guest has touched, and not by how long its memory is.
func (s *Space) Scans() bool {
	for _, t := range s.trials {
		if t.Method == Scan {
			return t.Err == nil
		}
	}
	return false
}

// Stats is what Memories take now.
func (s *Space) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Close ends the space. Its Memories have to be closed before.
func (s *Space) Close() error {
	if n := s.Stats().Memories; n > 0 {
		return fmt.Errorf("close space: %d memories are open", n)
	}
	return s.kernel.close()
}

// take books a memory, or says that there is no room. part may be nil.
func (s *Space) take(part *Part, mappings int, reserved uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.opts.Mappings - s.stats.Mappings - mappings
	if left < 0 {
		return fmt.Errorf("%w: %d memories take up to %d, and %d are allowed", ErrMappings, s.stats.Memories, s.stats.Mappings, s.opts.Mappings)
	}
	if part != nil {
		if taken := int(part.taken.Load()) + mappings; taken > left {
			return fmt.Errorf("%w: those of one part would take up to %d, and leave %d", ErrMappings, taken, left)
		}
	}
	s.stats.Memories++
	s.stats.Reserved += reserved
	s.bookLocked(part, mappings)
	return nil
}

func (s *Space) give(part *Part, mappings int, reserved, private uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Memories--
	s.stats.Reserved -= reserved
	s.stats.Private -= private
	s.bookLocked(part, -mappings)
}

func (s *Space) bookLocked(part *Part, mappings int) {
	s.stats.Mappings += mappings
	s.left.Add(-int64(mappings))
	if part != nil {
		part.taken.Add(int64(mappings))
	}
}

// private books what a memory has kept.
func (s *Space) private(was, is uint64) {
	if was == is {
		return
	}
	s.mu.Lock()
	s.stats.Private += is - was
	s.mu.Unlock()
}

const (
	trialSize  = 40 * engine.PageSize
	trialPages = 40
	trialTimes = 5
)

// choose tries every method: that it brings memory back exactly, and how long it takes.
func (s *Space) choose() error {
	src := make([]byte, trialSize)
	for i := range src[:trialSize*3/4] { // the last quarter is a hole
		src[i] = byte(bits.RotateLeft8(uint8(i), i>>12)) | 1
	}
	im, err := Take(Source{Memory: src})
	if err != nil {
		return err
	}
	defer im.Close()
	best := -1
	for _, m := range Methods() {
		t := Trial{Method: m}
		t.Took, t.Err = s.try(m, im, src)
		s.trials = append(s.trials, t)
		if t.Err == nil && (best < 0 || t.Took < s.trials[best].Took) {
			best = len(s.trials) - 1
		}
		if m == s.opts.Method {
			if t.Err != nil {
				return fmt.Errorf("memory cannot return by %s: %w", m, t.Err)
			}
			s.method = m
		}
	}
	if best < 0 {
		return fmt.Errorf("memory cannot return to an image: %w", s.trials[len(s.trials)-1].Err)
	}
	s.trials[best].Chosen = true
	if s.method == Fastest {
		s.method = s.trials[best].Method
	}
	return nil
}

// try has a memory written to and returned a few times.
func (s *Space) try(method Method, im *Image, want []byte) (best time.Duration, err error) {
	m, err := s.newMemory(im, trialSize+engine.PageSize, nil, method)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	for range trialTimes {
		began := s.opts.Clock.Now()
		for i := range trialPages {
			m.Bytes()[i*trialSize/trialPages+i]++
		}
		if err := m.Return(); err != nil {
			return 0, err
		}
		if took := s.opts.Clock.Now().Sub(began); best == 0 || took < best {
			best = took
		}
		if !bytes.Equal(m.Bytes(), want) {
			return 0, errors.New("memory was not as before")
		}
	}
	// What was grown has to be gone.
	for range 2 {
		if err := m.Grow(trialSize + engine.PageSize); err != nil {
			return 0, err
		}
		if m.Bytes()[trialSize] != 0 {
			return 0, errors.New("memory that was grown again was not empty")
		}
		m.Bytes()[trialSize] = 1
		if err := m.Return(); err != nil {
			return 0, err
		}
	}
	return best, nil
}
