//go:build wasmtime && cgo

package wasi

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wt "github.com/bytecodealliance/wasmtime-go/v44"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// host is one implementation of WASI with a guest's memory.
type host interface {
	call(name string, params ...uint64) hostcall.Errno
	memory() []byte
}

func (g *caller) memory() []byte { return g.mem }

// theirs is wasmtime's own WASI, called by a guest that passes on what it is told.
type theirs struct {
	t     testing.TB
	store *wt.Store
	in    *wt.Instance
}

// passing is a guest that imports every function and exports one for each that calls it with its own parameters.
var passing = func() []byte {
	m := wasmtest.Module{Memory: []uint32{64}}
	for _, f := range Library().Funcs {
		t := wasmtest.Type{}
		for _, p := range f.Params {
			t.Params = append(t.Params, byte(p))
		}
		for _, r := range f.Results {
			t.Results = append(t.Results, byte(r))
		}
		var body []byte
		for i := range t.Params {
			body = append(body, wasmtest.LocalGet(uint32(i))...)
		}
		body = append(body, wasmtest.Call(uint32(len(m.Imports)))...)
		m.Imports = append(m.Imports, wasmtest.Import{Module: Module, Name: f.Name, Type: t})
		m.Funcs = append(m.Funcs, wasmtest.Func{Export: f.Name, Type: t, Body: body})
	}
	return m.Bytes()
}()

// yours is what a sequence of calls begins with on each side: a directory, granted as "/", and files for the standard streams.
type yours struct{ root, stdin, stdout string }

func newYours(t testing.TB, dir string) yours {
	y := yours{filepath.Join(dir, "root"), filepath.Join(dir, "stdin"), filepath.Join(dir, "stdout")}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(y.root, "d", "e"), 0o777))
	for name, text := range map[string]string{"root/f": "hello world", "root/g": "", "root/d/e/h": "deep", "stdin": "input for the guest", "outside": "untouched"} {
		must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	for name, to := range map[string]string{"l": "f", "m": "d", "loop": "loop", "out": "../outside", "dangling": "nothing", "d/up": "../f"} {
		must(os.Symlink(to, filepath.Join(y.root, name)))
	}
	return y
}

var (
	differentialArgs = []string{"prog", "an argument"}
	theirEngine      = wt.NewEngine()
)

func newTheirs(t testing.TB, module *wt.Module, y yours) *theirs {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := wt.NewWasiConfig()
	c.SetArgv(differentialArgs)
	c.SetEnv([]string{"K"}, []string{"v"})
	must(c.SetStdinFile(y.stdin))
	must(c.SetStdoutFile(y.stdout))
	must(c.PreopenDir(y.root, "/", wt.DIR_READ|wt.DIR_WRITE, wt.FILE_READ|wt.FILE_WRITE))
	h := &theirs{t: t, store: wt.NewStore(theirEngine)}
	t.Cleanup(h.store.Close)
	h.store.SetWasi(c)
	l := wt.NewLinker(theirEngine)
	defer l.Close()
	must(l.DefineWasi())
	var err error
	h.in, err = l.Instantiate(h.store, module)
	must(err)
	return h
}

func (h *theirs) memory() []byte {
	return h.in.GetExport(h.store, "memory").Memory().UnsafeData(h.store)
}

func (h *theirs) call(name string, params ...uint64) hostcall.Errno {
	f := h.in.GetFunc(h.store, name)
	args := make([]any, len(params))
	for i, p := range f.Type(h.store).Params() {
		if args[i] = any(int32(params[i])); p.Kind() == wt.KindI64 {
			args[i] = int64(params[i])
		}
	}
	got, err := f.Call(h.store, args...)
	if err != nil {
		return endedThere
	}
	return hostcall.Errno(uint32(got.(int32)))
}

// endedThere stands for a call that ended the guest.
const endedThere = hostcall.Errno(1<<32 - 1)

