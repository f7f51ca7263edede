// Package engine is the contract between the process VM and whatever executes WebAssembly.
//
// An Engine compiles modules and instantiates them; it runs guest code and nothing else. Every import of a guest is
// served by the hostcall.Table the engine was made with. Limits, policies and ABIs live above it.
package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// PageSize is the size of a page of linear memory, in bytes (core specification, 4.2.8).
const PageSize = 64 << 10

// Engine compiles modules. Its methods are safe for concurrent use.
type Engine interface {
	// Compile validates and compiles a binary module. The bytes are not kept. It does not look at imports.
	Compile(ctx context.Context, wasm []byte) (Module, error)
	// Close ends the engine and all its modules and instances.
	Close() error
}

// Module is compiled code, shared by its instances. Its methods are safe for concurrent use.
type Module interface {
	// Instantiate makes an instance whose imports go through d, and runs the module's start function, if it has one. ctx bounds it as it
	// bounds a call. The instance's memory is mem, taken as long as it is, or grown to the module's minimum; growth past its bound fails in the
	// guest (memory.grow gives -1). Active data segments are written to it: who wants the former bytes puts them back. Closing the instance
	// leaves mem alone; mem must outlive it.
	Instantiate(ctx context.Context, d *hostcall.Door, mem Memory) (Instance, error)
	// Close forgets the code. Instances must be closed before.
	Close() error
}

// Memory is linear memory. Somebody other than the engine owns it.
type Memory interface {
	hostcall.Memory
	// Grow makes it size bytes long, no less than now. What is new is zero. It fails with a *LimitError past its bound, and
	// otherwise if the operating system has no more; then nothing changed.
	Grow(size uint64) error
}

// Instance is one running instance. It belongs to one goroutine at a time.
type Instance interface {
	// Function finds an exported function; nil if there is none of that name.
	Function(name string) Function
	// Global finds an exported mutable global that holds a number; nil if there is none of that name.
	Global(name string) Global
	// Memory is the instance's first memory; empty if it has none.
	Memory() hostcall.Memory
	// Meter sets what is asked at each tick of a translated module (package translate); without it a tick ends the guest.
	Meter(Tick)
	// Shorten has the instance see that the owner of its memory has made it shorter. It is false if the engine cannot do
	// that; then the instance must not be called again.
	Shorten() bool
	// Ended reports that the instance cannot be called any more: it was closed, or the engine ended it with a call.
	Ended() bool
	// Close ends the instance.
	Close() error
}

// Tick is called by a translated guest that has used up its fuel, or its stack, with what is left of both: below zero if it is
// used up. It answers the fuel to go on with, or why the guest has to end: Call then fails with that error. ctx is the call's.
type Tick func(ctx context.Context, fuel, depth int64) (int64, error)

// Global is a mutable global of an instance. Its value is the bits of the number, the lowest ones if it has 32.
type Global interface {
	Get() uint64
	Set(bits uint64)
}

// Function is an exported function of an instance.
type Function interface {
	// Call enters the guest: stack holds the parameters, and the results after it; it is as long as the longer of the
	// two. When ctx ends the guest is ended with context.Cause's error. Errors: *hostcall.ExitError, *hostcall.StopError or whatever
	// reason a host call gave; *Trap; an error wrapping hostcall.ErrHost; a context's error.
	Call(ctx context.Context, stack []uint64) error
}

// A LimitError reports that a guest ran into a bound set for it. The host is healthy, and running the same guest again
// will end the same way.
type LimitError struct {
	Limit     string // "memory", "fuel", "cpu", "log", "response", …
	Used, Max uint64 // of cpu, in nanoseconds
}

func (e *LimitError) Error() string {
	if e.Limit == "cpu" {
		return fmt.Sprintf("cpu limit: %v used, %v allowed", time.Duration(e.Used), time.Duration(e.Max))
	}
	return fmt.Sprintf("%s limit: %d wanted, %d allowed", e.Limit, e.Used, e.Max)
}

// Frame is a guest frame of a backtrace.
type Frame struct {
	Function string // as the module's name section calls it, or $N; at most 256 bytes of that
}

// Trap reports that guest code ended abnormally (core specification, 4.2.1).
type Trap struct {
	Reason string  // the specification's words: "unreachable", "integer divide by zero", …
	Frames []Frame // innermost first; at most 30
}

// Error is one line: the reason and the innermost function. Backtrace has the rest.
func (t *Trap) Error() string {
	if len(t.Frames) == 0 {
		return "trap: " + t.Reason
	}
	return fmt.Sprintf("trap: %s in %s", t.Reason, t.Frames[0].Function)
}

// Backtrace is the reason and every frame, a line each.
func (t *Trap) Backtrace() string {
	var b strings.Builder
	b.WriteString("trap: " + t.Reason)
	for i, f := range t.Frames {
		fmt.Fprintf(&b, "\n  %2d  %s", i, f.Function)
	}
	return b.String()
}
