//go:build unix

package supervisor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/agent/codecache"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// compiling is a Supervisor whose compiler is a shell script; $3 is the directory to leave code in.
func compiling(t *testing.T, script string) *Supervisor {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "compiler")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := codecache.Open(codecache.Options{Dir: filepath.Join(dir, "cache"), KeyFile: filepath.Join(dir, "key"), Program: "p", Engine: "e"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Program: program, ProgramDigest: "p", Code: map[runtime.Engine]*codecache.Cache{runtime.Wazero: c}, Ingress: os.Stdin, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const compiles = `cat >/dev/null; echo code >"$3/x"; `

func TestWhatACompilerEndsWithIsOursOrTheModules(t *testing.T) {
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte("module")))
	for name, c := range map[string]struct {
		script string
		code   string // of the problem; empty: none
		text   string // in the error; empty: it is compiled
	}{
		"it compiles":                   {compiles + `echo '{"program":"p","kind":"task"}'`, "", ""},
		"it refuses":                    {compiles + `echo '{"program":"p","problem":{"code":"module-invalid","status":422,"title":"T","detail":"at byte 9"}}'`, "module-invalid", "at byte 9"},
		"it is of another program":      {compiles + `echo '{"program":"q","kind":"task"}'`, "", "restart the server"},
		"it leaves no code":             {`cat >/dev/null; echo '{"program":"p","kind":"task"}'`, "", "there is no file"},
		"it leaves two files":           {compiles + `echo code >"$3/y"; echo '{"program":"p","kind":"task"}'`, "", "several files"},
		"it says nothing":               {compiles, "", "read the compiler's result"},
		"it says too much":              {compiles + `head -c 100000 /dev/zero`, "", ""},
		"memory runs out":               {compiles + `echo 'fatal error: runtime: out of memory' >&2; exit 2`, "module-too-costly", "4 GiB of memory"},
		"it fails":                      {compiles + `echo 'fatal error: stack' >&2; exit 2`, "module-too-costly", "failure"},
		"its processor time is used up": {compiles + `exit 24`, "module-too-costly", "60 s of processor time"},
		"it is killed":                  {compiles + `kill -9 $$`, "module-too-costly", "ended by the system"},
		"it cannot set its own limits":  {compiles + `echo 'limit the address space' >&2; exit 1`, "", "limit the address space"},
	} {
		t.Run(name, func(t *testing.T) {
			s := compiling(t, c.script)
			kind, err := s.Check(t.Context(), "", digest, strings.NewReader("module"), 6)
			if name == "it compiles" {
				if err != nil || kind != "task" {
					t.Errorf("%q %v", kind, err)
				}
				if e, err := s.opts.Code[runtime.Wazero].Find(digest); err != nil || e.Kind != "task" {
					t.Errorf("%+v %v", e, err)
				}
				return
			}
			var p *wire.Problem
			if err == nil || !strings.Contains(err.Error(), c.text) || errors.As(err, &p) != (c.code != "") || p != nil && p.Code != c.code {
				t.Errorf("%q %v, want %q: %s", kind, err, c.code, c.text)
			}
			if e, err := s.opts.Code[runtime.Wazero].Find(digest); !errors.Is(err, codecache.ErrMissing) {
				t.Errorf("%+v %v", e, err)
			}
		})
	}
}

func TestACompilerThatOthersKeepFromItIsNotTheModulesFault(t *testing.T) {
	s := compiling(t, "cat >/dev/null; exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Check(ctx, "", fmt.Sprintf("%x", sha256.Sum256([]byte("module"))), strings.NewReader("module"), 6)
	if p, ok := errors.AsType[*wire.Problem](err); !ok || p.Code != "host-busy" || p.Status != 503 {
		t.Errorf("it ended with %v", err)
	}
}

func TestAWorkerOfAnotherProgramGetsNoCode(t *testing.T) {
	w, _, h := linked(t, policy.Capabilities{})
	w.super.opts.ProgramDigest, w.super.opts.Code = "p", compiling(t, "").opts.Code
	digest := strings.Repeat("0", 64)
	rec := ask(h, "GET", wire.PathCode+"wazero/"+digest, "", "", "", wire.HeaderProgram, "q")
	if rec.Code != 500 || !strings.Contains(rec.Body.String(), "restart the server") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	rec = ask(h, "GET", wire.PathCode+"wazero/"+digest, "", "", "", wire.HeaderProgram, "p")
	if rec.Code != 404 || !strings.Contains(rec.Body.String(), "compile-failed") {
		t.Errorf("a module that the store has not: %d %s", rec.Code, rec.Body)
	}
}
