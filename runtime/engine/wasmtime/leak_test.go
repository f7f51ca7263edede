//go:build wasmtime && cgo && linux

package wasmtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wasmtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// figures are what this process holds: resident bytes and mappings.
func figures(t *testing.T) (resident, mappings int) {
	t.Helper()
	goruntime.GC()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var all, held int
	if _, err := fmt.Sscan(string(b), &all, &held); err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return held * os.Getpagesize(), strings.Count(string(maps), "\n")
}

// TestNothingIsLeftOfTenThousandSandboxes: each calls the host, traps and is closed; one store that stayed would be some 20 KiB.
func TestNothingIsLeftOfTenThousandSandboxes(t *testing.T) {
	table, err := hostcall.NewTable(&hostcall.Library{Name: "l", Funcs: []hostcall.Func{{Module: "m", Name: "f", Call: func(*hostcall.Call) {}}}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := wasmtime.Open(table, wasmtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	m, err := e.Compile(context.Background(), (&wasmtest.Module{Memory: []uint32{1}, Imports: []wasmtest.Import{{Module: "m", Name: "f"}},
		Funcs: []wasmtest.Func{{Export: "trap", Body: wasmtest.Cat(wasmtest.Call(0), []byte{wasmtest.Unreachable})}}}).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	sandboxes := func(n int) {
		for range n {
			d, err := hostcall.NewDoor(table, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			mem := engine.NewMemory(16)
			i, err := m.Instantiate(context.Background(), d, mem)
			if err != nil {
				t.Fatal(err)
			}
			var trap *engine.Trap
			if err := i.Function("trap").Call(context.Background(), nil); !errors.As(err, &trap) {
				t.Fatalf("%v", err)
			}
			if err := errors.Join(i.Close(), mem.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	sandboxes(1000) // what is kept once is there then
	resident, mappings := figures(t)
	sandboxes(10_000)
	after, afterMappings := figures(t)
	t.Logf("resident %d KiB, then %d KiB; mappings %d, then %d", resident>>10, after>>10, mappings, afterMappings)
	if after > resident+16<<20 || afterMappings > mappings+100 {
		t.Errorf("resident %d KiB, then %d KiB; mappings %d, then %d", resident>>10, after>>10, mappings, afterMappings)
	}
}
