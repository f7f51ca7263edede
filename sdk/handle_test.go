package sdk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

// fakeHost has descriptors in memory.
type fakeHost struct {
	in      string
	out     *bytes.Buffer
	head    *[]byte
	refuses error
}

type memory struct {
	io.Reader
	io.Writer
}

func (memory) Close() error { return nil }

func (h fakeHost) open(uint32) io.ReadWriteCloser { return memory{strings.NewReader(h.in), io.Discard} }

func (h fakeHost) respond(head []byte) (io.WriteCloser, error) {
	if h.refuses != nil {
		return nil, h.refuses
	}
	*h.head = bytes.Clone(head)
	return memory{nil, h.out}, nil
}

func message(q request) []byte {
	var b []byte
	for _, s := range []string{q.method, q.scheme, q.host, q.target, q.prefix, q.protocol, q.remote, q.invocation} {
		b = appendString(b, s)
	}
	b = binary.LittleEndian.AppendUint64(b, q.timeLeft)
	b = binary.LittleEndian.AppendUint64(b, q.length)
	b = appendHeader(b, q.header)
	b = append(b, q.body)
	switch q.body {
	case bodyInline:
		b = appendString(b, q.inline)
	case bodyStream:
		b = binary.LittleEndian.AppendUint32(b, q.fd)
	}
	return b
}

func readResponse(t *testing.T, b []byte) (int, http.Header, string) {
	t.Helper()
	status, h, err := decodeHead(b)
	if err != nil {
		t.Fatal(err)
	}
	rest := b[len(appendHead(nil, status, h)):]
	return status, h, string(rest[4:])
}

func TestHandlerSeesItsRequest(t *testing.T) {
	for name, c := range map[string]struct{ target, prefix, path, raw string }{
		"below a prefix":            {"/job/a%2Fb?x=1", "/job", "/a/b", "/a%2Fb"},
		"the prefix itself":         {"/job", "/job", "/", ""},
		"no prefix":                 {"/a", "", "/a", ""},
		"a prefix that is no match": {"/a", "/job", "/a", ""},
		"a prefix with a space":     {"/a%20b/c", "/a b", "/c", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != c.path || r.URL.RawPath != c.raw || r.RequestURI != c.target || Prefix(r.Context()) != c.prefix || Invocation(r.Context()) != "i" {
					t.Errorf("%q %q %q %q", r.URL.Path, r.URL.RawPath, r.RequestURI, Prefix(r.Context()))
				}
				d, ok := r.Context().Deadline()
				if left := time.Until(d); !ok || left > time.Minute || left < time.Second {
					t.Errorf("deadline %v %v", left, ok)
				}
				b, err := io.ReadAll(r.Body)
				fmt.Fprint(w, string(b), r.ContentLength, err)
			})
			q := request{method: "POST", target: c.target, prefix: c.prefix, protocol: "HTTP/1.1", invocation: "i", timeLeft: uint64(time.Minute), length: 3, body: bodyInline, inline: "abc"}
			b, err := serve(h, message(q), fakeHost{})
			if err != nil {
				t.Fatal(err)
			}
			if status, header, body := readResponse(t, b); status != 200 || body != "abc3 <nil>" || header.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("%d %v %q", status, header, body)
			}
		})
	}
}

func TestResponseStreamsWhenFlushedOrLong(t *testing.T) {
	for name, c := range map[string]struct {
		h      http.HandlerFunc
		stream bool
		body   string
	}{
		"short": {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x") }, false, "x"},
		"flushed": {func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			io.WriteString(w, "y")
		}, true, "xy"},
		"long":     {func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, inlineResponse+1)) }, true, string(make([]byte, inlineResponse+1))},
		"just not": {func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, inlineResponse)) }, false, string(make([]byte, inlineResponse))},
		"no body":  {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204); io.WriteString(w, "x") }, false, ""},
		"late changes": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.Header().Set("X-Late", "1")
			io.WriteString(w, "x")
		}, false, "x"},
		"the body back": {func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }, false, "streamed in"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			var head []byte
			b, err := serve(c.h, message(request{method: "GET", target: "/", body: bodyStream, length: unknownLength}), fakeHost{in: "streamed in", out: &out, head: &head})
			if err != nil || (b == nil) != c.stream {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			body := out.String()
			var h http.Header
			if b != nil {
				_, h, body = readResponse(t, b)
			} else if _, h, err = decodeHead(head); err != nil {
				t.Fatal(err)
			}
			if body != c.body || h.Get("X-Late") != "" {
				t.Errorf("%d bytes %v, want %d", len(body), h, len(c.body))
			}
		})
	}
	if _, err := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush() }), message(request{target: "/"}), fakeHost{refuses: ErrInvalid}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a refused head: %v", err)
	}
}

func TestContextEndsWithTheRequest(t *testing.T) {
	var kept, unasked context.Context
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept, unasked = context.WithoutCancel(r.Context()), r.Context()
		if r.URL.Path == "/ask" {
			if r.Context().Err() != nil {
				t.Error("it ended before its time")
			}
		}
	})
	for _, target := range []string{"/ask", "/"} {
		if _, err := serve(h, message(request{target: target}), fakeHost{}); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(unasked.Err(), context.Canceled) || kept.Err() != nil {
			t.Errorf("%s: %v %v", target, unasked.Err(), kept.Err())
		}
	}
}

func TestWithoutAHostCallsSaySo(t *testing.T) {
	if _, _, err := KV("b").Get(t.Context(), "k"); !errors.Is(err, ErrNoHost) {
		t.Error(err)
	}
	r, _ := http.NewRequest("GET", "http://a.example/", strings.NewReader("x"))
	if _, err := (Transport{}).RoundTrip(r); !errors.Is(err, ErrNoHost) {
		t.Error(err)
	}
	if _, ok := Config("x"); ok {
		t.Error("a setting came from nowhere")
	}
	Logger().With("a", 1).WithGroup("g").Log(t.Context(), slog.LevelWarn, "nobody hears it")
}

func TestLongLogTextIsCutAtLines(t *testing.T) {
	piece, rest := lines([]byte("aa\nbb\ncc"), 6)
	if string(piece) != "aa\nbb" || string(rest) != "cc" {
		t.Errorf("%q %q", piece, rest)
	}
	if piece, rest = lines([]byte("aaaa"), 3); string(piece) != "aaa" || string(rest) != "a" {
		t.Errorf("%q %q", piece, rest)
	}
}
