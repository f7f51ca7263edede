package runtime

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ripstop-vm/ripstop/runtime/engine"
)

// Code is compiled code in a directory of code (Options.CacheDir): where it lies, and what it is.
type Code = engine.Code

// ErrNoCode reports that compiled code is missing, or is not what it should be.
var ErrNoCode = engine.ErrNoCode

// Load is Compile for a module whose code was compiled before, by the same program with the same options on this host, and now
// lies in Options.CacheDir. It compiles nothing, and validates only what the engine reads: the bytes were validated then. It fails with ErrNoCode if code is not there, unchanged.
func (r *Runtime) Load(ctx context.Context, wasm []byte, code Code) (*Module, error) {
	l, ok := r.engine.(engine.Loader)
	if !ok {
		return nil, fmt.Errorf("%w: the engine cannot load code", ErrNoCode)
	}
	return r.build(ctx, wasm, func(ctx context.Context, wasm []byte) (engine.Module, error) { return l.Load(ctx, wasm, code) }, false)
}

// CodeIn finds the code in a directory that was empty before one module was compiled into it. It fails if there is anything but
// one file and the directories that lead to it. Links are not followed.
func CodeIn(dir string) (Code, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Code{}, err
	}
	defer root.Close()
	var c Code
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || e.IsDir():
			return err
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is no file", path)
		case c.Path != "":
			return fmt.Errorf("there are several files, %s and %s among them", c.Path, path)
		}
		c.Path = path
		return nil
	})
	if err == nil && c.Path == "" {
		err = errors.New("there is no file")
	}
	if err != nil {
		return Code{}, fmt.Errorf("find compiled code: %w", err)
	}
	f, err := root.Open(c.Path)
	if err != nil {
		return Code{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return Code{}, err
	}
	c.SHA256 = [sha256.Size]byte(h.Sum(nil))
	return c, nil
}

// probe is a module with one function, which does nothing.
const probe = "\x00asm\x01\x00\x00\x00" + "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" + "\x0a\x04\x01\x02\x00\x0b"

// Mark tells engines apart whose code is not of use to each other, such as those of other versions or for other processors: it is
// what the engine calls the code of a module that is always the same. It compiles that module into dir, which has to be empty.
func Mark(ctx context.Context, opts Options, dir string) (mark string, err error) {
	opts.CacheDir = dir
	r, err := Open(ctx, opts)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	m, err := r.Compile(ctx, []byte(probe))
	if err != nil {
		return "", err
	}
	if err := m.Close(); err != nil {
		return "", err
	}
	c, err := CodeIn(dir)
	return c.Path, err
}
