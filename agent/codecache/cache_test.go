package codecache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// places is where a cache of these tests lies.
type places struct{ dir, key string }

func newPlaces(t *testing.T) places {
	dir := t.TempDir()
	return places{filepath.Join(dir, "cache"), filepath.Join(dir, "code.key")}
}

func (p places) open(t *testing.T, program string) *Cache {
	t.Helper()
	c, err := Open(Options{Dir: p.dir, KeyFile: p.key, Program: program, Engine: "engine"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// sealed seals content as the code of a module.
func sealed(t *testing.T, c *Cache, module, content string) Entry {
	t.Helper()
	dir, end, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "engine-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "engine-1", "of-"+module[:8]), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := c.Seal(module, "command", dir)
	if err = errors.Join(err, end()); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestSealedCodeIsFoundAgainByTheSameProgramOnly(t *testing.T) {
	p, a, b := newPlaces(t), digestOf("a"), digestOf("b")
	c := p.open(t, "program")
	if _, err := c.Find(a); !errors.Is(err, ErrMissing) {
		t.Errorf("before: %v", err)
	}
	want := sealed(t, c, a, "code of a")
	sealed(t, c, b, "code of b")
	for name, c := range map[string]*Cache{"at once": c, "after a restart": p.open(t, "program")} {
		if got, err := c.Find(a); err != nil || got != want || got.Kind != "command" {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
	if err := c.Remove(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Find(b); !errors.Is(err, ErrMissing) {
		t.Errorf("removed: %v", err)
	}
	if list, err := c.Modules(); err != nil || len(list) != 1 || list[0] != a {
		t.Errorf("%v %v", list, err)
	}
	c = p.open(t, "another program")
	if _, err := c.Find(a); !errors.Is(err, ErrMissing) {
		t.Errorf("for another program: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.CodeDir(), want.Code.Path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the code of the former program is still there: %v", err)
	}
	sealed(t, c, a, "other code of a")
	if _, err := c.Find(a); err != nil {
		t.Error(err)
	}
}

func TestWhatWasTamperedWithIsNotFound(t *testing.T) {
	a, b := digestOf("a"), digestOf("b")
	for name, tamper := range map[string]func(p places, e, other Entry) error{
		"changed code": func(p places, e, _ Entry) error {
			return os.WriteFile(filepath.Join(p.dir, "code", e.Code.Path), []byte("code of x"), 0o600)
		},
		"no code": func(p places, e, _ Entry) error { return os.Remove(filepath.Join(p.dir, "code", e.Code.Path)) },
		"code and seal of another module": func(p places, _, _ Entry) error {
			return os.Rename(filepath.Join(p.dir, "seals", b), filepath.Join(p.dir, "seals", a))
		},
		"a seal that names another's code": func(p places, e, other Entry) error {
			return edit(filepath.Join(p.dir, "seals", a), e.Code.Path, other.Code.Path)
		},
		"changed code with a seal that agrees": func(p places, e, _ Entry) error {
			was, is := sha256.Sum256([]byte("code of a")), sha256.Sum256([]byte("code of x"))
			return errors.Join(os.WriteFile(filepath.Join(p.dir, "code", e.Code.Path), []byte("code of x"), 0o600),
				edit(filepath.Join(p.dir, "seals", a), hex.EncodeToString(was[:]), hex.EncodeToString(is[:])))
		},
		"a seal that is none": func(p places, _, _ Entry) error {
			return os.WriteFile(filepath.Join(p.dir, "seals", a), []byte("{"), 0o600)
		},
		"an empty seal": func(p places, _, _ Entry) error { return os.Truncate(filepath.Join(p.dir, "seals", a), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			c := p.open(t, "program")
			e, other := sealed(t, c, a, "code of a"), sealed(t, c, b, "code of b")
			if err := tamper(p, e, other); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Find(a); !errors.Is(err, ErrTampered) {
				t.Errorf("%+v %v", got, err)
			}
			sealed(t, c, a, "code of a")
			if got, err := c.Find(a); err != nil || got != e {
				t.Errorf("sealed again: %+v %v", got, err)
			}
		})
	}
}

func TestCodeThatModulesShareStaysWhileOneOfThemHasIt(t *testing.T) {
	c, a, b := newPlaces(t).open(t, "program"), digestOf("a"), digestOf("b")
	var path string
	for _, module := range []string{a, b} {
		dir, end, err := c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "shared"), []byte("code of both"), 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := c.Seal(module, "task", dir)
		if err = errors.Join(err, end()); err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(c.CodeDir(), e.Code.Path)
	}
	if err := c.Remove(a); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Find(a); !errors.Is(err, ErrMissing) {
		t.Errorf("%v", err)
	}
	if _, err := c.Find(b); err != nil {
		t.Error(err)
	}
	if err := c.Remove(b, b); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func edit(path, from, to string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), from) {
		return errors.New("the seal does not say " + from)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(b), from, to, 1)), 0o600)
}

func TestSealsOfAnotherHostAreWorthNothing(t *testing.T) {
	p, a := newPlaces(t), digestOf("a")
	e := sealed(t, p.open(t, "program"), a, "code of a")
	if err := os.Remove(p.key); err != nil {
		t.Fatal(err)
	}
	c := p.open(t, "program")
	if _, err := c.Find(a); !errors.Is(err, ErrMissing) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(c.CodeDir(), e.Code.Path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its code is still there: %v", err)
	}
	if info, err := os.Stat(p.key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v %v", info, err)
	}
	if info, err := os.Stat(p.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v %v", info, err)
	}
}

func TestOpeningRemovesWhatWasCutOff(t *testing.T) {
	p, a := newPlaces(t), digestOf("a")
	c := p.open(t, "program")
	want := sealed(t, c, a, "code of a")
	dir, _, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "half"), filepath.Join(c.CodeDir(), "unsealed"), filepath.Join(p.dir, "seals", a+".123.new"), filepath.Join(p.dir, "of-before")} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c = p.open(t, "program")
	var files []string
	err = filepath.WalkDir(p.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) != 2 {
		t.Errorf("%v %v", files, err)
	}
	if got, err := c.Find(a); err != nil || got != want {
		t.Errorf("%+v %v", got, err)
	}
}

func TestOnlyOneFileIsTakenFromACompiler(t *testing.T) {
	for name, fill := range map[string]func(dir string) error{
		"nothing": func(string) error { return nil },
		"a link":  func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "a")) },
		"two files": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "a"), nil, 0o600), os.WriteFile(filepath.Join(dir, "b"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPlaces(t).open(t, "program")
			dir, end, err := c.Begin()
			if err != nil {
				t.Fatal(err)
			}
			if err := fill(dir); err != nil {
				t.Fatal(err)
			}
			if e, err := c.Seal(digestOf("a"), "command", dir); err == nil {
				t.Errorf("%+v", e)
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Find(digestOf("a")); !errors.Is(err, ErrMissing) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := newPlaces(t).open(t, "program").Seal("../x", "command", t.TempDir()); err == nil {
		t.Error("a module without a digest was sealed")
	}
}

// FuzzSeal has seals of any content opened: none but those written with the key is taken.
func FuzzSeal(f *testing.F) {
	c := &Cache{opts: Options{Program: "program", Engine: "engine"}, key: make([]byte, keySize)}
	module := digestOf("a")
	f.Add([]byte(`{"schema":1,"module":"` + module + `","program":"program","engine":"engine","path":"a","mac":""}`))
	f.Add([]byte(`{"mac":"00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := c.open(module, b); err == nil {
			t.Errorf("%+v", s)
		}
	})
}
