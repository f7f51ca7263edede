package runtime_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
)

// onTestEngine has guests that are compiled run on the engine under test.
func onTestEngine(opts runtime.Options) runtime.Options {
	if !opts.Interpret {
		opts.Engine = testEngine
	}
	return opts
}

func TestEnginesAreNamed(t *testing.T) {
	wasm := (&wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Type: wasmtest.Type{Results: []byte{i32}}, Body: wasmtest.I32Const(42)}}}).Bytes()
	for _, opts := range []runtime.Options{{}, {Engine: runtime.Wazero}, {Engine: runtime.Wasmtime}, {Engine: runtime.Wasmtime, Meter: true}} {
		rt, err := runtime.Open(context.Background(), opts)
		if !hasWasmtime && opts.Engine == runtime.Wasmtime {
			if !errors.Is(err, runtime.ErrNoEngine) {
				t.Errorf("%q: error %v", opts.Engine, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", opts.Engine, err)
			continue
		}
		if res, err := sandbox(t, compile(t, rt, wasm), runtime.SandboxOptions{}).Call(context.Background(), "f"); err != nil || res[0] != 42 {
			t.Errorf("%q: %v, %v", opts.Engine, res, err)
		}
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, opts := range []runtime.Options{{Engine: "v8"}, {Engine: runtime.Wasmtime, Interpret: true}} {
		if _, err := runtime.Open(context.Background(), opts); err == nil {
			t.Errorf("%+v: opened", opts)
		}
	}
}
