//go:build wasmtime && cgo

package runtime_test

const hasWasmtime = true
