package main

import (
	goruntime "runtime"
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestNoPageOfTheBallastIsThere(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	var p pace
	p.set(8<<20, 0)
	p.set(8<<20, 1<<30)
	goruntime.GC() // which marks it
	page := unix.Getpagesize()
	there := make([]byte, len(p.ballast)/page)
	if len(there) == 0 {
		t.Fatal("there is no ballast")
	}
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&p.ballast[0])), uintptr(len(p.ballast)), uintptr(unsafe.Pointer(&there[0]))); e != 0 {
		t.Fatal(e)
	}
	n := 0
	for _, b := range there {
		n += int(b & 1)
	}
	if n > len(there)/100 {
		t.Errorf("%d of its %d pages are there", n, len(there))
	}
}