func newOurs(t testing.TB, y yours) *caller {
	in, err := os.Open(y.stdin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	out, err := os.Create(y.stdout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return newCaller(t, Options{Args: differentialArgs, Env: []string{"K=v"}, Stdin: in, Stdout: out, Preopens: []Preopen{{Guest: "/", Host: y.root}}})
}

// step is one call of a sequence: what to put into memory, the parameters, and what of the memory counts afterwards.
type step struct {
	name   string
	texts  map[int]string
	fds    []int // which parameters are handles, to be replaced by a side's descriptors
	params []uint64
	opens  bool                    // a descriptor comes back at outAt
	shows  func(mem []byte) string // what a success has answered; nil: nothing
}

func (s step) String() string {
	return fmt.Sprintf("%s%v %q", s.name, s.params, slices.Sorted(maps.Values(s.texts)))
}

const noDescriptor = 1 << 20

// sequence draws steps.
type sequence struct {
	*rand.Rand
	handles int // given out so far: 0 to 2 are the standard streams, 3 the directory
	// appends says that a descriptor may append. Ours then still writes where fd_pwrite says (POSIX, and the official tests); theirs, as
	// Linux does, at the end. So that call is not drawn any more.
	appends bool
}

var somePaths = []string{"f", "g", "d", "d/e", "d/e/h", "d/e/new", "l", "m", "m/e", "m/e/h", "loop", "out", "dangling", "d/up", "new", "new2", "nope", "nope/x", "", "..", ".",
	"d/..", "d/../f", "../x", "../root/f", "/f", "/", "d/", "f/", "new/", "./f", "d//e", "f/x", "d/e/../../g", strings.Repeat("n", 256), "l/", "loop/x", "out/x"}

func (s *sequence) path() string             { return somePaths[s.IntN(len(somePaths))] }
func (s *sequence) pick(of ...uint64) uint64 { return of[s.IntN(len(of))] }

// handle is mostly a directory or a file that was opened, and sometimes none.
func (s *sequence) handle() uint64 {
	switch {
	case s.IntN(20) == 0:
		return noDescriptor
	case s.IntN(10) == 0:
		return uint64(s.IntN(3))
	}
	return uint64(3 + s.IntN(s.handles-2))
}

func (s *sequence) directory() uint64 {
	if s.IntN(4) > 0 {
		return 3
	}
	return s.handle()
}

func u32At(mem []byte, at int) uint32 { return binary.LittleEndian.Uint32(mem[at:]) }
func u64At(mem []byte, at int) uint64 { return binary.LittleEndian.Uint64(mem[at:]) }

func counted(mem []byte) string { return fmt.Sprint(u32At(mem, outAt)) }
func read(mem []byte) string    { return fmt.Sprintf("%q", mem[dataAt:dataAt+int(u32At(mem, outAt))]) }
func placed(mem []byte) string  { return fmt.Sprint(u64At(mem, outAt)) }

// stated is a filestat without device, inode and times; a directory's size and links are the file system's.
func stated(mem []byte) string {
	kind, links, size := mem[outAt+16], u64At(mem, outAt+24), u64At(mem, outAt+32)
	if kind == byte(typeDirectory) {
		links, size = 0, 0
	}
	return fmt.Sprintf("type %d, %d links, %d bytes", kind, links, size)
}

// listed is the names and types of a whole listing, in order of names.
func listed(mem []byte) string {
	b := mem[dataAt : dataAt+int(u32At(mem, outAt))]
	var all []string
	for len(b) >= 24 {
		n := int(binary.LittleEndian.Uint32(b[16:]))
		if len(b) < 24+n {
			break
		}
		all = append(all, fmt.Sprintf("%s:%d", b[24:24+n], b[20]))
		b = b[24+n:]
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (s *sequence) next() step {
	on := func(name string, fd uint64, params ...uint64) step {
		return step{name: name, fds: []int{0}, params: append([]uint64{fd}, params...)}
	}
	withPath := func(st step, p string) step { st.texts = map[int]string{textAt: p}; return st }
	vectors := func(st step, text string, n int) step {
		var v [8]byte
		binary.LittleEndian.PutUint32(v[:], dataAt)
		binary.LittleEndian.PutUint32(v[4:], uint32(n))
		st.texts = map[int]string{vecAt: string(v[:]), dataAt: text}
		return st
	}
	times := func() []uint64 { // to a moment, so that both sides have the same
		return []uint64{1_000_000_000 * uint64(s.IntN(1000)), 1_000_000_000 * uint64(s.IntN(1000)), s.pick(0, 1, 4, 5, 5, 5, 3, 12, 16)}
	}
	text := strings.Repeat(string(rune('a'+s.IntN(26))), s.IntN(40))
	offset := s.pick(0, 1, 5, 11, 100, 1<<62, 1<<63, 1<<64-1)
	switch s.IntN(34) {
	case 0, 1, 2, 3, 4, 5:
		p := s.path()
		base := s.pick(uint64(reading), uint64(readWrite), uint64(readWrite), uint64(rightsAll&^rightFDRead))
		flags := s.pick(0, 0, 0, 0, 0, 0, 0, 1)
		s.appends = s.appends || flags == 1
		st := withPath(on("path_open", s.directory(), s.pick(0, 1), textAt, uint64(len(p)), s.pick(0, 0, 0, 1, 1, 2, 3, 4, 5, 8, 9, 10, 13), base, uint64(rightsAll), flags, outAt), p)
		st.opens = true
		return st
	case 6:
		if fd := s.handle(); fd != 3 || s.IntN(8) == 0 { // without the directory little is left to do
			return on("fd_close", fd)
		}
		return s.next()
	case 7, 8:
		st := vectors(on("fd_read", s.handle(), vecAt, 1, outAt), "", s.IntN(50))
		st.shows = read
		return st
	case 9:
		st := vectors(on("fd_pread", s.handle(), vecAt, 1, offset, outAt), "", s.IntN(50))
		st.shows = read
		return st
	case 10, 11:
		st := vectors(on("fd_write", s.handle(), vecAt, 1, outAt), text, len(text))
		st.shows = counted
		return st
	case 12:
		if s.appends {
			return s.next()
		}
		st := vectors(on("fd_pwrite", s.handle(), vecAt, 1, s.pick(0, 1, 5, 100, 1000), outAt), text, len(text))
		st.shows = counted
		return st
	case 13, 14:
		st := on("fd_seek", s.handle(), s.pick(0, 1, 5, 100, 1<<64-1, 1<<64-5, 1<<63), s.pick(0, 0, 1, 2, 3), outAt)
		st.shows = placed
		return st
	case 15:
		st := on("fd_tell", s.handle(), outAt)
		st.shows = placed
		return st
	case 16:
		return on([]string{"fd_sync", "fd_datasync"}[s.IntN(2)], s.handle())
	case 17:
		return on("fd_advise", s.handle(), s.pick(0, 5), s.pick(0, 10), s.pick(0, 1, 2, 3, 4, 5, 6))
	case 18:
		return on("fd_allocate", s.handle(), s.pick(0, 5), s.pick(0, 10, 100))
	case 19:
		st := on("fd_filestat_get", s.handle(), outAt)
		st.shows = stated
		return st
	case 20:
		return on("fd_filestat_set_size", s.handle(), s.pick(0, 3, 100, 5000, 1<<63))
	case 21:
		return on("fd_filestat_set_times", s.handle(), times()...)
	case 22:
		st := on("fd_fdstat_get", s.handle(), outAt)
		st.shows = func(mem []byte) string { return fmt.Sprintf("type %d, flags %x", mem[outAt], mem[outAt+2]) }
		return st
	case 23:
		flags := s.pick(0, 0, 0, 1, 2, 4, 32)
		s.appends = s.appends || flags&1 != 0
		return on("fd_fdstat_set_flags", s.handle(), flags)
	case 24:
		st := on("fd_readdir", s.handle(), dataAt, 8192, 0, outAt)
		st.shows = listed
		return st
	case 25:
		return step{name: "fd_renumber", fds: []int{0, 1}, params: []uint64{s.handle(), s.handle()}}
	case 26:
		p := s.path()
		st := withPath(on("path_filestat_get", s.directory(), s.pick(0, 1), textAt, uint64(len(p)), outAt), p)
		st.shows = stated
		return st
	case 27:
		p := s.path()
		return withPath(on("path_filestat_set_times", s.directory(), append([]uint64{s.pick(0, 1), textAt, uint64(len(p))}, times()...)...), p)
	case 28:
		p := s.path()
		st := withPath(on("path_readlink", s.directory(), textAt, uint64(len(p)), dataAt, s.pick(0, 2, 100), outAt), p)
		st.shows = read
		return st
	case 29, 30:
		p := s.path()
		return withPath(on([]string{"path_create_directory", "path_remove_directory", "path_unlink_file"}[s.IntN(3)], s.directory(), textAt, uint64(len(p))), p)
	case 31:
		p, q := s.path(), s.path()
		return step{name: "path_link", fds: []int{0, 4}, texts: map[int]string{textAt: p, text2At: q},
			params: []uint64{s.directory(), s.pick(0, 0, 1), textAt, uint64(len(p)), s.directory(), text2At, uint64(len(q))}}
	case 32:
		p, q := s.path(), s.path()
		return step{name: "path_rename", fds: []int{0, 3}, texts: map[int]string{textAt: p, text2At: q},
			params: []uint64{s.directory(), textAt, uint64(len(p)), s.directory(), text2At, uint64(len(q))}}
	}
	p, q := s.path(), s.path()
	return step{name: "path_symlink", fds: []int{2}, texts: map[int]string{textAt: p, text2At: q},
		params: []uint64{textAt, uint64(len(p)), s.directory(), text2At, uint64(len(q))}}
}

// do makes a step's call on one side, whose descriptors are fds, and answers what it shows.
func (s step) do(h host, fds *[]uint32) (hostcall.Errno, string) {
	mem := h.memory()
	clear(mem[outAt : outAt+64])
	clear(mem[dataAt : dataAt+8192])
	for at, text := range s.texts {
		copy(mem[at:], text)
	}
	params := slices.Clone(s.params)
	for _, i := range s.fds {
		if n := params[i]; n < uint64(len(*fds)) {
			params[i] = uint64((*fds)[n])
		}
	}
	e := h.call(s.name, params...)
	if e != hostcall.Success {
		return e, ""
	}
	mem = h.memory()
	if s.opens {
		*fds = append(*fds, u32At(mem, outAt))
	}
	if s.shows == nil {
		return e, ""
	}
	return e, s.shows(mem)
}

// content describes all that is in a directory.
func content(t testing.TB, dir string) string {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			fmt.Fprintf(&b, "%s -> %s\n", rel, to)
			return err
		case e.IsDir():
			fmt.Fprintf(&b, "%s/\n", rel)
		default:
			info, err := e.Info()
			if err != nil {
				return err
			}
			if info.Size() > 1<<16 {
				fmt.Fprintf(&b, "%s: %d bytes\n", rel, info.Size())
				return nil
			}
			text, err := os.ReadFile(path)
			fmt.Fprintf(&b, "%s: %q\n", rel, text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// difference is what ours may answer where theirs answers something else.
type difference struct {
	names        []string // of the functions; nil: any
	ours, theirs []hostcall.Errno
	when         func(s step) bool // nil: always
	why          string
}

// refusals are what either side may say when both refuse: then only the reason that is found first differs.
var refusals = []hostcall.Errno{hostcall.EACCES, hostcall.EBADF, hostcall.EBUSY, hostcall.EEXIST, hostcall.EINVAL, hostcall.EISDIR, hostcall.ELOOP, hostcall.ENAMETOOLONG,
	hostcall.ENOENT, hostcall.ENOTDIR, hostcall.ENOTEMPTY, hostcall.EPERM, hostcall.ENOTCAPABLE, hostcall.ESPIPE, hostcall.ENOTSUP}

func errnos(e ...hostcall.Errno) []hostcall.Errno { return e }

var success = errnos(hostcall.Success)

// deliberate are all differences that are meant, or that are theirs.
var deliberate = []difference{
	{[]string{"fd_read", "fd_pread", "fd_write", "fd_pwrite", "fd_advise", "fd_allocate", "fd_filestat_set_size", "fd_filestat_set_times", "fd_fdstat_set_flags", "fd_sync", "fd_datasync", "fd_readdir", "fd_seek", "fd_tell"},
		errnos(hostcall.EISDIR, hostcall.ENOTDIR, hostcall.ESPIPE, hostcall.EINVAL, hostcall.ENOTSUP, hostcall.ENOTCAPABLE), errnos(hostcall.EBADF), nil,
		"a descriptor of another kind, or without the right: ours says which, theirs has EBADF for all"},
	{nil, errnos(hostcall.ENOTDIR), errnos(hostcall.EBADF), hasPath, "a path beneath a descriptor that is no directory"},
	{[]string{"fd_advise", "fd_seek", "fd_fdstat_set_flags", "fd_filestat_set_times", "path_filestat_set_times"}, append(refusals, hostcall.Success), errnos(endedThere), nil,
		"a number that stands for no advice, whence or flag ends the guest there; ours answers an errno, and looks at the descriptor first"},
	{[]string{"fd_filestat_set_times", "path_filestat_set_times", "fd_fdstat_set_flags", "fd_pread", "fd_pwrite"}, refusals, errnos(hostcall.EINVAL), nil,
		"flags that contradict each other or cannot be had, and offsets past the largest, are found first there"},
	{[]string{"fd_allocate"}, append(refusals, hostcall.Success, hostcall.EFBIG), errnos(hostcall.ENOTSUP), nil, "theirs allocates nothing"},
	{[]string{"fd_sync", "fd_datasync", "fd_filestat_set_times", "fd_fdstat_set_flags"}, success, errnos(hostcall.EBADF), nil,
		"directories and standard streams: POSIX, and so ours, can sync a directory, set its times, and set flags of both"},
	{[]string{"fd_write", "fd_pwrite", "fd_datasync", "fd_sync", "fd_read", "fd_pread", "fd_advise"}, errnos(hostcall.ENOTCAPABLE), success, nil, "theirs keeps no rights"},
	{[]string{"fd_filestat_set_size"}, errnos(hostcall.EINVAL), success, nil,
		"theirs opens for writing whatever may be asked to change its size; ours opens what is not to be written for reading, as Go's guests want for files that are read-only"},
	{[]string{"fd_read"}, success, errnos(hostcall.EINTR), func(s step) bool { return s.texts[vecAt][4:] == "\x00\x00\x00\x00" }, "reading nothing from standard input"},
	{[]string{"path_open"}, success, errnos(hostcall.EISDIR, hostcall.EINVAL), nil, "a directory opened with the rights of a file: ours leaves those out (witx: path_open), theirs refuses"},
	{[]string{"path_link"}, success, errnos(hostcall.EINVAL), func(s step) bool { return s.params[1] == 1 }, "theirs links no target of a link"},
	{[]string{"path_filestat_set_times"}, errnos(hostcall.ENOENT, hostcall.EPERM, hostcall.ELOOP, hostcall.ENOTDIR, hostcall.ENAMETOOLONG, hostcall.EBADF), success, func(s step) bool { return s.params[6] == 0 },
		"with nothing to set theirs looks at no path"},
	{[]string{"path_rename", "path_filestat_get", "path_filestat_set_times", "path_open", "path_readlink", "path_link", "path_unlink_file"}, errnos(hostcall.ENOTDIR, hostcall.ENOENT, hostcall.EINVAL), success, slashed,
		"a slash behind what is no directory: POSIX, and so ours, refuses it (ENOTDIR)"},
	{nil, refusals, refusals, hasPath, "several reasons to refuse: theirs looks at flags, then at the last name, and then at what leads there; for \"..\" and for what leaves the directory it has EPERM"},
}

func hasPath(s step) bool { return strings.HasPrefix(s.name, "path_") }

func slashed(s step) bool {
	return strings.HasSuffix(s.texts[textAt], "/") || strings.HasSuffix(s.texts[text2At], "/")
}

func meant(s step, ours, theirs hostcall.Errno) bool {
	return slices.ContainsFunc(deliberate, func(d difference) bool {
		return (d.names == nil || slices.Contains(d.names, s.name)) && slices.Contains(d.ours, ours) && slices.Contains(d.theirs, theirs) && (d.when == nil || d.when(s))
	})
}

// sameAnswer compares what successes show. Theirs does not say that a standard stream is a file, keeps no flags of directories, and with a
// slash behind a link still answers the link, where POSIX, and so ours, answers the directory that it leads to.
func sameAnswer(s step, ours, theirs string) bool {
	if slashed(s) && strings.HasPrefix(ours, "type 3") && strings.HasPrefix(theirs, "type 7") {
		return true
	}
	if dir, flags, ok := strings.Cut(ours, ", flags "); ok && dir == fmt.Sprintf("type %d", typeDirectory) && flags != "" {
		ours = dir + ", flags 0"
	}
	return ours == theirs || strings.Replace(ours, "type 4", "type 0", 1) == theirs || strings.HasPrefix(ours, "type 4, 0 links") && strings.HasPrefix(theirs, "type 0, 0 links")
}

const callsInSequence = 40

// sameCalls makes one sequence of calls on ours and on theirs, and reports the first difference that is not meant. Once one side has
// done what the other refused, they have nothing more to say about each other.
func sameCalls(t testing.TB, module *wt.Module, dir string, seed1, seed2 uint64) (calls int, difference string) {
	scope := &scope{TB: t}
	defer scope.end()
	t = scope
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	ya, yb := newYours(t, a), newYours(t, b)
	hosts := [2]host{newOurs(t, ya), newTheirs(t, module, yb)}
	fds := [2][]uint32{{0, 1, 2, 3}, {0, 1, 2, 3}}
	s := &sequence{Rand: rand.New(rand.NewPCG(seed1, seed2)), handles: 4}
	var said []string
	for calls = range callsInSequence {
		st := s.next()
		ea, ra := st.do(hosts[0], &fds[0])
		eb, rb := st.do(hosts[1], &fds[1])
		said = append(said, fmt.Sprintf("%v: %v %s", st, ea, ra))
		if ea != eb && meant(st, ea, eb) {
			if ea == hostcall.Success || eb == hostcall.Success {
				return calls, ""
			}
			continue
		}
		if ea != eb || !sameAnswer(st, ra, rb) {
			return calls, fmt.Sprintf("ours %v %s, theirs %v %s: %v\nafter\n%s", ea, ra, eb, rb, st, strings.Join(said, "\n"))
		}
		s.handles = len(fds[0])
		// The numbers of what is closed are given out again, in an order of each side's own.
		if from := st.params[0]; ea == hostcall.Success && from < uint64(s.handles) && (st.name == "fd_close" || st.name == "fd_renumber" && from != st.params[1]) {
			fds[0][from], fds[1][from] = noDescriptor, noDescriptor
		}
	}
	if ca, cb := content(t, a), content(t, b); ca != cb {
		return calls, fmt.Sprintf("ours left\n%stheirs\n%safter\n%s", ca, cb, strings.Join(said, "\n"))
	}
	return calls, ""
}

// scope is a part of a test: what was to be cleaned up after the test is at the scope's end.
type scope struct {
	testing.TB
	cleanups []func()
}

func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) end() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}

func passingModule(t testing.TB) *wt.Module {
	m, err := wt.NewModule(theirEngine, passing)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestCallSequencesDoWhatWasmtimesOwnWASIDoes compares errnos, answers, and the files that are left.
func TestCallSequencesDoWhatWasmtimesOwnWASIDoes(t *testing.T) {
	compareSequences(t, 1, func(n int) bool { return n < 1000 })
}

// compareSequences compares as many sequences as more says.
func compareSequences(t *testing.T, seed uint64, more func(n int) bool) {
	m := passingModule(t)
	base := t.TempDir()
	n, calls, found := 0, 0, 0
	for ; more(n); n++ {
		dir := filepath.Join(base, fmt.Sprint(n))
		made, diff := sameCalls(t, m, dir, seed, uint64(n))
		calls += made
		if diff != "" {
			t.Errorf("seeds %d, %d: %s", seed, n, diff)
			if found++; found == 20 {
				break
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d sequences, %d calls", n, calls)
}
