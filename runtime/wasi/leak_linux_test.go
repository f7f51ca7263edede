package wasi

import (
	"os"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func hostDescriptors(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestNoDescriptorOfTheHostIsLeftBehind(t *testing.T) {
	dir := tree(t, map[string]string{"d/f": "", "cut/f": ""})
	deny := hostcall.Success
	j := &judge{verdict: func(map[string]string) hostcall.Errno { return deny }}
	run := func() {
		s, err := New(Options{Preopens: []Preopen{{Guest: "/", Host: dir, Except: []string{"/cut"}}, {Guest: "/one", Host: dir + "/d/f"}}})
		if err != nil {
			t.Fatal(err)
		}
		g := newCaller(t, Options{}, j)
		g.sys.fds, g.sys.roots = s.fds, s.roots
		for _, deny = range []hostcall.Errno{hostcall.Success, hostcall.EACCES} {
			for _, p := range []string{"d/f", "d", "none", "cut/f", "../x", "d/new"} {
				_, _ = g.open(3, p, 0, reading, 0)
				_, _ = g.open(3, p, oCreat, readWrite, 0)
				g.stat(3, p, 1)
				g.rename(3, p, 3, p)
				g.link(3, 1, p, 3, "d/linked")
				g.path1("path_unlink_file", 3, "d/linked")
				g.path1("path_unlink_file", 3, "d/new")
			}
		}
		if err := g.sys.Close(); err != nil {
			t.Fatal(err)
		}
		if err := g.sys.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
	run()
	before := hostDescriptors(t)
	for range 50 {
		run()
	}
	if after := hostDescriptors(t); after > before+3 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
