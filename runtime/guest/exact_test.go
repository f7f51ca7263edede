package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// unruly is a task whose exports change whatever it has: memory, globals that nobody else sees, its table and segments, its stack, and what the
// host keeps for it.
//
// Its handler begins the long calls that the bits at deedsAt ask for, and then answers, traps or goes on for ever.
func unruly() *wasmtest.Module {
	ok := "\xc8\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi"
	m := handmade{buffer: at(1024, 8192), answer: at(64, uint32(len(ok))), data: []wasmtest.Data{{Offset: 64, Bytes: []byte(ok)}, {Offset: 70000, Bytes: []byte("as it was")}}}.module()
	m.Memory = []uint32{2, 8}
	i32, i64, f32, f64 := byte(wasmtest.I32), byte(wasmtest.I64), byte(wasmtest.F32), byte(wasmtest.F64)
	m.Globals = []wasmtest.Global{
		{Type: i32, Init: wasmtest.I32Const(5)}, {Type: i64, Init: wasmtest.I64Const(-1)},
		{Type: f32, Init: []byte{0x43, 0, 0, 0x80, 0x3f}}, {Type: f64, Init: wasmtest.F64Const(math.Pi)},
	}
	m.Table = []uint32{4, 16}
	m.Elements = [][]uint32{{1, 2}}
	m.Passive = [][]byte{[]byte("a segment")}
	two := wasmtest.Type{Params: []byte{i32, i32}}
	n := func(v int32) []byte { return wasmtest.I32Const(v) }
	get := wasmtest.LocalGet
	add := func(name string, t wasmtest.Type, body ...[]byte) {
		m.Funcs = append(m.Funcs, wasmtest.Func{Export: name, Type: t, Body: wasmtest.Cat(body...)})
	}
	// Every function that guests may import is passed on, under its own name.
	for _, lib := range Libraries() {
		for i := range lib.Funcs {
			f := &lib.Funcs[i]
			if f.Name == "respond" {
				continue // handmade has it
			}
			im := wasmtest.Import{Module: f.Module, Name: f.Name}
			for _, p := range f.Params {
				im.Type.Params = append(im.Type.Params, byte(p))
			}
			for _, r := range f.Results {
				im.Type.Results = append(im.Type.Results, byte(r))
			}
			m.Imports = append(m.Imports, im)
		}
	}
	for i, im := range m.Imports[1:] {
		var body []byte
		for p := range im.Type.Params {
			body = append(body, get(uint32(p))...)
		}
		add(im.Name, im.Type, body, wasmtest.Call(uint32(i+1)))
	}
	handle := &m.Funcs[slices.IndexFunc(m.Funcs, func(f wasmtest.Func) bool { return f.Export == TaskHandle })]
	imported := func(name string) []byte {
		i := slices.IndexFunc(m.Imports, func(im wasmtest.Import) bool { return im.Name == name })
		return wasmtest.Cat(wasmtest.Call(uint32(i)), []byte{wasmtest.Drop})
	}
	deed := func(bit deeds, body ...[]byte) []byte { // if the bit is set, body
		return wasmtest.Cat(n(deedsAt), wasmtest.Load(0), n(int32(bit)), []byte{0x71, 0x04, 0x40}, wasmtest.Cat(body...), []byte{wasmtest.End})
	}
	handle.Body = wasmtest.Cat(
		deed(getsKey, n(bucketAt), n(1), n(keyAt), n(4), n(fdsAt), imported("kv_get")),
		deed(fetches, n(methodAt), n(3), n(urlAt), n(int32(len(lateURL))), n(0), n(0), wasmtest.I64Const(0), n(fdsAt+4), imported("fetch")),
		deed(traps, []byte{wasmtest.Unreachable}),
		deed(staysOn, wasmtest.Loop(wasmtest.Br(0))),
		handle.Body)
	add("poke", two, get(0), get(1), wasmtest.Store(0))
	add("grow", two, get(1), wasmtest.MemoryGrow(), []byte{wasmtest.Drop})
	add("trap", two, get(0), get(1), wasmtest.Store(0), []byte{wasmtest.Unreachable})
	add("forever", two, wasmtest.Loop(get(0), get(1), wasmtest.Store(0), wasmtest.Br(0)))
	for i, g := range m.Globals {
		add(fmt.Sprint("set", i), wasmtest.Type{Params: []byte{g.Type}}, get(0), wasmtest.GlobalSet(uint32(i)))
		add(fmt.Sprint("get", i), wasmtest.Type{Results: []byte{g.Type}}, wasmtest.GlobalGet(uint32(i)))
	}
	add("table.set", two, n(1), []byte{0xd2, 1, 0x26, 0})
	add("table.grow", two, []byte{0xd0, wasmtest.FuncRef}, n(1), []byte{0xfc, 15, 0, wasmtest.Drop})
	add("table.fill", two, n(0), []byte{0xd2, 1}, n(2), []byte{0xfc, 17, 0})
	add("table.copy", two, n(0), n(1), n(1), []byte{0xfc, 14, 0, 0})
	add("table.init", two, n(0), n(0), n(1), []byte{0xfc, 12, 0, 0})
	add("elem.drop", two, []byte{0xfc, 13, 0})
	add("data.drop", two, []byte{0xfc, 9, 2})
	// tables is the length of the table, and a bit for each of its first four elements that is null.
	tables := wasmtest.Cat([]byte{0xfc, 16, 0}, n(4), []byte{0x74})
	for i := range int32(4) {
		tables = wasmtest.Cat(tables, n(i), []byte{0x25, 0, 0xd1}, n(i), []byte{0x74, 0x72})
	}
	add("tables", wasmtest.Type{Results: []byte{i32}}, tables)
	add("memory.init", two, get(0), n(0), n(4), []byte{0xfc, 8, 2, 0})
	// deep calls itself as often as its first parameter says, with a frame of some size.
	self := uint32(len(m.Imports) + len(m.Funcs))
	m.Funcs = append(m.Funcs, wasmtest.Func{Export: "deep", Type: two, Locals: bytes.Repeat([]byte{i64}, 30), Body: wasmtest.Cat(
		get(0), []byte{0x45, 0x04, 0x40, wasmtest.Return, wasmtest.End}, // if it is 0, return
		get(0), n(1), []byte{0x6b}, get(1), wasmtest.Call(self))})
	return m
}

