package image

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/engine"
)

var _ engine.Memory = (*Memory)(nil)

// Memory is linear memory that begins as an image and can return to it. It is used by one goroutine at a time. Engines only
// borrow it: whoever made it closes it, once no guest runs on it any more.
type Memory struct {
	space    *Space
	part     *Part // may be nil
	image    *Image
	method   Method
	max      uint64 // bytes
	mappings int
	kept     uint64 // private bytes after the last return
	high     uint64 // bytes, from the beginning, in which private pages may be: more than the image, if the memory has grown
	wasteful int    // returns in a row that found most of what is kept as it was
	slow     int    // times in a row that Spared took longer than it should
	closed   atomic.Bool

	watch
	mapping
	buf []byte // what the guest has
}

// When private pages are given back to the kernel although they are within the bound.
const (
	fewKept  = 64 * block // so little is never worth it
	patience = 16         // returns in a row that found three quarters of them as they were
)

// What a memory may have grown by beyond its image, in bytes, to be looked at all over when it returns, and how long looking may take in vain. Pages that were only read are
// not private, and not counted as anybody's; but the kernel has tables of them, and keeps whoever maps something waiting while it walks through them.
const (
	mostGrown = 16 << 20
	mostLook  = 100 * time.Microsecond
	perByte   = 4 // nanoseconds for so many bytes that are kept
	tooSlow   = 2 // times in a row: one may have waited for others
)

// errMuch reports that a memory has more private pages than are kept. It is neither the image nor what the guest left.
var errMuch = errors.New("more is private than is kept")

// NewMemory makes a memory that begins as im and may grow to max bytes. It counts as part's; nil: as nobody's. It fails with a
// *engine.LimitError if im is larger, with ErrMappings, or as the operating system does.
func (s *Space) NewMemory(im *Image, max uint64, part *Part) (*Memory, error) {
	return s.newMemory(im, max, part, s.method)
}

// NewScanned is NewMemory for a memory that returns by Scan, whatever is the fastest for images. See Space.Scans.
func (s *Space) NewScanned(im *Image, max uint64, part *Part) (*Memory, error) {
	return s.newMemory(im, max, part, Scan)
}

func (s *Space) newMemory(im *Image, max uint64, part *Part, method Method) (*Memory, error) {
	if im.size > max {
		return nil, &engine.LimitError{Limit: "memory", Used: im.size, Max: max}
	}
	if max > maxSize {
		return nil, fmt.Errorf("a memory of up to %d bytes; at most 4 GiB are possible", max)
	}
	if !im.hold() {
		return nil, fmt.Errorf("memory of image %s: it is closed", im.digest)
	}
	m := &Memory{space: s, part: part, image: im, method: method, max: max, high: im.size, mappings: mappings(len(im.segments))}
	err := s.take(part, m.mappings, max)
	if err == nil {
		if m.buf, err = m.reserve(im, max); err == nil {
			return m, nil
		}
		s.give(part, m.mappings, max, 0)
	}
	_ = im.drop(im.digest) // the error that matters is err, and the image is still held by its owner
	return nil, fmt.Errorf("memory of image %s: %w", im.digest, err)
}

// Image is what the memory began as.
func (m *Memory) Image() *Image { return m.image }

// Bytes is the memory now. It stays where it is until the memory is closed.
func (m *Memory) Bytes() []byte { return m.buf }

// Grown reports that the memory is longer than its image.
func (m *Memory) Grown() bool { return uint64(len(m.buf)) > m.image.size }

// Private is how much the memory held for itself when it last returned, in bytes.
func (m *Memory) Private() uint64 { return m.kept }

// Surplus reports that the memory's part has more mappings than it leaves to others, who have come since. Closing it helps them.
func (m *Memory) Surplus() bool { return m.part != nil && m.part.taken.Load() > m.space.left.Load() }

// Grow implements engine.Memory.
func (m *Memory) Grow(size uint64) error {
	if size > m.max {
		return &engine.LimitError{Limit: "memory", Used: size, Max: m.max}
	}
	if size < uint64(len(m.buf)) {
		return fmt.Errorf("grow memory from %d to %d bytes", len(m.buf), size)
	}
	buf, err := m.extend(m.buf, size)
	if err != nil {
		return fmt.Errorf("grow memory to %d bytes: %w", size, err)
	}
	m.buf = buf
	m.high = max(m.high, size)
	return nil
}

// Return brings the memory back to its image: the same length, the same bytes. An engine that still runs on it has to be told
// of the length. After an error the memory is neither, and can only be closed.
func (m *Memory) Return() error {
	kept, err := m.restore()
	if errors.Is(err, errMuch) {
		kept, err = 0, m.discard()
	}
	if err != nil {
		return fmt.Errorf("return memory to its image by %s: %w", m.method, err)
	}
	m.returned(kept)
	return nil
}

// Spared is Return for a memory that is closed if that is less work: it is false if more is private than the space keeps, or so much was touched that
// to look for it takes long. The memory can only be closed then.
func (m *Memory) Spared() bool {
	if m.high > m.image.size+mostGrown {
		return false
	}
	began := clock.Elapsed()
	kept, err := m.restore()
	if err != nil {
		return false
	}
	if clock.Elapsed()-began > mostLook+time.Duration(kept/perByte) {
		if m.slow++; m.slow == tooSlow {
			return false
		}
	} else {
		m.slow = 0
	}
	m.returned(kept)
	return true
}

// returned notes that the memory is the image's again, and holds so many bytes for itself.
func (m *Memory) returned(kept uint64) {
	m.buf = m.buf[:m.image.size]
	m.space.private(m.kept, kept)
	m.kept = kept
}

// shorten empties what the memory has grown by.
func (m *Memory) shorten() error {
	size := m.image.size
	if m.high == size {
		return nil
	}
	if err := m.forget(m.buf[:m.high], size); err != nil {
		return err
	}
	m.high = size
	return nil
}

// putBack makes the blocks from off to end those of the image, with zeros behind it, and answers how many bytes of them were not. What a guest only
// read stays untouched.
func (m *Memory) putBack(off, end uint64) (changed uint64) {
	buf := m.buf[:end]
	for _, s := range m.image.segmentsFrom(off) {
		for ; off < min(s.offset, end); off += block {
			changed += replace(buf[off:off+block], zeros[:])
		}
		for ; off < min(s.end(), end); off += block {
			at := s.at + off - s.offset
			changed += replace(buf[off:off+block], m.image.store.view[at:at+block])
		}
		if off >= end {
			return changed
		}
	}
	for ; off < end; off += block {
		changed += replace(buf[off:off+block], zeros[:])
	}
	return changed
}

func replace(to, from []byte) uint64 {
	if string(to) == string(from) {
		return 0
	}
	return uint64(copy(to, from))
}

// Abandon leaves the memory as it is, for good: somebody may still use it. Its mappings stay booked, but the space can be closed. It is done
// instead of Close.
func (m *Memory) Abandon() {
	if m.closed.Swap(true) {
		return
	}
	m.space.mu.Lock()
	defer m.space.mu.Unlock()
	m.space.stats.Memories--
}

// Close gives the memory back to the operating system. Nobody may use its bytes after that. It may be called twice.
func (m *Memory) Close() error {
	if m.closed.Swap(true) {
		return nil
	}
	m.buf = nil
	err := m.release(m.max)
	m.space.give(m.part, m.mappings, m.max, m.kept)
	if e := m.image.drop(m.image.digest); err == nil {
		err = e
	}
	return err
}
