package wazero

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ripstop-vm/ripstop/runtime/engine"
)

// Load implements engine.Loader. wazero finds code by its own name for it, which holds the module's bytes, its version and the
// processor's features, and would compile what it does not find: that code is there and unchanged is seen to before it is asked. It
// writes what it compiles, so that in a directory that this process cannot write to, compiling fails.
func (e *Engine) Load(ctx context.Context, wasm []byte, code engine.Code) (engine.Module, error) {
	if e.dir == "" {
		return nil, fmt.Errorf("%w: there is no directory of code", engine.ErrNoCode)
	}
	if err := verify(e.dir, code); err != nil {
		return nil, fmt.Errorf("%w: %w", engine.ErrNoCode, err)
	}
	return e.Compile(ctx, wasm)
}

// verify fails if code is not in dir as it should be.
func verify(dir string, code engine.Code) error {
	path := filepath.FromSlash(code.Path)
	if !filepath.IsLocal(path) {
		return fmt.Errorf("%q is not beneath the directory of code", code.Path)
	}
	f, err := os.Open(filepath.Join(dir, path))
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), code.SHA256[:]) {
		return fmt.Errorf("%s was changed", code.Path)
	}
	return nil
}
