//go:build wasmtime && cgo

package wasmtime

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/runtime/engine"
)

// ownMemory is linear memory of one instance: addresses for all of it are reserved, so that it never moves, and it takes
// what the guest touches.
type ownMemory struct {
	reserved []byte
	size     uint64
}

func newOwnMemory(max uint64) (*ownMemory, error) {
	if max > math.MaxInt {
		return nil, fmt.Errorf("reserve %d bytes of addresses: too many", max)
	}
	m, err := unix.Mmap(-1, 0, int(max+engine.PageSize), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of addresses: %w", max, err)
	}
	return &ownMemory{reserved: m}, nil
}

// most is the bound. The last page is never used; it is there so that a bound of nothing can be reserved.
func (m *ownMemory) most() uint64 { return uint64(len(m.reserved)) - engine.PageSize }

func (m *ownMemory) Bytes() []byte { return m.reserved[:m.size] }

func (m *ownMemory) Grow(size uint64) error {
	if size > m.most() {
		return &engine.LimitError{Limit: "memory", Used: size, Max: m.most()}
	}
	if size <= m.size {
		return nil
	}
	if err := unix.Mprotect(m.reserved[m.size:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("grow memory to %d bytes: %w", size, err)
	}
	m.size = size
	return nil
}

func (m *ownMemory) close() error {
	r := m.reserved
	m.reserved, m.size = nil, 0
	if r == nil {
		return nil
	}
	return unix.Munmap(r)
}
