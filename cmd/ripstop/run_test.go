package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
)

// wasi is an import of WASI with the given number of i32 parameters, and results.
func wasiImport(name string, params int, results ...byte) wasmtest.Import {
	return wasmtest.Import{Module: "wasi_snapshot_preview1", Name: name, Type: wasmtest.Type{Params: wasmtest.Repeat(params, wasmtest.I32), Results: results}}
}

// guestFile writes a command whose body is given; imports 0 proc_exit, 1 fd_write, 2 random_get.
func guestFile(t *testing.T, body ...[]byte) string {
	t.Helper()
	m := wasmtest.Module{
		Imports: []wasmtest.Import{wasiImport("proc_exit", 1), wasiImport("fd_write", 4, wasmtest.I32), wasiImport("random_get", 2, wasmtest.I32)},
		Funcs: []wasmtest.Func{
			{Name: "main.main", Export: "_start", Body: wasmtest.Cat(body...)},
			{Name: "add", Export: "add", Type: wasmtest.Type{Params: []byte{wasmtest.I32, wasmtest.I32}, Results: []byte{wasmtest.I32}},
				Body: wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.LocalGet(1), []byte{wasmtest.I32Add})},
		},
		Memory: []uint32{1},
		// An iovec of 8 bytes at 16, then the text.
		Data: []wasmtest.Data{{Offset: 0, Bytes: []byte{16, 0, 0, 0, 8, 0, 0, 0}}, {Offset: 16, Bytes: []byte("from me\n")}},
	}
	file := filepath.Join(t.TempDir(), "guest.wasm")
	if err := os.WriteFile(file, m.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func exit(code int32) []byte { return wasmtest.Cat(wasmtest.I32Const(code), wasmtest.Call(0)) }

func grow(pages int32) []byte {
	return wasmtest.Cat(wasmtest.I32Const(pages), wasmtest.MemoryGrow(), []byte{wasmtest.Drop})
}

func write() []byte {
	return wasmtest.Cat(wasmtest.I32Const(1), wasmtest.I32Const(0), wasmtest.I32Const(1), wasmtest.I32Const(32), wasmtest.Call(1), []byte{wasmtest.Drop})
}

// runRipstop runs the command line and answers its exit code and output.
func runRipstop(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var out, errs bytes.Buffer
	code = execute(ctx, newRoot(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestRunAnswersHowTheGuestEnded(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	stop := file("stop.yaml", "policy:\n  - on: fd_write\n    do: stop\n")
	typo := file("typo.yaml", "policy:\n  - on: fd_wirte\n    do: stop\n")
	text := file("text.wasm", "not a module")
	loop := wasmtest.Loop(wasmtest.Br(0))
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string // stderr: in it
	}{
		"a guest that returns":           {[]string{guestFile(t, write())}, 0, "from me\n", ""},
		"an exit code":                   {[]string{guestFile(t, exit(7))}, 7, "", ""},
		"exit 0":                         {[]string{guestFile(t, exit(0))}, 0, "", ""},
		"an exit code over 255":          {[]string{guestFile(t, exit(256))}, 255, "", ""},
		"a trap":                         {[]string{guestFile(t, []byte{wasmtest.Unreachable})}, 134, "", "trap: unreachable\n   0  main.main"},
		"a deadline":                     {[]string{"--timeout", "20ms", guestFile(t, loop)}, 124, "", "ended after 20ms"},
		"a policy that stops":            {[]string{"--policy", stop, guestFile(t, write())}, 126, "", "fd_write"},
		"a function called by name":      {[]string{"--invoke", "add", guestFile(t), "40", "-2"}, 0, "38\n", ""},
		"numbers that are none":          {[]string{"--invoke", "add", guestFile(t), "40", "x"}, 2, "", `"x" is no i32`},
		"too few numbers":                {[]string{"--invoke", "add", guestFile(t), "40"}, 2, "", "takes 2 numbers"},
		"an export that is not there":    {[]string{"--invoke", "sub", guestFile(t)}, 2, "", "there are: _start, add"},
		"flags after the module":         {[]string{guestFile(t, write()), "--timeout", "x"}, 0, "from me\n", ""},
		"a trace":                        {[]string{"--trace", guestFile(t, write())}, 0, "from me\n", `fd_write(fd=1, iovs="from me\n") = SUCCESS, nwritten=8`},
		"a trace in JSON":                {[]string{"--trace", "--trace-format=json", guestFile(t, write())}, 0, "from me\n", `"function":"fd_write"`},
		"a trace in some format":         {[]string{"--trace-format=xml", guestFile(t)}, 2, "", "text or json"},
		"an engine that is none":         {[]string{"--engine", "v8", guestFile(t)}, 2, "", `engine "v8"`},
		"an engine by name":              {[]string{"--engine", "wazero", guestFile(t, write())}, 0, "from me\n", ""},
		"no module":                      {nil, 2, "", "arg"},
		"a trace's file as a word":       {[]string{"--trace", filepath.Join(dir, "t.out"), guestFile(t)}, 2, "", "write --trace=" + filepath.Join(dir, "t.out")},
		"a trace's file that is there":   {[]string{"--trace", text, guestFile(t)}, 2, "", "write --trace=" + text},
		"a trap for lack of memory":      {[]string{"--memory", "1MiB", guestFile(t, grow(100), []byte{wasmtest.Unreachable})}, 134, "", "main.main\nthe memory limit of 1 MiB kept it from growing to 6.312 MiB before that (--memory)"},
		"an exit for lack of memory":     {[]string{"--memory", "1MiB", guestFile(t, grow(100), exit(3))}, 3, "", "ended itself with code 3; the memory limit of 1 MiB kept it"},
		"a file that is not there":       {[]string{filepath.Join(dir, "none.wasm")}, 2, "", "no such file"},
		"a directory":                    {[]string{dir}, 2, "", "is a directory"},
		"a file that is no module":       {[]string{text}, 2, "", "header: this is not a WebAssembly binary"},
		"a flag that is none":            {[]string{"--quick", guestFile(t)}, 2, "", "--quick"},
		"a bad --dir":                    {[]string{"--dir", "/tmp", guestFile(t)}, 2, "", "HOST::GUEST"},
		"a --dir that is not there":      {[]string{"--dir", dir + "/none::/x", guestFile(t)}, 2, "", "none"},
		"a bad --env":                    {[]string{"--env", "PATH", guestFile(t)}, 2, "", "NAME=VALUE"},
		"a bad --memory":                 {[]string{"--memory", "lots", guestFile(t)}, 2, "", "--memory lots"},
		"too much --memory":              {[]string{"--memory", "5GiB", guestFile(t)}, 2, "", "4GiB"},
		"a policy with an unknown word":  {[]string{"--policy", typo, guestFile(t)}, 2, "", "fd_wirte"},
		"a policy file that isn't there": {[]string{"--policy", dir + "/none", guestFile(t)}, 2, "", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := runRipstop(t, context.Background(), append([]string{"run"}, c.args...)...)
			if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q, and %q in stderr", code, stdout, stderr, c.code, c.stdout, c.stderr)
			}
		})
	}
}

// TestRunOnWasmtime runs guests on the other engine, or is told how to build it.
func TestRunOnWasmtime(t *testing.T) {
	rt, err := runtime.Open(context.Background(), runtime.Options{Engine: runtime.Wasmtime})
	absent := errors.Is(err, runtime.ErrNoEngine)
	if err == nil {
		err = rt.Close()
	}
	if err != nil && !absent {
		t.Fatal(err)
	}
	loop := wasmtest.Loop(wasmtest.Br(0))
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string // stderr: in it
	}{
		"returns":    {[]string{guestFile(t, write())}, 0, "from me\n", ""},
		"exit code":  {[]string{guestFile(t, exit(7))}, 7, "", ""},
		"trap":       {[]string{guestFile(t, []byte{wasmtest.Unreachable})}, 134, "", "trap: unreachable\n   0  main.main"},
		"deadline":   {[]string{"--timeout", "20ms", guestFile(t, loop)}, 124, "", "ended after 20ms"},
		"fuel":       {[]string{"--fuel", "100000", guestFile(t, loop)}, 124, "", "fuel"},
		"function":   {[]string{"--invoke", "add", guestFile(t), "40", "-2"}, 0, "38\n", ""},
		"out of RAM": {[]string{"--memory", "1MiB", guestFile(t, grow(100), exit(3))}, 3, "", "the memory limit of 1 MiB kept it"},
	} {
		if absent {
			c.code, c.stdout, c.stderr = 2, "", "go build -tags wasmtime"
		}
		code, stdout, stderr := runRipstop(t, context.Background(), append([]string{"run", "--engine", "wasmtime"}, c.args...)...)
		if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q; want %d, %q, and %q in stderr", name, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
	}
}

