package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Code is the compiled code of a module in a directory of code: where an engine left it, and what it is.
type Code struct {
	Path   string // beneath the directory, with slashes
	SHA256 [sha256.Size]byte
}

// Verify fails if the code is not in dir, or was changed.
func (c Code) Verify(dir string) error { return c.copy(dir, io.Discard) }

// Read is Verify, and answers the very bytes that were verified: whatever becomes of the file, they are the code.
func (c Code) Read(dir string) ([]byte, error) {
	var b bytes.Buffer
	if err := c.copy(dir, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// copy writes the code to w, and fails afterwards if it was not what it should be.
func (c Code) copy(dir string, w io.Writer) error {
	path := filepath.FromSlash(c.Path)
	if !filepath.IsLocal(path) {
		return fmt.Errorf("%q is not beneath the directory of code", c.Path)
	}
	f, err := os.Open(filepath.Join(dir, path))
	if err != nil {
		return err
	}
	if b, ok := w.(*bytes.Buffer); ok {
		if info, err := f.Stat(); err == nil {
			b.Grow(int(info.Size()) + bytes.MinRead) // it does not move as it grows
		}
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(h, w), f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), c.SHA256[:]) {
		return fmt.Errorf("%s was changed", c.Path)
	}
	return nil
}

// ErrNoCode reports that compiled code is missing, or is not what it should be. Nothing was compiled in its place.
var ErrNoCode = errors.New("the compiled code is not there")

// A Loader is an Engine that can do without compiling.
type Loader interface {
	// Load is Compile for a module that an engine of the same program, on this host, has compiled into the directory of code that
	// this one was opened with. It fails with ErrNoCode if code is not found there, unchanged.
	Load(ctx context.Context, wasm []byte, code Code) (Module, error)
}
