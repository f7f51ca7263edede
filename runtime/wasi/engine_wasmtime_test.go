//go:build wasmtime && cgo

package wasi

import (
	"context"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wasmtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// openEngine opens the engine that guests of these tests run on.
func openEngine(_ context.Context, t *hostcall.Table) (engine.Engine, error) {
	return wasmtime.Open(t, wasmtime.Options{})
}
