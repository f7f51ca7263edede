package sdk

import (
	"context"
	"encoding/binary"
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

// deadline is a request's context. It looks at the clock when it is first asked, since each look is a host call, and costs nothing if it
// never is.
type deadline struct {
	left time.Duration
	info info

	mu     sync.Mutex
	ctx    context.Context // nil until it is asked
	cancel context.CancelFunc
}

// ended is the context of a request whose handler returned without asking for one.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (d *deadline) start() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil {
		if d.left > 0 {
			d.ctx, d.cancel = context.WithTimeout(context.Background(), d.left)
		} else {
			d.ctx, d.cancel = context.WithCancel(context.Background())
		}
	}
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
	d.mu.Lock()
	if d.ctx == nil {
		d.ctx, d.cancel = ended, func() {}
	}
	cancel := d.cancel
	d.mu.Unlock()
	cancel()
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
	ctx := &deadline{left: time.Duration(min(q.timeLeft, 1<<62)), info: info{prefix: q.prefix, invocation: q.invocation}}
	r := q.http(ctx, world)
	w := &responseWriter{world: world, header: http.Header{}, head: q.method == http.MethodHead}
	h.ServeHTTP(w, r)
	ctx.end()
	_ = r.Body.Close() // what the handler did not read is nobody's
	return w.finish()
}

// http is the request as net/http has it.
func (q *request) http(ctx context.Context, world host) *http.Request {
	u := parseTarget(q.target)
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
	r := http.Request{
		Method: q.method, URL: u, Proto: q.protocol, ProtoMajor: major, ProtoMinor: minor, Header: q.header, Host: q.host,
		RemoteAddr: q.remote, RequestURI: q.target, Body: http.NoBody,
	}
	switch q.body {
	case bodyInline:
		r.Body = io.NopCloser(strings.NewReader(q.inline))
		r.ContentLength = int64(len(q.inline))
	case bodyStream:
		r.Body = world.open(q.fd)
		r.ContentLength = -1
		if q.length != unknownLength {
			r.ContentLength = int64(q.length)
		}
	}
	return r.WithContext(ctx)
}

// parseTarget is url.ParseRequestURI, and for most targets only what is needed of it. What is no URI, as in "OPTIONS *", is a path.
func parseTarget(target string) *url.URL {
	path, query, asks := strings.Cut(target, "?")
	if plain(path) && (query != "" || !asks) && !strings.ContainsFunc(query, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return &url.URL{Path: path, RawQuery: query}
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		u = &url.URL{Path: target}
	}
	return u
}

// plain reports that a path begins at the root and stands for itself, encoded or not.
func plain(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '/', c == '-', c == '_', c == '.', c == '~':
		default:
			return false
		}
	}
	return path != "" && path[0] == '/'
}

// responseWriter holds a response back until it is whole, too long, or flushed. It implements http.Flusher.
type responseWriter struct {
	world  host
	header http.Header
	head   bool // the request was a HEAD: the body goes nowhere

	mu     sync.Mutex
	status int
	sniff  bool           // the body's first bytes tell its type
	buf    []byte         // the response as ABI.md has it: the head, room for the body's length, and the body, once the status was written
	body   int            // where in buf the body begins
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
	w.writeHeaderLocked(status, 0)
}

// writeHeaderLocked takes the header as it is now, and makes room for a body of n bytes.
func (w *responseWriter) writeHeaderLocked(status, n int) {
	if w.status != 0 || status >= 100 && status < 200 {
		return
	}
	if status < 200 || status > 599 {
		panic(fmt.Sprintf("sdk: invalid status %d", status))
	}
	w.status = status
	_, typed := w.header["Content-Type"]
	w.sniff = !typed && len(w.header["Content-Encoding"]) == 0
	w.setHeadLocked(appendHead(make([]byte, 0, 512+min(n, inlineResponse)), status, w.header))
}

func (w *responseWriter) setHeadLocked(head []byte) {
	w.buf = append(head, 0, 0, 0, 0)
	w.body = len(w.buf)
}

// typeLocked adds the type of a body that begins with p to the head.
func (w *responseWriter) typeLocked(p []byte) {
	w.sniff = false
	head := w.buf[:w.body-4]
	binary.LittleEndian.PutUint32(head[4:], binary.LittleEndian.Uint32(head[4:])+1) // the count of fields follows the status
	w.setHeadLocked(appendString(appendString(head, "Content-Type"), contentType(p)))
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
	w.writeHeaderLocked(http.StatusOK, len(p))
	switch {
	case w.over:
		return 0, errFinished
	case w.err != nil:
		return 0, w.err
	case !bodyAllowed(w.status):
		return 0, http.ErrBodyNotAllowed
	}
	if w.sniff && w.out == nil && len(p) > 0 {
		w.typeLocked(p)
	}
	if w.out == nil && len(w.buf)-w.body+len(p) <= inlineResponse {
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
	w.writeHeaderLocked(http.StatusOK, 0)
	if w.out, w.err = w.world.respond(w.buf[:w.body-4]); w.err != nil {
		return w.err
	}
	if body := w.buf[w.body:]; len(body) > 0 && !w.head {
		_, w.err = w.out.Write(body)
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
	w.writeHeaderLocked(http.StatusOK, 0)
	binary.LittleEndian.PutUint32(w.buf[w.body-4:], uint32(len(w.buf)-w.body))
	return w.buf, nil
}
