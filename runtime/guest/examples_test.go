package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/policy"
)

const examples = "github.com/ripstop-vm/ripstop/examples/"

func TestHelloAnswersInOneGuestCall(t *testing.T) {
	w := newWorld()
	p := program(t, examples+"hello", w, policy.Capabilities{}, Options{})
	s := sandbox(t, p)
	for i, name := range []string{"one", "two", "three"} {
		rec := httptest.NewRecorder()
		res, err := s.Serve(t.Context(), rec, httptest.NewRequest("GET", "/hello/?name="+name, nil), ServeInfo{ScriptName: "/hello", Invocation: "i"})
		if err != nil {
			t.Fatalf("%v\n%s", err, w.text())
		}
		if got, want := rec.Body.String(), "Hello, "+name+"!\n"; got != want || rec.Code != 200 {
			t.Errorf("%d %q, want %q", rec.Code, got, want)
		}
		if !res.Reusable || !res.HeadSent || res.Status != 200 || res.Response != uint64(len(rec.Body.String())) {
			t.Errorf("result %+v", res)
		}
		// The first request still fills Go's caches; later ones need nothing of the host.
		if i > 0 && res.HostCalls > 1 {
			t.Errorf("request %d made %d host calls", i, res.HostCalls)
		}
		if ct := rec.Header().Get("Content-Type"); ct != "text/plain; charset=utf-8" {
			t.Errorf("content type %q", ct)
		}
	}
}

func TestCGIProgramAnswersUnmodified(t *testing.T) {
	w := newWorld()
	p := program(t, examples+"cgi", w, policy.Capabilities{Env: map[string]string{"HTTP_X_FIXED": "operator"}}, Options{})
	r := httptest.NewRequest("POST", "/app/teapot?x=1", strings.NewReader("some body"))
	r.Header.Set("X-Fixed", "client")
	r.Header.Set("X-Seen", "yes")
	r.Header.Set("X_Under", "no")
	r.Header.Set("Proxy", "http://evil")
	r.Header.Set("Connection", "X-Gone")
	r.Header.Set("X-Gone", "no")
	rec, res, err := ask(t, p, r, ServeInfo{ScriptName: "/app/"})
	if err != nil {
		t.Fatalf("%v\n%s", err, w.text())
	}
	want := "POST /teapot\nHTTP_HOST=example.com\nHTTP_X_FIXED=operator\nHTTP_X_SEEN=yes\nQUERY_STRING=x=1\nSCRIPT_NAME=/app\n\n9 bytes of body: some body\n"
	if rec.Code != 418 || rec.Body.String() != want {
		t.Errorf("%d %q, want %q", rec.Code, rec.Body, want)
	}
	if res.Reusable {
		t.Error("a command cannot serve twice")
	}
	if !strings.Contains(w.text(), "stderr info served /teapot") {
		t.Errorf("log: %q", w.text())
	}
}

func TestGuestbookKeepsEntriesBetweenSandboxes(t *testing.T) {
	w := newWorld()
	p := program(t, examples+"guestbook", w, policy.Capabilities{KV: []string{"guestbook"}}, Options{})
	info := ServeInfo{ScriptName: "/guestbook", Invocation: "42"}
	form := httptest.NewRequest("POST", "/guestbook/", strings.NewReader(url.Values{"text": {"I <3 cloth"}}.Encode()))
	form.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rec, _, err := ask(t, p, form, info)
	if err != nil || rec.Code != http.StatusSeeOther || rec.Header().Get("Location") != "/guestbook/" {
		t.Fatalf("%d %v %v\n%s", rec.Code, rec.Header(), err, w.text())
	}
	for n := 1; n <= 2; n++ {
		rec, _, err := ask(t, p, httptest.NewRequest("GET", "/guestbook/", nil), info)
		if err != nil || rec.Code != 200 {
			t.Fatalf("%d %s %v\n%s", rec.Code, rec.Body, err, w.text())
		}
		for _, want := range []string{fmt.Sprintf("Visit number %d.", n), "<li>I &lt;3 cloth</li>"} {
			if !strings.Contains(rec.Body.String(), want) {
				t.Errorf("no %q in %s", want, rec.Body)
			}
		}
	}
}

