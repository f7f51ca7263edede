package guest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

const probe = "github.com/ripstop-vm/ripstop/runtime/guest/testdata/probe"

// served is a job behind a real server: a fresh sandbox each request.
type served struct {
	*httptest.Server
	world *world

	mu      sync.Mutex
	results []Result
	errs    []error
	done    chan struct{} // gets one for each request that ended
}

func serveJob(t *testing.T, w *world, c policy.Capabilities, opts Options) *served {
	p := program(t, probe, w, c, opts)
	s := &served{world: w, done: make(chan struct{}, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		sb, err := p.NewSandbox(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		defer sb.Close()
		res, err := sb.Serve(r.Context(), rw, r, ServeInfo{})
		s.mu.Lock()
		s.results, s.errs = append(s.results, res), append(s.errs, err)
		s.mu.Unlock()
		s.done <- struct{}{}
		if err != nil {
			if res.HeadSent {
				panic(http.ErrAbortHandler)
			}
			http.Error(rw, err.Error(), http.StatusBadGateway)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *served) last() (Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.results[len(s.results)-1], s.errs[len(s.errs)-1]
}

func readAll(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTaskLearnsOfItsRequest(t *testing.T) {
	w := newWorld()
	w.config = map[string]string{"greeting": strings.Repeat("hi", 1000)}
	p := program(t, probe, w, policy.Capabilities{Secrets: []string{"token"}}, Options{})
	s := sandbox(t, p)
	for n := 1; n <= 2; n++ {
		rec := httptest.NewRecorder()
		_, err := s.Serve(t.Context(), rec, httptest.NewRequest("PATCH", "http://h.example/job/info?x=%20", nil),
			ServeInfo{ScriptName: "/job", Invocation: "inv", Deadline: p.opts.Clock.Now().Add(time.Hour), RemoteAddr: "192.0.2.7:99"})
		if err != nil {
			t.Fatalf("%v\n%s", err, w.text())
		}
		want := fmt.Sprintf("PATCH /info /job/info?x=%%20 h.example|/job|inv|true true|%d|%s|192.0.2.7:99", n, w.config["greeting"])
		if got := rec.Body.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	rec := httptest.NewRecorder()
	if _, err := s.Serve(t.Context(), rec, httptest.NewRequest("GET", "/init", nil), ServeInfo{}); err != nil || rec.Body.String() != "true" {
		t.Errorf("secrets while starting: %s %v", rec.Body, err)
	}
}

func TestTaskCallsAnswer(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-r.Context().Done()
		case "/redirect":
			http.Redirect(w, r, "/end", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		case "/cut":
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "short")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			n, err := io.Copy(io.Discard, r.Body)
			if n == 4 && err == nil {
				t.Error("a body that failed looked whole")
			}
			w.Header().Set("X-Up", "yes")
			fmt.Fprintf(w, "%s %s got %d %d", r.Method, r.URL.Path, n, r.ContentLength)
		}
	}))
	defer up.Close()
	u, _ := url.Parse(up.URL)
	port, _ := strconv.Atoi(u.Port())
	w := newWorld()
	w.secrets = map[string]string{"token": "s3cret"}
	w.jobs = map[string]http.Handler{"other": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Up", "job")
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.RequestURI(), len(b))
	})}
	caps := policy.Capabilities{
		KV: []string{"data"}, Secrets: []string{"token", "none"}, Invoke: []string{"other", "gone"},
		Fetch: []policy.Fetch{{Scheme: "http", Host: u.Hostname(), Port: port}},
	}
	p := program(t, probe, w, caps, Options{})
	s := sandbox(t, p)
	q := func(kv ...string) string {
		v := url.Values{}
		for i := 0; i < len(kv); i += 2 {
			v.Set(kv[i], kv[i+1])
		}
		return "?" + v.Encode()
	}
	for name, c := range map[string]struct{ target, want string }{
		"keys and values":              {"/kv", "missing true\ncreated <nil>\nagain true\nlarge <nil>\nread 307200 true <nil>\ntoo large true\nlist 2 l/2 l/3 <nil>\nstale true\ndeleted <nil>\nother true\nempty true\n"},
		"a secret":                     {"/secret?name=token", "s3cret false false"},
		"a secret that is not there":   {"/secret?name=none", " true false"},
		"a secret that is not granted": {"/secret?name=x", " false true"},
		"metrics":                      {"/metric", "<nil> <nil> <nil> true true"},
		"a fetch":                      {"/get" + q("method", "GET", "url", up.URL+"/a"), "200 yes 14 GET /a got 0 0 <nil>"},
		"a fetch with a body":          {"/get" + q("method", "PUT", "url", up.URL+"/a", "n", "300000"), "200 yes 20 PUT /a got 300000 -1 <nil>"},
		"a redirect":                   {"/get" + q("method", "GET", "url", up.URL+"/redirect"), "200 yes 16 GET /end got 0 0 <nil>"},
		"a redirect away":              {"/get" + q("method", "GET", "url", up.URL+"/away"), `error Get "http://127.0.0.1:1/": fetch http://127.0.0.1:1/: not granted to this job true false`},
		"a fetch that times out":       {"/get" + q("method", "GET", "url", up.URL+"/slow", "timeout", "30ms"), fmt.Sprintf(`error Get "%s/slow": fetch %s/slow: context deadline exceeded false true`, up.URL, up.URL)},
		"a fetch that is cut off":      {"/get" + q("method", "GET", "url", up.URL+"/cut"), "200  5 short read host: Connection reset by peer"},
		"a body that fails":            {"/get" + q("method", "PUT", "url", up.URL+"/a", "broken", "1"), fmt.Sprintf(`error Put "%s/a": fetch %s/a: the tape tore false false`, up.URL, up.URL)},
		"an invocation":                {"/get" + q("method", "POST", "url", "/p?q=1", "job", "other", "n", "70000"), "200 job 17 POST /p?q=1 70000 <nil>"},
		"an unknown job":               {"/get" + q("method", "GET", "url", "/", "job", "gone"), "error invoke gone: not found false false"},
		"a job that is not granted":    {"/get" + q("method", "GET", "url", "/", "job", "x"), "error invoke x: not granted to this job true false"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			if _, err := s.Serve(t.Context(), rec, httptest.NewRequest("GET", c.target, nil), ServeInfo{}); err != nil {
				t.Fatalf("%v\n%s", err, w.text())
			}
			if got := rec.Body.String(); !strings.EqualFold(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
	if got := fmt.Sprint(w.metrics); got != "[counter app.requests 1.5 gauge app.g -2 histogram app.h 1e+09]" {
		t.Errorf("metrics: %s", got)
	}
}

func TestTenFetchesOverlap(t *testing.T) {
	var mu sync.Mutex
	now := 0
	all := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if now++; now == 10 {
			close(all)
		}
		mu.Unlock()
		<-all
		w.Write(make([]byte, 100<<10))
	}))
	defer up.Close()
	u, _ := url.Parse(up.URL)
	port, _ := strconv.Atoi(u.Port())
	w := newWorld()
	p := program(t, probe, w, policy.Capabilities{Fetch: []policy.Fetch{{Scheme: "http", Host: u.Hostname(), Port: port}}}, Options{})
	rec, _, err := ask(t, p, httptest.NewRequest("GET", "/ten?url="+url.QueryEscape(up.URL), nil), ServeInfo{})
	if err != nil || rec.Body.String() != fmt.Sprint(10*100<<10) {
		t.Errorf("%s %v\n%s", rec.Body, err, w.text())
	}
	rec, res, err := ask(t, p, httptest.NewRequest("GET", "/leak?url="+url.QueryEscape(up.URL), nil), ServeInfo{})
	if err != nil || !strings.HasSuffix(rec.Body.String(), " true") || res.Status != 200 {
		t.Errorf("leaking descriptors: %s %v\n%s", rec.Body, err, w.text())
	}
}