// stopper ends guests that yield.
type stopper struct{}

func (stopper) Watches(f *hostcall.Func) bool { return f.Name == "sched_yield" }
func (stopper) Before(c *hostcall.Call) hostcall.Verdict {
	c.Stop(&hostcall.StopError{Func: c.Func.String(), Rule: "stopper"})
	return hostcall.Stop
}
func (stopper) After(*hostcall.Call) {}

// deeds are what the handler of unruly is to do.
type deeds uint32

const (
	getsKey deeds = 1 << iota
	fetches
	traps
	staysOn
	allDeeds = staysOn<<1 - 1
)

// Where the handler of unruly finds what it needs.
const (
	deedsAt = 20000 + 64*iota
	bucketAt
	keyAt
	methodAt
	urlAt
	fdsAt // the descriptors of its long calls

	lateURL = "http://late.example/"
)

// late is Services whose answers come when it is too late: once the invocation that asked is over. A key other than "late" comes at once.
type late struct {
	nothing
	began chan struct{} // one for each that is under way
}

func (l *late) KVGet(ctx context.Context, _, key string) ([]byte, uint64, error) {
	if key == "soon" {
		return []byte("in time"), 1, nil
	}
	l.began <- struct{}{}
	<-ctx.Done()
	return []byte("too late"), 1, nil
}

func (l *late) Fetch(ctx context.Context, _ *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: &lateBody{began: l.began, over: ctx.Done()}}, nil
}

// lateBody has nothing to read until over or Close, and then something still.
type lateBody struct {
	began  chan<- struct{}
	over   <-chan struct{}
	closed chan struct{} // nil if Close does not end a Read
	read   sync.Once
	close  sync.Once
	text   strings.Reader
}

func (b *lateBody) Read(p []byte) (int, error) {
	b.read.Do(func() {
		b.text = *strings.NewReader("too late")
		b.began <- struct{}{}
		select {
		case <-b.over:
		case <-b.closed:
		}
	})
	return b.text.Read(p)
}

func (b *lateBody) Close() error {
	if b.closed != nil {
		b.close.Do(func() { close(b.closed) })
	}
	return nil
}

