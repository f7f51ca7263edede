package runtime

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/image"
)

// Memories keeps the memories of a module's sandboxes that were closed, emptied, for those that are made next: of sandboxes that serve once and
// are made again and again, most of the time would go into giving pages back to the kernel and asking for others. No more are kept than were in use at once
// lately. Its methods are safe for concurrent use.
type Memories struct {
	space *image.Space
	empty *image.Image // as long as the module's memory is at first
	part  *image.Part
	max   uint64 // bytes of each

	mu    sync.Mutex
	free  []*image.Memory
	users int // memories in use
	high  int // the most of users since the last Trim
	most  int // and since the one before it
	over  bool
}

// NewMemories keeps memories of up to maxPages pages, which count as part's; nil: as nobody's. The caller closes it. It is nil, without an error,
// where it would gain nothing: if the module has no memory, or this system does not tell which pages were touched.
func (m *Module) NewMemories(maxPages uint32, part *image.Part) (*Memories, error) {
	if len(m.info.Memories) != 1 || m.info.Memories[0].Min > uint64(maxPages) {
		return nil, nil
	}
	sp, err := m.runtime.Space()
	if err != nil || !sp.Scans() {
		return nil, err
	}
	im, err := image.Empty(m.info.Memories[0].Min * engine.PageSize)
	if err != nil {
		return nil, err
	}
	return &Memories{space: sp, empty: im, part: part, max: uint64(maxPages) * engine.PageSize}, nil
}

// take is a memory that holds nothing: one that was kept, or a new one. It fails with image.ErrMappings.
func (s *Memories) take() (*kept, error) {
	s.mu.Lock()
	s.users++
	s.high = max(s.high, s.users)
	s.most = max(s.most, s.high)
	if n := len(s.free); n > 0 {
		m := s.free[n-1]
		s.free = s.free[:n-1]
		s.mu.Unlock()
		return &kept{memory: m, of: s}, nil
	}
	s.mu.Unlock()
	m, err := s.space.NewScanned(s.empty, s.max, s.part)
	if err != nil {
		s.mu.Lock()
		s.users--
		s.mu.Unlock()
		return nil, err
	}
	return &kept{memory: m, of: s}, nil
}

// give ends what take began.
func (s *Memories) give(m *image.Memory) error {
	spared := !m.Surplus() && m.Spared()
	s.mu.Lock()
	s.users--
	if spared = spared && !s.over && s.users+len(s.free) < s.most; spared {
		s.free = append(s.free, m)
	}
	s.mu.Unlock()
	if spared {
		return nil
	}
	return m.Close()
}

// Trim closes what was not used lately: since it was last called, or before that. It is meant to be called now and then.
func (s *Memories) Trim() error {
	s.mu.Lock()
	s.most, s.high = s.high, s.users
	n := min(len(s.free), max(s.most-s.users, 0))
	gone := slices.Clone(s.free[n:])
	clear(s.free[n:])
	s.free = s.free[:n]
	s.mu.Unlock()
	return closeAll(gone)
}

// Retire closes what is kept, and keeps nothing from now on: few sandboxes are made any more. It may be called twice.
func (s *Memories) Retire() error {
	s.mu.Lock()
	gone := s.free
	s.free, s.over = nil, true
	s.mu.Unlock()
	return closeAll(gone)
}

// Close closes what is kept, and no sandbox is made any more. Memories that are in use are closed when their sandboxes are.
func (s *Memories) Close() error { return errors.Join(s.Retire(), s.empty.Close()) }

func closeAll(all []*image.Memory) error {
	var errs []error
	for _, m := range all {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// kept is a memory of Memories that a sandbox uses. It is used like an engine.OwnMemory.
type kept struct {
	memory *image.Memory
	of     *Memories
	closed atomic.Bool
}

// Bytes implements hostcall.Memory.
func (k *kept) Bytes() []byte {
	if k.closed.Load() {
		return nil // it may be another's
	}
	return k.memory.Bytes()
}

// Grow implements engine.Memory.
func (k *kept) Grow(size uint64) error {
	if k.closed.Load() {
		return ErrClosed
	}
	return k.memory.Grow(size)
}

// Close gives the memory back. It may be called twice.
func (k *kept) Close() error {
	if k.closed.Swap(true) {
		return nil
	}
	return k.of.give(k.memory)
}

// drop ends the use of a memory that nobody may have after this.
func (k *kept) drop(end func() error) error {
	if k.closed.Swap(true) {
		return nil
	}
	k.of.mu.Lock()
	k.of.users--
	k.of.mu.Unlock()
	return end()
}
