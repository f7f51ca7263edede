package enginetest

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

var hostCalls = map[string]func(*testing.T, *world){
	"host calls get their parameters and give results":       parameters,
	"the start function has run once there is an instance":   startRuns,
	"exit, stop and their reasons end the guest at once":     hostEndings,
	"exit in the start function fails the instantiation":     exitInStart,
	"a panic of a host function is a defect of the host":     panics,
	"host calls read and write the guest's memory":           hostMemory,
	"a host call may call the guest again":                   reenter,
	"an exit of an inner call is the inner call's":           innerExit,
	"a trap of an inner call is the inner call's":            innerTrap,
	"recursion through host calls ends as a stack overflow":  deepReentry,
	"a host call sees the context of the call that it is in": contexts,
	"a host call may make another sandbox":                   nestedSandbox,
	"the door may refuse a call by a reason of its own":      limitedCalls,
}

func parameters(t *testing.T, w *world) {
	h := &host{}
	i := w.start(module(
		fn("noteBy", types(i64, f32, f64, i32), nil, wasmtest.LocalGet(0), wasmtest.LocalGet(1), wasmtest.LocalGet(2), wasmtest.LocalGet(3), wasmtest.Call(noteBy)),
		fn("add", types(i32, i32), types(i32), wasmtest.LocalGet(0), wasmtest.LocalGet(1), wasmtest.Call(add)),
		fn("split", types(i64), types(i32, i32), wasmtest.LocalGet(0), wasmtest.Call(split)),
	), h)
	in := []uint64{1<<63 | 5, uint64(math.Float32bits(-2)), math.Float64bits(1e300), math.MaxUint32}
	must(t, i, "noteBy", slices.Clone(in)...)
	if h.noted[1] &= math.MaxUint32; !slices.Equal(h.noted, in) {
		t.Errorf("noted %x, want %x", h.noted, in)
	}
	if got := must(t, i, "add", 1<<31, 1<<31+42); uint32(got) != 42 {
		t.Errorf("the sum is %d", uint32(got))
	}
	if out, err := invoke(t, i, "split", 3<<32|4, 0); err != nil || uint32(out[0]) != 3 || uint32(out[1]) != 4 {
		t.Errorf("split: %x, %v", out, err)
	}
}

func startRuns(t *testing.T, w *world) {
	m := wasmtest.Module{Memory: []uint32{1}, Data: []wasmtest.Data{{Offset: 8, Bytes: []byte{42}}}, Funcs: []wasmtest.Func{
		{Body: wasmtest.Cat(wasmtest.I32Const(8), wasmtest.Load(0), wasmtest.Call(note), wasmtest.I32Const(8), wasmtest.I32Const(43), wasmtest.Store(0))}}}
	start := uint32(first)
	m.Start = &start
	h := &host{}
	i := w.start(m, h)
	if !slices.Equal(h.noted, []uint64{42}) || i.Memory().Bytes()[8] != 43 {
		t.Errorf("noted %v, and memory has %d", h.noted, i.Memory().Bytes()[8])
	}
}

