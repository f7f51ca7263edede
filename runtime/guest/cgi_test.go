package guest

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

func parseAll(b []byte) *cgiParser {
	p := &cgiParser{}
	rest := p.write(b)
	p.finish()
	p.buf = append(p.buf, rest...)
	return p
}

func TestCGIOutputIsAHeaderOrAllBody(t *testing.T) {
	long := strings.Repeat("X-A: b\n", MaxHeaderBytes/7+1)
	for name, c := range map[string]struct {
		out    string
		status int
		field  string // "Name: value" that has to be there
		body   string
		err    string
	}{
		"a header with a type":              {"Content-Type: text/html\n\n<p>", 200, "Content-Type: text/html", "<p>", ""},
		"ends of lines as in HTTP":          {"Content-type: a/b\r\nX-Y: z\r\n\r\nx\r\n", 200, "X-Y: z", "x\r\n", ""},
		"a status":                          {"Status: 404 Not Found\nContent-Type: a/b\n\n", 404, "Content-Type: a/b", "", ""},
		"a status alone, without an end":    {"Status: 204", 204, "", "", ""},
		"a location":                        {"Location: /there\n\n", 302, "Location: /there", "", ""},
		"a location with a status":          {"Location: /there\nStatus: 301\n\n", 301, "Location: /there", "", ""},
		"no header":                         {"hello\n\nworld\n", 200, "Content-Type: text/plain; charset=utf-8", "hello\n\nworld\n", ""},
		"nothing":                           {"", 200, "Content-Type: text/plain; charset=utf-8", "", ""},
		"an empty line first":               {"\nStatus: 404\n\n", 200, "", "\nStatus: 404\n\n", ""},
		"fields that are none of CGI's":     {"note: this\n\nis text", 200, "", "note: this\n\nis text", ""},
		"a line amid fields that is none":   {"Status: 404\nwell\n\n", 200, "", "Status: 404\nwell\n\n", ""},
		"a header without end":              {"Status: 200\n" + long, 200, "", "Status: 200\n" + long, ""},
		"a status that is too small":        {"Status: 100\n\n", 0, "", "", "200 to 599"},
		"a status that is too large":        {"Status: 600\n\n", 0, "", "", "200 to 599"},
		"a status that is no number":        {"Status: OK\n\n", 0, "", "", "200 to 599"},
		"a status with a sign":              {"Status: +200\n\n", 0, "", "", "200 to 599"},
		"two statuses":                      {"Status: 200\nStatus: 200\n\n", 0, "", "", "2 times"},
		"a value that HTTP has no room for": {"Status: 200\nX: a\x00b\n\n", 0, "", "", "not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parseAll([]byte(c.out))
			status, h, body, err := p.head()
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || status != c.status || string(body) != c.body {
				t.Errorf("%d %q %v, want %d %q", status, body, err, c.status, c.body)
			}
			if k, v, ok := strings.Cut(c.field, ": "); ok && h.Get(k) != v {
				t.Errorf("header %v, want %s", h, c.field)
			}
		})
	}
}

func TestCGIEnvironmentHoldsTheRequest(t *testing.T) {
	r := httptest.NewRequest("GET", "http://h.example:8443/a%20b/c/d%2Fe?q=%20&r", nil)
	r.Header = http.Header{
		"Content-Type": {"x/y"}, "Cookie": {"a=1", "b=2"}, "Accept": {"a", "b"}, "Proxy": {"x"}, "X_y": {"x"}, "Traceparent": {"00-1"},
		"Te": {"x"}, "Authorization": {"Basic x"},
	}
	env := cgiEnviron([]string{"A=1", "PATH_INFO=granted"}, r, &ServeInfo{ScriptName: "/a b", Scheme: "https", RemoteAddr: "[2001:db8::1]:77", Invocation: "i7"})
	want := []string{
		"A=1", "GATEWAY_INTERFACE=CGI/1.1", "SERVER_SOFTWARE=ripstop", "SERVER_PROTOCOL=HTTP/1.1", "REQUEST_METHOD=GET",
		"REQUEST_URI=/a%20b/c/d%2Fe?q=%20&r", "REQUEST_SCHEME=https", "SCRIPT_NAME=/a b", "PATH_INFO=/c/d/e", "QUERY_STRING=q=%20&r",
		"SERVER_NAME=h.example", "SERVER_PORT=8443", "HTTPS=on", "REMOTE_ADDR=2001:db8::1", "REMOTE_HOST=2001:db8::1", "REMOTE_PORT=77",
		"UNIQUE_ID=i7", "CONTENT_TYPE=x/y", "HTTP_HOST=h.example:8443", "HTTP_ACCEPT=a, b", "HTTP_AUTHORIZATION=Basic x", "HTTP_COOKIE=a=1; b=2",
		"HTTP_TRACEPARENT=00-1",
	}
	if !slices.Equal(env, want) {
		t.Errorf("got  %q\nwant %q", env, want)
	}
}

func FuzzCGIOutput(f *testing.F) {
	for _, s := range []string{"", "a", "Status: 200\n\nx", "Content-Type: a/b\r\n\r\n", "Location: /x", ":\n\n", "\n", "Status: 999\n\n", "X: y\nStatus: 404\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, out []byte, cut int) {
		whole := parseAll(out)
		if !bytes.Equal(whole.buf, out) {
			t.Fatalf("%q became %q", out, whole.buf)
		}
		status, h, body, err := whole.head()
		// What is written in pieces means the same.
		pieces := &cgiParser{}
		var rest []byte
		at := 0
		if len(out) > 0 {
			at = ((cut % len(out)) + len(out)) % len(out)
		}
		rest = append(rest, pieces.write(out[:at])...)
		if pieces.done {
			rest = append(rest, out[at:]...)
		} else {
			rest = append(rest, pieces.write(out[at:])...)
		}
		pieces.finish()
		pieces.buf = append(pieces.buf, rest...)
		status2, h2, body2, err2 := pieces.head()
		if status != status2 || len(h) != len(h2) || !bytes.Equal(body, body2) || (err == nil) != (err2 == nil) {
			t.Fatalf("cut at %d: %d %v %q %v, whole: %d %v %q %v", at, status2, h2, body2, err2, status, h, body, err)
		}
		if err != nil {
			return
		}
		if status < 200 || status > 599 || !bytes.HasSuffix(out, body) {
			t.Fatalf("%d %q", status, body)
		}
		for name, values := range h {
			for _, v := range values {
				if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
					t.Fatalf("field %q: %q", name, v)
				}
			}
		}
	})
}
