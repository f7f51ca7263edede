package enginetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
)

var traps = map[string]func(*testing.T, *world){
	"each trap is told by its words and its function":      trapWords,
	"a backtrace names functions, innermost first":         backtrace,
	"what a trap tells is bounded":                         boundedTrap,
	"a guest can be called again after a trap":             callAfterTrap,
	"recursion without end is a stack overflow":            endlessRecursion,
	"a trap in the start function fails the instantiation": startTraps,
	"an active segment outside memory or table fails it":   segmentOutside,
	"tables grow to a bound":                               boundedTable,
}

// wantTrap checks that err is a trap with that reason and answers it.
func wantTrap(t *testing.T, err error, reason string) *engine.Trap {
	t.Helper()
	var trap *engine.Trap
	if !errors.As(err, &trap) {
		t.Fatalf("%v is no trap, want %q", err, reason)
	}
	if trap.Reason != reason {
		t.Errorf("the trap is %q, want %q", trap.Reason, reason)
	}
	return trap
}

func trapWords(t *testing.T, w *world) {
	// Indirect calls are of type 0, which is note's.
	c, c64 := wasmtest.I32Const, wasmtest.I64Const
	drop := []byte{wasmtest.Drop}
	for i, trap := range []struct {
		reason string
		body   []byte
	}{
		{"unreachable", []byte{wasmtest.Unreachable}},
		{"integer divide by zero", wasmtest.Cat(c(1), c(0), []byte{wasmtest.I32DivS}, drop)},
		{"integer divide by zero", wasmtest.Cat(c64(1), c64(0), []byte{0x82}, drop)}, // i64.rem_u
		{"integer overflow", wasmtest.Cat(c(-1<<31), c(-1), []byte{wasmtest.I32DivS}, drop)},
		{"integer overflow", wasmtest.Cat(wasmtest.F64Const(1e30), []byte{0xaa}, drop)},             // i32.trunc_f64_s
		{"invalid conversion to integer", wasmtest.Cat([]byte{0x43, 0, 0, 0xc0, 0x7f, 0xae}, drop)}, // i64.trunc_f32_s of NaN
		{"out of bounds memory access", wasmtest.Cat(c(-1), wasmtest.Load(0), drop)},
		{"out of bounds memory access", wasmtest.Cat(c(0), wasmtest.Load(1<<16-3), drop)},
		{"out of bounds memory access", wasmtest.Cat(c(1<<16-3), c(1), wasmtest.Store(0))},
		{"out of bounds memory access", wasmtest.Cat(c(1), c(0), c(1<<16), []byte{0xfc, 0x0b, 0})},                            // memory.fill
		{"out of bounds memory access", wasmtest.Cat(c(0), c(1), c(1<<16), []byte{0xfc, 0x0a, 0, 0})},                         // memory.copy
		{"invalid table access", wasmtest.Cat(c(5), c(99), []byte{0x11, 0, 0})},                                               // call_indirect
		{"invalid table access", wasmtest.Cat(c(5), c(0), []byte{0x11, 0, 0})},                                                // of null
		{"invalid table access", wasmtest.Cat(c(99), []byte{0x25, 0}, drop)},                                                  // table.get
		{"indirect call type mismatch", wasmtest.Cat(c(0), []byte{0xd2, first + 1, 0x26, 0}, c(5), c(0), []byte{0x11, 0, 0})}, // table.set
	} {
		m := module(fn("f", nil, nil, trap.body), fn("declared", nil, nil))
		m.Memory, m.Table = []uint32{1}, []uint32{10}
		inst := w.start(m, &host{})
		_, err := invoke(t, inst, "f")
		if got := wantTrap(t, err, trap.reason); len(got.Frames) == 0 || got.Frames[0].Function != "f" {
			t.Errorf("trap %d, %s: frames %v", i, trap.reason, got.Frames)
		}
	}
}