func TestBodiesStreamBothWays(t *testing.T) {
	s := serveJob(t, newWorld(), policy.Capabilities{}, Options{})
	for _, n := range []int{0, 1, 64 << 10, 64<<10 + 1, 3 << 20} {
		data := bytes.Repeat([]byte("z"), n)
		resp, err := http.Post(s.URL+"/hash", "", bytes.NewReader(data))
		sum := sha256.Sum256(data)
		if got, want := readAll(t, resp, err), fmt.Sprintf("%d %x <nil>", n, sum[:4]); got != want {
			t.Errorf("%d bytes: %q, want %q\n%s", n, got, want, s.world.text())
		}
		if resp, err = http.Post(s.URL+"/hash", "", io.MultiReader(bytes.NewReader(data))); !strings.HasPrefix(readAll(t, resp, err), fmt.Sprint(n, " ")) {
			t.Errorf("%d bytes chunked", n)
		}
	}
	for _, n := range []int{1 << 10, 64 << 10, 65 << 10, 2 << 20} {
		resp, err := http.Get(fmt.Sprint(s.URL, "/big?n=", n))
		if got := readAll(t, resp, err); len(got) != n {
			t.Errorf("%d bytes came of %d", len(got), n)
		}
	}
	// What is sent comes back while more is to be sent.
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", s.URL+"/echo", pr)
	go func() { _, _ = pw.Write([]byte("first ")) }()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "first " {
		t.Fatalf("%q %v", buf, err)
	}
	go func() { _, _ = pw.Write([]byte("second")); _ = pw.Close() }()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "second" {
		t.Errorf("%q %v", b, err)
	}
	resp.Body.Close()
}

