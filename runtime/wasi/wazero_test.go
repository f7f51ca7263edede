package wasi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental/sock"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// wazeroGuest reads a guest of wazero's own tests from its module archive.
func wazeroGuest(t *testing.T, name string) []byte {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	wasm, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "imports/wasi_snapshot_preview1/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

// underWazero runs a guest under wazero's own WASI.
func underWazero(t *testing.T, wasm []byte, args []string, stdin string, dir string, listen func(port int)) (string, uint32) {
	t.Helper()
	ctx := context.Background()
	port := 0
	if listen != nil {
		l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
		if err != nil {
			t.Fatal(err)
		}
		port = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ctx = sock.WithConfig(ctx, sock.NewConfig().WithTCPListener("127.0.0.1", port))
	}
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	var out bytes.Buffer
	cfg := wazero.NewModuleConfig().WithArgs(args...).WithStdin(strings.NewReader(stdin)).WithStdout(&out).WithStderr(&out).
		WithSysNanosleep().WithSysNanotime().WithSysWalltime().WithStartFunctions()
	if dir != "" {
		cfg = cfg.WithFSConfig(wazero.NewFSConfig().WithDirMount(dir, "/"))
	}
	m, err := r.InstantiateWithConfig(ctx, wasm, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if listen != nil {
		go listen(port)
	}
	_, err = m.ExportedFunction("_start").Call(ctx)
	var exit *sys.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return out.String(), exit.ExitCode()
	}
	return out.String(), 0
}

func TestGuestsOfFourToolchainsSayWhatTheySayUnderWazero(t *testing.T) {
	files := map[string]string{"-": "", "a-/": "", "ab-": "", "tons/": ""}
	for i := range 1000 {
		files["tons/"+itoa(i)] = ""
	}
	dir := tree(t, files)
	ping := func(port int) {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", decimal(port)))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("wazero")); err != nil {
			t.Error(err)
		}
		_, _ = io.Copy(io.Discard, conn) // until the guest is done
	}
	all := []string{"cargo-wasi", "tinygo", "zig-cc", "zig"}
	c := []string{"zig-cc"}
	for _, run := range []struct {
		toolchains []string
		args       []string
		stdin      string
		noDir      bool
		listen     func(port int)
	}{
		{all, []string{"ls", "."}, "", false, nil},
		{all, []string{"ls", "./a-"}, "", false, nil},
		{all, []string{"ls", "-"}, "", false, nil},
		{[]string{"cargo-wasi", "zig-cc", "zig"}, []string{"ls", "none"}, "", false, nil}, // TinyGo's panics, there as here
		{all, []string{"ls", "tons"}, "", false, nil},
		{[]string{"cargo-wasi", "zig-cc", "zig"}, []string{"ls", ".", "repeat"}, "", false, nil},
		{all, []string{"stat"}, "", false, nil},
		{[]string{"zig"}, []string{"preopen"}, "", false, nil},
		{c, []string{"poll"}, "test", true, nil},
		{c, []string{"poll", "0", "500"}, "test", true, nil},
		{c, []string{"sleepmillis", "20"}, "", true, nil},
		{c, []string{"open-rdonly"}, "", false, nil},
		{c, []string{"open-wronly"}, "", false, nil},
		{[]string{"cargo-wasi", "zig-cc"}, []string{"sock"}, "", true, ping},
	} {
		for _, tool := range run.toolchains {
			t.Run(tool+" "+strings.Join(run.args, " "), func(t *testing.T) {
				wasm := wazeroGuest(t, tool+"/wasi.wasm")
				args := append([]string{"wasi"}, run.args...)
				host := dir
				if run.noDir {
					host = ""
				}
				want, wantCode := underWazero(t, wasm, args, run.stdin, host, run.listen)
				var out bytes.Buffer
				opts := Options{Args: args, Stdin: strings.NewReader(run.stdin), Stdout: &out, Stderr: &out}
				if host != "" {
					opts.Preopens = []Preopen{{Guest: "/", Host: host}}
				}
				if run.listen != nil {
					l, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						t.Fatal(err)
					}
					opts.Listeners = []net.Listener{l}
					go run.listen(l.Addr().(*net.TCPAddr).Port)
				}
				code, err := runGuest(t, wasm, opts)
				if err != nil {
					t.Fatal(err)
				}
				if got := out.String(); sorted(got) != sorted(want) || code != wantCode {
					t.Errorf("exit %d:\n%.300s\nunder wazero, exit %d:\n%.300s", code, got, wantCode, want)
				}
			})
		}
	}
}

func TestTheSmallGuestsOfWazeroRun(t *testing.T) {
	for _, name := range []string{"print_args.wasm", "exit_on_start.wasm", "print_prestat_dirname.wasm"} {
		wasm := wazeroGuest(t, name)
		if !bytes.Contains(wasm, []byte("_start")) {
			continue // its test calls functions of it one by one
		}
		dir := t.TempDir()
		want, wantCode := underWazero(t, wasm, []string{"foo", "bar"}, "", dir, nil)
		var out bytes.Buffer
		code, err := runGuest(t, wasm, Options{
			Args: []string{"foo", "bar"}, Stdout: &out, Stderr: &out, Preopens: []Preopen{{Guest: "/", Host: dir}},
		})
		if err != nil || out.String() != want || code != wantCode {
			t.Errorf("%s: %q, exit %d, %v; under wazero %q, exit %d", name, out.String(), code, err, want, wantCode)
		}
	}
}

// sorted puts lines in order: directories have none.
func sorted(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func decimal(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return decimal(n/10) + string(rune('0'+n%10))
}
