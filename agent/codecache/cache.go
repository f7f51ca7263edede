package codecache

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ripstop-vm/ripstop/runtime"
)

// The errors of Find.
var (
	// ErrMissing reports that a module has no code here, or only code of another program or engine.
	ErrMissing = errors.New("no compiled code")
	// ErrTampered reports that a seal or the code that it names is not what it was.
	ErrTampered = errors.New("the compiled code is not what was sealed")
)

// The parts of a cache's directory.
const (
	codePart  = "code"
	sealsPart = "seals"
	workPart  = "work"
)

// Options configures a Cache. All fields are required.
type Options struct {
	Dir     string // is made, with mode 0700; whatever else is in it is removed
	KeyFile string // the key of the seals; is made, with mode 0600, and must not be beneath Dir
	// Program is what made the code: the digest of the program's file. Code of another one is removed.
	Program string
	Engine  string // the engine's mark (runtime.Mark). Code of another one is removed.
}

// Cache is a directory of sealed code. Its methods are safe for concurrent use, by one process. It needs no closing.
type Cache struct {
	opts Options
	key  []byte
	mu   sync.Mutex // keeps code that is not sealed yet from being removed
}

// Entry is the code of a module.
type Entry struct {
	Kind string // of the module, as whoever compiled it found it to be
	Code runtime.Code
}

// seal is what is written of an entry. MAC is over the JSON of the rest.
type seal struct {
	Schema  int    `json:"schema"`
	Module  string `json:"module"` // digest
	Program string `json:"program"`
	Engine  string `json:"engine"`
	Kind    string `json:"kind"`
	Path    string `json:"path"`
	SHA256  string `json:"sha256"`
	MAC     string `json:"mac,omitempty"`
}

const (
	schema  = 1
	maxSeal = 64 << 10 // bytes
	keySize = 32       // bytes
)

// Open opens a cache, makes its directories and key if they are not there, and removes what is of no use: what compilers left
// that were cut off, and code without a seal of this program and engine.
func Open(opts Options) (*Cache, error) {
	c := &Cache{opts: opts}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open code cache: %w", err)
	}
	if err := os.Chmod(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open code cache: %w", err)
	}
	var err error
	if c.key, err = readKey(opts.KeyFile); err != nil {
		return nil, fmt.Errorf("open code cache: read its key: %w", err)
	}
	if err := c.clear(); err != nil {
		return nil, fmt.Errorf("clear code cache %s: %w", opts.Dir, err)
	}
	return c, nil
}

// readKey reads the key, or makes one in one step. A file that holds no key is replaced: what was sealed is then compiled again.
func readKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == keySize {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key = make([]byte, keySize)
	_, _ = rand.Read(key) // it never fails
	return key, replace(path, key)
}

// replace writes a file of mode 0600 in one step.
func replace(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// clear removes what is of no use.
func (c *Cache) clear() error {
	list, err := os.ReadDir(c.opts.Dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.IsDir() && (e.Name() == codePart || e.Name() == sealsPart) {
			continue
		}
		if err := os.RemoveAll(c.path(e.Name())); err != nil {
			return err
		}
	}
	for _, part := range []string{codePart, sealsPart, workPart} {
		if err := os.MkdirAll(c.path(part), 0o700); err != nil {
			return err
		}
	}
	return c.removeUnsealed(func(name string) error { return os.RemoveAll(c.path(sealsPart, name)) })
}

func (c *Cache) path(elem ...string) string {
	return filepath.Join(append([]string{c.opts.Dir}, elem...)...)
}

// names lists the seals' files.
func (c *Cache) names() ([]string, error) {
	list, err := os.ReadDir(c.path(sealsPart))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names, nil
}

// CodeDir is the directory of code that engines are opened with.
func (c *Cache) CodeDir() string { return c.path(codePart) }

// Modules lists the digests of the modules that have a seal.
func (c *Cache) Modules() ([]string, error) {
	names, err := c.names()
	return slices.DeleteFunc(names, func(name string) bool { return !isDigest(name) }), err // seals being written have other names
}

// Find finds the code of a module, and reads all of it to see that it is what was sealed. It fails with ErrMissing or ErrTampered.
func (c *Cache) Find(module string) (Entry, error) {
	s, err := c.read(module)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Kind: s.Kind, Code: runtime.Code{Path: s.Path}}
	sum, err := hex.DecodeString(s.SHA256)
	if err != nil || copy(e.Code.SHA256[:], sum) != sha256.Size {
		return Entry{}, fmt.Errorf("module %.12s: %w: its seal has no digest", module, ErrTampered)
	}
	if err := e.Code.Verify(c.CodeDir()); err != nil {
		return Entry{}, fmt.Errorf("module %.12s: %w: %w", module, ErrTampered, err)
	}
	return e, nil
}

