// Package enginetest is the suite that every engine of package engine passes. It calls only the contract.
package enginetest

import (
	"context"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Run runs the suite. open answers an engine that serves imports from a table and ends guests whose context is over; it ends the
// engine with the test.
func Run(t *testing.T, open func(*testing.T, *hostcall.Table) engine.Engine) {
	for _, part := range []map[string]func(*testing.T, *world){values, traps, hostCalls, memories, endings} {
		for name, check := range part {
			t.Run(name, func(t *testing.T) { check(t, newWorld(t, open)) })
		}
	}
}

// world is an engine and the host behind it.
type world struct {
	t     *testing.T
	e     engine.Engine
	table *hostcall.Table
	lib   *hostcall.Library
}

// host is what the library sees of one sandbox.
type host struct {
	noted  []uint64
	onCall func(*hostcall.Call) // what the function "call" does
	events []hostcall.Event
}

// Watches, Before, After and Event make host an interposer that only observes.
func (*host) Watches(*hostcall.Func) bool            { return false }
func (*host) Before(*hostcall.Call) hostcall.Verdict { return hostcall.Proceed }
func (*host) After(*hostcall.Call)                   {}
func (h *host) Event(e hostcall.Event)               { h.events = append(h.events, e) }

func hostOf(c *hostcall.Call) *host { return c.State().(*host) }

const i32, i64, f32, f64 = byte(wasmtest.I32), byte(wasmtest.I64), byte(wasmtest.F32), byte(wasmtest.F64)

// The imported functions, by their index in a module made by build.
const (
	note   = iota // note(i32)
	noteBy        // noteBy(i64, f32, f64, i32) notes all four
	add           // add(i32, i32) i32
	split         // split(i64) (i32, i32)
	exit          // exit(i32)
	stop          // stop()
	defect        // defect() panics
	call          // call(i32) i32 does what host.onCall says
	first         // the first function of the module itself
)

func library() *hostcall.Library {
	const i32, i64, f32, f64 = hostcall.I32, hostcall.I64, hostcall.F32, hostcall.F64
	args := func(n int) []hostcall.Arg {
		return []hostcall.Arg{{Name: "a"}, {Name: "b", Param: 1}, {Name: "c", Param: 2}, {Name: "d", Param: 3}}[:n]
	}
	type types = []hostcall.ValueType
	f := func(name string, params, results types, do func(*hostcall.Call)) hostcall.Func {
		return hostcall.Func{Module: "test", Name: name, Params: params, Results: results, Args: args(len(params)), Call: do}
	}
	return &hostcall.Library{Name: "test", Funcs: []hostcall.Func{
		note:   f("note", types{i32}, nil, func(c *hostcall.Call) { h := hostOf(c); h.noted = append(h.noted, c.Num(0)) }),
		noteBy: f("noteBy", types{i64, f32, f64, i32}, nil, noteAll),
		add:    f("add", types{i32, i32}, types{i32}, func(c *hostcall.Call) { c.SetResult(0, uint64(c.Uint32(0)+c.Uint32(1))) }),
		split:  f("split", types{i64}, types{i32, i32}, func(c *hostcall.Call) { c.SetResult(0, c.Num(0)>>32); c.SetResult(1, c.Num(0)) }),
		exit:   f("exit", types{i32}, nil, func(c *hostcall.Call) { c.Stop(&hostcall.ExitError{Code: c.Uint32(0)}) }),
		stop:   f("stop", nil, nil, func(c *hostcall.Call) { c.Stop(&hostcall.StopError{Func: "test.stop", Rule: "a rule"}) }),
		defect: f("defect", nil, nil, func(*hostcall.Call) { panic("a defect") }),
		call:   f("call", types{i32}, types{i32}, func(c *hostcall.Call) { hostOf(c).onCall(c) }),
	}}
}

func noteAll(c *hostcall.Call) {
	h := hostOf(c)
	for i := range 4 {
		h.noted = append(h.noted, c.Num(i))
	}
}

// build makes a module that imports the library.
func build(m wasmtest.Module) []byte {
	for _, f := range library().Funcs {
		t := wasmtest.Type{}
		for _, p := range f.Params {
			t.Params = append(t.Params, byte(p))
		}
		for _, r := range f.Results {
			t.Results = append(t.Results, byte(r))
		}
		m.Imports = append(m.Imports, wasmtest.Import{Module: f.Module, Name: f.Name, Type: t})
	}
	return m.Bytes()
}

func newWorld(t *testing.T, open func(*testing.T, *hostcall.Table) engine.Engine) *world {
	t.Helper()
	lib := library()
	table, err := hostcall.NewTable(lib)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, e: open(t, table), table: table, lib: lib}
}

func (w *world) compile(wasm []byte) engine.Module {
	w.t.Helper()
	m, err := w.e.Compile(context.Background(), wasm)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) door(h *host) *hostcall.Door {
	w.t.Helper()
	d, err := hostcall.NewDoor(w.table, []hostcall.Binding{{Library: w.lib, State: h}}, []hostcall.Interposer{h})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// maxPages bounds the memories of instances that no test says more about.
const maxPages = 16

// start makes an instance that is closed with the test.
func (w *world) start(m wasmtest.Module, h *host) engine.Instance {
	w.t.Helper()
	i, err := w.compile(build(m)).Instantiate(context.Background(), w.door(h), engine.NewMemory(maxPages))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := i.Close(); err != nil {
			w.t.Errorf("close: %v", err)
		}
	})
	return i
}

// begin is start for a module that fails to start, and answers the error.
func (w *world) begin(ctx context.Context, m wasmtest.Module, h *host) error {
	w.t.Helper()
	i, err := w.compile(build(m)).Instantiate(ctx, w.door(h), engine.NewMemory(maxPages))
	if err == nil {
		w.t.Error("the instance started")
		_ = i.Close() // the test has failed
	}
	return err
}

// invoke calls a function with stack as its parameters.
func invoke(t *testing.T, i engine.Instance, name string, stack ...uint64) ([]uint64, error) {
	t.Helper()
	f := i.Function(name)
	if f == nil {
		t.Fatalf("no function %s", name)
	}
	if len(stack) == 0 {
		stack = make([]uint64, 8)
	}
	err := f.Call(context.Background(), stack)
	return stack, err
}

// must is invoke for calls that return, and answers the first result.
func must(t *testing.T, i engine.Instance, name string, stack ...uint64) uint64 {
	t.Helper()
	out, err := invoke(t, i, name, stack...)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out[0]
}

// fn is a function of a module under test.
func fn(name string, params, results []byte, body ...[]byte) wasmtest.Func {
	return wasmtest.Func{Name: name, Export: name, Type: wasmtest.Type{Params: params, Results: results}, Body: wasmtest.Cat(body...)}
}

func module(funcs ...wasmtest.Func) wasmtest.Module { return wasmtest.Module{Funcs: funcs} }

func types(ts ...byte) []byte { return ts }
