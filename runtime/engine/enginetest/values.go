package enginetest

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
)

var values = map[string]func(*testing.T, *world){
	"an invalid module is refused":                           invalidModule,
	"compiling does not look at imports, instantiating does": unknownImport,
	"numbers of each type go in and come out":                numbers,
	"several results come out in order":                      severalResults,
	"the upper half of an i32 parameter does not matter":     maskedParameter,
	"vectors are there, and take two places each":            vectors,
	"what is not exported is nil":                            notExported,
	"exported mutable globals are read and set":              globals,
	"instances of a module share nothing":                    shareNothing,
}

func invalidModule(t *testing.T, w *world) {
	for name, wasm := range map[string][]byte{
		"nothing":         nil,
		"text":            []byte("(module)"),
		"half a section":  []byte(wasmtest.Header + "\x01\x7f"),
		"a missing value": build(module(fn("f", nil, types(i32)))),
		"a wrong type":    build(module(fn("f", nil, types(i32), wasmtest.I64Const(1)))),
		"no such local":   build(module(fn("f", nil, nil, wasmtest.LocalGet(3), []byte{wasmtest.Drop}))),
		"no memory":       build(module(fn("f", nil, nil, wasmtest.I32Const(0), wasmtest.Load(0), []byte{wasmtest.Drop}))),
		"threads":         build(wasmtest.Module{Memory: []uint32{1}, Funcs: []wasmtest.Func{fn("f", nil, nil, []byte{0xfe, 0x03, 0x00})}}),
	} {
		if m, err := w.e.Compile(context.Background(), wasm); err == nil {
			t.Errorf("%s: compiled", name)
			_ = m.Close() // the test has failed
		}
	}
}

func unknownImport(t *testing.T, w *world) {
	m := w.compile((&wasmtest.Module{Imports: []wasmtest.Import{{Module: "test", Name: "nowhere"}}}).Bytes())
	if i, err := m.Instantiate(context.Background(), w.door(&host{}), engine.NewMemory(maxPages)); err == nil {
		t.Error("instantiated")
		_ = i.Close() // the test has failed
	}
	m = w.compile((&wasmtest.Module{Imports: []wasmtest.Import{{Module: "test", Name: "add", Type: wasmtest.Type{Params: types(i64)}}}}).Bytes())
	if i, err := m.Instantiate(context.Background(), w.door(&host{}), engine.NewMemory(maxPages)); err == nil {
		t.Error("instantiated with an import of another type")
		_ = i.Close() // the test has failed
	}
}

func numbers(t *testing.T, w *world) {
	var fs []wasmtest.Func
	for name, typ := range map[string]byte{"i32": i32, "i64": i64, "f32": f32, "f64": f64} {
		fs = append(fs, fn(name, types(typ), types(typ), wasmtest.LocalGet(0)))
	}
	i := w.start(module(fs...), &host{})
	for name, ns := range map[string][]uint64{
		"i32": {0, 1, math.MaxUint32, 1 << 31},
		"i64": {0, 1, math.MaxUint64, 1 << 63},
		"f32": {0, uint64(math.Float32bits(-1.5)), 1 << 31, 0x7fc00001}, // -0 and a NaN with a payload
		"f64": {0, math.Float64bits(-1.5), 1 << 63, 0x7ff8000000000001},
	} {
		for _, n := range ns {
			got := must(t, i, name, n)
			if name == "i32" || name == "f32" {
				got = uint64(uint32(got))
			}
			if got != n {
				t.Errorf("%s %#x comes out as %#x", name, n, got)
			}
		}
	}
}

func severalResults(t *testing.T, w *world) {
	i := w.start(module(fn("f", types(i32, i64), types(i64, i32, f64, i32),
		wasmtest.LocalGet(1), wasmtest.LocalGet(0), wasmtest.F64Const(0.5), wasmtest.I32Const(4))), &host{})
	stack := []uint64{7, 8, 0, 0}
	if err := i.Function("f").Call(context.Background(), stack); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{8, 7, math.Float64bits(0.5), 4}; !slices.Equal(stack, want) {
		t.Errorf("got %v, want %v", stack, want)
	}
}

func maskedParameter(t *testing.T, w *world) {
	const extend = 0xad // i64.extend_i32_u
	i := w.start(module(fn("f", types(i32), types(i64), wasmtest.LocalGet(0), []byte{extend})), &host{})
	if got := must(t, i, "f", 0xdeadbeef_00000001); got != 1 {
		t.Errorf("got %#x", got)
	}
}