// read reads the seal of a module and checks it, but not the code.
func (c *Cache) read(module string) (seal, error) {
	if !isDigest(module) {
		return seal{}, fmt.Errorf("module %.80q: %w: that is no digest", module, ErrMissing)
	}
	f, err := os.Open(c.path(sealsPart, module))
	if errors.Is(err, fs.ErrNotExist) {
		return seal{}, fmt.Errorf("module %.12s: %w", module, ErrMissing)
	}
	if err != nil {
		return seal{}, fmt.Errorf("module %.12s: %w: %w", module, ErrTampered, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSeal))
	if err = errors.Join(err, f.Close()); err != nil {
		return seal{}, fmt.Errorf("module %.12s: %w: %w", module, ErrTampered, err)
	}
	return c.open(module, b)
}

// open decodes a module's seal and authenticates it.
func (c *Cache) open(module string, b []byte) (seal, error) {
	var s seal
	if err := json.Unmarshal(b, &s); err != nil {
		return seal{}, fmt.Errorf("module %.12s: %w: %w", module, ErrTampered, err)
	}
	mac, err := hex.DecodeString(s.MAC)
	if err != nil || !hmac.Equal(mac, c.mac(s)) || s.Module != module {
		return seal{}, fmt.Errorf("module %.12s: %w: its seal is not of this host", module, ErrTampered)
	}
	if s.Schema != schema || s.Program != c.opts.Program || s.Engine != c.opts.Engine {
		return seal{}, fmt.Errorf("module %.12s: %w: it is of another program", module, ErrMissing)
	}
	return s, nil
}

// mac authenticates a seal but for its MAC.
func (c *Cache) mac(s seal) []byte {
	s.MAC = ""
	b, _ := json.Marshal(s) // of strings and a number: it cannot fail
	h := hmac.New(sha256.New, c.key)
	h.Write([]byte("ripstop code seal\n"))
	h.Write(b)
	return h.Sum(nil)
}

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && hex.EncodeToString(b) == s
}

// Begin makes an empty directory for a compiler to write to. end removes it with what is in it.
func (c *Cache) Begin() (dir string, end func() error, err error) {
	dir, err = os.MkdirTemp(c.path(workPart), "")
	if err != nil {
		return "", nil, fmt.Errorf("make a compiler's directory: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// Seal takes what a compiler has left in dir, which Begin made, for the code of a module in place of what there was. The compiler
// must have ended. Dir has to hold one file, beneath a directory or not.
func (c *Cache) Seal(module, kind, dir string) (Entry, error) {
	if !isDigest(module) {
		return Entry{}, fmt.Errorf("seal the code of %.80q: that is no digest", module)
	}
	code, err := runtime.CodeIn(dir)
	if err != nil {
		return Entry{}, fmt.Errorf("seal the code of module %.12s: %w", module, err)
	}
	s := seal{Schema: schema, Module: module, Program: c.opts.Program, Engine: c.opts.Engine, Kind: kind, Path: code.Path, SHA256: hex.EncodeToString(code.SHA256[:])}
	s.MAC = hex.EncodeToString(c.mac(s))
	b, err := json.Marshal(s)
	if err != nil {
		return Entry{}, fmt.Errorf("seal the code of module %.12s: %w", module, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	to := c.path(codePart, filepath.FromSlash(code.Path))
	err = os.MkdirAll(filepath.Dir(to), 0o700)
	if err == nil {
		err = os.Rename(filepath.Join(dir, filepath.FromSlash(code.Path)), to)
	}
	// Without its seal the code is nothing: whoever is cut off here compiles again.
	if err == nil {
		err = replace(c.path(sealsPart, module), b)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("seal the code of module %.12s: %w", module, err)
	}
	return Entry{Kind: kind, Code: code}, nil
}

// Remove removes the code of modules; that some have none is no error. Code that other modules have, too, stays: modules that differ
// only in what is no code share it.
func (c *Cache) Remove(modules ...string) error {
	if len(modules) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var all error
	for _, module := range modules {
		if !isDigest(module) {
			continue
		}
		if err := os.Remove(c.path(sealsPart, module)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	if err := errors.Join(all, c.removeUnsealed(nil)); err != nil {
		return fmt.Errorf("remove compiled code: %w", err)
	}
	return nil
}

// removeUnsealed removes code that no seal names. unknown, if not nil, is told of files that are no seals of this host, program and
// engine.
func (c *Cache) removeUnsealed(unknown func(name string) error) error {
	names, err := c.names()
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, name := range names {
		s, err := c.read(name)
		if err == nil {
			used[s.Path] = true
		} else if unknown != nil {
			if err := unknown(name); err != nil {
				return err
			}
		}
	}
	root, err := os.OpenRoot(c.CodeDir())
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || used[path] {
			return err
		}
		return root.Remove(path)
	})
}
