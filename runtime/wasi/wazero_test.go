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

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
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
	switch {
	case errors.As(err, &exit):
		return out.String(), exit.ExitCode()
	case err != nil:
		return out.String(), trapped
	}
	return out.String(), 0
}

// trapped stands for the exit code of a guest that trapped.
const trapped = 1 << 31

func TestGuestsOfFourToolchainsSayWhatTheySayUnderWazero(t *testing.T) {
	files := map[string]string{"-": "", "a-/": "", "ab-": "", "tons/": "", "text": "some text"}
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
		{all, []string{"ls", "none"}, "", false, nil}, // TinyGo's panics
		{all, []string{"ls", "tons"}, "", false, nil},
		{[]string{"cargo-wasi", "zig-cc", "zig"}, []string{"ls", ".", "repeat"}, "", false, nil},
		{all, []string{"stat"}, "", false, nil},
		{[]string{"zig"}, []string{"preopen"}, "", false, nil},
		{c, []string{"poll"}, "test", true, nil},
		{c, []string{"poll", "0", "500"}, "test", true, nil},
		{c, []string{"sleepmillis", "20"}, "", true, nil},
		{c, []string{"open-rdonly"}, "", false, nil},
		{c, []string{"open-wronly"}, "", false, nil},
		{c, []string{"nonblock", "/text"}, "", false, nil},
		{c, []string{"unheard-of"}, "", false, nil},
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
				if trap := new(engine.Trap); errors.As(err, &trap) {
					code = trapped
				} else if err != nil {
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
	for _, run := range []struct {
		name string
		args []string
	}{
		{"print_args.wasm", []string{"foo", "bar"}},
		{"exit_on_start.wasm", nil},
		{"print_prestat_dirname.wasm", nil},
		{"../example/testdata/cargo-wasi/cat.wasm", []string{"cat", "/text"}},
		{"../example/testdata/tinygo/cat.wasm", []string{"cat", "/text"}},
		{"../example/testdata/zig/cat.wasm", []string{"cat", "/text"}},
		{"../example/testdata/zig-cc/cat.wasm", []string{"cat", "/text"}},
	} {
		wasm, dir := wazeroGuest(t, run.name), tree(t, map[string]string{"text": "some text\n"})
		want, wantCode := underWazero(t, wasm, run.args, "", dir, nil)
		var out bytes.Buffer
		code, err := runGuest(t, wasm, Options{
			Args: run.args, Stdout: &out, Stderr: &out, Preopens: []Preopen{{Guest: "/", Host: dir}},
		})
		if err != nil || out.String() != want || code != wantCode {
			t.Errorf("%s: %q, exit %d, %v; under wazero %q, exit %d", run.name, out.String(), code, err, want, wantCode)
		}
		if want == "" && wantCode == 0 {
			t.Errorf("%s says nothing, so it shows nothing", run.name)
		}
	}
}

// exit_on_start_unstable.wasm imports what WASI was before preview 1, which wazero offers only to a host that renames its
// functions.
func TestWhatCameBeforePreview1IsOfferedByNeither(t *testing.T) {
	wasm := wazeroGuest(t, "exit_on_start_unstable.wasm")
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	_, theirs := r.Instantiate(ctx, wasm)
	m, err := module.Parse(wasm, module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	table, err := hostcall.NewTable(Library())
	if err != nil {
		t.Fatal(err)
	}
	if ours := module.Audit(m, table); ours == nil || theirs == nil || !strings.Contains(ours.Error(), "wasi_unstable") {
		t.Errorf("here %v, under wazero %v", ours, theirs)
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
