package module_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/ripstop-vm/ripstop/runtime/module"
)

// FuzzParse: what is refused is refused with a *Error inside the file; what is accepted never makes the engine's decoder
// panic, and is as valid as before when it was rewritten.
func FuzzParse(f *testing.F) {
	f.Add(sample().Bytes())
	f.Add([]byte("\x00asm\x0d\x00\x01\x00"))
	n := 0
	corpus(f, wazeroDir(f), func(_ string, wasm []byte) {
		if n++; len(wasm) < 2000 && n%40 == 0 {
			f.Add(wasm)
		}
	})
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	small := module.Bounds{FunctionLocals: 1000, Nesting: 200, TableElements: 1000, MemoryPages: 16}
	f.Fuzz(func(t *testing.T, wasm []byte) {
		m, err := module.Parse(wasm, small)
		if err != nil {
			var e *module.Error
			if !errors.As(err, &e) || e.Offset > len(wasm) || e.Offset < -1 || e.Check == "" || m != nil {
				t.Fatalf("refused with %#v", err)
			}
			return
		}
		_ = module.Audit(m, offered(t))
		wasm = module.PlainNames(wasm)
		valid := func(wasm []byte) bool {
			c, err := r.CompileModule(ctx, wasm)
			if err == nil {
				c.Close(ctx)
			}
			return err == nil
		}
		after := module.LoopOften(module.LowerTables(wasm, 100))
		if _, err := module.Parse(after, module.Bounds{}); err != nil {
			t.Fatalf("rewritten: %v", err)
		}
		if was, is := valid(wasm), valid(after); was != is {
			t.Fatalf("valid before: %t, rewritten: %t", was, is)
		}
	})
}

// BenchmarkParse reads the module that RIPSTOP_BENCH_MODULE names, or a tiny one.
func BenchmarkParse(b *testing.B) {
	file := os.Getenv("RIPSTOP_BENCH_MODULE")
	wasm := sample().Bytes()
	if file != "" {
		var err error
		if wasm, err = os.ReadFile(file); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(wasm)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := module.Parse(wasm, module.Bounds{}); err != nil {
			b.Fatal(err)
		}
	}
}
