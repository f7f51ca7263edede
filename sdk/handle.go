package sdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// handler is what Handle was given.
var handler http.Handler

// Handle has h serve the requests of the job. Call it from an init function, once.
//
// The request's URL.Path is what follows the job's route (Prefix has that), so that a handler need not know where it is
// mounted; RequestURI is the path as the client sent it. The request's context knows the time at which the invocation
// will be ended, counted from when it is first asked.
func Handle(h http.Handler) {
	if h == nil {
		panic("sdk: Handle of a nil handler")
	}
	if handler != nil {
		panic("sdk: Handle was called twice")
	}
	handler = h
}

type infoKey struct{}

type info struct{ prefix, invocation string }

// Prefix is the part of the request's path that led to the job ("/hello"), without a slash at its end: what to put before
// a link to the job itself.
func Prefix(ctx context.Context) string {
	i, _ := ctx.Value(infoKey{}).(info)
	return i.prefix
}

// Invocation is the id of the invocation, as it is in the job's logs.
func Invocation(ctx context.Context) string {
	i, _ := ctx.Value(infoKey{}).(info)
	return i.invocation
}

// deadline is a request's context. It looks at the clock when it is first asked, since each look is a host call.
type deadline struct {
	left time.Duration
	info info

	once   sync.Once
	ctx    context.Context
	cancel context.CancelFunc
}

func (d *deadline) start() context.Context {
	d.once.Do(func() {
		if d.left > 0 {
			d.ctx, d.cancel = context.WithTimeout(context.Background(), d.left)
		} else {
			d.ctx, d.cancel = context.WithCancel(context.Background())
		}
	})
	return d.ctx
}

func (d *deadline) Deadline() (time.Time, bool) { return d.start().Deadline() }
func (d *deadline) Done() <-chan struct{}       { return d.start().Done() }
func (d *deadline) Err() error                  { return d.start().Err() }
func (d *deadline) Value(key any) any {
	if key == (infoKey{}) {
		return d.info
	}
	return nil
}

// end cancels the context; one that nobody asked is canceled from the start.
func (d *deadline) end() {
	d.once.Do(func() { d.ctx, d.cancel = context.WithCancel(context.Background()) })
	d.cancel()
}

// host opens descriptors and starts responses; tests have one of their own.
type host interface {
	open(fd uint32) io.ReadWriteCloser
	respond(head []byte) (io.WriteCloser, error)
}

// inlineResponse is how much of a body is held back, so that a short response is returned in one piece.
const inlineResponse = 64 << 10

// serve has h answer the request in message b. The answer is a whole response, or nil if it went out through the host.
func serve(h http.Handler, b []byte, world host) ([]byte, error) {
	q, err := decodeRequest(b)
	if err != nil {
		return nil, err
	}
	r, err := q.http(world)
	if err != nil {
		return nil, err
	}
	ctx := &deadline{left: time.Duration(min(q.timeLeft, 1<<62)), info: info{prefix: q.prefix, invocation: q.invocation}}
	w := &responseWriter{world: world, header: http.Header{}, head: q.method == http.MethodHead}
	h.ServeHTTP(w, r.WithContext(ctx))
	ctx.end()
	_ = r.Body.Close() // what the handler did not read is nobody's
	return w.finish()
}

// http is the request as net/http has it.
func (q *request) http(world host) (*http.Request, error) {
	u, err := url.ParseRequestURI(q.target)
	if err != nil {
		u = &url.URL{Path: q.target} // as in "OPTIONS *"
	}
	if q.prefix != "" {
		if p, ok := strings.CutPrefix(u.Path, q.prefix); ok {
			u.Path = p
			if raw, ok := strings.CutPrefix(u.RawPath, q.prefix); ok {
				u.RawPath = raw
			} else {
				u.RawPath = ""
			}
		}
		if !strings.HasPrefix(u.Path, "/") {
			u.Path = "/" + u.Path
			u.RawPath = ""
		}
	}
	major, minor, ok := http.ParseHTTPVersion(q.protocol)
	if !ok {
		major, minor = 1, 1
	}
	r := &http.Request{
		Method: q.method, URL: u, Proto: q.protocol, ProtoMajor: major, ProtoMinor: minor, Header: q.header, Host: q.host,
		RemoteAddr: q.remote, RequestURI: q.target, Body: http.NoBody,
	}
	switch q.body {
	case bodyInline:
		r.Body = io.NopCloser(bytes.NewReader(bytes.Clone(q.inline)))
		r.ContentLength = int64(len(q.inline))
	case bodyStream:
		r.Body = world.open(q.fd)
		r.ContentLength = -1
		if q.length != unknownLength {
			r.ContentLength = int64(q.length)
		}
	}
	return r, nil
}

// responseWriter holds a response back until it is whole, too long, or flushed. It implements http.Flusher.
type responseWriter struct {
	world  host
	header http.Header
	head   bool // the request was a HEAD: the body goes nowhere

	mu     sync.Mutex
	status int
	sent   http.Header // the header as it was when the status was written
	buf    []byte
	out    io.WriteCloser // once it streams
	err    error
	over   bool
}

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Informational statuses go nowhere.
func (w *responseWriter) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeaderLocked(status)
}

func (w *responseWriter) writeHeaderLocked(status int) {
	if w.status != 0 || status >= 100 && status < 200 {
		return
	}
	if status < 200 || status > 599 {
		panic(fmt.Sprintf("sdk: invalid status %d", status))
	}
	w.status = status
	w.sent = w.header.Clone()
	if w.sent == nil {
		w.sent = http.Header{}
	}
}

func bodyAllowed(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// errFinished reports a write to a response whose handler has returned.
var errFinished = errors.New("sdk: the handler has returned")

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeaderLocked(http.StatusOK)
	switch {
	case w.over:
		return 0, errFinished
	case w.err != nil:
		return 0, w.err
	case !bodyAllowed(w.status):
		return 0, http.ErrBodyNotAllowed
	}
	if len(w.buf) == 0 && w.out == nil && len(p) > 0 {
		if _, ok := w.sent["Content-Type"]; !ok && w.sent.Get("Content-Encoding") == "" {
			w.sent.Set("Content-Type", http.DetectContentType(p))
		}
	}
	if w.out == nil && len(w.buf)+len(p) <= inlineResponse {
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	if err := w.startLocked(); err != nil {
		return 0, err
	}
	if w.head {
		return len(p), nil
	}
	n, err := w.out.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// startLocked has the response go out as it is written.
func (w *responseWriter) startLocked() error {
	if w.out != nil || w.err != nil {
		return w.err
	}
	w.writeHeaderLocked(http.StatusOK)
	if w.out, w.err = w.world.respond(appendHead(nil, w.status, w.sent)); w.err != nil {
		return w.err
	}
	if len(w.buf) > 0 && !w.head {
		_, w.err = w.out.Write(w.buf)
	}
	w.buf = nil
	return w.err
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// FlushError sends what was written to the client.
func (w *responseWriter) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return errFinished
	}
	return w.startLocked()
}

func (w *responseWriter) finish() ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.out != nil {
		_ = w.out.Close() // the client that did not want the rest is gone
		return nil, nil
	}
	if w.err != nil {
		return nil, w.err // the head was refused: there is no response
	}
	w.writeHeaderLocked(http.StatusOK)
	b := make([]byte, 0, len(w.buf)+512)
	return appendString(appendHead(b, w.status, w.sent), w.buf), nil
}
