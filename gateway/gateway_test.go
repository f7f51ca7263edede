package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/guest"
)

func TestRequestsAreMatchedByHostThenExactPathThenLongestPrefix(t *testing.T) {
	table, err := NewRoutes([]Route{
		{Path: "/", Job: "root"}, {Path: "/a/", Job: "a"}, {Path: "/a/b/", Job: "ab"}, {Path: "/a/b", Job: "exact"},
		{Host: "x.example", Path: "/a/", Job: "xa"}, {Host: "only.example", Path: "/z", Job: "z"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ host, path, job, prefix string }{
		{"h", "/", "root", ""}, {"h", "/q", "root", ""}, {"h", "/a", "a", "/a"}, {"h", "/a/", "a", "/a"}, {"h", "/ab", "root", ""},
		{"h", "/a/c/d", "a", "/a"}, {"h", "/a/b", "exact", "/a/b"}, {"h", "/a/b/", "ab", "/a/b"}, {"h", "/a/b/c", "ab", "/a/b"},
		{"X.example:8080", "/a/b/c", "xa", "/a"}, {"x.example.", "/a/x", "xa", "/a"}, {"x.example", "/q", "root", ""},
		{"only.example", "/z", "z", "/z"}, {"only.example", "/z/", "root", ""}, {"[::1]:80", "/a/x", "a", "/a"}, {"", "/a/x", "a", "/a"},
	} {
		m, ok := table.Match(c.host, c.path)
		if !ok || m.Job != c.job || m.Prefix != c.prefix {
			t.Errorf("%s%s: got %+v %v, want %s %q", c.host, c.path, m, ok, c.job, c.prefix)
		}
	}
	if _, ok := table.Match("h", "*"); ok {
		t.Error("a path without a slash was matched")
	}
}

func TestBadRoutesAreRefused(t *testing.T) {
	for _, r := range []Route{
		{Path: "/"}, {Path: "", Job: "j"}, {Path: "a/", Job: "j"}, {Path: "/a//b", Job: "j"}, {Path: "/../", Job: "j"}, {Path: "/a/..", Job: "j"},
		{Path: "/" + strings.Repeat("x", MaxPath), Job: "j"}, {Host: "A", Path: "/", Job: "j"}, {Host: "a:1", Path: "/", Job: "j"}, {Path: "/a b", Job: "j"}, {Path: "/a?b", Job: "j"},
	} {
		if _, err := NewRoutes([]Route{r}); err == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
	if _, err := NewRoutes([]Route{{Path: "/a/", Job: "j"}, {Path: "/a/", Job: "k"}}); err == nil {
		t.Error("a route that is taken was accepted")
	}
}

// FuzzMatch holds the table against the rule written down plainly.
func FuzzMatch(f *testing.F) {
	f.Add("h", "/a/b", "/a/", "/a/b/")
	f.Add("x", "/", "/", "/q")
	f.Fuzz(func(t *testing.T, host, path, one, two string) {
		routes := []Route{{Path: one, Job: "one"}, {Path: two, Job: "two"}}
		table, err := NewRoutes(routes)
		if err != nil {
			return
		}
		best := Route{}
		for _, r := range routes {
			matches := r.Path == path || strings.HasSuffix(r.Path, "/") && (strings.HasPrefix(path, r.Path) || path+"/" == r.Path)
			exact := !strings.HasSuffix(r.Path, "/")
			if matches && strings.HasPrefix(path, "/") && (best.Job == "" || exact || len(r.Path) > len(best.Path) && strings.HasSuffix(best.Path, "/")) {
				best = r
			}
		}
		m, ok := table.Match(host, path)
		if ok != (best.Job != "") || m.Job != best.Job {
			t.Fatalf("match %q against %q and %q: %+v %v, want %+v", path, one, two, m, ok, best)
		}
		if ok && !strings.HasPrefix(path, m.Prefix) {
			t.Fatalf("prefix %q of %q", m.Prefix, path)
		}
	})
}

type agentFunc func(guest.ServeInfo, http.ResponseWriter, *http.Request) (bool, error)

func (f agentFunc) Serve(_ string, inv guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
	return f(inv, w, r)
}

func handler(t *testing.T, f agentFunc) *Handler {
	t.Helper()
	h := New(Options{Agent: f, Log: slog.New(slog.DiscardHandler)})
	table, err := NewRoutes([]Route{{Path: "/j/", Job: "j"}})
	if err != nil {
		t.Fatal(err)
	}
	h.SetRoutes(table)
	return h
}

func TestTheGuestGetsItsPrefixATraceAndNoHopByHopHeaders(t *testing.T) {
	var got guest.ServeInfo
	var header http.Header
	h := handler(t, func(inv guest.ServeInfo, w http.ResponseWriter, r *http.Request) (bool, error) {
		got, header = inv, r.Header.Clone()
		_, err := io.WriteString(w, "ok")
		return true, err
	})
	r := httptest.NewRequest("GET", "/j/x", nil)
	r.Header.Set("Connection", "X-Private, close")
	r.Header.Set("X-Private", "1")
	r.Header.Set("Keep-Alive", "1")
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 200 || got.ScriptName != "/j" || got.Scheme != "http" || w.Header().Get(HeaderInvocation) != got.Invocation || got.Invocation == "" {
		t.Fatalf("%d %+v", w.Code, got)
	}
	if header.Get("X-Private") != "" || header.Get("Keep-Alive") != "" || header.Get("Connection") != "" {
		t.Errorf("hop-by-hop headers went through: %v", header)
	}
	if !strings.HasPrefix(header.Get("Traceparent"), "00-0af7651916cd43dd8448eb211c80319c-") {
		t.Errorf("the trace was not continued: %v", header)
	}
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/j/", nil))
	if len(header.Get("Traceparent")) != 55 {
		t.Errorf("no trace was started: %v", header)
	}
}

func TestFailuresAreProblemsThatNameTheInvocationAlone(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
	}{
		"a problem is answered as it is":      {&wire.Problem{Code: "queue-full", Status: 429, Title: "t", Detail: "d"}, 429},
		"an error of ours says nothing more":  {errors.New("secret detail"), 500},
		"a starting job asks to come back":    {&wire.Problem{Code: "starting", Status: 503}, 503},
		"a deadline is answered as a problem": {&wire.Problem{Code: "deadline", Status: 504}, 504},
	} {
		t.Run(name, func(t *testing.T) {
			h := handler(t, func(guest.ServeInfo, http.ResponseWriter, *http.Request) (bool, error) { return false, c.err })
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/j/", nil))
			var p page
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Fatal(err)
			}
			if w.Code != c.status || p.Status != c.status || p.Type != "urn:ripstop:problem:"+p.Code || p.Code == "" || p.Invocation != w.Header().Get(HeaderInvocation) || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if retry := w.Header().Get("Retry-After"); (c.status == 429 || c.status == 503) != (retry != "") {
				t.Errorf("Retry-After %q", retry)
			}
		})
	}
}

func TestUnknownPathsAndTooManyHeadersNeverReachAJob(t *testing.T) {
	h := handler(t, func(guest.ServeInfo, http.ResponseWriter, *http.Request) (bool, error) {
		t.Error("reached a job")
		return false, nil
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/other", nil))
	if w.Code != 404 || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	r := httptest.NewRequest("GET", "/j/", nil)
	for range MaxHeaders + 1 {
		r.Header.Add("X", "1")
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 431 {
		t.Errorf("%d", w.Code)
	}
}

func TestAFailureAfterTheHeadBreaksTheConnection(t *testing.T) {
	s := httptest.NewServer(handler(t, func(_ guest.ServeInfo, w http.ResponseWriter, _ *http.Request) (bool, error) {
		_, _ = io.WriteString(w, "half")
		return true, errors.New("guest died")
	}))
	defer s.Close()
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	resp, err := http.Get(s.URL + "/j/")
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the client saw a whole response")
	}
}

func TestAClientThatLeavesEndsTheInvocationsContext(t *testing.T) {
	entered, left := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(handler(t, func(_ guest.ServeInfo, _ http.ResponseWriter, r *http.Request) (bool, error) {
		close(entered)
		<-r.Context().Done()
		close(left)
		return false, context.Cause(r.Context())
	}))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	r, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/j/", nil)
	if _, err := http.DefaultClient.Do(r); err == nil {
		t.Error("an answer came")
	}
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("the invocation was not cancelled")
	}
}
