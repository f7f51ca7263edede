//go:build !(wasmtime && cgo)

package runtime

import (
	"fmt"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

const hasWasmtime = false

func openWasmtime(*hostcall.Table, *Options) (engine.Engine, error) {
	return nil, fmt.Errorf("engine wasmtime: %w; build it with: %s", ErrNoEngine, BuildWasmtime)
}
