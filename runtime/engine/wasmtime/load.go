//go:build wasmtime && cgo

package wasmtime

// #include "shim.h"
import "C"

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/ripstop-vm/ripstop/runtime/engine"
)

// codeDir is where, beneath the directory of code, ours lies.
const codeDir = "wasmtime"

// hashText is as much of a hash as names of files have.
func hashText(b []byte) string { return fmt.Sprintf("%.16x", sha256.Sum256(b)) }

// leave writes a module's code to dir, in one step. Its name has hashes of the module and of the code: the latter begins with what
// wasmtime wants of whoever loads it, its version, the processor's features and the settings, so that with any of them the name changes.
func leave(code *C.wasmtime_module_t, wasm []byte, dir string) error {
	var v C.wasm_byte_vec_t
	if err := C.wasmtime_module_serialize(code, &v); err != nil {
		return failed(err)
	}
	defer C.wasm_byte_vec_delete(&v)
	b := unsafe.Slice((*byte)(unsafe.Pointer(v.data)), int(v.size))
	dir = filepath.Join(dir, codeDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep compiled code: %w", err)
	}
	f, err := os.CreateTemp(dir, "*.new")
	if err != nil {
		return fmt.Errorf("keep compiled code: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, hashText(wasm)+"-"+hashText(b)))
	}
	if err != nil {
		return fmt.Errorf("keep compiled code: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// Load implements engine.Loader. wasmtime runs whatever it is given as code, so it gets the very bytes that were held against
// the digest, and no path.
func (e *Engine) Load(ctx context.Context, wasm []byte, code engine.Code) (engine.Module, error) {
	if e.dir == "" {
		return nil, fmt.Errorf("%w: there is no directory of code", engine.ErrNoCode)
	}
	wasm = e.prepare(wasm)
	if dir, name := path.Split(code.Path); dir != codeDir+"/" || !strings.HasPrefix(name, hashText(wasm)+"-") {
		return nil, fmt.Errorf("%w: %q is not of the module", engine.ErrNoCode, code.Path)
	}
	b, err := code.Read(e.dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", engine.ErrNoCode, err)
	}
	return e.module(ctx, wasm, func(m *module) error {
		if err := C.wasmtime_module_deserialize(e.engine, bytes(b), C.size_t(len(b)), &m.code); err != nil {
			return fmt.Errorf("%w: %w", engine.ErrNoCode, failed(err))
		}
		return nil
	})
}
