package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// memory is a Store that grants everything it is asked for, so that only the link's own checks are in the way.
type memory struct {
	mu    sync.Mutex
	audit []control.AuditEntry
	items map[string]broker.Item

	queued []control.NewInvocation

	secrets map[string]string // others are told by their names
}

func (m *memory) WatchAssignments(context.Context, uint64) <-chan control.Change { return nil }
func (m *memory) Module(context.Context, string) (io.ReadCloser, int64, error) {
	return nil, 0, broker.ErrNotFound
}
func (m *memory) Secret(_ context.Context, job, name string) ([]byte, error) {
	if v, ok := m.secrets[name]; ok {
		return []byte(v), nil
	}
	return []byte("secret of " + job + " " + name), nil
}
func (m *memory) Audit(_ context.Context, e control.AuditEntry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.audit = append(m.audit, e)
	return nil
}
func (m *memory) KVGet(_ context.Context, job, bucket, key string) (broker.Item, error) {
	i, ok := m.items[job+"/"+bucket+"/"+key]
	if !ok {
		return broker.Item{}, broker.ErrNotFound
	}
	return i, nil
}
func (m *memory) KVPut(_ context.Context, job, bucket, key string, value []byte, expect *uint64) (uint64, error) {
	if expect != nil && *expect != 0 {
		return 0, &broker.ConflictError{Key: key, Want: *expect}
	}
	m.items[job+"/"+bucket+"/"+key] = broker.Item{Key: key, Value: value, Version: 7}
	return 7, nil
}
func (m *memory) KVDelete(context.Context, string, string, string, *uint64) error {
	return broker.ErrReadOnly
}
func (m *memory) Enqueue(_ context.Context, job string, v control.NewInvocation) (broker.Receipt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if job == "full" {
		return broker.Receipt{}, broker.ErrQueueFull
	}
	m.queued = append(m.queued, v)
	return broker.Receipt{ID: "i-1", Known: v.Key != ""}, nil
}
func (m *memory) KVList(context.Context, string, string, string, string, int) ([]broker.Item, error) {
	return []broker.Item{{Key: "k\xff", Value: []byte("abc"), Version: 3}}, nil
}

