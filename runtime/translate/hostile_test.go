package translate_test

import (
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

// hostile are modules whose export "f", or start function, would run for ever or for long.
func hostile() map[string][]byte {
	none := wasmtest.Type{}
	i32s := func(n int) (out []byte) {
		for range n {
			out = append(out, i32)
		}
		return out
	}
	c := wasmtest.I32Const
	f := func(funcs ...[]byte) []byte {
		m := wasmtest.Module{Memory: []uint32{16}, Table: []uint32{20_000}}
		for i, body := range funcs {
			fn := wasmtest.Func{Type: none, Body: body}
			if i == 0 {
				fn.Export = "f"
			}
			m.Funcs = append(m.Funcs, fn)
		}
		return m.Bytes()
	}
	forever := func(body ...[]byte) []byte { return wasmtest.Loop(wasmtest.Cat(body...), wasmtest.Br(0)) }
	calls := func(i uint32, n int) []byte { return wasmtest.Repeat(n, wasmtest.Call(i)...) }
	straight := wasmtest.Repeat(3000, wasmtest.Cat(c(1), []byte{wasmtest.Drop})...)
	tree := [][]byte{}
	for i := range 40 { // 2^40 calls, and no loop
		tree = append(tree, calls(uint32(i+1), 2))
	}
	tree = append(tree, nil)
	branchy := []byte{}
	for range 300 {
		branchy = append(branchy, wasmtest.Block(wasmtest.LocalGet(0), []byte{0x0d, 0}, c(1), []byte{wasmtest.Drop})...)
	}
	table := func(labels int) []byte {
		return wasmtest.Loop(wasmtest.Block(wasmtest.LocalGet(0), []byte{0x0e}, wasmtest.U32(uint32(labels)), wasmtest.Repeat(labels, 1), []byte{1}))
	}
	with := func(locals []byte, start bool, body []byte, more ...wasmtest.Func) []byte {
		m := wasmtest.Module{Memory: []uint32{16}, Funcs: append([]wasmtest.Func{{Export: "f", Locals: locals, Body: body}}, more...)}
		if start {
			m.Start = new(uint32)
		}
		return m.Bytes()
	}
	return map[string][]byte{
		"an endless loop":                 f(forever()),
		"an endless loop in start":        with(nil, true, forever()),
		"a loop with a body":              f(forever(straight)),
		"a tree of calls":                 f(tree...),
		"a tree of calls with long ends":  f(wasmtest.Cat(wasmtest.Call(1), straight, wasmtest.Call(1)), forever(wasmtest.Call(2)), straight),
		"a branchy loop":                  with(i32s(1), false, forever(branchy)),
		"a big jump table":                with(i32s(1), false, table(20_000)),
		"filling memory":                  f(forever(c(0), c(1), c(16<<16), []byte{0xfc, 0x0b, 0})),
		"copying memory up":               f(forever(c(1), c(0), c(16<<16-1), []byte{0xfc, 0x0a, 0, 0})),
		"copying memory down":             f(forever(c(0), c(1), c(16<<16-1), []byte{0xfc, 0x0a, 0, 0})),
		"filling a table":                 f(forever(c(0), []byte{0xd0, funcRef}, c(20_000), []byte{0xfc, 0x11, 0})),
		"copying a table":                 f(forever(c(1), c(0), c(19_999), []byte{0xfc, 0x0e, 0, 0})),
		"growing a table":                 f(forever([]byte{0xd0, funcRef}, c(1000), []byte{0xfc, 0x0f, 0, wasmtest.Drop})),
		"growing memory":                  f(forever(c(1), []byte{0x40, 0, wasmtest.Drop})),
		"growing memory by nothing":       f(forever(c(0), []byte{0x40, 0, wasmtest.Drop})),
		"recursion":                       f(wasmtest.Call(0)),
		"recursion twice":                 f(wasmtest.Cat(wasmtest.Call(0), wasmtest.Call(0))),
		"mutual recursion":                f(wasmtest.Call(1), wasmtest.Cat(straight, wasmtest.Call(0))),
		"recursion with 10,000 locals":    with(i32s(10_000), false, wasmtest.Call(0)),
		"mutual recursion with locals":    with(i32s(5_000), false, wasmtest.Call(1), wasmtest.Func{Locals: i32s(3_000), Body: wasmtest.Call(0)}),
		"recursion through a table":       recursiveTable(),
		"a loop of tail calls":            f([]byte{0x12, 1}, []byte{0x12, 0}),
		"a loop of tail calls that calls": f(wasmtest.Cat(wasmtest.Call(2), []byte{0x12, 1}), []byte{0x12, 0}, nil),
		"returning from deep recursion":   returning(),
		"thousands of locals in leaves":   with(nil, false, forever(calls(1, 50)), wasmtest.Func{Locals: i32s(19_000)}),
	}
}

// returning calls a function for ever that recurses 200 deep, and does something each time one returns.
func returning() []byte {
	count := wasmtest.Type{Params: []byte{i32}}
	deeper := wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.Call(1))
	down := wasmtest.Cat(wasmtest.LocalGet(0), []byte{0x04, 0x40}, deeper, []byte{wasmtest.End}, wasmtest.Repeat(2000, wasmtest.Cat(wasmtest.I32Const(1), []byte{wasmtest.Drop})...))
	return (&wasmtest.Module{Funcs: []wasmtest.Func{
		{Export: "f", Body: wasmtest.Loop(wasmtest.I32Const(200), wasmtest.Call(1), wasmtest.Br(0))},
		{Type: count, Body: down},
	}}).Bytes()
}

