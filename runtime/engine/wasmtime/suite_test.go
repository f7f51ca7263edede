//go:build wasmtime && cgo

package wasmtime_test

import (
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/enginetest"
	"github.com/ripstop-vm/ripstop/runtime/engine/wasmtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func open(opts wasmtime.Options) func(*testing.T, *hostcall.Table) engine.Engine {
	return func(t *testing.T, table *hostcall.Table) engine.Engine {
		e, err := wasmtime.Open(table, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		return e
	}
}

func TestSuite(t *testing.T) { enginetest.Run(t, open(wasmtime.Options{})) }

func TestMeteredSuite(t *testing.T) { enginetest.RunMetered(t, open(wasmtime.Options{Metered: true})) }
