package gateway

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/ids"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/guest"
)

// HeaderInvocation names the invocation in every answer, so that it can be found in the job's logs.
const HeaderInvocation = "Ripstop-Invocation"

// Bounds of what a client may send, apart from the body, which each job bounds.
const (
	MaxHeaderBytes = 64 << 10 // request line and headers
	MaxHeaders     = 100      // fields
)

// Agent serves requests with the tasks it runs.
type Agent interface {
	// Serve has a task of job answer r on w; info.Deadline is the agent's to set. sent says that a status went out; when
	// err is not nil and nothing was sent, the caller answers with it: a *wire.Problem as it is, anything else as a 500
	// that says nothing more.
	Serve(job string, info guest.ServeInfo, w http.ResponseWriter, r *http.Request) (sent bool, err error)
}

// Recorder takes note of requests answered. Its methods do not wait.
type Recorder interface {
	Request(job, method string, status int, took time.Duration)
}

// Options configures a Handler. Agent is required.
type Options struct {
	Agent    Agent
	Recorder Recorder     // nil: nobody takes note
	Tracer   trace.Tracer // nil: requests keep the trace they come with, and start none that is recorded
	Clock    clock.Clock  // nil means the system clock
	Log      *slog.Logger // nil means slog.Default()
}

// Handler answers ingress. It is safe for concurrent use, and answers 404 until it has routes.
type Handler struct {
	opts   Options
	routes atomic.Pointer[Routes]
}

// New makes a Handler without routes.
func New(opts Options) *Handler {
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	h := &Handler{opts: opts}
	h.routes.Store(&Routes{hosts: map[string]*paths{}})
	return h
}

// SetRoutes has requests that arrive from now on matched against t.
func (h *Handler) SetRoutes(t *Routes) { h.routes.Store(t) }

// propagator reads and writes traceparent and tracestate (W3C Trace Context).
var propagator = propagation.TraceContext{}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := h.opts.Clock.Now()
	id := string(ids.NewInvocation())
	w.Header()[HeaderInvocation] = []string{id}
	rec := &statusWriter{ResponseWriter: w}
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		rec.body = &requestBody{ReadCloser: r.Body}
		r.Body = rec.body
	}
	job := ""
	defer func() {
		if h.opts.Recorder != nil {
			h.opts.Recorder.Request(job, method(r.Method), rec.status, h.opts.Clock.Now().Sub(began))
		}
	}()

	if n := headerCount(r.Header); n > MaxHeaders {
		h.answer(rec, r, id, &wire.Problem{Code: "too-many-headers", Status: http.StatusRequestHeaderFieldsTooLarge,
			Title: "Too many header fields", Detail: fmt.Sprintf("the request has %d header fields, at most %d are allowed", n, MaxHeaders)})
		return
	}
	m, ok := h.routes.Load().Match(r.Host, r.URL.Path)
	if !ok {
		h.answer(rec, r, id, &wire.Problem{Code: "no-route", Status: http.StatusNotFound, Title: "Not found",
			Detail: "no job answers at this host and path"})
		return
	}
	job = m.Job

	ctx := r.Context()
	if r.Header["Traceparent"] != nil {
		ctx = propagator.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	var span trace.Span
	if h.opts.Tracer != nil {
		ctx, span = h.opts.Tracer.Start(ctx, "ingress "+job,
			trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("http.request.method", method(r.Method)), attribute.String("http.route", m.Prefix),
				attribute.String("faas.invocation_id", id), attribute.String("ripstop.job", job)))
		defer func() {
			span.SetAttributes(attribute.Int("http.response.status_code", rec.status))
			span.End()
		}()
		r = r.WithContext(ctx)
	}
	stripHop(r.Header)
	traceHeaders(ctx, r.Header)

	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	sent, err := h.opts.Agent.Serve(job, guest.ServeInfo{ScriptName: m.Prefix, Scheme: scheme, RemoteAddr: r.RemoteAddr, Invocation: id}, rec, r)
	if err != nil && span != nil {
		span.SetStatus(codes.Error, "")
	}
	switch {
	case err == nil:
	case r.Context().Err() != nil && errors.Is(err, context.Canceled):
		// The client left, and nobody reads an answer. One that is still there must not take silence for a success.
		if rec.status == 0 {
			rec.status = 499
		}
		panic(http.ErrAbortHandler)
	case (sent || rec.status != 0) && !rec.takeBack():
		// The client has a status already and may have taken part of the body: only a broken connection tells it that
		// the rest is missing.
		if rec.status != 0 {
			rec.Flush() // what there is may not be on its way yet, and a client that gets nothing may ask again
		}
		panic(http.ErrAbortHandler)
	default:
		w.Header()[HeaderInvocation] = []string{id} // what was taken back had it
		h.answer(rec, r, id, problem(err, h.opts.Log, id, job))
	}
}

