package runtime_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	wz "github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
)

// tiny is a guest of one page that keeps a counter in its memory.
func tiny() []byte {
	cat := wasmtest.Cat
	return (&wasmtest.Module{Memory: []uint32{1}, Data: []wasmtest.Data{{Offset: 1024, Bytes: []byte("a counter")}}, Funcs: []wasmtest.Func{
		{Export: "count", Type: wasmtest.Type{Results: []byte{wasmtest.I32}}, Body: cat(
			wasmtest.I32Const(0), wasmtest.I32Const(0), wasmtest.Load(2048), wasmtest.I32Const(1), []byte{wasmtest.I32Add}, wasmtest.Store(2048),
			wasmtest.I32Const(0), wasmtest.Load(2048))}}}).Bytes()
}

// medians runs f once an iteration, and reports the median of what it took: means say little on a machine that is shared.
func medians(b *testing.B, before, f func()) {
	var took []time.Duration
	for b.Loop() {
		before()
		began := clock.System.Now()
		f()
		took = append(took, clock.System.Now().Sub(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2]), "median-ns/op")
}

func nothing() {}

// BenchmarkFreshTiny is one call of a tiny guest in a sandbox that is as new, by ways to get it: compare within one run.
func BenchmarkFreshTiny(b *testing.B) {
	ctx := context.Background()
	b.Run("instantiate/wazero", func(b *testing.B) {
		r := wz.NewRuntime(ctx)
		defer r.Close(ctx)
		code, err := r.CompileModule(ctx, tiny())
		if err != nil {
			b.Fatal(err)
		}
		cfg := wz.NewModuleConfig().WithName("")
		medians(b, nothing, func() {
			m, err := r.InstantiateModule(ctx, code, cfg)
			if err != nil {
				b.Fatal(err)
			}
			if out, err := m.ExportedFunction("count").Call(ctx); err != nil || out[0] != 1 {
				b.Fatal(out, err)
			}
			m.Close(ctx)
		})
	})
	b.Run("return", func(b *testing.B) {
		rt, err := runtime.Open(ctx, runtime.Options{Endless: true})
		if err != nil {
			b.Fatal(err)
		}
		defer rt.Close()
		m, err := rt.Compile(ctx, tiny())
		if err != nil {
			b.Fatal(err)
		}
		first, err := m.NewSandbox(ctx, runtime.SandboxOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer first.Close()
		s, err := m.NewSandbox(ctx, runtime.SandboxOptions{Image: snapshot(b, first)})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		f, err := s.Function("count")
		if err != nil {
			b.Fatal(err)
		}
		stack := make([]uint64, 1)
		medians(b, nothing, func() {
			if err := f.Call(ctx, stack); err != nil || stack[0] != 1 {
				b.Fatal(stack, err)
			}
			if err := s.Return(); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// BenchmarkFreshGo is the same of a Go guest of some megabytes: its return alone, the call with it, a new sandbox on the image,
// and what instantiating and initialising cost on wazero.
func BenchmarkFreshGo(b *testing.B) {
	ctx := context.Background()
	b.Run("instantiate/wazero", func(b *testing.B) {
		wasm, err := reactor()
		if err != nil {
			b.Fatal(err)
		}
		cfg := wz.NewRuntimeConfig()
		if cache, err := os.UserCacheDir(); err == nil {
			c, err := wz.NewCompilationCacheWithDir(filepath.Join(cache, "ripstop-runtime-test"))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close(ctx)
			cfg = cfg.WithCompilationCache(c)
		}
		r := wz.NewRuntimeWithConfig(ctx, cfg)
		defer r.Close(ctx)
		wasi_snapshot_preview1.MustInstantiate(ctx, r)
		code, err := r.CompileModule(ctx, wasm)
		if err != nil {
			b.Fatal(err)
		}
		mod := wz.NewModuleConfig().WithName("").WithStartFunctions("_initialize")
		medians(b, nothing, func() {
			m, err := r.InstantiateModule(ctx, code, mod)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := m.ExportedFunction("work").Call(ctx, 7); err != nil {
				b.Fatal(err)
			}
			m.Close(ctx)
		})
	})
	m, begin := goGuest(b, runtime.Options{Endless: true})
	first := begin(nil)
	enter(b, first, "_initialize")
	enter(b, first, "work", 1)
	im := snapshot(b, first)
	s := begin(im)
	f, err := s.Function("work")
	if err != nil {
		b.Fatal(err)
	}
	stack := make([]uint64, 1)
	work := func() {
		stack[0] = 7
		if err := f.Call(ctx, stack); err != nil {
			b.Fatal(err)
		}
	}
	back := func() {
		if err := s.Return(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("call", func(b *testing.B) { medians(b, back, work) })
	b.Run("return", func(b *testing.B) {
		medians(b, work, back)
		sp, err := m.Runtime().Space()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(sp.Stats().Private>>10), "private-KiB")
		b.ReportMetric(float64(im.StoredBytes()>>10), "image-KiB")
	})
	b.Run("new sandbox", func(b *testing.B) {
		medians(b, nothing, func() {
			s, err := m.NewSandbox(ctx, runtime.SandboxOptions{Image: im})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	})
}
