package engine

import (
	"fmt"
	"sync/atomic"
)

// OwnMemory is a Memory that begins empty. Where the operating system can, addresses for as much as it may have are reserved when it first grows:
// it never moves then, takes only what the guest touches, and what it held goes at once when it is closed. Elsewhere, and where maxReserved others
// have addresses, it is of Go's heap.
type OwnMemory struct {
	max    uint64 // bytes
	buf    []byte
	all    reservation
	closed atomic.Bool
}

var _ Memory = (*OwnMemory)(nil)

// NewMemory makes a memory of at most maxPages pages. Close is due.
func NewMemory(maxPages uint32) *OwnMemory { return &OwnMemory{max: uint64(maxPages) * PageSize} }

// Bytes implements hostcall.Memory.
func (m *OwnMemory) Bytes() []byte { return m.buf }

// Grow implements Memory.
func (m *OwnMemory) Grow(size uint64) error {
	switch {
	case size > m.max:
		return &LimitError{Limit: "memory", Used: size, Max: m.max}
	case size <= uint64(len(m.buf)):
		return nil
	}
	buf, err := m.all.extend(m.buf, size, m.max)
	if err != nil {
		return fmt.Errorf("grow memory to %d bytes: %w", size, err)
	}
	m.buf = buf
	return nil
}

// Close gives the memory back. No instance may run on it any more, and nobody may use its bytes after that. It may be called twice.
func (m *OwnMemory) Close() error {
	if m.closed.Swap(true) {
		return nil
	}
	m.buf, m.max = nil, 0
	return m.all.release()
}

// longer makes buf, of Go's heap, longer: by a quarter more, so that a guest that grows page by page does not copy its memory each time.
func longer(buf []byte, size, max uint64) []byte {
	if size <= uint64(cap(buf)) {
		return buf[:size]
	}
	to := make([]byte, size, min(max, size+size/4))
	copy(to, buf)
	return to
}
