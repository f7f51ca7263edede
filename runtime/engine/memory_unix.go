//go:build linux || darwin

package engine

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// reservation is the addresses of a memory.
type reservation struct {
	addresses []byte
	open      uint64
	heap      bool // there are none: memory is of Go's heap
}

// maxReserved is how many memories have addresses reserved at once. Each takes two of the mappings that the kernel allows a process, 65,530
// as it comes, of which most are for images.
const maxReserved = 2048

var reserved atomic.Int64

// extend makes buf, which lies at the beginning, size bytes long. At most max are ever asked for.
func (r *reservation) extend(buf []byte, size, max uint64) ([]byte, error) {
	if r.addresses == nil && !r.heap && reserved.Add(1) > maxReserved {
		reserved.Add(-1)
		r.heap = true
	}
	if r.heap {
		return longer(buf, size, max), nil
	}
	if r.addresses == nil {
		if max > 1<<46 {
			reserved.Add(-1)
			return nil, fmt.Errorf("%d bytes of addresses are too many", max)
		}
		m, err := unix.Mmap(-1, 0, int(max), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
		if err != nil {
			reserved.Add(-1)
			return nil, fmt.Errorf("reserve %d bytes of addresses: %w", max, err)
		}
		r.addresses = m
		if err := plainPages(m); err != nil {
			return nil, errors.Join(err, r.release())
		}
	}
	if err := unix.Mprotect(r.addresses[r.open:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, fmt.Errorf("open %d bytes: %w", size-r.open, err)
	}
	r.open = size
	return r.addresses[:size], nil
}

func (r *reservation) release() error {
	all := r.addresses
	if all == nil {
		return nil
	}
	reserved.Add(-1)
	err := Vacate(all[:r.open])
	r.addresses, r.open = nil, 0
	if e := unix.Munmap(all); e != nil {
		err = errors.Join(err, fmt.Errorf("unmap memory: %w", e))
	}
	return err
}

// discarded is how many bytes are given back at once.
const discarded = 1 << 20

// Discard gives the pages of b, which begins with one, back to the operating system: of a private mapping that differ from what is mapped. It
// does so piece by piece: other threads that map or unmap something wait while the kernel has one in hand, for tens of milliseconds if it were
// hundreds of megabytes.
func Discard(b []byte) error {
	var courtesy processor.Courtesy
	for len(b) > 0 {
		piece := b[:min(len(b), discarded)]
		if err := discard(piece); err != nil {
			return err
		}
		b = b[len(piece):]
		courtesy.Yield()
	}
	return nil
}

func discard(piece []byte) error {
	if err := unix.Madvise(piece, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("give back %d bytes: %w", len(piece), err)
	}
	return nil
}

// Vacate does what Discard does for memory that is unmapped next, and leaves pieces alone of which the kernel says that no page is there. Where two
// threads do this at once the kernel interrupts all cores that run this process at each piece, whether anything was there or not: a memory of 256 MiB of
// which little was touched would cost everybody 256 of that.
func Vacate(b []byte) error {
	var courtesy processor.Courtesy
	return pieces(b, func(piece []byte) error {
		courtesy.Yield()
		return discard(piece)
	})
}

// pieces calls do for each piece of b that may have a page.
func pieces(b []byte, do func([]byte) error) error {
	var there resident
	for len(b) > 0 {
		piece := b[:min(len(b), discarded)]
		if there.any(b, len(piece)) {
			if err := do(piece); err != nil {
				return err
			}
		}
		b = b[len(piece):]
	}
	return nil
}