// recursiveTable calls itself through element 0 of its table.
func recursiveTable() []byte {
	w := []byte(wasmtest.Header)
	section := func(id byte, content []byte) { w = append(w, wasmtest.Section(id, content)...) }
	section(1, []byte{1, 0x60, 0, 0})
	section(3, []byte{1, 0})
	section(4, []byte{1, funcRef, 0, 1})
	section(7, wasmtest.Cat([]byte{1}, wasmtest.Name("f"), []byte{0, 0}))
	section(9, wasmtest.Cat([]byte{1, 0}, wasmtest.I32Const(0), []byte{wasmtest.End, 1, 0}))
	section(10, wasmtest.Cat([]byte{1}, wasmtest.Sized(wasmtest.Cat([]byte{0}, wasmtest.I32Const(0), []byte{0x11, 0, 0, wasmtest.End}))))
	return w
}

// TestHostileGuestsAreEnded: whatever a guest does, it gets to a tick within bounded fuel, and ends with its budget or its stack.
func TestHostileGuestsAreEnded(t *testing.T) {
	const budget = 2_000_000
	// A check comes after at most this much; a region, a chunk or what was grown is charged at once.
	const late = translate.CheckEvery + translate.RegionCost + translate.ChunkEntries + 10_000
	for what, wasm := range hostile() {
		for _, k := range []kind{{false, true}, {true, true}} {
			t.Run(what+"/"+k.String(), func(t *testing.T) {
				w := newWorld(t, k, features)
				defer w.close()
				w.budget = budget
				w.onTick = func(fuel, depth int64) {
					if fuel < -late {
						t.Errorf("a tick came %d fuel late", -fuel)
					}
				}
				in, err := w.instantiate(wasm, "")
				if err == nil {
					_, err = w.call(in, "f")
				}
				outcome := w.outcome(err)
				switch {
				case outcome == "out of fuel":
					if used := w.used(); used <= budget || used > budget+late {
						t.Errorf("used %d fuel of %d", used, budget)
					}
					if w.ticks < budget/(translate.TickFuel+late) {
						t.Errorf("only %d ticks", w.ticks)
					}
				case outcome != "stack overflow" || w.stopped == "": // the engine's own bound must not be reached
					t.Errorf("it ended: %v", err)
				}
			})
		}
	}
}