func linked(t *testing.T, capabilities policy.Capabilities) (*worker, *memory, http.Handler) {
	t.Helper()
	s, err := New(Options{Program: "none", Ingress: os.Stdin, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{items: map[string]broker.Item{}}
	b, err := json.Marshal(manifest.Manifest{Capabilities: capabilities})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.allow(wire.Assignment{Job: "j", Version: 2, Manifest: b}); err != nil {
		t.Fatal(err)
	}
	w := &worker{super: s, store: &discreet{Store: m}, process: &process{kill: func() {}}, orders: make(chan wire.Order, 4), first: make(chan struct{}), running: map[string]wire.Report{}}
	return w, m, w.handler()
}

func ask(h http.Handler, method, path, job, version, body string, header ...string) *httptest.ResponseRecorder {
	return askRequest(h, httptest.NewRequest(method, path, nil), job, version, body, header...)
}

func askRequest(h http.Handler, r *http.Request, job, version, body string, header ...string) *httptest.ResponseRecorder {
	r.Body = io.NopCloser(strings.NewReader(body))
	r.ContentLength = int64(len(body))
	r.Header.Set(wire.HeaderJob, job)
	r.Header.Set(wire.HeaderVersion, version)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

func TestAWorkerGetsOnlyWhatTheVersionItNamesWasGranted(t *testing.T) {
	_, m, h := linked(t, policy.Capabilities{KV: []string{"b"}, Secrets: []string{"s"}})
	for name, c := range map[string]struct{ method, path, job, version, errno string }{
		"a granted secret":             {"GET", "/secrets?name=s", "j", "2", ""},
		"another secret":               {"GET", "/secrets?name=t", "j", "2", "ENOTCAPABLE"},
		"a version that was not given": {"GET", "/secrets?name=s", "j", "3", "ENOTCAPABLE"},
		"another job":                  {"GET", "/secrets?name=s", "k", "2", "ENOTCAPABLE"},
		"no version":                   {"GET", "/secrets?name=s", "j", "", "ENOTCAPABLE"},
		"a key that is not there":      {"GET", "/kv/b?key=x", "j", "2", "ENOENT"},
		"another bucket":               {"GET", "/kv/c?key=x", "j", "2", "ENOTCAPABLE"},
		"another bucket, written":      {"PUT", "/kv/c?key=x", "j", "2", "ENOTCAPABLE"},
		"another bucket, deleted":      {"DELETE", "/kv/c?key=x", "j", "2", "ENOTCAPABLE"},
		"a granted bucket":             {"PUT", "/kv/b?key=y", "j", "2", ""},
		"a list without a limit":       {"GET", "/kv/b?prefix=", "j", "2", "EINVAL"},
		"a list":                       {"GET", "/kv/b?prefix=&limit=10", "j", "2", ""},
		"a store that refuses":         {"DELETE", "/kv/b?key=y", "j", "2", "EROFS"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := ask(h, c.method, c.path, c.job, c.version, "v")
			if got := rec.Header().Get(wire.HeaderError); got != c.errno || (c.errno == "") != (rec.Code < 300) {
				t.Errorf("%d %q, want %q", rec.Code, got, c.errno)
			}
		})
	}
	if rec := ask(h, "PUT", "/kv/b?key=y", "j", "2", "v", wire.HeaderIf, "9"); rec.Header().Get(wire.HeaderError) != "ESTALE" {
		t.Errorf("a version that differs: %q", rec.Header().Get(wire.HeaderError))
	}
	if len(m.audit) == 0 || m.audit[0].Kind != control.AuditDenied {
		t.Errorf("refusals were not audited: %+v", m.audit)
	}
}

func TestFetchesAreMadeOnlyUnderTheGrant(t *testing.T) {
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Saw", r.Method+" "+r.Header.Get("X-Mine")+r.Header.Get(wire.HeaderJob))
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.Copy(w, r.Body)
	}))
	defer outside.Close()
	port := outside.Listener.Addr().String()[strings.LastIndex(outside.Listener.Addr().String(), ":")+1:]
	var f policy.Fetch
	f.Scheme, f.Host, f.Private = "http", "127.0.0.1", true
	for _, c := range port {
		f.Port = 10*f.Port + int(c-'0')
	}
	_, _, h := linked(t, policy.Capabilities{Fetch: []policy.Fetch{f}})
	rec := ask(h, "POST", "/fetch", "j", "2", "body", wire.HeaderMethod, "PUT", wire.HeaderURL, outside.URL+"/x", "X-F-X-Mine", "1")
	if rec.Code != http.StatusTeapot || rec.Header().Get("X-F-X-Saw") != "PUT 1" || rec.Body.String() != "body" {
		t.Errorf("%d %v %q", rec.Code, rec.Header(), rec.Body)
	}
	for _, u := range []string{"http://127.0.0.1:1/", "http://localhost:" + port + "/", "https://127.0.0.1:" + port + "/", "file:///etc/passwd", "http://"} {
		rec := ask(h, "POST", "/fetch", "j", "2", "", wire.HeaderMethod, "GET", wire.HeaderURL, u)
		if e := rec.Header().Get(wire.HeaderError); e != "ENOTCAPABLE" && e != "EINVAL" {
			t.Errorf("%s: %d %q", u, rec.Code, e)
		}
	}
}

func TestAWorkerSpeaksOnlyForJobsItWasGiven(t *testing.T) {
	w, m, _ := linked(t, policy.Capabilities{})
	for _, kind := range []string{wire.ReportLog, wire.ReportTrace, wire.ReportAudit, wire.ReportRunning} {
		w.report(t.Context(), wire.Report{Kind: kind, Job: "other", Text: "x"})
	}
	if back, _, stop := w.super.hub.Logs("other", 10); len(back) != 0 {
		t.Error("a line for a job that was not given")
	} else {
		stop()
	}
	if len(m.audit) != 0 || len(w.running) != 0 {
		t.Errorf("audit %v, running %v", m.audit, w.running)
	}
	w.report(t.Context(), wire.Report{Kind: wire.ReportLog, Job: "j", Text: strings.Repeat("x", 1<<19), Stream: "evil", Level: "evil"})
	back, _, stop := w.super.hub.Logs("j", 10)
	defer stop()
	if len(back) != 1 || len(back[0].Text) != maxText || back[0].Stream != "log" || back[0].Level != "info" {
		t.Errorf("%d lines", len(back))
	}
	w.report(t.Context(), wire.Report{Kind: wire.ReportAudit, Job: "j", Level: "warn", Text: "path_open"})
	w.report(t.Context(), wire.Report{Kind: wire.ReportAudit, Job: "j", Level: "info", Text: "path_open"})
	w.report(t.Context(), wire.Report{Kind: wire.ReportAudit, Job: "j", Level: "warn", Omitted: 7})
	if len(m.audit) != 3 || m.audit[0].Kind != control.AuditDenied || m.audit[1].Kind != control.AuditObserved || m.audit[2].Kind != control.AuditDenied || m.audit[2].Omitted != 7 {
		t.Errorf("audit %v", m.audit)
	}
	w.report(t.Context(), wire.Report{Kind: wire.ReportRunning, Job: "j", Version: 2})
	if jobs := w.runningJobs(); len(jobs) != 1 {
		t.Errorf("running %v", jobs)
	}
}

