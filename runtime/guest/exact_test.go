package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
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

// TestTheNextInvocationFindsTheImageOrASandboxIsThrownAway has a task do anything between two requests, in whatever order, and looks at everything that
// the next invocation could see.
func TestTheNextInvocationFindsTheImageOrASandboxIsThrownAway(t *testing.T) {
	code := modules(t)(unruly())
	rapid.Check(t, func(t *rapid.T) {
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
		g, err := policy.Grant(policy.Capabilities{Files: []policy.File{{Guest: "/d", Source: dir, Access: "rw"}}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(Options{Module: code, Grants: g, Source: HostPaths, Images: true, MemoryPages: 7, Interposers: []hostcall.Interposer{stopper{}}})
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
			var d *image.DiscardError
			switch err := s.Return(); {
			case err == nil && len(spoiled) == 0:
			case errors.As(err, &d) && (spoiled[d.Reason] || d.Reason == image.Ended && testEngine != runtime.Wazero):
				s = fresh()
			default:
				t.Fatalf("returned: %v, spoiled by %v", err, spoiled)
			}
		}
		asTheImage(t, s, want)
	})
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
	copy(s.vm.Memory().Bytes(), copyOf)
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
		must(kind, 2000, 0)
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
