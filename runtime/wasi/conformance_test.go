package wasi

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func dirCaller(t testing.TB, files map[string]string) (*caller, string) {
	dir := tree(t, files)
	return newCaller(t, Options{Preopens: []Preopen{{Guest: "/", Host: dir}}}), dir
}

func TestLibraryHasAll46FunctionsAndDescribesEach(t *testing.T) {
	if n := len(Library().Funcs); n != 46 {
		t.Errorf("%d functions", n)
	}
	if _, err := hostcall.NewTable(Library()); err != nil {
		t.Error(err)
	}
}

func TestZeroOptionsGrantNothing(t *testing.T) {
	g := newCaller(t, Options{})
	for fd := uint32(3); fd < 10; fd++ {
		wantErrno(t, "prestat", g.call("fd_prestat_get", uint64(fd), outAt), hostcall.EBADF)
		_, e := g.open(fd, "x", 0, reading, 0)
		wantErrno(t, "open", e, hostcall.EBADF)
	}
	if s, e := g.read(0, 10); s != "" || e != hostcall.Success {
		t.Errorf("stdin: %q, %s", s, e)
	}
	if n, e := g.write(1, "x"); n != 1 || e != hostcall.Success {
		t.Errorf("stdout: %d, %s", n, e)
	}
	for _, name := range []string{"args_sizes_get", "environ_sizes_get"} {
		wantErrno(t, name, g.call(name, outAt, outAt+4), hostcall.Success)
		if g.u32(outAt) != 0 || g.u32(outAt+4) != 0 {
			t.Errorf("%s: %d, %d", name, g.u32(outAt), g.u32(outAt+4))
		}
	}
}