// TestAnInterruptEndsTheGuest runs this test binary as `ripstop run`, with and without a deadline.
func TestAnInterruptEndsTheGuest(t *testing.T) {
	if file := os.Getenv("RIPSTOP_TEST_RUN"); file != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		args := append([]string{"run"}, strings.Fields(os.Getenv("RIPSTOP_TEST_FLAGS"))...)
		os.Exit(execute(ctx, newRoot(), append(args, file), os.Stdin, os.Stdout, os.Stderr))
	}
	file := guestFile(t, write(), write(), wasmtest.Loop(wasmtest.Br(0)))
	trace := filepath.Join(t.TempDir(), "trace")
	for flags, want := range map[string]string{
		"":             "signal: interrupt", // a shell says 130
		"--timeout=1m": "exit status 130",
	} {
		t.Run("run "+flags, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestAnInterruptEndsTheGuest$")
			cmd.Env = append(os.Environ(), "RIPSTOP_TEST_RUN="+file, "RIPSTOP_TEST_FLAGS="+flags+" --trace="+trace, "XDG_CACHE_HOME="+t.TempDir())
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			for range 2 { // the first is in the trace when the second is written
				if line, err := lines.ReadString('\n'); err != nil || line != "from me\n" {
					t.Errorf("the guest wrote %q, %v", line, err)
				}
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || err.Error() != want {
				t.Errorf("ended with %v, want %s", err, want)
			}
			if b, err := os.ReadFile(trace); err != nil || !strings.Contains(string(b), "fd_write(") {
				t.Errorf("the trace is %q, %v", b, err)
			}
		})
	}
}