// problem is what a client is told of err.
func problem(err error, log *slog.Logger, id, job string) *wire.Problem {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p
	}
	log.Error("invocation failed in the host", "job", job, "invocation", id, "error", err)
	return &wire.Problem{Code: "internal", Status: http.StatusInternalServerError, Title: "Internal error",
		Detail: "the server failed to run the invocation"}
}

// page is a problem as RFC 9457 has it, with a code as the API's have, and the invocation's id.
type page struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	Code       string `json:"code"`
	Invocation string `json:"invocation"`
}

func (h *Handler) answer(w *statusWriter, r *http.Request, id string, p *wire.Problem) {
	body, err := json.Marshal(page{Type: "urn:ripstop:problem:" + p.Code, Title: p.Title, Status: p.Status, Detail: p.Detail, Code: p.Code, Invocation: id})
	if err != nil {
		body = nil // strings and numbers always encode
	}
	header := w.Header()
	header.Set("Content-Type", "application/problem+json")
	header.Set("Content-Length", strconv.Itoa(len(body)+1))
	if p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable {
		header.Set("Retry-After", "1")
	}
	if w.body.unread() { // the server waits for the rest, but not for long
		_ = http.NewResponseController(w).SetReadDeadline(h.opts.Clock.Now().Add(restWait))
	}
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append(body, '\n')) // a client that is gone misses nothing
	}
}

// method keeps the values of an attribute few, whatever a client sends.
func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m
	}
	return "_OTHER"
}

func headerCount(h http.Header) int {
	n := 0
	for _, vs := range h {
		n += len(vs)
	}
	return n
}

// hopByHop are the fields that are about one connection (RFC 9110, 7.6.1).
var hopByHop = [...]string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// stripHop removes the fields about the client's connection, and those that Connection names.
func stripHop(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// traceHeaders passes the trace on to the guest: the recorded span's, or the client's own, or a fresh one, so that what
// a guest logs and fetches belongs together even if nobody records spans.
func traceHeaders(ctx context.Context, h http.Header) {
	delete(h, "Traceparent")
	delete(h, "Tracestate")
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		propagator.Inject(trace.ContextWithSpanContext(ctx, sc), propagation.HeaderCarrier(h))
		return
	}
	// Nobody guesses these to do harm with them: they need no better randomness than that they differ.
	var id [24]byte
	for i := 0; i < len(id); i += 8 {
		binary.BigEndian.PutUint64(id[i:], rand.Uint64()|1) // not zero, which would be invalid
	}
	text := [55]byte{0: '0', 1: '0', 2: '-', 35: '-', 52: '-', 53: '0', 54: '0'}
	hex.Encode(text[3:], id[:16])
	hex.Encode(text[36:], id[16:])
	h["Traceparent"] = []string{string(text[:])}
}

// restWait is how long the server waits for the rest of a request's body once it has answered with a problem.
const restWait = time.Second

// requestBody is a body in HTTP/1 that knows whether it was read to its end.
type requestBody struct {
	io.ReadCloser
	ended atomic.Bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

// unread reports whether there may be more to read; of no body, there is not.
func (b *requestBody) unread() bool { return b != nil && !b.ended.Load() }

// statusWriter remembers the status sent.
type statusWriter struct {
	http.ResponseWriter
	status int
	body   *requestBody // of the request; nil: it has none, or its end is not the connection's business
}

// WriteHeader ends the connection with an answer that begins before the request's body has ended. Where the handler may answer before it has read
// everything (EnableFullDuplex), net/http goes on behind a body that turns out to be malformed, and in the middle of one whose rest it could not wait
// for: then what a client has put there would be a request.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		if w.body.unread() {
			w.Header().Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// takeBack forgets an answer that has begun, and reports whether it could: nothing of it has left the server.
func (w *statusWriter) takeBack() bool {
	t, ok := w.ResponseWriter.(interface{ TakeBack() bool })
	if !ok || !t.TakeBack() {
		return false
	}
	w.status = 0
	return true
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) Flush() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// NewServer makes the HTTP server of an ingress listener around h, with bounds on what a client may hold open.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		WriteTimeout:      2 * time.Minute, // of answers of our own; the agent sets another for each invocation
		MaxHeaderBytes:    MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
