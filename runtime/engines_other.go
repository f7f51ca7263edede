//go:build !(wasmtime && cgo)

package runtime

import (
	"fmt"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func openWasmtime(*hostcall.Table, *Options) (engine.Engine, error) {
	return nil, fmt.Errorf("engine wasmtime: %w; build it with: CGO_ENABLED=1 go build -tags wasmtime ./cmd/ripstop", ErrNoEngine)
}
