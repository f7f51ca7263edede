package engine

import (
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// 37 MiB and a page: neither a whole number of pieces nor one of what the kernel is asked for at once.
func TestOnlyPiecesWithPagesAreGivenBack(t *testing.T) {
	const size = 37<<20 + 4096
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }() // it was mapped just now
	if err := plainPages(b); err != nil {
		t.Fatal(err)
	}
	touched := func() (at []int) {
		if err := pieces(b, func(piece []byte) error {
			at = append(at, int(uintptr(unsafe.Pointer(&piece[0]))-uintptr(unsafe.Pointer(&b[0])))>>20)
			return nil
		}); err != nil {
			t.Error(err)
		}
		return at
	}
	if at := touched(); len(at) != 0 {
		t.Errorf("of new memory pieces %v are there", at)
	}
	for _, at := range []int{0, 3<<20 + 5000, 15<<20 + 1<<20 - 1, 16 << 20, 20 << 20, size - 1} {
		b[at] = 1
	}
	if at := touched(); !slices.Equal(at, []int{0, 3, 15, 16, 20, 37}) {
		t.Errorf("pieces %v are there", at)
	}
	if err := Vacate(b); err != nil {
		t.Fatal(err)
	}
	if at := touched(); len(at) != 0 {
		t.Errorf("afterwards pieces %v are still there", at)
	}
	for at := 0; at < size; at += 4096 {
		if b[at] != 0 || b[at+4095] != 0 {
			t.Fatalf("byte %d is not empty", at)
		}
	}
}
