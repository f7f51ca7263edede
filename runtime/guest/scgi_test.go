package guest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/policy"
)

func TestSCGIHeadersAreANetstring(t *testing.T) {
	meta := []string{"REQUEST_METHOD=POST", "CONTENT_LENGTH=5", "QUERY_STRING=a=b"}
	fields := func(length string) string {
		return "CONTENT_LENGTH\x00" + length + "\x00SCGI\x001\x00REQUEST_METHOD\x00POST\x00QUERY_STRING\x00a=b\x00"
	}
	for length, want := range map[int64]string{5: fields("5"), 0: fields("0"), -1: fields("")} {
		want = fmt.Sprintf("%d:%s,", len(want), want)
		if got := string(scgiHeader(meta, length)); got != want {
			t.Errorf("%d: %q, want %q", length, got, want)
		}
	}
}

func TestARequestOnTheStandardInputLeavesTheEnvironmentAlone(t *testing.T) {
	// It prints the first bytes that it reads, and its environment before that.
	s := newScript().call("environ_get", 256, 600)
	s.call("fd_write", 2, s.vectors(600, 32), 1, 0).echo()
	g, err := policy.Grant(policy.Capabilities{Env: map[string]string{"HTTP_X_FIXED": "operator"}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	sb, err := start(t, Options{Module: scripts(t)(s), Grants: g, Services: w, Request: RequestStdin})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.text(), "HTTP_X_FIXED=operator\x00") {
		t.Errorf("environment before the request: %q", w.text())
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Fixed", "client")
	r.Header.Set("X-Short", "yes")
	rec := httptest.NewRecorder()
	if _, err := sb.Serve(t.Context(), rec, r, ServeInfo{}); err != nil {
		t.Fatal(err)
	}
	if got := rec.Body.String(); !strings.Contains(got, ":CONTENT_LENGTH\x000\x00SCGI\x001\x00") || strings.Contains(got, "client") {
		t.Errorf("%q", got)
	}
}

func TestTheSCGIExampleIsReadyBeforeItsRequest(t *testing.T) {
	w := newWorld()
	p := program(t, examples+"scgi", w, policy.Capabilities{}, Options{Request: RequestStdin})
	for _, body := range []string{"", "some <body>"} {
		for _, known := range []bool{true, false} {
			r := httptest.NewRequest("POST", "/s/a%20path?q=1", strings.NewReader(body))
			if !known {
				r.ContentLength = -1
			}
			rec, _, err := ask(t, p, r, ServeInfo{ScriptName: "/s", RemoteAddr: "192.0.2.7:1"})
			if err != nil {
				t.Fatalf("%v\n%s", err, w.text())
			}
			want := "<!doctype html>\n<title>/a path</title>\n<p>POST /a path?q=1 from 192.0.2.7\n"
			if body != "" {
				want += "<pre>some &lt;body&gt;</pre>\n"
			}
			if rec.Code != http.StatusOK || rec.Body.String() != want {
				t.Errorf("%d %q, want %q", rec.Code, rec.Body, want)
			}
		}
	}
}

func TestARequestOnTheStandardInputIsForCommands(t *testing.T) {
	m := compile(t, handmade{}.module().Bytes())
	for request, want := range map[Request]string{RequestStdin: "is a task, which is given its request in memory", "body": "neither environment nor stdin"} {
		if _, err := New(Options{Module: m, Request: request}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", request, err)
		}
	}
}