func TestArgumentsAndEnvironmentAreWrittenWhereTheyFit(t *testing.T) {
	g := newCaller(t, Options{Args: []string{"a", "bc"}, Env: []string{"K=v"}})
	wantErrno(t, "args_get", g.call("args_get", outAt, dataAt), hostcall.Success)
	if got := string(g.mem[dataAt : dataAt+5]); got != "a\x00bc\x00" || g.u32(outAt) != dataAt || g.u32(outAt+4) != dataAt+2 {
		t.Errorf("args %q at %d, %d", got, g.u32(outAt), g.u32(outAt+4))
	}
	end := uint64(len(g.mem))
	wantErrno(t, "args_get past the end", g.call("args_get", outAt, end-4), hostcall.EFAULT)
	wantErrno(t, "args_get past the end", g.call("args_get", end-4, dataAt), hostcall.EFAULT)
	wantErrno(t, "environ_get past the end", g.call("environ_get", outAt, end-3), hostcall.EFAULT)
	if err := g.sys.Provide([]string{"A=1", "B=2"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "environ_sizes_get", g.call("environ_sizes_get", outAt, outAt+4), hostcall.Success)
	if g.u32(outAt) != 2 || g.u32(outAt+4) != 8 {
		t.Errorf("environ after restart: %d, %d", g.u32(outAt), g.u32(outAt+4))
	}
}

func TestExclusiveCreationFollowsNoLink(t *testing.T) {
	g, dir := dirCaller(t, map[string]string{"f": "", "../outside": ""})
	for name, to := range map[string]string{"dangling": "nothing", "link": "f", "loop": "loop", "out": "../outside"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		_, e := g.open(3, name, oCreat|oExcl, readWrite, 0)
		wantErrno(t, name, e, hostcall.EEXIST)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the link named was created: %v", err)
	}
}

func TestOptionsThatContradictThemselvesAreRefused(t *testing.T) {
	dir := tree(t, map[string]string{"f": "", "d/": ""})
	for name, opts := range map[string]Options{
		"environment without a name": {Env: []string{"=x"}},
		"argument with a zero byte":  {Args: []string{"a\x00"}},
		"relative guest path":        {Preopens: []Preopen{{Guest: "x", Host: dir}}},
		"no such host path":          {Preopens: []Preopen{{Guest: "/", Host: dir + "/none"}}},
		"exception outside":          {Preopens: []Preopen{{Guest: "/a", Host: dir, Except: []string{"/b"}}}},
		"exception of everything":    {Preopens: []Preopen{{Guest: "/a", Host: dir, Except: []string{"/a"}}}},
		"device":                     {Preopens: []Preopen{{Guest: "/a", Host: "/dev/tty"}}},
		"negative limit":             {MaxFiles: -1},
	} {
		if s, err := New(opts); err == nil {
			t.Errorf("%s: no error", name)
			_ = s.Close()
		}
	}
}

func TestRightsAreInheritedAndOnlyShrink(t *testing.T) {
	g, _ := dirCaller(t, map[string]string{"d/f": "hello"})
	d := g.mustOpen(3, "d", oDirectory, reading, 0)
	wantErrno(t, "grow rights", g.call("fd_fdstat_set_rights", uint64(d), uint64(rightsAll), 0), hostcall.ENOTCAPABLE)
	only := rightPathOpen | rightFDReaddir
	wantErrno(t, "shrink rights", g.call("fd_fdstat_set_rights", uint64(d), uint64(only), uint64(rightFDRead)), hostcall.Success)
	_, e := g.open(d, "f", 0, rightFDRead|rightFDWrite, 0)
	wantErrno(t, "open for more than can be inherited", e, hostcall.ENOTCAPABLE)
	ptr, n := g.text(textAt, "f")
	wantErrno(t, "open", g.call("path_open", uint64(d), 0, ptr, n, 0, uint64(rightFDRead), 0, 0, outAt), hostcall.Success)
	f := g.u32(outAt)
	if s, e := g.read(f, 5); s != "hello" || e != hostcall.Success {
		t.Errorf("read: %q, %s", s, e)
	}
	wantErrno(t, "seek", g.call("fd_seek", uint64(f), 0, 0, outAt), hostcall.ENOTCAPABLE)
	wantErrno(t, "pread", g.call("fd_pread", uint64(f), vecAt, 1, 0, outAt), hostcall.ENOTCAPABLE)
	wantErrno(t, "stat", g.stat(d, "f", 0), hostcall.ENOTCAPABLE)
	wantErrno(t, "mkdir", g.path1("path_create_directory", d, "x"), hostcall.ENOTCAPABLE)
	_, e = g.open(d, "x", oCreat, rightFDRead, 0)
	wantErrno(t, "create", e, hostcall.ENOTCAPABLE)
}

func TestRenumberReplacesPreopensAndStandardStreams(t *testing.T) {
	var out bytes.Buffer
	dir := tree(t, map[string]string{"f": "hello"})
	g := newCaller(t, Options{Stdout: &out, Preopens: []Preopen{{Guest: "/", Host: dir}, {Guest: "/b", Host: dir}}})
	f := g.mustOpen(3, "f", 0, readWrite, 0)
	wantErrno(t, "over a closed number", g.call("fd_renumber", uint64(f), 99), hostcall.EBADF)
	wantErrno(t, "onto itself", g.call("fd_renumber", uint64(f), uint64(f)), hostcall.Success)
	wantErrno(t, "over stdin", g.call("fd_renumber", uint64(f), 0), hostcall.Success)
	if s, e := g.read(0, 9); s != "hello" || e != hostcall.Success {
		t.Errorf("read 0: %q, %s", s, e)
	}
	wantErrno(t, "the old number", g.call("fd_close", uint64(f)), hostcall.EBADF)
	wantErrno(t, "stdout over a preopen", g.call("fd_renumber", 1, 4), hostcall.Success)
	if _, e := g.write(4, "x"); e != hostcall.Success || out.String() != "x" {
		t.Errorf("write 4: %q, %s", out.String(), e)
	}
	wantErrno(t, "it is no preopen now", g.call("fd_prestat_get", 4, outAt), hostcall.EBADF)
	wantErrno(t, "a preopen over stderr", g.call("fd_renumber", 3, 2), hostcall.Success)
	wantErrno(t, "still a preopen", g.call("fd_prestat_get", 2, outAt), hostcall.Success)
}

func TestPathOpenFlags(t *testing.T) {
	g, dir := dirCaller(t, map[string]string{"d/": "", "f": "hello"})
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("made", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, path string
		oflags     uint64
		base       rights
		want       hostcall.Errno
	}{
		{"a file as a directory", "f", oDirectory, reading, hostcall.ENOTDIR},
		{"a directory to write", "d", 0, readWrite, hostcall.EISDIR},
		{"a directory to read", "d", 0, reading, hostcall.Success},
		{"exclusively what is there", "f", oCreat | oExcl, readWrite, hostcall.EEXIST},
		{"exclusively through a link", "l", oCreat | oExcl, readWrite, hostcall.EEXIST},
		{"create a directory", "x", oCreat | oDirectory, readWrite, hostcall.EINVAL},
		{"create with a slash", "x/", oCreat, readWrite, hostcall.EISDIR},
		{"a file with a slash", "f/", 0, reading, hostcall.ENOTDIR},
		{"nothing", "none", 0, reading, hostcall.ENOENT},
		{"no words", "", 0, reading, hostcall.ENOENT},
		{"a zero byte", "f\x00", 0, reading, hostcall.EINVAL},
		{"bytes that are no text", "\xff", 0, reading, hostcall.EILSEQ},
		{"unknown flags", "f", 16, reading, hostcall.EINVAL},
		{"through a link", "l", 0, reading, hostcall.Success},
		{"create through a link to nothing", "dangling", oCreat, readWrite, hostcall.Success},
		{"a link to itself", "loop", oCreat, readWrite, hostcall.ELOOP},
		{"truncate", "f", oTrunc, readWrite, hostcall.Success},
	} {
		fd, e := g.open(3, c.path, c.oflags, c.base, 0)
		wantErrno(t, c.what, e, c.want)
		if e == hostcall.Success {
			wantErrno(t, "close", g.call("fd_close", uint64(fd)), hostcall.Success)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		t.Errorf("created through a link: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || len(b) != 0 {
		t.Errorf("truncated file: %q, %v", b, err)
	}
	ptr, n := g.text(textAt, "l")
	wantErrno(t, "a link without following", g.call("path_open", 3, 0, ptr, n, 0, uint64(reading), 0, 0, outAt), hostcall.ELOOP)
	long := strings.Repeat("a/", MaxPath/2) + "b"
	_, e := g.open(3, long, 0, reading, 0)
	wantErrno(t, "a path too long", e, hostcall.ENAMETOOLONG)
}

func TestReadlinkCutsWhatDoesNotFit(t *testing.T) {
	g, _ := dirCaller(t, map[string]string{"f": ""})
	wantErrno(t, "symlink", g.symlink("somewhere/else", 3, "l"), hostcall.Success)
	ptr, n := g.text(textAt, "l")
	wantErrno(t, "readlink", g.call("path_readlink", 3, ptr, n, dataAt, 4, outAt), hostcall.Success)
	if got := string(g.mem[dataAt : dataAt+5]); got != "some\x00" || g.u32(outAt) != 4 {
		t.Errorf("%q, %d", got, g.u32(outAt))
	}
	ptr, n = g.text(textAt, "f")
	wantErrno(t, "readlink of a file", g.call("path_readlink", 3, ptr, n, dataAt, 4, outAt), hostcall.EINVAL)
	wantErrno(t, "absolute symlink", g.symlink("/etc", 3, "abs"), hostcall.EPERM)
}

func TestAppendWritesToTheEndAndPwriteWhereItSays(t *testing.T) {
	g, dir := dirCaller(t, nil)
	f := g.mustOpen(3, "f", oCreat, readWrite, fdAppend)
	if _, e := g.write(f, "aa"); e != hostcall.Success {
		t.Fatal(e)
	}
	wantErrno(t, "seek", g.call("fd_seek", uint64(f), 0, 0, outAt), hostcall.Success)
	if _, e := g.write(f, "bb"); e != hostcall.Success {
		t.Fatal(e)
	}
	wantErrno(t, "pwrite", g.pwrite(f, "X", 1), hostcall.Success)
	wantErrno(t, "tell", g.call("fd_tell", uint64(f), outAt), hostcall.Success)
	if g.u64(outAt) != 4 {
		t.Errorf("offset %d", g.u64(outAt))
	}
	if _, e := g.write(f, "c"); e != hostcall.Success {
		t.Fatal(e)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "aXbbc" {
		t.Errorf("%q", b)
	}
	wantErrno(t, "flags off", g.call("fd_fdstat_set_flags", uint64(f), 0), hostcall.Success)
	wantErrno(t, "seek", g.call("fd_seek", uint64(f), 0, 0, outAt), hostcall.Success)
	if _, e := g.write(f, "Z"); e != hostcall.Success {
		t.Fatal(e)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "ZXbbc" {
		t.Errorf("%q", b)
	}
	wantErrno(t, "sync cannot be switched on", g.call("fd_fdstat_set_flags", uint64(f), uint64(fdSync)), hostcall.ENOTSUP)
	wantErrno(t, "unknown flags", g.call("fd_fdstat_set_flags", uint64(f), 32), hostcall.EINVAL)
}

func TestWrongKindsOfDescriptorsSayWhy(t *testing.T) {
	g, _ := dirCaller(t, map[string]string{"f": "hello", "d/": ""})
	f := uint64(g.mustOpen(3, "f", 0, readWrite, 0))
	v, n := g.vec(4)
	for _, c := range []struct {
		what string
		got  hostcall.Errno
		want hostcall.Errno
	}{
		{"read a directory", g.call("fd_read", 3, v, n, outAt), hostcall.EISDIR},
		{"write a directory", g.call("fd_write", 3, v, n, outAt), hostcall.EBADF},
		{"seek a directory", g.call("fd_seek", 3, 0, 0, outAt), hostcall.EBADF},
		{"seek stdout", g.call("fd_seek", 1, 0, 0, outAt), hostcall.ESPIPE},
		{"tell stdin", g.call("fd_tell", 0, outAt), hostcall.ESPIPE},
		{"list a file", g.call("fd_readdir", f, dataAt, 100, 0, outAt), hostcall.EBADF},
		{"open below a file", g.path1("path_create_directory", uint32(f), "x"), hostcall.ENOTDIR},
		{"accept on a file", g.call("sock_accept", f, 0, outAt), hostcall.ENOTSOCK},
		{"receive from a file", g.call("sock_recv", f, v, n, 0, outAt, outAt+4), hostcall.ENOTSOCK},
		{"send to stdout", g.call("sock_send", 1, v, n, 0, outAt), hostcall.ENOTSOCK},
		{"shut a directory down", g.call("sock_shutdown", 3, 3), hostcall.ENOTSOCK},
		{"receive from nothing", g.call("sock_recv", 77, v, n, 0, outAt, outAt+4), hostcall.EBADF},
		{"bad whence", g.call("fd_seek", f, 0, 3, outAt), hostcall.EINVAL},
		{"seek before the start", g.call("fd_seek", f, 1<<64-1, 0, outAt), hostcall.EINVAL},
		{"bad advice", g.call("fd_advise", f, 0, 0, 6), hostcall.EINVAL},
		{"allocate nothing", g.call("fd_allocate", f, 0, 0), hostcall.EINVAL},
		{"times twice", g.call("fd_filestat_set_times", f, 0, 0, 3), hostcall.EINVAL},
		{"too many vectors", g.call("fd_read", f, vecAt, MaxVectors+1, outAt), hostcall.EINVAL},
		{"raise", g.call("proc_raise", 9), hostcall.ENOTSUP},
		{"prestat name too short", g.call("fd_prestat_dir_name", 3, outAt, 0), hostcall.ENAMETOOLONG},
		{"unlink a directory", g.path1("path_unlink_file", 3, "d"), hostcall.EISDIR},
		{"remove a file as directory", g.path1("path_remove_directory", 3, "f"), hostcall.ENOTDIR},
		{"remove dot", g.path1("path_remove_directory", 3, "."), hostcall.EINVAL},
		{"make what is there", g.path1("path_create_directory", 3, "d"), hostcall.EEXIST},
		{"out pointer outside", g.call("fd_seek", f, 0, 0, uint64(len(g.mem))-4), hostcall.EFAULT},
	} {
		wantErrno(t, c.what, c.got, c.want)
	}
}

func TestProcExitEndsTheGuestWithItsCode(t *testing.T) {
	g := newCaller(t, Options{})
	g.call("proc_exit", 7)
	var exit *hostcall.ExitError
	if !errors.As(g.err, &exit) || exit.Code != 7 {
		t.Errorf("%v", g.err)
	}
}

func TestDescriptorsAreBounded(t *testing.T) {
	dir := tree(t, map[string]string{"f": ""})
	g := newCaller(t, Options{MaxFiles: 6, Preopens: []Preopen{{Guest: "/", Host: dir}}})
	for range 2 {
		g.mustOpen(3, "f", 0, reading, 0)
	}
	_, e := g.open(3, "f", 0, reading, 0)
	wantErrno(t, "one too many", e, hostcall.EMFILE)
	_, e = g.open(3, "new", oCreat, readWrite, 0)
	wantErrno(t, "create one too many", e, hostcall.EMFILE)
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("a file was created without a descriptor for it")
	}
	wantErrno(t, "close", g.call("fd_close", 4), hostcall.Success)
	if fd := g.mustOpen(3, "f", 0, reading, 0); fd != 4 {
		t.Errorf("lowest free number: %d", fd)
	}
}

func TestOneCallMovesABoundedAmount(t *testing.T) {
	g, _ := dirCaller(t, nil)
	f := g.mustOpen(3, "f", oCreat, readWrite, 0)
	v, n := g.vec(2 << 20)
	wantErrno(t, "write", g.call("fd_write", uint64(f), v, n, outAt), hostcall.Success)
	if g.u32(outAt) != MaxTransfer {
		t.Errorf("wrote %d", g.u32(outAt))
	}
}

func TestReaddirGivesEachLastingEntryOnceWhileOthersComeAndGo(t *testing.T) {
	files := map[string]string{}
	for i := range 300 {
		files["lasting-"+strings.Repeat("x", i%17)+string(rune('a'+i%26))+itoa(i)] = ""
		files["going-"+itoa(i)] = ""
	}
	g, dir := dirCaller(t, files)
	d := g.mustOpen(3, ".", oDirectory, reading, 0)
	for _, piece := range []int{64, 300, 4096} {
		step := 0
		names := g.readdir(d, piece, func() {
			_ = os.Remove(filepath.Join(dir, "going-"+itoa(step)))
			_ = os.WriteFile(filepath.Join(dir, "coming-"+itoa(step)), nil, 0o666)
			step++
		})
		seen := map[string]int{}
		for _, n := range names {
			seen[n]++
		}
		for name := range files {
			if strings.HasPrefix(name, "lasting-") && seen[name] != 1 {
				t.Errorf("pieces of %d: %s seen %d times", piece, name, seen[name])
			}
		}
		if seen["."] != 1 || seen[".."] != 1 {
			t.Errorf("pieces of %d: dots %d, %d", piece, seen["."], seen[".."])
		}
	}
	if names := g.readdir(d, 1<<16, nil); !slices.Contains(names, "coming-000") {
		t.Error("cookie 0 does not show the directory as it is now")
	}
}

func itoa(i int) string {
	return string(rune('0'+i/100%10)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10))
}
