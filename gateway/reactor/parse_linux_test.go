package reactor

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

var plainRequests = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /a%20b/c?d=e&f HTTP/1.1\r\nhost: a.example:80\r\nAccept:*/*\r\nx-one: 1\r\nX-One:\t2 \r\nX-Empty:\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n\r\nbody",
	"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n",
	"HEAD //x/../y HTTP/1.1\r\nHost: [::1]:8080\r\nCookie: a=b; c=\"d\"\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: Close\r\n\r\n",
	"OPTIONS /a;b HTTP/1.1\r\nHost: a\r\nX: caf\xc3\xa9\r\n\r\n",
}

var notPlain = map[string]string{
	"a part":                  "GET / HTTP/1.1\r\nHost: a\r\n",
	"two":                     "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"a part of a body":        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody",
	"more than a body":        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nbody",
	"another version":         "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
	"HTTP/2":                  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"another method":          "BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
	"a method in small":       "get / HTTP/1.1\r\nHost: a\r\n\r\n",
	"no path":                 "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	"a whole URL":             "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"a bad escape":            "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
	"a space in the path":     "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
	"a byte past ASCII":       "GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
	"no host":                 "GET / HTTP/1.1\r\nX: a\r\n\r\n",
	"an empty host":           "GET / HTTP/1.1\r\nHost:\r\n\r\n",
	"two hosts":               "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
	"a bad host":              "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
	"two lengths":             "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
	"a signed length":         "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nbody",
	"chunks":                  "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"an upgrade":              "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
	"a field of one hop":      "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x\r\nX: y\r\n\r\n",
	"an expectation":          "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
	"a trailer":               "GET / HTTP/1.1\r\nHost: a\r\nTrailer: X\r\n\r\n",
	"what net/http rewrites":  "GET / HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n\r\n",
	"lines without a return":  "GET / HTTP/1.1\nHost: a\n\r\n\r\n",
	"a folded line":           "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
	"a space before a colon":  "GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
	"no colon":                "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
	"a null":                  "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
	"a return within a value": "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
	"too many fields":         "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: a\r\n", maxFields) + "\r\n",
}

func parsed(b string) (*http.Request, bool) {
	r := plain.WithContext(context.Background())
	return r, parse([]byte(b), r)
}

func TestPlainRequestsAreReadInPlace(t *testing.T) {
	for _, text := range append(plainRequests, "GET / HTTP/1.1\r\nHost: a\r\n"+strings.Repeat("X: a\r\n", maxFields-1)+"\r\n") {
		if _, ok := parsed(text); !ok {
			t.Errorf("%q is not plain", text)
		}
		checkParsed(t, text)
	}
}

func TestWhatIsNotPlainIsLeftToNetHTTP(t *testing.T) {
	for what, text := range notPlain {
		if r, ok := parsed(text); ok {
			t.Errorf("%s is read as %+v", what, r)
		}
	}
}

// checkParsed holds a request that is plain against what net/http reads.
func checkParsed(t *testing.T, text string) {
	t.Helper()
	got, ok := parsed(text)
	if !ok {
		return
	}
	in := bufio.NewReader(strings.NewReader(text))
	want, err := http.ReadRequest(in)
	if err != nil {
		t.Fatalf("%q is no request: %v", text, err)
	}
	body := func(r *http.Request) []byte {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatalf("%q: its body: %v", text, err)
		}
		return b
	}
	if g, w := body(got), body(want); !bytes.Equal(g, w) {
		t.Errorf("%q: body %q, want %q", text, g, w)
	}
	if rest, _ := io.ReadAll(in); len(rest) > 0 {
		t.Errorf("%q: %q follows it", text, rest)
	}
	switch {
	case got.Method != want.Method, !reflect.DeepEqual(got.URL, want.URL), got.RequestURI != want.RequestURI, got.Proto != want.Proto,
		got.ProtoMajor != want.ProtoMajor, got.ProtoMinor != want.ProtoMinor, got.Host != want.Host, got.ContentLength != want.ContentLength,
		!reflect.DeepEqual(got.Header, want.Header), got.Close != want.Close, want.TransferEncoding != nil, want.Trailer != nil:
		t.Errorf("%q:\n%+v, want\n%+v", text, got, want)
	}
	// What net/http's server refuses besides.
	for name, values := range got.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			t.Errorf("%q: name %q", text, name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				t.Errorf("%q: value %q", text, v)
			}
		}
	}
	if !httpguts.ValidHostHeader(got.Host) || got.Host == "" {
		t.Errorf("%q: host %q", text, got.Host)
	}
}

// FuzzParse holds requests that are read in place against net/http.
func FuzzParse(f *testing.F) {
	for _, text := range plainRequests {
		f.Add(text)
	}
	for _, text := range notPlain {
		f.Add(text)
	}
	f.Fuzz(checkParsed)
}
