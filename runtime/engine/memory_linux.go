package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// plainPages refuses huge pages: one written byte would cost 2 MiB, to clear and to hold.
func plainPages(b []byte) error {
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel without them
		return fmt.Errorf("refuse huge pages: %w", err)
	}
	return nil
}

// resident tells which pages of a memory are there. One that was swapped out is not.
type resident struct {
	vec  [4096]byte // a page's residence each
	left []byte     // of vec: of pages that were not asked for yet
}

// any reports whether one of the first n bytes of b is there, or nobody knows. What is called next begins where this ended.
func (r *resident) any(b []byte, n int) bool {
	page := os.Getpagesize()
	pages := (n + page - 1) / page
	if len(r.left) < pages {
		have := min(len(b), len(r.vec)*page)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(have), uintptr(unsafe.Pointer(&r.vec[0]))); errno != 0 {
			return true
		}
		r.left = r.vec[:(have+page-1)/page]
	}
	of := r.left[:pages]
	r.left = r.left[pages:]
	return bytes.Count(of, []byte{0}) < len(of)
}
