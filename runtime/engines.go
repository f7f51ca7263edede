package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wazero"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Engine names what executes guests.
type Engine string

// The engines. Guests have the same results, traps and fuel on each.
const (
	// Wazero is in every build.
	Wazero Engine = "wazero"
	// Wasmtime is in builds with cgo and the build tag `wasmtime`. It has no interpreter; deadlines cost its guests about nothing.
	Wasmtime Engine = "wasmtime"
)

// ErrNoEngine reports that this program does not have the engine asked for.
var ErrNoEngine = errors.New("no such engine in this program")

// Engines are those that this program has, the default first.
func Engines() []Engine {
	if hasWasmtime {
		return []Engine{Wazero, Wasmtime}
	}
	return []Engine{Wazero}
}

// BuildWasmtime is the command that builds a program with wasmtime, for those who lack it.
const BuildWasmtime = "CGO_ENABLED=1 go build -tags wasmtime ./cmd/ripstop"

// openEngine opens the engine that opts name.
func openEngine(ctx context.Context, t *hostcall.Table, opts *Options) (engine.Engine, error) {
	switch opts.Engine {
	case "", Wazero:
		return wazero.Open(ctx, t, wazero.Options{Interpret: opts.Interpret, CacheDir: opts.CacheDir, Endless: opts.Endless, Metered: opts.Meter})
	case Wasmtime:
		if opts.Interpret {
			return nil, errors.New("engine wasmtime: it has no interpreter")
		}
		return openWasmtime(t, opts)
	}
	return nil, fmt.Errorf("engine %q: %w; there are wazero and wasmtime", opts.Engine, ErrNoEngine)
}