func TestASeedRepeatsRandomness(t *testing.T) {
	// 8 random bytes where the text was, then written out.
	file := guestFile(t, wasmtest.I32Const(16), wasmtest.I32Const(8), wasmtest.Call(2), []byte{wasmtest.Drop}, write())
	_, a, _ := runRipstop(t, context.Background(), "run", "--seed", "1", file)
	_, b, _ := runRipstop(t, context.Background(), "run", "--seed", "1", file)
	_, other, _ := runRipstop(t, context.Background(), "run", "--seed", "2", file)
	_, random, _ := runRipstop(t, context.Background(), "run", file)
	if len(a) != 8 || a != b || a == other || a == random {
		t.Errorf("seed 1: %q, %q; seed 2: %q; no seed: %q", a, b, other, random)
	}
}

func TestInspectShowsWhatAModuleIs(t *testing.T) {
	code, out, stderr := runRipstop(t, context.Background(), "inspect", guestFile(t))
	for _, want := range []string{"kind       command", "memory     64 KiB at the start", "import     wasi_snapshot_preview1.fd_write function (i32, i32, i32, i32) → (i32)\n",
		"export     add function (i32, i32) → (i32)", "random: random bytes are read"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in it:\n%s", want, out)
		}
	}
	if code != 0 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	m := wasmtest.Module{Imports: []wasmtest.Import{wasiImport("fd_wriite", 0)}}
	file := filepath.Join(t.TempDir(), "odd.wasm")
	if err := os.WriteFile(file, m.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr = runRipstop(t, context.Background(), "inspect", "--json", file)
	if code != exitUsage || !strings.Contains(stderr, "could not be deployed: it imports wasi_snapshot_preview1.fd_wriite, which cannot be served") || !strings.Contains(out, `"known": false`) || !strings.Contains(out, "nearest known function is wasi_snapshot_preview1.fd_write") || !strings.Contains(out, `"runs": false`) {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestHelpIsText(t *testing.T) {
	code, out, stderr := runRipstop(t, context.Background(), "run", "--help")
	if code != 0 || strings.ContainsFunc(out, func(r rune) bool { return r < ' ' && r != '\n' }) || !strings.Contains(out, "--trace=FILE") {
		t.Errorf("exit %d, %s\n%q", code, stderr, out)
	}
}
