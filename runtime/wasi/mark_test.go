package wasi

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestDescriptorsGoBackToTheirMark(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := Options{Preopens: []Preopen{{Guest: "/d", Host: dir}}}
	g := newCaller(t, opts)
	wantErrno(t, "flags before the mark", g.call("fd_fdstat_set_flags", 0, uint64(fdNonblock)), hostcall.Success)
	mark, err := g.sys.Mark()
	if err != nil {
		t.Fatal(err)
	}
	other := newCaller(t, opts)
	for round := range 3 {
		for _, c := range []*caller{g, other} {
			if err := c.sys.Rewind(mark); err != nil {
				t.Fatal(err)
			}
			if d, e := c.sys.fds.get(0, 0); e != hostcall.Success || d.flags != fdNonblock {
				t.Errorf("round %d: standard input has flags %v", round, d.flags)
			}
			if n := len(c.sys.fds.slots); n != 4 {
				t.Errorf("round %d: %d descriptors", round, n)
			}
			f := c.mustOpen(3, "f", 0, reading, 0)
			if f != 4 {
				t.Errorf("round %d: a file became descriptor %d", round, f)
			}
			if _, err := c.sys.Mark(); !errors.Is(err, ErrDescriptors) {
				t.Errorf("marked with an open file: %v", err)
			}
			wantErrno(t, "flags", c.call("fd_fdstat_set_flags", 0, 0), hostcall.Success)
			wantErrno(t, "fewer rights", c.call("fd_fdstat_set_rights", 3, uint64(rightPathOpen), 0), hostcall.Success)
		}
	}
	if err := g.sys.Rewind(mark); err != nil {
		t.Fatal(err)
	}
	g.mustOpen(3, "f", 0, reading, 0) // with its rights back
	wantErrno(t, "close", g.call("fd_close", 3), hostcall.Success)
	if err := g.sys.Rewind(mark); !errors.Is(err, ErrDescriptors) {
		t.Errorf("a preopen was closed: %v", err)
	}
	if err := newCaller(t, Options{}).sys.Rewind(mark); !errors.Is(err, ErrDescriptors) {
		t.Errorf("a mark of another system: %v", err)
	}
}
