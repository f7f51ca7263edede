package translate_test

import (
	"os"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

// loops are guests that count their parameter down, with more or less in the loop.
var loops = map[string][]byte{
	// One block: a sum.
	"one block": wasmtest.Loop(
		wasmtest.LocalGet(1), wasmtest.LocalGet(0), []byte{wasmtest.I32Add}, wasmtest.LocalSet(1),
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// Branchy: per turn, an if with two arms, one with one, and a block that is left.
	"branchy": wasmtest.Loop(
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{0x71, 0x04, 0x40},
		wasmtest.LocalGet(1), wasmtest.I32Const(3), []byte{wasmtest.I32Add}, wasmtest.LocalSet(1),
		[]byte{0x05},
		wasmtest.LocalGet(1), wasmtest.I32Const(5), []byte{0x73}, wasmtest.LocalSet(1),
		[]byte{wasmtest.End},
		wasmtest.LocalGet(1), wasmtest.I32Const(4), []byte{0x71, 0x04, 0x40},
		wasmtest.LocalGet(1), wasmtest.I32Const(1), []byte{0x74}, wasmtest.LocalSet(1),
		[]byte{wasmtest.End},
		wasmtest.Block(
			wasmtest.LocalGet(1), wasmtest.I32Const(64), []byte{0x71, 0x0d, 0},
			wasmtest.LocalGet(1), wasmtest.LocalGet(0), []byte{wasmtest.I32Add}, wasmtest.LocalSet(1)),
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// A jump table in a loop, as Go's compiler emits functions.
	"jump table": wasmtest.Loop(
		wasmtest.Block(wasmtest.Block(wasmtest.Block(wasmtest.Block(
			wasmtest.LocalGet(0), wasmtest.I32Const(3), []byte{0x71, 0x0e, 3, 0, 1, 2, 3}),
			wasmtest.LocalGet(1), wasmtest.I32Const(3), []byte{wasmtest.I32Add}, wasmtest.LocalSet(1), wasmtest.Br(2)),
			wasmtest.LocalGet(1), wasmtest.I32Const(5), []byte{0x73}, wasmtest.LocalSet(1), wasmtest.Br(1)),
			wasmtest.LocalGet(1), wasmtest.I32Const(7), []byte{wasmtest.I32Add}, wasmtest.LocalSet(1), wasmtest.Br(0)),
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// A load and a store.
	"memory": wasmtest.Loop(
		wasmtest.LocalGet(0), wasmtest.I32Const(0xfff8), []byte{0x71},
		wasmtest.LocalGet(0), wasmtest.I32Const(0xfff8), []byte{0x71}, wasmtest.Load(0), wasmtest.I32Const(1), []byte{wasmtest.I32Add}, wasmtest.Store(0),
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// A call of a function that calls nothing.
	"leaf calls": wasmtest.Loop(
		wasmtest.LocalGet(1), wasmtest.Call(1), wasmtest.LocalSet(1),
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// Recursion.
	"calls": wasmtest.Cat(wasmtest.I32Const(24), wasmtest.Call(2), wasmtest.LocalSet(1)),
}

// loopModule has one of them as its function "f", i32 → i32.
func loopModule(body []byte) []byte {
	typ := wasmtest.Type{Params: []byte{wasmtest.I32}, Results: []byte{wasmtest.I32}}
	fib := wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.I32Const(2), []byte{0x49, 0x04, wasmtest.I32},
		wasmtest.LocalGet(0), []byte{0x05},
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.Call(2),
		wasmtest.LocalGet(0), wasmtest.I32Const(2), []byte{wasmtest.I32Sub}, wasmtest.Call(2), []byte{wasmtest.I32Add, wasmtest.End})
	return (&wasmtest.Module{Memory: []uint32{2}, Funcs: []wasmtest.Func{
		{Export: "f", Type: typ, Locals: []byte{wasmtest.I32}, Body: wasmtest.Cat(body, wasmtest.LocalGet(1))},
		{Type: typ, Body: wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.I32Const(3), []byte{wasmtest.I32Add})},
		{Type: typ, Body: fib},
	}}).Bytes()
}

// BenchmarkLoops runs guests with and without translation in turns. It reports the least time that 100,000 turns took each, which
// a busy machine does not change, and their ratio.
func BenchmarkLoops(b *testing.B) {
	for _, name := range []string{"one block", "branchy", "jump table", "memory", "leaf calls", "calls"} {
		b.Run(name, func(b *testing.B) {
			least := map[kind]time.Duration{}
			var worlds []*world
			for _, k := range []kind{{false, false}, {false, true}} {
				w := newWorld(b, k, features)
				defer w.close()
				if _, err := w.instantiate(loopModule(loops[name]), ""); err != nil {
					b.Fatal(err)
				}
				worlds = append(worlds, w)
			}
			for b.Loop() {
				for _, w := range worlds {
					began := clock.System.Now()
					if _, err := w.call(w.live[0], "f", 100_000); err != nil {
						b.Fatal(err)
					}
					took := clock.System.Now().Sub(began)
					if have := least[w.kind]; have == 0 || took < have {
						least[w.kind] = took
					}
				}
			}
			plain, metered := least[kind{false, false}], least[kind{false, true}]
			b.ReportMetric(float64(plain), "plain-ns")
			b.ReportMetric(float64(metered), "metered-ns")
			b.ReportMetric(float64(metered)/float64(plain), "ratio")
		})
	}
}

// BenchmarkTranslate translates the module that RIPSTOP_BENCH_MODULE names, or a tiny one.
func BenchmarkTranslate(b *testing.B) {
	wasm := loopModule(loops["branchy"])
	if file := os.Getenv("RIPSTOP_BENCH_MODULE"); file != "" {
		var err error
		if wasm, err = os.ReadFile(file); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(wasm)))
	b.ReportAllocs()
	for b.Loop() {
		res, err := translate.Translate(wasm, translate.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(res.Wasm))/float64(len(wasm)), "size")
	}
}
