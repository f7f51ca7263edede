// Command ripstop runs WebAssembly tasks in process virtual machines: the server that turns a .wasm file into a URL, and
// the verbs that talk to it.
package main

import (
	"context"
	"os"
	"os/signal"
	goruntime "runtime"
	"syscall"
)

// init ties the main goroutine to the process's first thread for good. It is the one thread that does not end with a goroutine that is tied to it: a
// guest's that is behind others on it would leave it so, where threads cannot be raised again.
func init() { goruntime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal cancels ctx and asks for a clean end; handing the signals back lets a second one end the process.
	release := context.AfterFunc(ctx, stop)
	code := execute(ctx, newRoot(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	release()
	stop()
	os.Exit(code)
}