func TestWeatherAsksItsUpstreamAtOnce(t *testing.T) {
	var now, most atomic.Int32
	gate := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n == 4 {
			close(gate) // all four are here
		}
		most.Store(max(most.Load(), now.Load()))
		select {
		case <-gate:
		case <-time.After(10 * time.Second):
		}
		if r.Header.Get("Traceparent") != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		fmt.Fprintf(w, `{"current":{"temperature_2m":%s}}`, r.URL.Query().Get("latitude"))
	}))
	defer upstream.Close()
	w := newWorld()
	w.config = map[string]string{"upstream": upstream.URL}
	u, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	port := 0
	fmt.Sscan(u.Port(), &port)
	p := program(t, examples+"weather", w, policy.Capabilities{Fetch: []policy.Fetch{{Scheme: "http", Host: u.Hostname(), Port: port}}}, Options{})
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	rec, _, err := ask(t, p, r, ServeInfo{})
	if err != nil {
		t.Fatalf("%v\n%s", err, w.text())
	}
	var got []struct {
		City  string  `json:"city"`
		T     float64 `json:"temperature_celsius"`
		Error string  `json:"error"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || len(got) != 4 || got[3].City != "tokyo" || got[3].T != 35.69 || got[0].Error != "" {
		t.Errorf("%v: %s", err, rec.Body)
	}
	if most.Load() != 4 {
		t.Errorf("%d requests overlapped, want 4", most.Load())
	}
}

func TestLaterTakesANoteAndIsGivenItBack(t *testing.T) {
	w := newWorld()
	p := program(t, examples+"later", w, policy.Capabilities{Enqueue: []string{"later"}}, Options{})
	info := ServeInfo{ScriptName: "/later"}
	for _, c := range []struct {
		target string
		status int
		body   string
	}{
		{"/later/?in=90s", 202, "q0\n"}, {"/later/?in=90s", 202, "q0\n"}, // the same key
		{"/later/", 400, "say when, as in ?in=90s\n"},
		{"/later/due", 404, "404 page not found\n"},
	} {
		r := httptest.NewRequest("POST", c.target, strings.NewReader("stretch"))
		r.Header.Set("Idempotency-Key", "k")
		rec, _, err := ask(t, p, r, info)
		if err != nil || rec.Code != c.status || rec.Body.String() != c.body {
			t.Errorf("%s: %d %q %v", c.target, rec.Code, rec.Body, err)
		}
	}
	if len(w.queue) != 1 || w.queue[0].Delay != 90*time.Second || w.queue[0].Target != "/due" {
		t.Fatalf("queued: %+v", w.queue)
	}
	r := httptest.NewRequest(w.queue[0].Method, "/later"+w.queue[0].Target, bytes.NewReader(w.queue[0].Body))
	r.Header.Set("Ripstop-Attempt", "1")
	if rec, _, err := ask(t, p, r, info); err != nil || rec.Body.String() != "reminded of \"stretch\"\n" || !strings.Contains(w.text(), "log info stretch") {
		t.Errorf("%q %v\n%s", rec.Body, err, w.text())
	}
}

func TestNosyIsRefusedEverything(t *testing.T) {
	w := newWorld()
	w.values["guestbook/visits"], w.data["guestbook/visits"] = KVItem{Key: "visits", Version: 1}, []byte("1")
	w.secrets = map[string]string{"api-key": "hunter2"}
	w.jobs = map[string]http.Handler{"hello": http.NotFoundHandler()}
	p := program(t, examples+"nosy", w, policy.Capabilities{}, Options{})
	rec, _, err := ask(t, p, httptest.NewRequest("GET", "/", nil), ServeInfo{})
	if err != nil {
		t.Fatalf("%v\n%s", err, w.text())
	}
	body := rec.Body.String()
	if !strings.Contains(body, "\n0 of 14 attempts worked.\n") || strings.Count(body, "refused  ") != 14 || strings.Count(body, "not granted to this job") != 7 {
		t.Errorf("%s", body)
	}
}
