//go:build wasmtime && cgo

package runtime

import (
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wasmtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

const hasWasmtime = true

func openWasmtime(t *hostcall.Table, opts *Options) (engine.Engine, error) {
	return wasmtime.Open(t, wasmtime.Options{CodeDir: opts.CacheDir, Endless: opts.Endless, Metered: opts.Meter})
}
