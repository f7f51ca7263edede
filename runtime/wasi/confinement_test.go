package wasi

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestPathsCannotLeaveTheirDirectory(t *testing.T) {
	outer := tree(t, map[string]string{"secret": "no", "root/sub/f": "yes", "root/f": "yes"})
	root := filepath.Join(outer, "root")
	for link, to := range map[string]string{
		"up": "..", "abs": outer, "file": "../secret", "absfile": filepath.Join(outer, "secret"), "sub/up": "../..", "proc": "/proc/self/root",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	g := newCaller(t, Options{Preopens: []Preopen{{Guest: "/", Host: root}}})
	sub := g.mustOpen(3, "sub", oDirectory, reading, 0)
	for _, p := range []string{"../secret", "sub/../../secret", "/secret", outer + "/secret", "up/secret", "abs/secret", "file", "absfile", "sub/up/secret", "proc/etc"} {
		_, e := g.open(3, p, 0, reading, 0)
		wantErrno(t, "open "+p, e, hostcall.EPERM)
		_, e = g.open(3, p, oCreat|oTrunc, readWrite, 0)
		wantErrno(t, "create "+p, e, hostcall.EPERM)
		wantErrno(t, "stat "+p, g.stat(3, p, 1), hostcall.EPERM)
		wantErrno(t, "link "+p, g.link(3, 1, p, 3, "stolen"), hostcall.EPERM)
	}
	for _, p := range []string{"../new", "up/new", "abs/new", "/new", "sub/up/new"} {
		wantErrno(t, "mkdir "+p, g.path1("path_create_directory", 3, p), hostcall.EPERM)
		wantErrno(t, "unlink "+p, g.path1("path_unlink_file", 3, p), hostcall.EPERM)
		wantErrno(t, "rmdir "+p, g.path1("path_remove_directory", 3, p), hostcall.EPERM)
		wantErrno(t, "symlink "+p, g.symlink("x", 3, p), hostcall.EPERM)
		wantErrno(t, "rename to "+p, g.rename(3, "f", 3, p), hostcall.EPERM)
		wantErrno(t, "rename from "+p, g.rename(3, p, 3, "x"), hostcall.EPERM)
	}
	_, e := g.open(sub, "../f", 0, reading, 0)
	wantErrno(t, "above a descriptor of its own", e, hostcall.EPERM)
	if b, err := os.ReadFile(filepath.Join(outer, "secret")); err != nil || string(b) != "no" {
		t.Errorf("the secret: %q, %v", b, err)
	}
}

func TestReadOnlyPreopensDoNotChange(t *testing.T) {
	dir := tree(t, map[string]string{"f": "hello", "d/": ""})
	rw := tree(t, nil)
	g := newCaller(t, Options{Preopens: []Preopen{{Guest: "/", Host: dir, ReadOnly: true}, {Guest: "/rw", Host: rw}}})
	f := uint64(g.mustOpen(3, "f", 0, reading, 0))
	_, openErr := g.open(3, "f", 0, readWrite, 0)
	_, truncErr := g.open(3, "f", oTrunc, reading, 0)
	_, createErr := g.open(3, "x", oCreat, reading, 0)
	d := g.mustOpen(3, "d", oDirectory, reading, 0)
	for what, e := range map[string]hostcall.Errno{
		"open to write": openErr, "truncate": truncErr, "create": createErr,
		"mkdir":     g.path1("path_create_directory", 3, "x"),
		"mkdir sub": g.path1("path_create_directory", d, "x"),
		"rmdir":     g.path1("path_remove_directory", 3, "d"),
		"unlink":    g.path1("path_unlink_file", 3, "f"),
		"symlink":   g.symlink("x", 3, "y"),
		"rename":    g.rename(3, "f", 4, "f"),
		"into":      g.rename(4, "f", 3, "f"),
		"link out":  g.link(3, 0, "f", 4, "f"), // through the new name it could be written
		"set size":  g.call("fd_filestat_set_size", f, 0),
		"set times": g.call("fd_filestat_set_times", f, 0, 0, 1),
	} {
		wantErrno(t, what, e, hostcall.EROFS)
	}
	if fd, e := g.open(3, "f", oCreat, reading, 0); e != hostcall.Success {
		t.Errorf("open with CREAT of what is there: %d, %s", fd, e)
	}
}

func TestExceptionsAreOutOfReachWhateverTheWords(t *testing.T) {
	dir := tree(t, map[string]string{"a/private/key": "no", "a/f": "", "b/": "", "real/k": "no"})
	if err := os.Symlink("../a/private", filepath.Join(dir, "b", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "words")); err != nil {
		t.Fatal(err)
	}
	g := newCaller(t, Options{Preopens: []Preopen{{Guest: "/g", Host: dir, Except: []string{"/g/a/private", "/g/words", "/g/none"}}}})
	a := g.mustOpen(3, "a", oDirectory, reading, 0)
	for _, c := range []struct {
		fd   uint32
		path string
	}{
		{3, "a/private"}, {3, "a/private/key"}, {3, "./a//private/./key"}, {3, "b/../a/private/key"}, {3, "b/link/key"}, {3, "b/link"},
		{a, "private/key"}, {a, "./private"}, {3, "words/k"}, {3, "real/k"}, {3, "none"},
	} {
		_, e := g.open(c.fd, c.path, 0, reading, 0)
		if c.path != "none" {
			wantErrno(t, "open "+c.path, e, hostcall.EACCES)
			wantErrno(t, "stat "+c.path, g.stat(c.fd, c.path, 1), hostcall.EACCES)
			wantErrno(t, "link "+c.path, g.link(c.fd, 1, c.path, 3, "stolen"), hostcall.EACCES)
		}
		if c.path != "none" && c.path != "b/link" { // the link may be moved: what it leads to stays out of reach
			wantErrno(t, "rename "+c.path, g.rename(c.fd, c.path, 3, "stolen"), hostcall.EACCES)
		}
		_, e = g.open(c.fd, c.path, oCreat, readWrite, 0)
		wantErrno(t, "create "+c.path, e, hostcall.EACCES)
	}
	wantErrno(t, "rename a parent", g.rename(3, "a", 3, "c"), hostcall.EACCES)
	wantErrno(t, "rename over a parent", g.rename(3, "b", 3, "a"), hostcall.EACCES)
	wantErrno(t, "rename into", g.rename(3, "a/f", 3, "a/private/f"), hostcall.EACCES)
	wantErrno(t, "link into", g.link(3, 0, "a/f", 3, "a/private/f"), hostcall.EACCES)
	wantErrno(t, "mkdir in its place", g.path1("path_create_directory", 3, "none"), hostcall.EACCES)
	wantErrno(t, "its sibling", g.stat(3, "a/f", 0), hostcall.Success)
}

func TestDevicesFIFOsAndSocketsAreRefused(t *testing.T) {
	dir := tree(t, map[string]string{"f": ""})
	if err := makeFIFO(filepath.Join(dir, "fifo")); err != nil {
		t.Fatal(err)
	}
	g := newCaller(t, Options{Preopens: []Preopen{{Guest: "/", Host: dir}, {Guest: "/dev", Host: "/dev"}}})
	for _, base := range []rights{reading, readWrite} {
		_, e := g.open(3, "fifo", 0, base, 0)
		wantErrno(t, "fifo", e, hostcall.EACCES)
		_, e = g.open(4, "tty", 0, base, 0)
		wantErrno(t, "tty", e, hostcall.EACCES)
		_, e = g.open(4, "full", 0, base, 0)
		wantErrno(t, "full", e, hostcall.EACCES)
	}
	null := g.mustOpen(4, "null", 0, readWrite, 0)
	if n, e := g.write(null, "gone"); n != 4 || e != hostcall.Success {
		t.Errorf("write: %d, %s", n, e)
	}
	if s, e := g.read(null, 4); s != "" || e != hostcall.Success {
		t.Errorf("read: %q, %s", s, e)
	}
	zero := g.mustOpen(4, "zero", 0, reading, 0)
	if s, e := g.read(zero, 3); s != "\x00\x00\x00" || e != hostcall.Success {
		t.Errorf("read: %q, %s", s, e)
	}
}

func TestPreopenedFilesShowNothingAroundThem(t *testing.T) {
	dir := tree(t, map[string]string{"app.conf": "settings", "other": "no", "second": "2"})
	g := newCaller(t, Options{Preopens: []Preopen{
		{Guest: "/etc/x.conf", Host: filepath.Join(dir, "app.conf"), ReadOnly: true},
		{Guest: "/etc/second", Host: filepath.Join(dir, "second")},
	}})
	wantErrno(t, "one directory for both", g.call("fd_prestat_get", 4, outAt), hostcall.EBADF)
	f := g.mustOpen(3, "./x.conf", 0, reading, 0)
	if s, e := g.read(f, 20); s != "settings" || e != hostcall.Success {
		t.Errorf("%q, %s", s, e)
	}
	second := g.mustOpen(3, "second", oTrunc, readWrite, 0)
	if _, e := g.write(second, "two"); e != hostcall.Success {
		t.Error(e)
	}
	if got := strings.Join(g.readdir(3, 4096, nil), " "); got != ". .. x.conf second" {
		t.Error(got)
	}
	d := g.mustOpen(3, ".", oDirectory, reading, 0)
	for _, c := range []struct {
		path string
		want hostcall.Errno
	}{{"other", hostcall.ENOENT}, {"app.conf", hostcall.ENOENT}, {"../other", hostcall.EPERM}, {"x.conf/", hostcall.ENOTDIR}} {
		_, e := g.open(d, c.path, 0, reading, 0)
		wantErrno(t, c.path, e, c.want)
	}
	_, e := g.open(3, "x.conf", 0, readWrite, 0)
	wantErrno(t, "write a read-only file", e, hostcall.EROFS)
	_, e = g.open(3, "new", oCreat, readWrite, 0)
	wantErrno(t, "create", e, hostcall.EROFS)
	wantErrno(t, "unlink", g.path1("path_unlink_file", 3, "second"), hostcall.EROFS)
}

func TestTheWholeRootDoesNotIncludeTheMemoryOfTheHost(t *testing.T) {
	g := newCaller(t, Options{Preopens: []Preopen{{Guest: "/", Host: "/"}}})
	for _, p := range []string{"proc/self/mem", "proc/self/environ", "proc/1/mem", "proc/self/root/proc/self/mem", "proc/self/fd/0"} {
		for _, base := range []rights{reading, readWrite} {
			if _, e := g.open(3, p, 0, base, 0); e == hostcall.Success {
				t.Errorf("%s was opened", p)
			}
		}
	}
}

// judge keeps what rules would see of the last call.
type judge struct {
	watch    string
	objects  map[string]string
	verdict  func(objects map[string]string) hostcall.Errno
	reason   hostcall.Errno
	dirs     map[string]bool
	override string // replaces the path argument
}

func (j *judge) Watches(f *hostcall.Func) bool { return strings.HasPrefix(f.Name, j.watch) }
func (j *judge) After(*hostcall.Call)          {}

func (j *judge) Before(c *hostcall.Call) hostcall.Verdict {
	if j.override != "" && c.Func.Arg("path") >= 0 {
		c.Resolve()
		c.SetText(c.Func.Arg("path"), []byte(j.override))
	}
	c.Resolve()
	j.objects, j.dirs, j.reason = map[string]string{}, map[string]bool{}, c.Unresolved
	for i, a := range c.Func.Args {
		if a.Kind == hostcall.Path || a.Kind == hostcall.FD && a.Dir == hostcall.In {
			j.objects[a.Name], j.dirs[a.Name] = c.Value(i).Object, c.Value(i).Dir
		}
	}
	if j.verdict != nil {
		if e := j.verdict(j.objects); e != hostcall.Success {
			return c.Deny(e, "test")
		}
	}
	return hostcall.Proceed
}

func TestResolveNamesTheObjectAndTheFunctionUsesIt(t *testing.T) {
	dir := tree(t, map[string]string{"a/f": "a", "b/f": "b", "a/sub/": ""})
	if err := os.Symlink("../b/f", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	j := &judge{}
	g := newCaller(t, Options{Preopens: []Preopen{{Guest: "/data", Host: dir}}}, j)
	a := g.mustOpen(3, "a", oDirectory, reading, 0)
	for _, c := range []struct {
		path, want string
		fd         uint32
		oflags     uint64
	}{
		{"a/f", "/data/a/f", 3, 0}, {"./a/../a//f", "/data/a/f", 3, 0}, {"a/link", "/data/b/f", 3, 0}, {"f", "/data/a/f", a, 0},
		{"sub", "/data/a/sub", a, 0}, {".", "/data/a", a, 0}, {"new", "/data/a/new", a, oCreat},
	} {
		fd := g.mustOpen(c.fd, c.path, c.oflags, reading, 0)
		if j.objects["path"] != c.want {
			t.Errorf("%s: judged as %q, want %q", c.path, j.objects["path"], c.want)
		}
		wantErrno(t, "close", g.call("fd_close", uint64(fd)), hostcall.Success)
		if j.objects["fd"] != c.want {
			t.Errorf("close of %s: judged as %q", c.path, j.objects["fd"])
		}
	}
	_, e := g.open(a, "none/x", oCreat, readWrite, 0)
	wantErrno(t, "below nothing", e, hostcall.ENOENT)
	if j.reason != hostcall.ENOENT || j.objects["path"] != "" {
		t.Errorf("reason %s, object %q", j.reason, j.objects["path"])
	}
	f := g.mustOpen(a, "f", 0, reading, 0)
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	g.call("fd_tell", uint64(f), outAt)
	if j.objects["fd"] != "/data/c/f" {
		t.Errorf("after its parent was renamed: %q", j.objects["fd"])
	}
	if e := g.rename(a, "sub", 3, "moved"); e != hostcall.Success || !j.dirs["old_path"] || j.objects["old_path"] != "/data/c/sub" || j.objects["new_path"] != "/data/moved" {
		t.Errorf("rename: %s, %v, %v", e, j.objects, j.dirs)
	}
	wantErrno(t, "renumber", g.call("fd_renumber", uint64(f), 0), hostcall.Success)
	g.call("fd_tell", 0, outAt)
	if j.objects["fd"] != "/data/c/f" {
		t.Errorf("after renumbering: %q", j.objects["fd"])
	}
	j.override = "b/f"
	if s, e := g.read(g.mustOpen(3, "c/f", 0, reading, 0), 9); s != "b" || e != hostcall.Success {
		t.Errorf("a rewritten path opened %q, %s", s, e)
	}
}

// A rule over objects and an exception must hold while a process of the host swaps directories and links all the while.
func TestNothingLeaksWhileNamesAreSwapped(t *testing.T) {
	outer := tree(t, map[string]string{"secret/f": "outside", "root/open/f": "open", "root/private/f": "private", "root/cut/f": "cut"})
	root := filepath.Join(outer, "root")
	open, err := os.OpenRoot(filepath.Join(root, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	links := []string{"open", "private", "cut", "../secret", "/etc", "open/../private"}
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			tmp := filepath.Join(root, "tmp")
			_ = os.Symlink(links[i%len(links)], tmp)
			_ = os.Rename(tmp, filepath.Join(root, "x"))
			_ = os.Rename(filepath.Join(root, "open"), filepath.Join(root, "moved"))
			_ = os.Symlink("private", filepath.Join(root, "open"))
			runtime.Gosched()
			_ = os.Remove(filepath.Join(root, "open"))
			_ = os.Rename(filepath.Join(root, "moved"), filepath.Join(root, "open"))
		}
	})
	j := &judge{watch: "path_", verdict: func(objects map[string]string) hostcall.Errno {
		for _, o := range objects {
			if within(o, "/private") {
				return hostcall.EACCES
			}
		}
		return hostcall.Success
	}}
	g := newCaller(t, Options{Preopens: []Preopen{{Guest: "/", Host: root, Except: []string{"/cut"}}}}, j)
	read := 0
	for i := range 3000 {
		p := []string{"x/f", "open/f", "open/../x/f"}[i%3]
		fd, e := g.open(3, p, 0, reading, 0)
		if e != hostcall.Success {
			continue
		}
		s, e := g.read(fd, 20)
		if e != hostcall.Success || s != "open" {
			t.Errorf("%s gave %q, %s", p, s, e)
		}
		read++
		g.call("fd_close", uint64(fd))
		if e := g.path1("path_unlink_file", 3, "x/f"); e == hostcall.Success {
			_ = open.WriteFile("f", []byte("open"), 0o666)
		}
	}
	close(stop)
	swapper.Wait()
	if read == 0 {
		t.Error("nothing could be read at all")
	}
	for p, want := range map[string]string{"secret/f": "outside", "root/private/f": "private", "root/cut/f": "cut"} {
		if b, err := os.ReadFile(filepath.Join(outer, p)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
}
