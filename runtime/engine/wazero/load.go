package wazero

import (
	"context"
	"fmt"

	"github.com/ripstop-vm/ripstop/runtime/engine"
)

// Load implements engine.Loader. wazero finds code by its own name for it, which holds the module's bytes, its version and the
// processor's features, and would compile what it does not find: that code is there and unchanged is seen to before it is asked. It
// writes what it compiles, so that in a directory that this process cannot write to, compiling fails.
func (e *Engine) Load(ctx context.Context, wasm []byte, code engine.Code) (engine.Module, error) {
	if e.dir == "" {
		return nil, fmt.Errorf("%w: there is no directory of code", engine.ErrNoCode)
	}
	if err := code.Verify(e.dir); err != nil {
		return nil, fmt.Errorf("%w: %w", engine.ErrNoCode, err)
	}
	return e.Compile(ctx, wasm)
}