func backtrace(t *testing.T, w *world) {
	unnamed := wasmtest.Func{Body: wasmtest.Call(first + 2)}
	i := w.start(module(
		fn("outer", nil, nil, wasmtest.Call(first+1)),
		unnamed,
		wasmtest.Func{Name: "main.(*T).f(int) (a, b)", Body: []byte{wasmtest.Unreachable}},
	), &host{})
	_, err := invoke(t, i, "outer")
	trap := wantTrap(t, err, "unreachable")
	var names []string
	for _, f := range trap.Frames {
		names = append(names, f.Function)
	}
	if want := []string{"main.(*T).f(int) (a, b)", fmt.Sprintf("$%d", first+1), "outer"}; !slices.Equal(names, want) {
		t.Errorf("frames %q, want %q", names, want)
	}
}

func boundedTrap(t *testing.T, w *world) {
	deep := wasmtest.Func{Name: strings.Repeat("é", 1000), Export: "f", Type: wasmtest.Type{Params: types(i32)}, Body: wasmtest.Cat(
		wasmtest.LocalGet(0), []byte{wasmtest.I32Eqz, 0x04, 0x40, wasmtest.Unreachable, wasmtest.End},
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.Call(first))}
	_, err := invoke(t, w.start(module(deep), &host{}), "f", 100)
	trap := wantTrap(t, err, "unreachable")
	if n := len(trap.Frames); n < 10 || n > 30 {
		t.Errorf("%d frames", n)
	}
	for _, f := range trap.Frames {
		if len(f.Function) > 260 || !utf8.ValidString(f.Function) || !strings.HasPrefix(f.Function, "éé") {
			t.Fatalf("a frame's function is %d bytes: %.20q", len(f.Function), f.Function)
		}
	}
}

func callAfterTrap(t *testing.T, w *world) {
	i := w.start(module(fn("f", types(i32), types(i32), wasmtest.I32Const(84), wasmtest.LocalGet(0), []byte{wasmtest.I32DivS})), &host{})
	for range 3 {
		_, err := invoke(t, i, "f", 0)
		wantTrap(t, err, "integer divide by zero")
		if got := must(t, i, "f", 2); got != 42 {
			t.Errorf("got %d", got)
		}
	}
	if i.Ended() {
		t.Error("the instance has ended")
	}
}

func endlessRecursion(t *testing.T, w *world) {
	i := w.start(module(fn("f", nil, nil, wasmtest.Call(first), wasmtest.Call(first)), fn("g", nil, types(i32), wasmtest.I32Const(7))), &host{})
	for range 2 {
		_, err := invoke(t, i, "f")
		wantTrap(t, err, "stack overflow")
	}
	if got := must(t, i, "g"); got != 7 {
		t.Errorf("afterwards a function gives %d", got)
	}
}

func startTraps(t *testing.T, w *world) {
	m := module(wasmtest.Func{Name: "begin", Body: []byte{wasmtest.Unreachable}})
	start := uint32(first)
	m.Start = &start
	trap := wantTrap(t, w.begin(t.Context(), m, &host{}), "unreachable")
	if len(trap.Frames) == 0 || trap.Frames[0].Function != "begin" {
		t.Errorf("frames %v", trap.Frames)
	}
}

func segmentOutside(t *testing.T, w *world) {
	m := wasmtest.Module{Memory: []uint32{1}, Data: []wasmtest.Data{{Offset: 1<<16 - 1, Bytes: []byte("ab")}}}
	if err := w.begin(t.Context(), m, &host{}); err == nil {
		t.Error("a segment was written past the end")
	}
}

func boundedTable(t *testing.T, w *world) {
	m := module(fn("grow", types(i32), types(i32), []byte{0xd0, wasmtest.FuncRef}, wasmtest.LocalGet(0), []byte{0xfc, 0x0f, 0}))
	m.Table = []uint32{1}
	i := w.start(m, &host{})
	if got := must(t, i, "grow", 9); got != 1 {
		t.Errorf("growing by 9 gives %d, want the former size", got)
	}
	for _, n := range []uint64{engine.MaxTable, 1<<31 - 1, 1<<32 - 1} {
		if got := must(t, i, "grow", n); uint32(got) != 1<<32-1 {
			t.Errorf("growing by %d gives %d", n, int32(got))
		}
	}
	if got := must(t, i, "grow", 0); got != 10 {
		t.Errorf("the table has %d elements", got)
	}
}