func TestClientThatLeavesEndsTheResponse(t *testing.T) {
	s := serveJob(t, newWorld(), policy.Capabilities{}, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/forever", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "0\n" {
		t.Fatalf("%q %v", line, err)
	}
	cancel()
	resp.Body.Close()
	<-s.done
	if res, err := s.last(); !res.HeadSent || (err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrClientGone)) {
		t.Errorf("%+v %v", res, err)
	}
}

func TestFailuresAreTold(t *testing.T) {
	w := newWorld()
	p := program(t, probe, w, policy.Capabilities{}, Options{
		RequestBytes: 1 << 20, ResponseBytes: 1 << 20, LogBytes: 10_000, HostCalls: 20_000,
	})
	exit := func(code uint32) func(error) bool {
		return func(err error) bool {
			var e *runtime.ExitError
			return errors.As(err, &e) && e.Code == code
		}
	}
	limit := func(name string) func(error) bool {
		return func(err error) bool {
			var e *runtime.LimitError
			return errors.As(err, &e) && e.Limit == name
		}
	}
	trap := func(err error) bool {
		var e *runtime.Trap
		return errors.As(err, &e) && len(e.Frames) > 0
	}
	bad := func(err error) bool {
		var e *BadResponseError
		return errors.As(err, &e)
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want func(error) bool
		sent bool
	}{
		"a panic":                          {httptest.NewRequest("GET", "/panic", nil), trap, false},
		"an exit":                          {httptest.NewRequest("GET", "/exit", nil), exit(3), false},
		"an exit after the head":           {httptest.NewRequest("GET", "/late", nil), exit(3), false}, // sent or not: the goroutine may have been late
		"too many host calls":              {httptest.NewRequest("GET", "/calls", nil), limit("host calls"), false},
		"a response that is too long":      {httptest.NewRequest("GET", "/big?n=4000000", nil), limit("response"), true},
		"a request that is too long":       {httptest.NewRequest("POST", "/hash", bytes.NewReader(make([]byte, 2<<20))), limit("request"), false},
		"a long request of unknown length": {httptest.NewRequest("POST", "/hash", io.MultiReader(bytes.NewReader(make([]byte, 2<<20)))), limit("request"), false},
		"a header that cannot be":          {httptest.NewRequest("GET", "/badheader", nil), bad, false},
	} {
		t.Run(name, func(t *testing.T) {
			rec, res, err := ask(t, p, c.r, ServeInfo{})
			if err == nil || !c.want(err) {
				t.Errorf("error %v, body %.100q", err, rec.Body)
			}
			if res.HeadSent != c.sent && name != "an exit after the head" {
				t.Errorf("%+v", res)
			}
			if !res.HeadSent && rec.Body.Len() > 0 {
				t.Errorf("body %.100q without a head", rec.Body)
			}
		})
	}
	if !strings.Contains(w.text(), "stderr info panic: at the disco") {
		t.Errorf("log: %s", w.text())
	}
}

