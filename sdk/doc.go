// Package sdk is what a Go program imports to be a task of Ripstop: an http.Handler that runs in a sandbox.
//
//	package main
//
//	import (
//		"fmt"
//		"net/http"
//
//		"github.com/ripstop-vm/ripstop/sdk"
//	)
//
//	func init() {
//		sdk.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
//			fmt.Fprintln(w, "hello")
//		}))
//	}
//
//	func main() {}
//
// Build it with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o hello.wasm. In this mode main does not run:
// package variables and init functions do, before the first request.
//
// What they leave behind becomes the image that sandboxes begin as, and return to after each request: so work that all requests
// need belongs there, where it is done once, and so does what the first request would otherwise set up: see Warm and Rehearse. What has to be
// new for each sandbox, or depends on the job's settings, is done by AfterReturn. Random numbers, hash seeds and the order of maps differ in each request all the same; only
// a generator that the program seeds itself begins as it was.
//
// Goroutines, timers and contexts work as anywhere. http.Get and the like work too: http.DefaultTransport is a Transport,
// which asks the host to make the request. Invoke has another job answer one now, Enqueue later. What a job may fetch, read, write, invoke or enqueue is granted by its manifest; anything else
// fails with ErrNotGranted.
//
// A sandbox serves one request at a time. Goroutines that outlive their request stand still until the sandbox serves
// another, and in most jobs it never does. A handler that panics ends the sandbox, and its client gets a 502.
//
// The package imports nothing but the standard library. Other languages find what it does in ABI.md. Outside a sandbox, as
// in a test, the calls answer ErrNoHost.
package sdk
