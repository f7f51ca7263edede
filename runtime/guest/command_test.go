package guest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime"
)

// cGuest compiles testdata/c/page.c.
func cGuest(t testing.TB, request Request) *runtime.Module {
	t.Helper()
	clang, err := exec.LookPath("clang")
	if err != nil {
		t.Skip("there is no C compiler for WebAssembly: apt-get install clang lld wasi-libc libclang-rt-dev-wasm32")
	}
	out := filepath.Join(t.TempDir(), "page.wasm")
	args := []string{"--target=wasm32-wasi", "-O2", "-o", out, "testdata/c/page.c"}
	if request == RequestStdin {
		args = append(args, "-DSCGI")
	}
	if b, err := exec.Command(clang, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	r, err := runtime.Open(context.Background(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	m, err := r.Compile(t.Context(), wasm)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func goGuest(t testing.TB, _ Request) *runtime.Module {
	return build(t, "github.com/ripstop-vm/ripstop/runtime/guest/testdata/pagecgi")
}

func TestProgramsAreReadyBeforeTheirRequest(t *testing.T) {
	for name, c := range map[string]struct {
		module func(testing.TB, Request) *runtime.Module
		early  bool // its environment is read before anything else is done
		want   string
	}{
		"c": {cGuest, false, "POST /x 3e5ffa65 body\n"}, "go": {goGuest, true, "<p>POST /x body\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, request := range []Request{RequestEnvironment, RequestStdin} {
				w := newWorld()
				sb, err := start(t, Options{Module: c.module(t, request), Services: w, Request: request})
				if err != nil {
					t.Fatal(err)
				}
				if ready := w.text() == "stderr info ready\n"; ready == (c.early && request == RequestEnvironment) {
					t.Errorf("%s: log before the request %q", request, w.text())
				}
				rec := httptest.NewRecorder()
				_, err = sb.Serve(t.Context(), rec, httptest.NewRequest("POST", "/x", strings.NewReader("body")), ServeInfo{})
				if err != nil || rec.Body.String() != c.want {
					t.Errorf("%s: %v %q", request, err, rec.Body)
				}
			}
		})
	}
}

// BenchmarkCommand is a request to a command: one that is started for it, and one that has waited for it.
func BenchmarkCommand(b *testing.B) {
	for _, c := range []struct {
		name    string
		module  func(testing.TB, Request) *runtime.Module
		request Request
	}{
		{"go/environment", goGuest, RequestEnvironment}, {"go/stdin", goGuest, RequestStdin},
		{"c/environment", cGuest, RequestEnvironment}, {"c/stdin", cGuest, RequestStdin},
	} {
		p, err := New(Options{Module: c.module(b, c.request), Request: c.request})
		if err != nil {
			b.Fatal(err)
		}
		r := httptest.NewRequest("GET", "/x", nil)
		request := func(b *testing.B, ahead bool) {
			for b.Loop() {
				if ahead {
					b.StopTimer()
				}
				s, err := p.NewSandbox(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if ahead {
					b.StartTimer()
				}
				rec := httptest.NewRecorder()
				if _, err := s.Serve(b.Context(), rec, r, ServeInfo{}); err != nil || rec.Code != http.StatusOK {
					b.Fatal(rec.Code, err)
				}
				b.StopTimer()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		}
		b.Run(c.name+"/fresh", func(b *testing.B) { request(b, false) })
		b.Run(c.name+"/parked", func(b *testing.B) { request(b, true) })
	}
}