func vectors(t *testing.T, w *world) {
	simd := func(op byte, more ...byte) []byte { return append([]byte{0xfd, op}, more...) }
	const splat, lane, addition = 0x11, 0x1b, 0xae // i32x4
	v128 := byte(wasmtest.V128)
	i := w.start(module(
		fn("f", types(i32), types(i32), wasmtest.LocalGet(0), simd(splat), wasmtest.I32Const(2), simd(splat), simd(addition, 1), simd(lane, 3)),
		fn("g", types(i32, v128, i32), types(v128, i32), wasmtest.LocalGet(1), wasmtest.LocalGet(0), wasmtest.LocalGet(2), []byte{wasmtest.I32Add}),
	), &host{})
	if got := must(t, i, "f", 40); uint32(got) != 42 {
		t.Errorf("got %d", got)
	}
	stack := []uint64{1, 11, 22, 2}
	if err := i.Function("g").Call(context.Background(), stack); err != nil {
		t.Fatal(err)
	}
	if stack[2] &= math.MaxUint32; !slices.Equal(stack[:3], []uint64{11, 22, 3}) {
		t.Errorf("got %v", stack)
	}
}

func notExported(t *testing.T, w *world) {
	m := module(fn("f", nil, nil))
	m.Globals = []wasmtest.Global{{Type: i32, Init: wasmtest.I32Const(1), Export: "g"}, {Type: i32, Init: wasmtest.I32Const(1)}}
	i := w.start(m, &host{})
	if i.Function("g") != nil || i.Function("") != nil || i.Function("F") != nil {
		t.Error("functions that are not there are found")
	}
	if i.Global("f") != nil || i.Global("") != nil || i.Global("G") != nil {
		t.Error("globals that are not there are found")
	}
	if n := len(i.Memory().Bytes()); n != 0 {
		t.Errorf("a memory of %d bytes that is not there", n)
	}
}

func globals(t *testing.T, w *world) {
	m := module(fn("turn", nil, nil, wasmtest.GlobalGet(1), wasmtest.I64Const(1), []byte{0x7c}, wasmtest.GlobalSet(1)), // i64.add
		fn("get", nil, types(f64), wasmtest.GlobalGet(3)))
	m.Globals = []wasmtest.Global{
		{Type: i32, Init: wasmtest.I32Const(-1), Export: "i32"},
		{Type: i64, Init: wasmtest.I64Const(1 << 40), Export: "i64"},
		{Type: f32, Init: []byte{0x43, 0, 0, 0x80, 0x3f}, Export: "f32"},
		{Type: f64, Init: wasmtest.F64Const(2), Export: "f64"},
		{Type: byte(wasmtest.V128), Init: append([]byte{0xfd, 0x0c}, make([]byte, 16)...), Export: "v128"},
	}
	i := w.start(m, &host{})
	for name, want := range map[string]uint64{"i32": math.MaxUint32, "i64": 1 << 40, "f32": uint64(math.Float32bits(1)), "f64": math.Float64bits(2)} {
		g := i.Global(name)
		if g == nil {
			t.Fatalf("no global %s", name)
		}
		if got := g.Get(); got != want {
			t.Errorf("%s is %#x, want %#x", name, got, want)
		}
		if g.Set(want - 1); g.Get() != want-1 {
			t.Errorf("%s is %#x, was set to %#x", name, g.Get(), want-1)
		}
	}
	if i.Global("v128") != nil {
		t.Error("a vector is a number")
	}
	must(t, i, "turn")
	if got := i.Global("i64").Get(); got != 1<<40 {
		t.Errorf("the guest added 1 to %#x and got %#x", uint64(1<<40-1), got)
	}
	if got := must(t, i, "get"); got != math.Float64bits(2)-1 {
		t.Errorf("the guest sees %#x", got)
	}
}

func shareNothing(t *testing.T, w *world) {
	m := wasmtest.Module{Memory: []uint32{1}, Globals: []wasmtest.Global{{Type: i32, Init: wasmtest.I32Const(0), Export: "g"}}, Funcs: []wasmtest.Func{
		fn("set", types(i32), nil, wasmtest.I32Const(0), wasmtest.LocalGet(0), wasmtest.Store(0), wasmtest.LocalGet(0), wasmtest.GlobalSet(0), wasmtest.LocalGet(0), wasmtest.Call(note)),
		fn("get", nil, types(i32), wasmtest.I32Const(0), wasmtest.Load(0), wasmtest.GlobalGet(0), []byte{wasmtest.I32Add})}}
	code := w.compile(build(m))
	for n := range uint64(3) {
		h := &host{}
		i, err := code.Instantiate(context.Background(), w.door(h), engine.NewMemory(maxPages))
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		if got := must(t, i, "get"); got != 0 {
			t.Errorf("instance %d begins with %d", n, got)
		}
		must(t, i, "set", n+1)
		if got := must(t, i, "get"); got != 2*n+2 || !slices.Equal(h.noted, []uint64{n + 1}) {
			t.Errorf("instance %d has %d and noted %v", n, got, h.noted)
		}
	}
}
