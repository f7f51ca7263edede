package policy_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/doortest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// guest is a WASI guest with /data, judged by rules.
type guest struct {
	*doortest.Guest
	dir string
}

const dataFD = 3

func newGuest(t *testing.T, rules ...policy.Rule) *guest {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"private/deep", "public", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"private/key": "secret", "private/deep/key": "secret", "public/key": "open", "other/key": "open"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sys, err := wasi.New(wasi.Options{Preopens: []wasi.Preopen{{Guest: "/data", Host: dir}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Close() })
	table, err := hostcall.NewTable(wasi.Library())
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(rules, table)
	if err != nil {
		t.Fatal(err)
	}
	return &guest{doortest.NewIn(t, table, []hostcall.Binding{{Library: wasi.Library(), State: sys}}, p), dir}
}

var noPrivate = policy.Rule{On: policy.OneOrMany{"path_open"}, When: `call.path.startsWith("/data/private/")`, Do: "deny", Errno: "EPERM"}

const (
	oDirectory = 2
	rightsRead = 1<<1 | 1<<2 | 1<<5 | 1<<13 | 1<<14 // read, seek, tell, open, readdir
	rightsAll  = 1<<29 - 1
)

func (g *guest) must(e hostcall.Errno, err error) hostcall.Errno {
	g.T.Helper()
	if err != nil {
		g.T.Errorf("the guest was ended: %v", err)
	}
	return e
}

func (g *guest) open(fd uint32, path string, oflags int) (uint32, hostcall.Errno) {
	g.T.Helper()
	out := g.Put(make([]byte, 4))
	rights := uint64(rightsRead)
	if oflags&oDirectory != 0 {
		rights = 1<<9 | 1<<13 | 1<<14 | 1<<11 | 1<<12 | 1<<16 | 1<<17
	}
	e := g.must(g.Call("path_open", fd, 1, path, oflags, rights, uint64(rightsRead), 0, out))
	return binary.LittleEndian.Uint32(g.Memory()[out:]), e
}

func (g *guest) read(fd uint32) string {
	g.T.Helper()
	buf, n := g.Put(make([]byte, 16)), g.Put(make([]byte, 4))
	vec := g.Put(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, buf), 16))
	if e := g.must(g.Call("fd_read", fd, vec, 1, n)); e != hostcall.Success {
		g.T.Errorf("fd_read = %s", e)
	}
	return string(g.Memory()[buf : buf+binary.LittleEndian.Uint32(g.Memory()[n:])])
}

func TestNoWordsLeadAroundAPathRule(t *testing.T) {
	g := newGuest(t, noPrivate)
	for link, to := range map[string]string{"link": "private/key", "linkdir": "private", "public/up": "../private/key", "far": "linkdir/key"} {
		if err := os.Symlink(to, filepath.Join(g.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{
		"private/key", "./private/key", ".//private//key", "public/../private/key", "private/deep/../key", "private/./deep/key", "link", "linkdir/key", "public/up", "far", "linkdir/deep/key",
	} {
		if _, e := g.open(dataFD, path, 0); e != hostcall.EPERM {
			t.Errorf("open %s = %s", path, e)
		}
	}
	if fd, e := g.open(dataFD, "public/key", 0); e != hostcall.Success || g.read(fd) != "open" {
		t.Errorf("open public/key = %s", e)
	}
	if _, e := g.open(dataFD, "public/none", 0); e != hostcall.ENOENT {
		t.Errorf("open public/none = %s", e)
	}

	// Relative to a descriptor of the directory itself, under any number.
	for _, dir := range []string{"private", "linkdir"} {
		fd, e := g.open(dataFD, dir, oDirectory)
		if e != hostcall.Success {
			t.Fatalf("open %s = %s", dir, e)
		}
		if _, e := g.open(fd, "key", 0); e != hostcall.EPERM {
			t.Errorf("open key relative to %s = %s", dir, e)
		}
		spare, e := g.open(dataFD, "public", oDirectory)
		if e != hostcall.Success {
			t.Fatal(e)
		}
		if e := g.must(g.Call("fd_renumber", fd, spare)); e != hostcall.Success {
			t.Fatalf("fd_renumber = %s", e)
		}
		if _, e := g.open(spare, "key", 0); e != hostcall.EPERM {
			t.Errorf("open key relative to renumbered %s = %s", dir, e)
		}
	}
}

func TestRenamesAndLinksOfFilesAreJudgedByBothNames(t *testing.T) {
	g := newGuest(t, noPrivate)
	rename := func(from, to string) hostcall.Errno { return g.must(g.Call("path_rename", dataFD, from, dataFD, to)) }
	link := func(from, to string) hostcall.Errno { return g.must(g.Call("path_link", dataFD, 0, from, dataFD, to)) }
	for _, c := range []struct {
		what     string
		do       func(from, to string) hostcall.Errno
		from, to string
		want     hostcall.Errno
	}{
		{"rename out", rename, "private/key", "public/stolen", hostcall.EPERM},
		{"rename in", rename, "public/key", "private/new", hostcall.EPERM},
		{"link out", link, "private/key", "public/stolen", hostcall.EPERM},
		{"link in", link, "public/key", "private/new", hostcall.EPERM},
		{"rename the directory", rename, "private", "public/p", hostcall.EPERM},
		{"rename another directory", rename, "other", "public/o", hostcall.EPERM},
		{"rename what is not there", rename, "none", "public/x", hostcall.ENOENT},
		{"rename a file", rename, "public/key", "public/renamed", hostcall.Success},
		{"link a file", link, "public/renamed", "public/linked", hostcall.Success},
	} {
		if e := c.do(c.from, c.to); e != c.want {
			t.Errorf("%s = %s, want %s", c.what, e, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(g.dir, "private", "key")); err != nil {
		t.Error(err)
	}
}

func TestAHostThatSwapsDirectoriesDoesNotLeadAroundAPathRule(t *testing.T) {
	g := newGuest(t, noPrivate)
	at := func(name string) string { return filepath.Join(g.dir, name) }
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			to := "public"
			if n%2 == 0 {
				to = "private"
			}
			_ = os.Symlink(to, at("next"))
			_ = os.Rename(at("next"), at("swap"))
			// A directory and its twin change places, too.
			_ = os.Rename(at("other"), at("away"))
			_ = os.Symlink("private", at("other"))
			_ = os.Remove(at("other"))
			_ = os.Rename(at("away"), at("other"))
		}
	})
	opened := 0
	for n := range 3000 {
		path := "swap/key"
		if n%2 == 0 {
			path = "other/key"
		}
		fd, e := g.open(dataFD, path, 0)
		if e != hostcall.Success {
			continue
		}
		opened++
		if got := g.read(fd); got != "open" {
			t.Fatalf("%s gave %q", path, got)
		}
		g.must(g.Call("fd_close", fd))
	}
	close(stop)
	swapping.Wait()
	if opened == 0 {
		t.Error("nothing could be opened at all")
	}
}

func TestSetLeadsToAnotherObject(t *testing.T) {
	g := newGuest(t, policy.Rule{On: policy.OneOrMany{"path_open"}, When: `call.path.startsWith("/data/private/")`, Do: "set", Set: map[string]string{"path": `"/data/public/" + call.name`}})
	fd, e := g.open(dataFD, "private/deep/key", 0)
	if e != hostcall.Success || g.read(fd) != "open" {
		t.Errorf("open = %s", e)
	}
}