func hostEndings(t *testing.T, w *world) {
	h := &host{}
	after := wasmtest.Cat(wasmtest.I32Const(1), wasmtest.Call(note))
	i := w.start(module(
		fn("exit", types(i32), nil, wasmtest.LocalGet(0), wasmtest.Call(exit), after),
		fn("stop", nil, nil, wasmtest.Call(stop), after),
		fn("deep", nil, nil, wasmtest.Call(first+1), after),
	), h)
	for range 2 {
		var e *hostcall.ExitError
		if _, err := invoke(t, i, "exit", 7); !errors.As(err, &e) || e.Code != 7 {
			t.Errorf("exit: %v", err)
		}
		for _, name := range []string{"stop", "deep"} {
			var s *hostcall.StopError
			if _, err := invoke(t, i, name); !errors.As(err, &s) || s.Rule != "a rule" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(h.noted) > 0 {
		t.Error("the guest went on")
	}
}

func exitInStart(t *testing.T, w *world) {
	m := module(wasmtest.Func{Body: wasmtest.Cat(wasmtest.I32Const(3), wasmtest.Call(exit))})
	start := uint32(first)
	m.Start = &start
	var e *hostcall.ExitError
	if err := w.begin(t.Context(), m, &host{}); !errors.As(err, &e) || e.Code != 3 {
		t.Errorf("error %v", err)
	}
}

func panics(t *testing.T, w *world) {
	i := w.start(module(fn("f", nil, nil, wasmtest.Call(defect)), fn("g", nil, types(i32), wasmtest.I32Const(7))), &host{})
	_, err := invoke(t, i, "f")
	var trap *engine.Trap
	if !errors.Is(err, hostcall.ErrHost) || errors.As(err, &trap) || !strings.Contains(err.Error(), "a defect") {
		t.Errorf("error %v", err)
	}
	if got := must(t, i, "g"); got != 7 {
		t.Errorf("afterwards a function gives %d", got)
	}
}

// double is a module whose "f" hands its parameter to the host, and adds 1 to what it answers.
func double() wasmtest.Module {
	return wasmtest.Module{Memory: []uint32{1, 4}, Funcs: []wasmtest.Func{
		fn("f", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.Call(call), wasmtest.I32Const(1), []byte{wasmtest.I32Add}),
		fn("load", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.Load(0)),
		fn("grow", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.MemoryGrow()),
		fn("trap", nil, nil, []byte{wasmtest.Unreachable}),
		fn("exit", types(i32), nil, wasmtest.LocalGet(0), wasmtest.Call(exit)),
	}}
}

func hostMemory(t *testing.T, w *world) {
	h := &host{}
	i := w.start(double(), h)
	h.onCall = func(c *hostcall.Call) {
		if !c.Write(c.Uint32(0), []byte{1, 2, 3, 4}) {
			c.SetResult(0, 99)
		}
	}
	const last = 1<<16 - 4
	if got := must(t, i, "f", last); uint32(got) != 1 {
		t.Errorf("the host could not write: %d", got)
	}
	if got := must(t, i, "load", last); got != 0x04030201 {
		t.Errorf("the guest reads %#x", got)
	}
	if got := must(t, i, "f", last+1); uint32(got) != 100 {
		t.Error("the host could write past the end")
	}
	h.onCall = func(c *hostcall.Call) { // a guest that grows while the host is at it
		if _, err := invoke(t, i, "grow", 2); err != nil || len(c.Memory()) != 3<<16 || !c.Write(3<<16-4, []byte{9, 0, 0, 0}) {
			t.Errorf("a memory of %d bytes, %v", len(c.Memory()), err)
		}
	}
	must(t, i, "f", 0)
	if got := must(t, i, "load", 3<<16-4); got != 9 {
		t.Errorf("the guest reads %d in what has grown", got)
	}
}

func reenter(t *testing.T, w *world) {
	h := &host{}
	i := w.start(double(), h)
	h.onCall = func(c *hostcall.Call) {
		if n := c.Uint32(0); n > 0 {
			c.SetResult(0, must(t, i, "f", uint64(n-1)))
		}
	}
	if got := must(t, i, "f", 50); uint32(got) != 51 {
		t.Errorf("got %d", uint32(got))
	}
}

func innerExit(t *testing.T, w *world) {
	h := &host{}
	i := w.start(double(), h)
	h.onCall = func(c *hostcall.Call) {
		var e *hostcall.ExitError
		if _, err := invoke(t, i, "exit", 5); !errors.As(err, &e) || e.Code != 5 {
			t.Errorf("the inner call: %v", err)
		}
	}
	if got := must(t, i, "f", 0); uint32(got) != 1 {
		t.Errorf("got %d", uint32(got))
	}
}

func innerTrap(t *testing.T, w *world) {
	h := &host{}
	i := w.start(double(), h)
	h.onCall = func(c *hostcall.Call) {
		_, err := invoke(t, i, "trap")
		wantTrap(t, err, "unreachable")
		c.Stop(err)
	}
	_, err := invoke(t, i, "f", 0)
	wantTrap(t, err, "unreachable")
}

func deepReentry(t *testing.T, w *world) {
	h := &host{}
	i := w.start(double(), h)
	// The guest's own recursion, below a few host calls, and not the host's, which would end the process.
	m := module(fn("f", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.Call(call)), fn("g", nil, nil, wasmtest.Call(first+1), wasmtest.Call(first+1)))
	i = w.start(m, h)
	h.onCall = func(c *hostcall.Call) {
		if n := c.Uint32(0); n > 0 {
			c.SetResult(0, must(t, i, "f", uint64(n-1)))
			return
		}
		_, err := invoke(t, i, "g")
		wantTrap(t, err, "stack overflow")
	}
	must(t, i, "f", 20)
}

type key struct{}

func contexts(t *testing.T, w *world) {
	h := &host{}
	i := w.start(double(), h)
	inner := context.WithValue(context.Background(), key{}, "inner")
	var seen []any
	h.onCall = func(c *hostcall.Call) {
		seen = append(seen, c.Context().Value(key{}))
		if c.Uint32(0) == 1 {
			if err := i.Function("f").Call(inner, []uint64{0}); err != nil {
				t.Error(err)
			}
			seen = append(seen, c.Context().Value(key{}))
		}
	}
	if err := i.Function("f").Call(context.WithValue(context.Background(), key{}, "outer"), []uint64{1}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []any{"outer", "inner", "outer"}) {
		t.Errorf("seen %v", seen)
	}
}

func nestedSandbox(t *testing.T, w *world) {
	h := &host{}
	i := w.start(double(), h)
	m := wasmtest.Module{Memory: []uint32{2}, Funcs: []wasmtest.Func{{Body: wasmtest.Cat(wasmtest.I32Const(0), wasmtest.Call(call), wasmtest.Call(note))}}}
	start := uint32(first)
	m.Start = &start
	code := w.compile(build(m))
	h.onCall = func(c *hostcall.Call) { // within a call of one, within the start of another
		other := &host{}
		other.onCall = func(c *hostcall.Call) {
			third := w.start(double(), &host{})
			c.SetResult(0, uint64(len(c.Memory())>>16)<<8|uint64(len(third.Memory().Bytes())>>16))
		}
		in, err := code.Instantiate(context.Background(), w.door(other), engine.NewMemory(maxPages))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		c.SetResult(0, other.noted[0])
	}
	if got := must(t, i, "f", 0); uint32(got) != 0x202 {
		t.Errorf("got %#x", got)
	}
}

func limitedCalls(t *testing.T, w *world) {
	h := &host{}
	over := errors.New("enough")
	m := module(fn("f", nil, nil, wasmtest.Loop(wasmtest.I32Const(1), wasmtest.Call(note), wasmtest.Br(0))))
	d := w.door(h)
	i, err := w.compile(build(m)).Instantiate(context.Background(), d, engine.NewMemory(maxPages))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	d.Limit(1000, func(uint64) error { return over })
	if _, err := invoke(t, i, "f"); !errors.Is(err, over) || len(h.noted) != 1000 {
		t.Errorf("%d calls, %v", len(h.noted), err)
	}
}