func TestWhatATraceMissesIsALineOfItsOwn(t *testing.T) {
	w, _, _ := linked(t, policy.Capabilities{})
	live, stop := w.super.hub.Traces("j")
	defer stop()
	w.report(t.Context(), wire.Report{Kind: wire.ReportTrace, Job: "j", Invocation: "i", Trace: json.RawMessage(`{}`), Omitted: 705})
	if r := <-live; r.Omitted != 705 || r.Invocation != "" || len(r.Trace) > 0 {
		t.Errorf("first comes %+v", r)
	}
	if r := <-live; r.Omitted != 0 || r.Invocation != "i" || len(r.Trace) == 0 {
		t.Errorf("then comes %+v", r)
	}
	w.report(t.Context(), wire.Report{Kind: wire.ReportTrace, Job: "j", Omitted: 3})
	if r := <-live; r.Omitted != 3 || len(live) > 0 {
		t.Errorf("at the end comes %+v, and %d more", r, len(live))
	}
}

func TestReportsThatCannotBeReadEndTheWorker(t *testing.T) {
	for name, body := range map[string]io.Reader{
		"no JSON":    strings.NewReader("{\n"),
		"no end":     io.MultiReader(bytes.NewReader(bytes.Repeat([]byte{'x'}, maxReport+2)), strings.NewReader("\n")),
		"wrong type": strings.NewReader("[1]\n"),
	} {
		t.Run(name, func(t *testing.T) {
			w, _, h := linked(t, policy.Capabilities{})
			killed := false
			w.process.kill = func() { killed = true }
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/reports", body))
			if !killed {
				t.Error("the worker lives")
			}
		})
	}
}

func TestAWorkerThatDoesNotReadItsOrdersIsKilled(t *testing.T) {
	w, _, _ := linked(t, policy.Capabilities{})
	killed := false
	w.process.kill = func() { killed = true }
	for range cap(w.orders) + 1 {
		w.send(wire.Order{Kind: wire.OrderDrain})
	}
	if !killed {
		t.Error("the worker lives")
	}
}

func TestOnlyRecentVersionsAreSpokenFor(t *testing.T) {
	w, _, _ := linked(t, policy.Capabilities{})
	for v := uint64(10); v < 10+2*keepGrants; v++ {
		if err := w.super.allow(wire.Assignment{Job: "j", Version: v, Manifest: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if w.super.grantOf("j", 10) != nil || w.super.grantOf("j", 9+2*keepGrants) == nil || len(w.super.grants["j"].versions) != keepGrants {
		t.Error("the wrong versions are spoken for")
	}
	w.super.forbid("j")
	if w.super.grantOf("j", 9+2*keepGrants) != nil {
		t.Error("a removed job is spoken for")
	}
}

// FuzzReport holds whatever a worker may send against the reader.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"kind":"log","job":"j","text":"x"}` + "\n"))
	f.Add([]byte(`{"kind":"log","job":"j","raw":"AP8="}` + "\n"))
	f.Add([]byte(`{"kind":"prepared","id":"x","problem":{"status":-1}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := New(Options{Program: "none", Ingress: os.Stdin, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		w := &worker{super: s, store: &discreet{Store: &memory{}}, process: &process{kill: func() {}}, orders: make(chan wire.Order, 4), first: make(chan struct{}), running: map[string]wire.Report{}}
		w.takeReports(httptest.NewRecorder(), httptest.NewRequest("POST", "/reports", bytes.NewReader(b)))
	})
}

func TestErrorsBecomeTheErrnoThatAGuestUnderstands(t *testing.T) {
	for want, err := range map[string]error{"ENOENT": broker.ErrNotFound, "EDQUOT": broker.ErrQuota, "ENOSPC": broker.ErrFull, "ESTALE": &broker.ConflictError{}, "EIO": errors.New("x"), "ENOTCAPABLE": &policy.RefusedError{}} {
		if got := errnoOf(err).String(); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}
