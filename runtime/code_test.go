package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// answering is a module whose function "answer" returns n.
func answering(n int32) []byte {
	m := wasmtest.Module{Funcs: []wasmtest.Func{{Name: "answer", Export: "answer", Type: wasmtest.Type{Results: []byte{wasmtest.I32}}, Body: wasmtest.I32Const(n)}}}
	return m.Bytes()
}

func TestLoadRunsCodeThatWasCompiledBeforeAndCompilesNothing(t *testing.T) {
	cases := map[string]Options{}
	for _, engine := range Engines() {
		cases[string(engine)] = Options{Engine: engine}
		cases[string(engine)+", metered"] = Options{Engine: engine, Meter: true}
	}
	for name, opts := range cases {
		t.Run(name, func(t *testing.T) {
			open := func(dir string) *Runtime {
				opts := opts
				opts.CacheDir = dir
				r, err := Open(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = r.Close() })
				return r
			}
			dir := t.TempDir()
			if _, err := open(dir).Compile(t.Context(), answering(42)); err != nil {
				t.Fatal(err)
			}
			code, err := CodeIn(dir)
			if err != nil {
				t.Fatal(err)
			}
			m, err := open(dir).Load(t.Context(), answering(42), code)
			if err != nil {
				t.Fatal(err)
			}
			s, err := m.NewSandbox(t.Context(), SandboxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got, err := s.Call(t.Context(), "answer"); err != nil || len(got) != 1 || got[0] != 42 {
				t.Errorf("%v %v", got, err)
			}

			path := filepath.Join(dir, filepath.FromSlash(code.Path))
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := append([]byte(nil), whole...)
			changed[len(changed)/2] ^= 1
			for name, c := range map[string]struct {
				content []byte // nil: no file
				code    Code
			}{
				"changed":         {changed, code},
				"cut":             {whole[:len(whole)-1], code},
				"missing":         {nil, code},
				"elsewhere":       {whole, Code{Path: "../" + code.Path, SHA256: code.SHA256}},
				"of another name": {whole, Code{Path: "x", SHA256: code.SHA256}},
			} {
				t.Run(name, func(t *testing.T) {
					if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
						t.Fatal(err)
					}
					if c.content != nil {
						if err := os.WriteFile(path, c.content, 0o600); err != nil {
							t.Fatal(err)
						}
					}
					if _, err := open(dir).Load(t.Context(), answering(42), c.code); !errors.Is(err, ErrNoCode) {
						t.Errorf("%v", err)
					}
					if _, err := os.Stat(path); c.content == nil && !errors.Is(err, os.ErrNotExist) {
						t.Errorf("it was compiled: %v", err)
					}
				})
			}
		})
	}
}

// TestCodeIsLoadedForItsModuleOnly: code of one module is never run for another, also if somebody gets names wrong.
func TestCodeIsLoadedForItsModuleOnly(t *testing.T) {
	for _, engine := range Engines() {
		dir := t.TempDir()
		r, err := Open(t.Context(), Options{Engine: engine, CacheDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Compile(t.Context(), answering(42)); err != nil {
			t.Fatal(err)
		}
		code, err := CodeIn(dir)
		if err != nil {
			t.Fatal(err)
		}
		// wazero may compile what it does not find, since it may write here.
		if m, err := r.Load(t.Context(), answering(7), code); err == nil {
			s, err := m.NewSandbox(t.Context(), SandboxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Call(t.Context(), "answer"); err != nil || got[0] != 7 {
				t.Errorf("%s: %v %v", engine, got, err)
			}
		} else if !errors.Is(err, ErrNoCode) {
			t.Errorf("%s: %v", engine, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestADirectoryHoldsTheCodeOfOneModule(t *testing.T) {
	for name, fill := range map[string]func(dir string) error{
		"nothing":         func(string) error { return nil },
		"a symbolic link": func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "a")) },
		"two files": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "a"), nil, 0o600), os.WriteFile(filepath.Join(dir, "b"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := fill(dir); err != nil {
				t.Fatal(err)
			}
			if c, err := CodeIn(dir); err == nil {
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestTheMarkOfAnEngineIsTheSameEachTime(t *testing.T) {
	mark := func(opts Options) string {
		m, err := Mark(t.Context(), opts, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, engine := range Engines() {
		plain, endless := Options{Engine: engine}, Options{Engine: engine, Endless: true}
		if a, b := mark(plain), mark(plain); a != b || a == "" {
			t.Errorf("%q and %q", a, b)
		}
		if a, b := mark(plain), mark(endless); a == b {
			t.Errorf("other code has the same mark, %q", a)
		}
	}
}
