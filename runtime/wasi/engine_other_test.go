//go:build !(wasmtime && cgo)

package wasi

import (
	"context"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wazero"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// openEngine opens the engine that guests of these tests run on.
func openEngine(ctx context.Context, t *hostcall.Table) (engine.Engine, error) {
	return wazero.Open(ctx, t, wazero.Options{})
}