// TestTheNextInvocationFindsTheImageOrASandboxIsThrownAway has a task do anything between two requests, in whatever order, and looks at everything that
// the next invocation could see. It does so with each way to return that there is, compiled and interpreted.
func TestTheNextInvocationFindsTheImageOrASandboxIsThrownAway(t *testing.T) {
	for _, method := range image.Methods() {
		for _, interpret := range []bool{false, true} {
			if interpret && testEngine != runtime.Wazero {
				continue // it has no interpreter
			}
			name := fmt.Sprintf("%s, compiled", method)
			if interpret {
				name = fmt.Sprintf("%s, interpreted", method)
			}
			t.Run(name, func(t *testing.T) {
				r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true, Interpret: interpret,
					Memory: image.SpaceOptions{Method: method}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := r.Close(); err != nil {
						t.Error(err)
					}
				})
				if _, err := r.Space(); err != nil {
					t.Skipf("not on this machine: %v", err)
				}
				code, err := r.Compile(t.Context(), unruly().Bytes())
				if err != nil {
					t.Fatal(err)
				}
				rapid.Check(t, func(t *rapid.T) { findsTheImage(t, code) })
			})
		}
	}
}

func findsTheImage(t *rapid.T, code *runtime.Module) {
	dir, err := os.MkdirTemp("", "exact")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("contents of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g, err := policy.Grant(policy.Capabilities{Files: []policy.File{{Guest: "/d", Source: dir, Access: "rw"}}, KV: []string{"b"},
		Fetch: []policy.Fetch{{Scheme: "http", Host: "late.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	services := &late{began: make(chan struct{}, 8)}
	p, err := New(Options{Module: code, Grants: g, Services: services, Source: HostPaths, Images: true, MemoryPages: 7, Interposers: []hostcall.Interposer{stopper{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var open []*Sandbox
	defer func() {
		for _, s := range open {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	fresh := func() *Sandbox {
		s, err := p.NewSandbox(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
		return s
	}
	fresh()
	im, err := p.Image()
	if im == nil {
		t.Fatalf("there is no image: %v", err)
	}
	want := make([]byte, im.MemoryBytes())
	im.CopyTo(want)
	s := fresh()
	for range rapid.IntRange(1, 4).Draw(t, "invocations") {
		asTheImage(t, s, want)
		spoiled := map[image.Reason]bool{}
		for range rapid.IntRange(0, 8).Draw(t, "acts") {
			if why := misbehave(t, s); why != "" {
				spoiled[why] = true
			}
		}
		if rapid.IntRange(0, 2).Draw(t, "late") == 0 {
			leavesLate(t, s, services)
		}
		var d *image.DiscardError
		switch err := s.Return(); {
		case err == nil && len(spoiled) == 0:
		case errors.As(err, &d) && (spoiled[d.Reason]):
			s = fresh()
		default:
			t.Fatalf("returned: %v, spoiled by %v", err, spoiled)
		}
	}
	asTheImage(t, s, want)
}

// leavesLate has the guest begin a few long calls and end, however it does, while they are under way: the bytes come when nobody waits any more.
func leavesLate(t *rapid.T, s *Sandbox, services *late) {
	do := deeds(rapid.IntRange(0, int(allDeeds)).Draw(t, "deeds"))
	mem := s.vm.Memory().Bytes() // a guest would write it there
	for at, text := range map[int]string{deedsAt: string(appendUint32(nil, uint32(do))), bucketAt: "b", keyAt: "late", methodAt: "GET", urlAt: lateURL} {
		copy(mem[at:], text)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "POST", "/", nil)
	calls := 0
	if rapid.Bool().Draw(t, "body") {
		r.Body, r.ContentLength = &lateBody{began: services.began, closed: make(chan struct{})}, -1
		calls++
	}
	for _, call := range []deeds{getsKey, fetches} {
		if do&call != 0 {
			calls++
		}
	}
	served := make(chan error, 1)
	go func() {
		_, err := s.Serve(ctx, httptest.NewRecorder(), r, ServeInfo{})
		served <- err
	}()
	var err error
	for done := false; !done; {
		if calls == 0 && do&(traps|staysOn) == staysOn {
			cancel() // with all that it began under way
		}
		select {
		case <-services.began:
			calls--
		case err = <-served:
			done = true
		}
	}
	for len(services.began) > 0 {
		<-services.began
	}
	t.Logf("deeds %b: %v", do, err)
	var bad *BadResponseError // it may have written over its answer
	if end := do & (traps | staysOn); end == 0 && err != nil && !errors.As(err, &bad) || end != 0 && err == nil {
		t.Fatalf("deeds %b: served with %v", do, err)
	}
}

// asTheImage compares all that an invocation can see.
func asTheImage(t *rapid.T, s *Sandbox, want []byte) {
	t.Helper()
	if got := s.vm.Memory().Bytes(); !bytes.Equal(got, want) {
		t.Fatalf("memory of %d bytes differs from the image's of %d", len(got), len(want))
	}
	for i, bits := range []uint64{5, math.MaxUint64, uint64(math.Float32bits(1)), math.Float64bits(math.Pi)} {
		got, err := s.vm.Call(context.Background(), fmt.Sprint("get", i))
		if err != nil || got[0] != bits {
			t.Fatalf("global %d is %#x (%v), in the image %#x", i, got, err, bits)
		}
	}
	if got, err := s.vm.Call(context.Background(), "tables"); err != nil || got[0] != 4<<4|0b1111 {
		t.Fatalf("tables are %#x (%v), in the image 4 elements that are all null", got, err)
	}
	if _, err := s.vm.Call(context.Background(), "poke", uint64(len(want)-3), 1); err == nil {
		t.Fatalf("there is memory beyond the image's")
	}
	mark, err := s.state.system.Mark()
	if err != nil || !reflect.DeepEqual(mark, s.base.mark) {
		t.Fatalf("descriptors %+v (%v), in the image %+v", mark, err, s.base.mark)
	}
	// What the sandbox keeps of its directory shows in a listing that goes on from where another was: there is none.
	copyOf := bytes.Clone(s.vm.Memory().Bytes())
	if got, err := s.vm.Call(context.Background(), "fd_readdir", 3, 4096, 4096, 0, 512); err != nil || got[0] != 0 {
		t.Fatalf("list: %v %v", got, err)
	}
	asksInTime(t, s)
	copy(s.vm.Memory().Bytes(), copyOf)
}

// asksInTime makes a long call: it has the lowest free number, and nothing is read from it but its own answer.
func asksInTime(t *rapid.T, s *Sandbox) {
	ctx := context.Background()
	call := func(name string, params ...uint64) {
		got, err := s.vm.Call(ctx, name, params...)
		if err != nil || got[0] != 0 {
			t.Fatalf("%s: %v %v", name, got, err)
		}
	}
	inv := newInvocation(ctx, ServeInfo{}, httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), &s.program.opts)
	s.state.inv = inv
	defer func() {
		inv.finish()
		s.state.inv = nil
	}()
	mem := s.vm.Memory().Bytes()
	copy(mem[bucketAt:], "b")
	copy(mem[keyAt:], "soon")
	call("kv_get", bucketAt, 1, keyAt, 4, fdsAt)
	fd := binary.LittleEndian.Uint32(mem[fdsAt:])
	if fd != 4 {
		t.Fatalf("the first descriptor behind the directory is %d", fd)
	}
	answer := appendUint64(appendUint32(appendUint32(nil, 12), 0), 1) // the length of the head, no error, version 1
	answer = append(answer, "in time"...)
	var got []byte
	for {
		const sub, vec, to = 40000, 40100, 41000
		clear(mem[sub : sub+48])
		mem[sub+8] = 1 // to read
		binary.LittleEndian.PutUint32(mem[sub+16:], fd)
		call("poll_oneoff", sub, to, 1, fdsAt)
		binary.LittleEndian.PutUint32(mem[vec:], to)
		binary.LittleEndian.PutUint32(mem[vec+4:], 1000)
		call("fd_read", uint64(fd), vec, 1, fdsAt)
		n := binary.LittleEndian.Uint32(mem[fdsAt:])
		if n == 0 {
			break
		}
		got = append(got, mem[to:to+n]...)
	}
	if !bytes.Equal(got, answer) {
		t.Fatalf("read %q, want %q", got, answer)
	}
	call("fd_close", uint64(fd))
}

// misbehave has the guest do one thing. It answers the reason for which the sandbox cannot return, if it is one.
func misbehave(t *rapid.T, s *Sandbox) image.Reason {
	ctx := context.Background()
	size := len(s.vm.Memory().Bytes())
	at, v := uint64(rapid.IntRange(0, size-4).Draw(t, "at")), uint64(rapid.Uint32().Draw(t, "value"))
	call := func(name string, params ...uint64) error {
		_, err := s.vm.Call(ctx, name, params...)
		return err
	}
	must := func(name string, params ...uint64) {
		if err := call(name, params...); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	small := func(label string, most int) uint64 { return uint64(rapid.IntRange(0, most).Draw(t, label)) }
	kind := rapid.SampledFrom([]string{"poke", "poke", "memory.init", "grow", "trap", "globals", "proc_exit", "sched_yield", "forever", "cancelled", "open", "open",
		"fd_close", "fd_renumber", "fd_seek", "flags", "rights", "fd_read", "fd_write", "fd_readdir", "random_get", "shallow", "deep",
		"table.set", "table.grow", "table.fill", "table.copy", "table.init", "elem.drop", "data.drop"}).Draw(t, "act")
	switch kind {
	case "poke":
		must(kind, at, v)
	case "memory.init":
		_ = call(kind, at, v) // it traps if the segment was dropped
	case "grow":
		must(kind, 0, small("pages", 4))
	case "trap", "proc_exit", "sched_yield":
		params := map[string][]uint64{"trap": {at, v}, "proc_exit": {v}, "sched_yield": {}}[kind]
		if err := call(kind, params...); err == nil {
			t.Fatalf("%s ended well", kind)
		}
	case "globals":
		must("set0", v)
		must("set1", rapid.Uint64().Draw(t, "long"))
		must("set2", v)
		must("set3", rapid.Uint64().Draw(t, "float"))
	case "forever", "cancelled":
		over, stop := context.WithTimeout(ctx, time.Millisecond)
		defer stop()
		if kind == "cancelled" {
			stop()
		}
		if _, err := s.vm.Call(over, "forever", at, v); err == nil {
			t.Fatal("it ended")
		}
	case "open":
		name := rapid.SampledFrom([]string{"a", "b", "new", "."}).Draw(t, "name")
		copy(s.vm.Memory().Bytes()[16:], name) // a guest would write it there
		must("path_open", 3, 0, 16, uint64(len(name)), small("oflags", 15), 1<<29-1, 1<<29-1, 0, 512)
	case "fd_close":
		fd := small("fd", 8)
		must(kind, fd)
		if fd <= 3 {
			return image.Descriptors
		}
	case "fd_renumber":
		from, to := small("from", 8), small("to", 8)
		out, err := s.vm.Call(ctx, kind, from, to)
		if err != nil {
			t.Fatal(err)
		}
		if out[0] == 0 && from != to && (from <= 3 || to <= 3) {
			return image.Descriptors
		}
	case "fd_seek":
		must(kind, small("fd", 8), small("offset", 20), small("whence", 2), 512)
	case "flags":
		must("fd_fdstat_set_flags", small("fd", 8), small("flags", 31))
	case "rights":
		// Rights can only be given up: any of those that all descriptors have, or all.
		keep := []uint64{0, 1 << 1, 1 << 6}
		must("fd_fdstat_set_rights", small("fd", 8), rapid.SampledFrom(keep).Draw(t, "base"), 0)
	case "fd_read", "fd_write":
		copy(s.vm.Memory().Bytes()[32:], "\x00\x02\x00\x00\x08\x00\x00\x00") // 8 bytes at 512
		must(kind, small("fd", 8), 32, 1, 40)
	case "fd_readdir":
		must(kind, 3, 512, 64, small("cookie", 3), 600)
	case "random_get":
		must(kind, at, min(64, uint64(size)-at))
	case "shallow":
		must("deep", 100, 0)
	case "deep":
		var trap *runtime.Trap // the interpreter has a bound of its own
		if err := call(kind, 2000, 0); err != nil && !(errors.As(err, &trap) && trap.Reason == "stack overflow") {
			t.Fatalf("%s: %v", kind, err)
		}
		return image.Stack
	case "table.grow", "table.set", "table.fill", "table.copy", "elem.drop", "data.drop":
		must(kind, 0, 0)
		return image.Tables
	case "table.init":
		_ = call(kind, 0, 0) // it traps if the segment was dropped
		return image.Tables
	default:
		t.Fatal(kind)
	}
	return ""
}

func TestGoGuestsDrawOtherNumbersInEachRequest(t *testing.T) {
	p := program(t, hooks, newWorld(), policy.Capabilities{}, Options{})
	var seen [6]map[string]bool
	names := []string{"math/rand", "math/rand/v2", "crypto/rand", "the order of a map", "a maphash.Hash", "a maphash.Seed"}
	const sandboxes, rounds = 3, 20
	for range sandboxes {
		s := sandbox(t, p)
		for range rounds {
			got, err := get(t, s, "/random")
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range strings.Fields(got) {
				if seen[i] == nil {
					seen[i] = map[string]bool{}
				}
				seen[i][v] = true
			}
			if err := s.Return(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, name := range names {
		if len(seen[i]) != sandboxes*rounds {
			t.Errorf("%s: %d different in %d requests", name, len(seen[i]), sandboxes*rounds)
		}
	}
}