func TestDeadlineEndsGuestsThatSleepOrSpin(t *testing.T) {
	p := program(t, probe, newWorld(), policy.Capabilities{}, Options{})
	for _, path := range []string{"/sleep", "/spin", "/forever"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		s := sandbox(t, p)
		res, err := s.Serve(ctx, httptest.NewRecorder(), httptest.NewRequest("GET", path, nil), ServeInfo{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || res.Reusable {
			t.Errorf("%s: %+v %v", path, res, err)
		}
		if _, err := s.Serve(t.Context(), httptest.NewRecorder(), httptest.NewRequest("GET", "/info", nil), ServeInfo{}); !errors.Is(err, ErrUsed) {
			t.Errorf("%s: served again: %v", path, err)
		}
	}
}

func TestLogIsBoundedAndSplit(t *testing.T) {
	w := newWorld()
	p := program(t, probe, w, policy.Capabilities{}, Options{LogBytes: 5000})
	_, res, err := ask(t, p, httptest.NewRequest("GET", "/log?n=10", nil), ServeInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"stdout info to stdout\n", "stderr info to stderr, unended\n", "log info msg=hello a=1 g.b=\"two words\"\n"} {
		if !strings.Contains(w.text(), want) {
			t.Errorf("no %q in %.300s", want, w.text())
		}
	}
	if res.LogBytes > 5000 || res.LogBytes < 4000 || res.LogDropped < 5000 {
		t.Errorf("%d bytes kept, %d dropped", res.LogBytes, res.LogDropped)
	}
}

func TestHeadersOfTheConnectionStayOutside(t *testing.T) {
	s := serveJob(t, newWorld(), policy.Capabilities{}, Options{})
	r, _ := http.NewRequest("GET", s.URL+"/header", nil)
	r.Header.Set("X-Client", "client")
	r.Header.Set("Proxy", "p")
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "u")
	resp, err := http.DefaultClient.Do(r)
	if got := readAll(t, resp, err); got != "client" || resp.StatusCode != 201 || resp.Header.Get("X-Kept") != "yes" || resp.Header.Get("X-Gone") != "" || resp.ContentLength != 6 {
		t.Errorf("%q %d %v", got, resp.StatusCode, resp.Header)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	s := serveJob(t, newWorld(), policy.Capabilities{}, Options{})
	before := 0
	for i := range 30 {
		path := []string{"/info", "/panic", "/big?n=200000"}[i%3]
		resp, err := http.Post(s.URL+path, "", bytes.NewReader(make([]byte, 100<<10)))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		<-s.done
		http.DefaultClient.CloseIdleConnections()
		if i == 5 {
			before = goruntime.NumGoroutine()
		}
	}
	for range 1000 {
		if goruntime.NumGoroutine() <= before+4 {
			return
		}
		goruntime.Gosched()
	}
	if n := goruntime.NumGoroutine(); n > before+4 {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// endless is a program on an engine that does not check for a done context: what deadlines by the engine's means cost.
func endless(b *testing.B, pkg string) *Program {
	b.Helper()
	build(b, pkg) // leaves the binary behind
	built.Lock()
	wasm, err := os.ReadFile(filepath.Join(built.dir, strings.ReplaceAll(pkg, "/", "_")+".wasm"))
	built.Unlock()
	if err != nil {
		b.Fatal(err)
	}
	r, err := runtime.Open(b.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Endless: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	m, err := r.Compile(b.Context(), wasm)
	if err != nil {
		b.Fatal(err)
	}
	p, err := New(Options{Module: m, Services: newWorld()})
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func BenchmarkHello(b *testing.B) {
	p := program(b, examples+"hello", newWorld(), policy.Capabilities{}, Options{})
	r := httptest.NewRequest("GET", "/?name=bench", nil)
	b.Run("reused sandbox", func(b *testing.B) {
		s := sandbox(b, p)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Serve(b.Context(), httptest.NewRecorder(), r, ServeInfo{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("reused sandbox without deadlines", func(b *testing.B) {
		s := sandbox(b, endless(b, examples+"hello"))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Serve(b.Context(), httptest.NewRecorder(), r, ServeInfo{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fresh sandbox", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s, err := p.NewSandbox(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if _, err := s.Serve(b.Context(), httptest.NewRecorder(), r, ServeInfo{}); err != nil {
				b.Fatal(err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
