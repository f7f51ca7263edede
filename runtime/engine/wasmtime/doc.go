// Package wasmtime runs modules on wasmtime, through its C interface. It is empty unless built with cgo and the build tag
// `wasmtime`:
//
//	CGO_ENABLED=1 go build -tags wasmtime ./cmd/ripstop
//
// The static library comes with github.com/bytecodealliance/wasmtime-go/v44; nothing of its Go code is called. shim.h declares
// the C functions that are used, shim.c holds what is hot or called back. Each host call passes the door, as with any engine.
//
// An instance is a store of wasmtime's with one instance in it, and a record in C memory, both freed when it is closed. Its linear
// memory is always ours: wasmtime asks the record where it is and how to grow it. So bounds are checked by explicit
// comparisons, not by guard pages.
//
// A guest runs on the stack of its thread, at most on half of it: deeper recursion is a trap, "stack overflow", as when a meter
// ends it. While a guest runs the Go scheduler and its collector go on, because to them it is a call of C.
package wasmtime
