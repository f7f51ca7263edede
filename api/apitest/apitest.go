// Package apitest runs the real API over a real store in a temporary directory, for tests. Nothing runs guests: the
// runner finds every module that begins with WebAssembly's magic number to be a task, and what guests would report is
// what the test reports.
package apitest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/api"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// Epoch is when a World's clock begins, unless told otherwise.
var Epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Module is bytes that the runner takes for a task.
var Module = []byte("\x00asm\x01\x00\x00\x00")

// World is a server, its store and its hub.
type World struct {
	Dir    string // data directory; its file "token" is the bootstrap token
	URL    string
	Token  string
	Store  *control.Store
	Clock  *clock.Manual // the store's
	Hub    *Hub
	Runner *Runner
	API    *api.Server
}

// Open starts a server on loopback that ends with t. change may alter the API's options.
func Open(t testing.TB, change ...func(*api.Options)) *World {
	t.Helper()
	w := &World{Dir: t.TempDir(), Clock: clock.NewManual(Epoch), Hub: &Hub{}, Runner: &Runner{}}
	stored, err := embedded.Open(w.Dir, embedded.Options{Clock: w.Clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stored.Close() })
	quiet := slog.New(slog.DiscardHandler)
	if w.Store, err = control.New(stored.Records(), stored.Blobs(), stored.Buckets(), stored.Queue(), w.Runner, control.Options{DataDir: w.Dir, Clock: w.Clock, Log: quiet}); err != nil {
		t.Fatal(err)
	}
	if err := w.Store.Bootstrap(t.Context(), w.Dir); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(filepath.Join(w.Dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	w.Token = strings.TrimSpace(string(secret))
	opts := api.Options{Control: w.Store, Hub: w.Hub, IngressURL: "http://127.0.0.1:8080", Version: "v0.0.0-test", Log: quiet}
	for _, f := range change {
		f(&opts)
	}
	if w.API, err = api.New(opts); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = api.NewServer(w.API)
	srv.Start()
	t.Cleanup(func() { w.API.Stop(); srv.Close() })
	w.URL = srv.URL
	return w
}

// Request makes a request with the World's token; the caller closes the answer's body.
func (w *World) Request(t testing.TB, method, path string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.Token)
	for i := 0; i+1 < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Runner is a control.Runner that runs nothing. Its fields are set before requests are made.
type Runner struct {
	Unconfirmed error                                        // what Applied answers
	Prepared    func(context.Context, wire.Assignment) error // called by Prepare; nil: all goes well
}

// Check implements control.Runner.
func (r *Runner) Check(_ context.Context, _, _ string, module io.Reader, _ int64) (string, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(module, head); err != nil || !bytes.Equal(head, Module[:4]) {
		return "", &wire.Problem{Code: "module-invalid", Status: http.StatusUnprocessableEntity, Title: "Module is not valid",
			Detail: "this is no WebAssembly module; build one with GOOS=wasip1 GOARCH=wasm"}
	}
	return "task", nil
}

// Prepare implements control.Runner.
func (r *Runner) Prepare(ctx context.Context, a wire.Assignment) (func(bool), error) {
	if r.Prepared != nil {
		if err := r.Prepared(ctx, a); err != nil {
			return nil, err
		}
	}
	return func(bool) {}, nil
}

// Applied implements control.Runner.
func (r *Runner) Applied(context.Context, uint64) error { return r.Unconfirmed }

// Hub is an api.Hub that hands out what it is given.
type Hub struct {
	mu      sync.Mutex
	logs    []wire.Report
	live    map[chan wire.Report]string // kind and job
	Arrived chan struct{}               // if not nil, gets a value for each follower that arrives
}

// Report keeps a log line, and sends it and traces to followers.
func (h *Hub) Report(r wire.Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Kind == wire.ReportLog {
		h.logs = append(h.logs, r)
	}
	for c, what := range h.live {
		if what == r.Kind+" "+r.Job {
			c <- r
		}
	}
}

// Logs implements api.Hub.
func (h *Hub) Logs(job string, tail int) ([]wire.Report, <-chan wire.Report, func()) {
	h.mu.Lock()
	var backlog []wire.Report
	for _, r := range h.logs {
		if r.Job == job {
			backlog = append(backlog, r)
		}
	}
	h.mu.Unlock()
	backlog = backlog[max(0, len(backlog)-tail):]
	live, stop := h.follow(wire.ReportLog + " " + job)
	return backlog, live, stop
}

// Traces implements api.Hub.
func (h *Hub) Traces(job string) (<-chan wire.Report, func()) {
	return h.follow(wire.ReportTrace + " " + job)
}

// End ends all live channels, as when the hub stops.
func (h *Hub) End() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.live {
		delete(h.live, c)
		close(c)
	}
}

// Followers is how many follow now.
func (h *Hub) Followers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.live)
}

func (h *Hub) follow(what string) (<-chan wire.Report, func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live == nil {
		h.live = map[chan wire.Report]string{}
	}
	c := make(chan wire.Report, 64)
	h.live[c] = what
	if h.Arrived != nil {
		h.Arrived <- struct{}{}
	}
	return c, sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, open := h.live[c]; open {
			delete(h.live, c)
			close(c)
		}
	})
}
