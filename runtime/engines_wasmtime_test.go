//go:build wasmtime && cgo

package runtime_test

import "github.com/ripstop-vm/ripstop/runtime"

const (
	hasWasmtime = true
	testEngine  = runtime.Wasmtime
)
