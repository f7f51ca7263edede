package translate_test

import (
	"os"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

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
				if _, err := w.instantiate(wasmtest.LoopModule(name), ""); err != nil {
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
	wasm := wasmtest.LoopModule("branchy")
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
