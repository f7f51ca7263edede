//go:build unix

package main

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func buildProbe(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "probe.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, "./testdata/probe")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGuestsUseWhatTheServerOffersThroughTheirWorker(t *testing.T) {
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-From", "outside")
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(append([]byte("got "), b...))
	}))
	defer outside.Close()
	s := startServer(t)
	probe := buildProbe(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	s.deploy("probe", probe, "config: {greeting: hi}\nlimits: {time: 20s}\ncapabilities:\n  kv: [things]\n  secrets: [key]\n  invoke: [hello, probe, gone]\n  fetch: [{scheme: http, host: 127.0.0.1, port: "+
		outside.URL[strings.LastIndex(outside.URL, ":")+1:]+", private: true}]\n")
	if status, body := s.call("PUT", "/v1/jobs/probe/secrets/key", strings.NewReader("12345"), "application/octet-stream"); status > 299 {
		t.Fatalf("%d %s", status, body)
	}
	for _, c := range []struct{ path, want string }{
		{"count", "1"}, {"count", "1"}, // a fresh sandbox each time
		{"config", "hi true\n"},
		{"secret?name=key", "5 <nil>\n"},
		{"metric", "metric <nil>\n"},
		{"invoke?job=hello&path=/", "200 hello <nil>\n"},
		{"fetch?url=" + url.QueryEscape(outside.URL+"/x"), "202 outside got payload <nil>\n"},
	} {
		if status, _, body := s.get("/probe/" + c.path); status != 200 || body != c.want {
			t.Errorf("%s: %d %q, want %q", c.path, status, body, c.want)
		}
	}
	for _, path := range []string{"secret?name=other", "invoke?job=gone&path=/", "invoke?job=other&path=/", "fetch?url=" + url.QueryEscape("http://127.0.0.1:1/")} {
		if status, _, body := s.get("/probe/" + path); status != 200 || strings.Contains(body, "<nil>\n") && !strings.HasPrefix(body, "<nil>") {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	_, _, body := s.get("/probe/kv")
	if lines := strings.Split(body, "\n"); len(lines) != 6 || lines[0] != "true <nil>" || !strings.HasPrefix(lines[1], "conflict kv") || lines[2] != "v <nil>" || lines[3] != "1 <nil>" || lines[4] != "deleted <nil>" {
		t.Errorf("kv: %q", body)
	}
	r, _ := http.NewRequest("GET", "http://"+s.ingress+"/probe/trace", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if !strings.HasPrefix(string(b), "00-0af7651916cd43dd8448eb211c80319c-") {
		t.Errorf("the guest got the trace %q", b)
	}
	s.until("the guest's metric to be shown", func() bool {
		_, b := s.call("GET", "/metrics", nil, "")
		return strings.Contains(string(b), `ripstop_guest_counter_total{job="probe",name="probed"} 2`)
	})

	// Invocations that lead to each other end by themselves.
	path := "/count"
	for range 12 {
		path = "/invoke?job=probe&path=" + url.QueryEscape(path)
	}
	if status, _, body := s.get("/probe" + path); status != 200 || !strings.Contains(body, "levels") && !strings.Contains(body, "invoke") {
		t.Errorf("a chain: %d %q", status, body)
	}

	// A kept sandbox keeps its state, also while its calls begin to be followed.
	s.deploy("kept", probe, "isolation: task\n")
	if _, _, body := s.get("/kept/count"); body != "1" {
		t.Errorf("first: %q", body)
	}
	follow, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.api+"/v1/jobs/kept/trace", nil)
	follow.Header.Set("Authorization", "Bearer "+s.token)
	stream, err := http.DefaultClient.Do(follow)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	seen := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stream.Body).ReadString('\n')
		seen <- line
	}()
	n := 1
	s.until("a host call to be seen", func() bool {
		_, _, _ = s.get("/kept/config")
		n++
		select {
		case line := <-seen:
			return strings.Contains(line, `"job":"kept"`)
		default:
			return false
		}
	})
	if _, _, body := s.get("/kept/count"); body == "1" || body == "" {
		t.Errorf("after following: %q", body)
	}
}
