package guest

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// world is Services in memory.
type world struct {
	mu      sync.Mutex
	values  map[string]KVItem
	data    map[string][]byte
	version uint64
	lines   []Line
	metrics []string

	config  map[string]string
	secrets map[string]string
	client  *http.Client
	jobs    map[string]http.Handler
	queue   []QueuedRequest
}

func newWorld() *world {
	return &world{values: map[string]KVItem{}, data: map[string][]byte{}, client: &http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (w *world) Fetch(_ context.Context, r *http.Request) (*http.Response, error) {
	return w.client.Do(r)
}

func (w *world) Invoke(_ context.Context, job string, r *http.Request) (*http.Response, error) {
	h, ok := w.jobs[job]
	if !ok {
		return nil, hostcall.ENOENT
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Result(), nil
}

func (w *world) Enqueue(_ context.Context, q QueuedRequest) (Enqueued, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if q.Job == "gone" {
		return Enqueued{}, hostcall.ENOENT
	}
	for i, old := range w.queue {
		if q.Key != "" && old.Key == q.Key {
			return Enqueued{ID: fmt.Sprint("q", i), Known: true}, nil
		}
	}
	w.queue = append(w.queue, q)
	return Enqueued{ID: fmt.Sprint("q", len(w.queue)-1)}, nil
}

func (w *world) KVGet(_ context.Context, bucket, key string) ([]byte, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	it, ok := w.values[bucket+"/"+key]
	if !ok {
		return nil, 0, hostcall.ENOENT
	}
	return w.data[bucket+"/"+key], it.Version, nil
}

func (w *world) KVPut(_ context.Context, bucket, key string, value []byte, expect *uint64) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := bucket + "/" + key
	if expect != nil && *expect != w.values[at].Version {
		return 0, hostcall.ESTALE
	}
	w.version++
	w.values[at] = KVItem{Key: key, Version: w.version, Size: uint64(len(value))}
	w.data[at] = value
	return w.version, nil
}

func (w *world) KVDelete(_ context.Context, bucket, key string, expect *uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := bucket + "/" + key
	if expect != nil && *expect != w.values[at].Version {
		return hostcall.ESTALE
	}
	delete(w.values, at)
	delete(w.data, at)
	return nil
}

func (w *world) KVList(_ context.Context, bucket, prefix, after string, limit int) ([]KVItem, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var items []KVItem
	for at, it := range w.values {
		if strings.HasPrefix(at, bucket+"/"+prefix) && it.Key > after {
			items = append(items, it)
		}
	}
	slices.SortFunc(items, func(a, b KVItem) int { return strings.Compare(a.Key, b.Key) })
	return items[:min(limit, len(items))], nil
}

func (w *world) Config(name string) (string, bool) { v, ok := w.config[name]; return v, ok }

func (w *world) Secret(_ context.Context, name string) ([]byte, error) {
	v, ok := w.secrets[name]
	if !ok {
		return nil, hostcall.ENOENT
	}
	return []byte(v), nil
}

func (w *world) Log(_ context.Context, l Line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, l)
}

func (w *world) Metric(_ context.Context, kind, name string, value float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.metrics = append(w.metrics, fmt.Sprintf("%s %s %v", kind, name, value))
}

// text is everything that was logged.
func (w *world) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, l := range w.lines {
		fmt.Fprintf(&b, "%s %s %s\n", l.Stream, l.Level, l.Text)
	}
	return b.String()
}

var built struct {
	sync.Mutex
	dir     string
	runtime *runtime.Runtime
	modules map[string]*runtime.Module
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.runtime != nil {
		_ = built.runtime.Close()
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// codeCache is where compiled examples are kept between runs: under the race detector compiling takes minutes. It begins
// anew when it has grown past 1 GiB.
func codeCache() string {
	base, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	dir := filepath.Join(base, "ripstop-guest-test")
	var size int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	if size > 1<<30 {
		_ = os.RemoveAll(dir) // then it is only larger than it should be
	}
	return dir
}

// build compiles a package of this repository for wasip1, once for all tests. A package that has no "_start" is built as
// a reactor.
func build(t testing.TB, pkg string) *runtime.Module {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.runtime == nil {
		dir, err := os.MkdirTemp("", "guest-test")
		if err != nil {
			t.Fatal(err)
		}
		r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine, CacheDir: codeCache(), Meter: true})
		if err != nil {
			t.Fatal(err)
		}
		built.dir, built.runtime, built.modules = dir, r, map[string]*runtime.Module{}
	}
	if m := built.modules[pkg]; m != nil {
		return m
	}
	out := filepath.Join(built.dir, strings.ReplaceAll(pkg, "/", "_")+".wasm")
	mode := "-buildmode=c-shared"
	if strings.HasSuffix(pkg, "cgi") {
		mode = "-buildmode=default"
	}
	cmd := exec.Command("go", "build", mode, "-o", out, pkg)
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, b)
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	m, err := built.runtime.Compile(context.Background(), wasm)
	if err != nil {
		t.Fatal(err)
	}
	built.modules[pkg] = m
	return m
}

// program makes a Program of a package, with a grant and a world. Its tasks begin as images, as they do in a server.
func program(t testing.TB, pkg string, w *world, c policy.Capabilities, opts Options) *Program {
	t.Helper()
	g, err := policy.Grant(c)
	if err != nil {
		t.Fatal(err)
	}
	opts.Module, opts.Grants, opts.Services, opts.Images = build(t, pkg), g, w, true
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// sandbox makes a sandbox that is closed with the test. A task's begins as an image, if there can be one.
func sandbox(t testing.TB, p *Program) *Sandbox {
	t.Helper()
	if im, why := p.Image(); im == nil && why == nil && p.images() {
		if first, err := p.NewSandbox(t.Context()); err == nil { // else the next meets the same failure
			if err := first.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	s, err := p.NewSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask serves a request in a fresh sandbox.
func ask(t testing.TB, p *Program, r *http.Request, info ServeInfo) (*httptest.ResponseRecorder, Result, error) {
	t.Helper()
	rec := httptest.NewRecorder()
	res, err := sandbox(t, p).Serve(t.Context(), rec, r, info)
	return rec, res, err
}
