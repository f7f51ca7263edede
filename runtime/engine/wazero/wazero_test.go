package wazero

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestFramesAreNamedByTheirFunctions(t *testing.T) {
	for line, want := range map[string]string{
		".main.f(i32) i32":                     "main.f",
		".$3()":                                "$3",
		".f(i32,i64) (i32,i32)":                "f",
		".main.(*T).Method(i32) i32":           "main.(*T).Method",
		".main.main.func1()":                   "main.main.func1",
		".core::fmt::<impl (A, B)>::x()":       "core::fmt::<impl (A, B)>::x",
		"... maybe followed by omitted frames": "",
		"":                                     "",
	} {
		if got := frameName(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestGuestsThatAreMeteredAreNotWatchedByTheEngine(t *testing.T) {
	table, err := hostcall.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), table, Options{Metered: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if !e.endless {
		t.Error("the engine looks for a done context, too, which costs tight loops 30 times their time")
	}
}

// Modules of jobs that differ only in their data may be one for the engine, and the agent loads two modules at once.
func TestOneModuleIsLoadedByManyAtOnce(t *testing.T) {
	table, err := hostcall.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	funcs := make([]w.Func, 200) // with a way in for each type, which takes a while
	for i := range funcs {
		funcs[i] = w.Func{Export: fmt.Sprintf("f%d", i), Type: w.Type{Params: bytes.Repeat([]byte{w.I32}, i)}}
	}
	wasm := (&w.Module{Funcs: funcs}).Bytes()
	dir := t.TempDir()
	for range 20 {
		e, err := Open(t.Context(), table, Options{CacheDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				defer func() {
					if p := recover(); p != nil {
						t.Errorf("it panicked: %v", p)
					}
				}()
				m, err := e.Compile(t.Context(), wasm)
				if err != nil {
					t.Error(err)
					return
				}
				inst, err := e.runtime.InstantiateModule(t.Context(), m.(*module).code, wazero.NewModuleConfig().WithName(""))
				if err != nil {
					t.Error(err)
					return
				}
				if inst.ExportedFunction("f199") == nil {
					t.Error("it has no function")
				}
			})
		}
		all.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}
