package wasi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestFileCallsWaitForTheirTurnAndNoLongerThanTheirInvocation(t *testing.T) {
	gate := NewGate(1)
	opts := Options{Gate: gate, Stdout: &strings.Builder{}, Preopens: []Preopen{{Guest: "/", Host: tree(t, map[string]string{"f": "text", "d/": ""})}}}
	g := newCaller(t, opts)
	f := uint64(g.mustOpen(3, "f", 0, readWrite, 0))
	calls := map[string]func() hostcall.Errno{
		"read":     func() hostcall.Errno { _, e := g.read(uint32(f), 4); return e },
		"write":    func() hostcall.Errno { _, e := g.write(uint32(f), "x"); return e },
		"pwrite":   func() hostcall.Errno { return g.pwrite(uint32(f), "x", 0) },
		"pread":    func() hostcall.Errno { v, n := g.vec(1); return g.call("fd_pread", f, v, n, 0, outAt) },
		"sync":     func() hostcall.Errno { return g.call("fd_sync", f) },
		"datasync": func() hostcall.Errno { return g.call("fd_datasync", f) },
		"allocate": func() hostcall.Errno { return g.call("fd_allocate", f, 0, 10) },
		"size":     func() hostcall.Errno { return g.call("fd_filestat_set_size", f, 5) },
		"times":    func() hostcall.Errno { return g.call("fd_filestat_set_times", f, 0, 0, 2) },
		"advise":   func() hostcall.Errno { return g.call("fd_advise", f, 0, 0, 0) },
		"stat":     func() hostcall.Errno { return g.call("fd_filestat_get", f, outAt) },
		"readdir":  func() hostcall.Errno { return g.call("fd_readdir", 3, dataAt, 100, 0, outAt) },
		"open":     func() hostcall.Errno { _, e := g.open(3, "f", 0, reading, 0); return e },
		"mkdir":    func() hostcall.Errno { return g.path1("path_create_directory", 3, "new") },
		"rmdir":    func() hostcall.Errno { return g.path1("path_remove_directory", 3, "d") },
		"path":     func() hostcall.Errno { return g.stat(3, "f", 0) },
		"link":     func() hostcall.Errno { return g.link(3, 0, "f", 3, "g") },
		"rename":   func() hostcall.Errno { return g.rename(3, "g", 3, "h") },
		"symlink":  func() hostcall.Errno { return g.symlink("f", 3, "s") },
		"unlink":   func() hostcall.Errno { return g.path1("path_unlink_file", 3, "s") },
	}
	gate.slots <- struct{}{} // somebody else's call is in the kernel
	var cancel context.CancelFunc
	g.ctx, cancel = context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	for name, call := range calls {
		g.err = nil
		if call(); !errors.Is(g.err, context.DeadlineExceeded) {
			t.Errorf("%s did not wait: %v", name, g.err)
		}
	}
	g.ctx = context.Background()
	if _, e := g.write(1, "not a file"); e != hostcall.Success {
		t.Errorf("standard output waits for files: %s", e)
	}
	<-gate.slots
	for _, name := range []string{"link", "rename", "symlink"} {
		wantErrno(t, name, calls[name](), hostcall.Success)
	}
	for name, call := range calls {
		if name != "link" && name != "rename" && name != "symlink" {
			wantErrno(t, name, call(), hostcall.Success)
		}
	}
	if len(gate.slots) != 0 {
		t.Errorf("%d turns were not ended", len(gate.slots))
	}
}

func TestTheReserveOfADiskIsKept(t *testing.T) {
	dir := tree(t, map[string]string{"f": "text"})
	g := newCaller(t, Options{DiskReserve: 1 << 62, Preopens: []Preopen{{Guest: "/", Host: dir}}})
	f := uint64(g.mustOpen(3, "f", 0, readWrite, 0))
	for name, call := range map[string]func() hostcall.Errno{
		"write":    func() hostcall.Errno { _, e := g.write(uint32(f), "x"); return e },
		"pwrite":   func() hostcall.Errno { return g.pwrite(uint32(f), "x", 1<<30) },
		"allocate": func() hostcall.Errno { return g.call("fd_allocate", f, 0, 1<<20) },
		"create":   func() hostcall.Errno { _, e := g.open(3, "new", oCreat, readWrite, 0); return e },
		"mkdir":    func() hostcall.Errno { return g.path1("path_create_directory", 3, "new") },
		"symlink":  func() hostcall.Errno { return g.symlink("f", 3, "new") },
		"link":     func() hostcall.Errno { return g.link(3, 0, "f", 3, "new") },
	} {
		wantErrno(t, name, call(), hostcall.ENOSPC)
	}
	if st, err := os.Stat(filepath.Join(dir, "f")); err != nil || st.Size() != 4 {
		t.Errorf("the file changed: %v %v", st, err)
	}
	if l, err := os.ReadDir(dir); err != nil || len(l) != 1 {
		t.Errorf("entries were made: %v %v", l, err)
	}
	if text, e := g.read(uint32(f), 4); text != "text" {
		t.Errorf("reading: %q %s", text, e)
	}
	wantErrno(t, "rename", g.rename(3, "f", 3, "g"), hostcall.Success)
	wantErrno(t, "unlink", g.path1("path_unlink_file", 3, "g"), hostcall.Success)

	// With room to spare, one call that would take it all is refused beforehand.
	g = newCaller(t, Options{DiskReserve: 1, Preopens: []Preopen{{Guest: "/", Host: dir}}})
	f = uint64(g.mustOpen(3, "h", oCreat, readWrite, 0))
	wantErrno(t, "allocate all", g.call("fd_allocate", f, 0, 1<<60), hostcall.ENOSPC)
	for range 3 * spaceStep / spaceBlock { // past several looks
		if e := g.pwrite(uint32(f), "x", 0); e != hostcall.Success {
			t.Fatalf("pwrite: %s", e)
		}
	}
}
