//go:build wasmtime && cgo

package wasi

import (
	"bytes"
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
	"time"

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

// side is one implementation in the course of a sequence.
type side struct {
	host
	fds       []uint32 // what handles stand for
	monotonic uint64   // what that clock showed last
	narrowed  bool     // a descriptor gave up rights
}

// descriptor is the number that a handle stands for.
func (h *side) descriptor(handle uint64) uint64 {
	if handle < uint64(len(h.fds)) {
		return uint64(h.fds[handle])
	}
	return handle
}

// step is one call of a sequence: what to put into memory, the parameters, and what of the memory counts afterwards.
type step struct {
	name    string
	texts   map[int]string
	handles map[int]uint64 // in memory, to be replaced by a side's descriptors
	fds     []int          // which parameters are handles, too
	params  []uint64
	opens   bool                           // a descriptor comes back at outAt
	shows   func(h *side) string           // what a success has answered; nil: nothing
	same    func(ours, theirs string) bool // how that compares; nil: sameAnswer
	sound   func(ours string) bool         // whether ours can be right, whatever theirs says; nil: who knows
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
	// Linux does, at the end. And writing nothing moves theirs to the end, where POSIX wants it to do nothing. So those are not drawn any more.
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

func counted(h *side) string { return fmt.Sprint(u32At(h.memory(), outAt)) }
func placed(h *side) string  { return fmt.Sprint(u64At(h.memory(), outAt)) }
func read(h *side) string {
	mem := h.memory()
	return fmt.Sprintf("%q", mem[dataAt:dataAt+int(u32At(mem, outAt))])
}

// stated is a filestat without device, inode and times; a directory's size and links are the file system's.
func stated(h *side) string {
	mem := h.memory()
	kind, links, size := mem[outAt+16], u64At(mem, outAt+24), u64At(mem, outAt+32)
	if kind == byte(typeDirectory) {
		links, size = 0, 0
	}
	return fmt.Sprintf("type %d, %d links, %d bytes", kind, links, size)
}

// listed is the names and types of a whole listing, in order of names.
func listed(h *side) string {
	mem := h.memory()
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

// stringsAt is n zero-terminated strings, whose addresses are listed at outAt.
func stringsAt(n int) func(h *side) string {
	return func(h *side) string {
		mem := h.memory()
		var all []string
		for i := range n {
			text := mem[u32At(mem, outAt+4*i):]
			all = append(all, string(text[:bytes.IndexByte(text, 0)]))
		}
		return fmt.Sprintf("%q", all)
	}
}

// showsTime looks at whether a clock shows what it may.
func showsTime(id uint64) func(h *side) string {
	return func(h *side) string {
		now := u64At(h.memory(), outAt)
		switch id {
		case clockRealtime:
			if d := time.Since(time.Unix(0, int64(now))); d.Abs() < time.Hour {
				return "now"
			}
		case clockMonotonic:
			if was := h.monotonic; now > 0 && now >= was {
				h.monotonic = now
				return "no earlier than before"
			}
		}
		return fmt.Sprint(now)
	}
}

// shuffled says whether n bytes are anything but the zeros that were there.
func shuffled(n uint64) func(h *side) string {
	return func(h *side) string {
		b := h.memory()[dataAt : dataAt+n+1]
		return fmt.Sprintf("random: %t, as long as asked for: %t", n < 16 || bytes.Count(b[:n], []byte{0}) < int(n)/2, b[n] == 0)
	}
}

// happened is the events that a poll_oneoff answered, by userdata. What there is to read, and whether it is the end, is not compared: theirs has 1 byte
// for all, and takes the end of a file for a peer that hung up.
func happened(h *side) string {
	mem := h.memory()
	var all []string
	for i := range int(u32At(mem, outAt)) {
		e := mem[dataAt+eventSize*i:]
		all = append(all, fmt.Sprintf("%d:%d:%v", u64At(e, 0), e[10], hostcall.Errno(binary.LittleEndian.Uint16(e[8:]))))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// poll draws a poll_oneoff that has something to say soon.
func (s *sequence) poll() step {
	const hour = 3600 * 1_000_000_000
	n := s.IntN(5)
	subs := make([]byte, n*subscriptionSize)
	st := step{name: "poll_oneoff", texts: map[int]string{}, handles: map[int]uint64{}, params: []uint64{textAt, dataAt, uint64(n), outAt}, shows: happened}
	var due, soon []string // the events that ours has, and others that both may have
	le := binary.LittleEndian
	for i := range n {
		b := subs[i*subscriptionSize:]
		le.PutUint64(b, uint64(i))
		if s.IntN(2) == 0 {
			b[8] = byte(s.pick(eventFDRead, eventFDWrite))
			st.handles[textAt+i*subscriptionSize+16] = s.handle()
			due = append(due, fmt.Sprintf("%d:%d:", i, b[8]))
			continue
		}
		timeout, flags := s.pick(0, 0, 1, 1000, 100_000, hour), s.pick(0, 0, 0, 1)
		if flags == 1 || i == n-1 && len(due)+len(soon) == 0 {
			timeout = s.pick(0, 1)
		}
		id := s.pick(0, 0, 0, 1, 1, 1, 1, 2, 3)
		le.PutUint32(b[16:], uint32(id))
		le.PutUint64(b[24:], timeout)
		le.PutUint64(b[32:], s.pick(0, 1, hour)) // precision
		le.PutUint16(b[40:], uint16(flags))
		switch event := fmt.Sprintf("%d:0:", i); {
		case timeout == 0 || flags == 1 || id > clockMonotonic:
			due = append(due, event)
		case timeout < hour:
			soon = append(soon, event)
		}
	}
	st.texts[textAt] = string(subs)
	is := func(events []string, e string) bool { return slices.Contains(events, e[:len("0:0:")]) }
	// Ours looks at everything before it answers.
	st.sound = func(ours string) bool {
		rest := slices.Clone(due)
		for _, e := range strings.Fields(ours) {
			if !is(due, e) && !is(soon, e) {
				return false
			}
			rest = slices.DeleteFunc(rest, func(event string) bool { return strings.HasPrefix(e, event) })
		}
		return len(rest) == 0
	}
	// Theirs may answer as soon as something is ready. It has no rights, and sleeps by any clock if that is all that it is asked for.
	st.same = func(ours, theirs string) bool {
		for _, e := range strings.Fields(theirs) {
			i := slices.IndexFunc(strings.Fields(ours), func(of string) bool { return of[:4] == e[:4] })
			switch {
			case i < 0 && !is(soon, e):
				return false
			case i >= 0:
				of := strings.Fields(ours)[i]
				if of != e && of != e[:4]+hostcall.ENOTCAPABLE.String() && !(n == 1 && of == e[:4]+hostcall.ENOTSUP.String()) {
					return false
				}
			}
		}
		return theirs != ""
	}
	return st
}

// other draws what has nothing to do with files.
func (s *sequence) other() step {
	clock := s.pick(0, 0, 1, 1, 1, 2, 3, 9)
	switch s.IntN(11) {
	case 0:
		return step{name: "args_sizes_get", params: []uint64{outAt, outAt + 4}, shows: placed}
	case 1:
		return step{name: "args_get", params: []uint64{outAt, dataAt}, shows: stringsAt(len(differentialArgs))}
	case 2:
		return step{name: "environ_sizes_get", params: []uint64{outAt, outAt + 4}, shows: placed}
	case 3:
		return step{name: "environ_get", params: []uint64{outAt, dataAt}, shows: stringsAt(1)}
	case 4:
		return step{name: "clock_res_get", params: []uint64{clock, outAt}, shows: func(h *side) string {
			if ns := u64At(h.memory(), outAt); ns == 0 || ns > 1_000_000_000 {
				return fmt.Sprint(ns)
			}
			return "some resolution"
		}}
	case 5, 6:
		return step{name: "clock_time_get", params: []uint64{clock, s.pick(0, 1, 1<<63), outAt}, shows: showsTime(clock)}
	case 7, 8:
		n := s.pick(0, 1, 16, 100, 4000)
		return step{name: "random_get", params: []uint64{s.pick(dataAt, dataAt, dataAt, 1<<32-1), n}, shows: shuffled(n)}
	case 9:
		return step{name: "sched_yield"}
	}
	if s.IntN(8) == 0 {
		return step{name: "proc_exit", params: []uint64{s.pick(0, 1, 125, 126, 1<<32-1)}}
	}
	return step{name: "proc_raise", params: []uint64{s.pick(0, 1, 9, 30, 31)}}
}

func (s *sequence) next() step {
	on := func(name string, fd uint64, params ...uint64) step {
		return step{name: name, fds: []int{0}, params: append([]uint64{fd}, params...)}
	}
	withPath := func(st step, p string) step { st.texts = map[int]string{textAt: p}; return st }
	// One vector, or one behind an empty one: theirs looks at the first that is not empty only, and a short count is what any system may answer.
	vectors := func(st step, text string, n int) step {
		var v [16]byte
		last := v[:8]
		if s.IntN(4) == 0 {
			last = v[8:]
			st.params[2] = 2
		}
		binary.LittleEndian.PutUint32(last, dataAt)
		binary.LittleEndian.PutUint32(last[4:], uint32(n))
		st.texts = map[int]string{vecAt: string(v[:]), dataAt: text}
		return st
	}
	times := func() []uint64 { // to a moment, so that both sides have the same
		return []uint64{1_000_000_000 * uint64(s.IntN(1000)), 1_000_000_000 * uint64(s.IntN(1000)), s.pick(0, 1, 4, 5, 5, 5, 3, 12, 16)}
	}
	text := strings.Repeat(string(rune('a'+s.IntN(26))), s.IntN(40))
	offset := s.pick(0, 1, 5, 11, 100, 1<<62, 1<<63, 1<<64-1)
	switch s.IntN(40) {
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
		if s.appends && text == "" {
			return s.next()
		}
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
		st.shows = func(h *side) string { return fmt.Sprintf("type %d, flags %x", h.memory()[outAt], h.memory()[outAt+2]) }
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
	case 33, 34:
		return s.poll()
	case 35, 36:
		return s.other()
	case 37:
		switch s.IntN(4) {
		case 0:
			return on("sock_accept", s.handle(), s.pick(0, 4), outAt)
		case 1:
			return vectors(on("sock_recv", s.handle(), vecAt, 1, s.pick(0, 1, 2), outAt, outAt+4), "", s.IntN(50))
		case 2:
			return vectors(on("sock_send", s.handle(), vecAt, 1, 0, outAt), text, len(text))
		}
		return on("sock_shutdown", s.handle(), s.pick(1, 2, 3))
	case 38:
		switch s.IntN(6) {
		case 0, 1:
			st := on("fd_prestat_get", s.handle(), outAt)
			st.shows = placed
			return st
		case 2, 3:
			st := on("fd_prestat_dir_name", s.handle(), dataAt, s.pick(0, 1, 100))
			st.shows = func(h *side) string { return fmt.Sprintf("%q", h.memory()[dataAt:dataAt+2]) }
			return st
		}
		return on("fd_fdstat_set_rights", s.handle(), s.pick(uint64(rightsAll), uint64(rightsFile), uint64(rightsDir), uint64(rightFDRead), 0), s.pick(uint64(rightsAll), 0))
	}
	p, q := s.path(), s.path()
	return step{name: "path_symlink", fds: []int{2}, texts: map[int]string{textAt: p, text2At: q},
		params: []uint64{textAt, uint64(len(p)), s.directory(), text2At, uint64(len(q))}}
}

// do makes a step's call on one side and answers what it shows.
func (h *side) do(s step) (hostcall.Errno, string) {
	mem := h.memory()
	clear(mem[outAt : outAt+64])
	clear(mem[dataAt : dataAt+8192])
	for at, text := range s.texts {
		copy(mem[at:], text)
	}
	for at, handle := range s.handles {
		binary.LittleEndian.PutUint32(mem[at:], uint32(h.descriptor(handle)))
	}
	params := slices.Clone(s.params)
	for _, i := range s.fds {
		params[i] = h.descriptor(params[i])
	}
	e := h.call(s.name, params...)
	if e != hostcall.Success {
		return e, ""
	}
	h.narrowed = h.narrowed || s.name == "fd_fdstat_set_rights"
	if s.opens {
		h.fds = append(h.fds, u32At(h.memory(), outAt))
	}
	if s.shows == nil {
		return e, ""
	}
	return e, s.shows(h)
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

func (s step) sameAs(ours, theirs string) bool {
	if s.same != nil {
		return s.same(ours, theirs)
	}
	return sameAnswer(s, ours, theirs)
}

// sameAnswer compares what successes show. Theirs does not say that a standard stream is a file, keeps no flags of streams and directories, and
// with a slash behind a link still answers the link, where POSIX, and so ours, answers the directory that it leads to.
func sameAnswer(s step, ours, theirs string) bool {
	if slashed(s) && strings.HasPrefix(ours, "type 3") && strings.HasPrefix(theirs, "type 7") {
		return true
	}
	stream := strings.HasPrefix(theirs, "type 0") && (strings.HasPrefix(ours, "type 4") || strings.HasPrefix(ours, "type 0"))
	if kind, _, ok := strings.Cut(ours, ", flags "); ok && (stream || strings.HasPrefix(ours, "type 3")) {
		ours = kind + ", flags 0"
	}
	if stream {
		ours = strings.Replace(ours, "type 4", "type 0", 1)
		return ours == theirs || strings.HasPrefix(ours, "type 0, 0 links") && strings.HasPrefix(theirs, "type 0, 0 links")
	}
	return ours == theirs
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
	us := &side{host: newOurs(t, ya), fds: []uint32{0, 1, 2, 3}}
	them := &side{host: newTheirs(t, module, yb), fds: []uint32{0, 1, 2, 3}}
	s := &sequence{Rand: rand.New(rand.NewPCG(seed1, seed2)), handles: 4}
	var said []string
	for calls = range callsInSequence {
		st := s.next()
		ea, ra := us.do(st)
		eb, rb := them.do(st)
		said = append(said, fmt.Sprintf("%v: %v %s", st, ea, ra))
		if ea == hostcall.Success && st.sound != nil && !st.sound(ra) {
			return calls, fmt.Sprintf("ours %s: %v\nafter\n%s", ra, st, strings.Join(said, "\n"))
		}
		if ea != eb {
			d := &differing{st, us, ea, eb, ra}
			if harmless, ok := d.meant(); ok && !harmless {
				return calls, ""
			} else if ok {
				continue
			}
		}
		if ea != eb || ea == hostcall.Success && !st.sameAs(ra, rb) {
			return calls, fmt.Sprintf("ours %v %s, theirs %v %s: %v\nafter\n%s", ea, ra, eb, rb, st, strings.Join(said, "\n"))
		}
		if st.name == "proc_exit" {
			break
		}
		s.handles = len(us.fds)
		// The numbers of what is closed are given out again, in an order of each side's own.
		if ea == hostcall.Success && (st.name == "fd_close" || st.name == "fd_renumber" && st.params[0] != st.params[1]) && st.params[0] < uint64(s.handles) {
			us.fds[st.params[0]], them.fds[st.params[0]] = noDescriptor, noDescriptor
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

func TestSequencesHaveEveryFunction(t *testing.T) {
	drawn := map[string]bool{}
	for n := range uint64(1000) {
		s := &sequence{Rand: rand.New(rand.NewPCG(1, n)), handles: 6}
		for range callsInSequence {
			drawn[s.next().name] = true
		}
	}
	for _, f := range Library().Funcs {
		if !drawn[f.Name] {
			t.Errorf("%s is never called", f.Name)
		}
	}
}
