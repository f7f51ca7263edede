package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/ripstop-vm/ripstop/agent/codecache"
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Bounds of requests made for guests.
const (
	maxList    = 1000
	maxMetrics = 8 << 20
)

// PathTraces takes spans: POST, an OTLP/HTTP protobuf body.
const PathTraces = "/otlp/v1/traces"

// handler serves the link's paths.
func (w *worker) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathOrders, w.serveOrders)
	mux.HandleFunc("POST "+wire.PathReports, w.takeReports)
	mux.HandleFunc("GET "+wire.PathModule+"{digest}", w.serveModule)
	mux.HandleFunc("GET "+wire.PathCode+"{engine}/{digest}", w.serveCode)
	mux.HandleFunc("POST "+wire.PathFetch, w.forGuest(w.fetch))
	mux.HandleFunc("GET "+wire.PathSecrets, w.forGuest(w.secret))
	mux.HandleFunc("GET "+wire.PathKV+"{bucket}", w.forGuest(inBucket(w.kvRead)))
	mux.HandleFunc("PUT "+wire.PathKV+"{bucket}", w.forGuest(inBucket(w.kvPut)))
	mux.HandleFunc("DELETE "+wire.PathKV+"{bucket}", w.forGuest(inBucket(w.kvDelete)))
	mux.HandleFunc("POST "+wire.PathEnqueue+"{job}", w.forGuest(w.enqueue))
	mux.HandleFunc("GET "+wire.PathWork+"{id}", w.serveWork)
	mux.HandleFunc("POST "+wire.PathWork+"{id}", w.takeWork)
	mux.HandleFunc("POST "+wire.PathMetrics, w.pass(w.super.opts.Metrics))
	mux.HandleFunc("POST "+PathTraces, w.pass(w.super.opts.Spans))
	return mux
}

// pass hands a body of telemetry on.
func (w *worker) pass(to func([]byte)) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxMetrics))
		if err != nil {
			http.Error(rw, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		if to != nil {
			to(b)
		}
		rw.WriteHeader(http.StatusNoContent)
	}
}

func (w *worker) serveModule(rw http.ResponseWriter, r *http.Request) {
	m, size, err := w.store.Module(r.Context(), r.PathValue("digest"))
	if err != nil {
		refuse(rw, unread(err, "module-unread", "The module could not be read"))
		return
	}
	defer m.Close()
	rw.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.Copy(rw, m); err != nil {
		panic(http.ErrAbortHandler) // the worker sees that it does not have it all
	}
}

// gone reports whether err says that the store has no such module.
func gone(err error) bool {
	return errors.Is(err, control.ErrNotFound) || errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrInvalid)
}

// serveCode says where the compiled code of a module lies, once it does. Only what the store has is compiled.
func (w *worker) serveCode(rw http.ResponseWriter, r *http.Request) {
	digest := r.PathValue("digest")
	var e codecache.Entry
	err := errReplaced
	if r.Header.Get(wire.HeaderProgram) == w.super.opts.ProgramDigest {
		e, err = w.super.code(r.Context(), engineNamed(r.PathValue("engine")), digest, func(ctx context.Context) (io.ReadCloser, int64, error) { return w.store.Module(ctx, digest) })
	}
	if err == nil {
		_ = json.NewEncoder(rw).Encode(wire.Code{Path: e.Code.Path, SHA256: e.Code.SHA256[:]}) // a worker that is gone needs it no more
		return
	}
	refuse(rw, unread(err, "compile-failed", "The module could not be compiled"))
}

// unread is err for a worker: what it says itself, how the storage is, or else code and title.
func unread(err error, code, title string) *wire.Problem {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p
	}
	p = &wire.Problem{Code: code, Status: http.StatusInternalServerError, Title: title, Detail: err.Error()}
	if gone(err) {
		p.Status = http.StatusNotFound
	} else if storage := control.StorageProblem(err); storage != nil {
		p = storage
	}
	return p
}

// refuse answers a worker with a problem.
func refuse(rw http.ResponseWriter, p *wire.Problem) {
	rw.WriteHeader(p.Status)
	_ = json.NewEncoder(rw).Encode(p) // a worker that is gone needs it no more
}

// forGuest finds the grant of the version that a request is made for.
func (w *worker) forGuest(f func(http.ResponseWriter, *http.Request, string, *grant) error) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		job := r.Header.Get(wire.HeaderJob)
		version, err := strconv.ParseUint(r.Header.Get(wire.HeaderVersion), 10, 64)
		g := w.super.grantOf(job, version)
		if err != nil || g == nil {
			fail(rw, hostcall.ENOTCAPABLE)
			return
		}
		if err := f(rw, r, job, g); err != nil {
			e := errnoOf(err)
			if e == hostcall.ENOTCAPABLE {
				w.refused(r.Context(), r, job, version, err)
			} else if e == hostcall.EIO && r.Context().Err() == nil {
				w.super.opts.Log.Warn("a request for a guest failed", "job", job, "path", r.URL.Path, "error", err)
			}
			fail(rw, e)
		}
	}
}

// refused notes a request that the worker should not have let through: an address that only dialling shows, or a worker
// that has fallen.
func (w *worker) refused(ctx context.Context, r *http.Request, job string, version uint64, why error) {
	e := control.AuditEntry{Kind: control.AuditDenied, Job: job, Version: version, Invocation: cut(r.Header.Get(wire.HeaderInvocation), 64), Detail: why.Error(), Function: r.Pattern}
	if err := w.store.Audit(ctx, e); err != nil && ctx.Err() == nil {
		w.super.opts.Log.Error("write audit entry", "job", job, "error", err)
	}
}

func fail(rw http.ResponseWriter, e hostcall.Errno) {
	rw.Header().Set(wire.HeaderError, e.String())
	rw.WriteHeader(http.StatusUnprocessableEntity)
}

// errnoOf is an error as a guest is told of it.
func errnoOf(err error) hostcall.Errno {
	var e hostcall.Errno
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, broker.ErrNotFound), errors.Is(err, control.ErrNotFound):
		return hostcall.ENOENT
	case errors.Is(err, broker.ErrConflict):
		return hostcall.ESTALE
	case errors.Is(err, broker.ErrQuota):
		return hostcall.EDQUOT
	case errors.Is(err, broker.ErrQueueFull):
		return hostcall.EBUSY
	case errors.Is(err, envelope.ErrTooLarge):
		return hostcall.EMSGSIZE
	case errors.Is(err, broker.ErrTooLarge):
		return hostcall.EFBIG
	case errors.Is(err, broker.ErrInvalid), errors.Is(err, envelope.ErrInvalid):
		return hostcall.EINVAL
	case errors.Is(err, broker.ErrFull):
		return hostcall.ENOSPC
	case errors.Is(err, broker.ErrReadOnly):
		return hostcall.EROFS
	case errors.As(err, &dns):
		return hostcall.EHOSTUNREACH
	case errors.Is(err, syscall.ECONNREFUSED):
		return hostcall.ECONNREFUSED
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		return hostcall.ECONNRESET
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return hostcall.EHOSTUNREACH
	case errors.Is(err, context.Canceled):
		return hostcall.ECANCELED
	case errors.As(err, &timeout) && timeout.Timeout():
		return hostcall.ETIMEDOUT
	}
	return hostcall.EIO
}

func (w *worker) fetch(rw http.ResponseWriter, r *http.Request, _ string, g *grant) error {
	u, err := url.Parse(r.Header.Get(wire.HeaderURL))
	if err != nil {
		return hostcall.EINVAL
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Header.Get(wire.HeaderMethod), u.String(), r.Body)
	if err != nil {
		return hostcall.EINVAL
	}
	out.ContentLength = r.ContentLength
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	for name, vs := range r.Header {
		if rest, ok := strings.CutPrefix(name, wire.PrefixFetch); ok {
			out.Header[http.CanonicalHeaderKey(rest)] = vs
		}
	}
	if h := out.Header.Get("Host"); h != "" {
		out.Host = h
		out.Header.Del("Host")
	}
	if out.Header.Get("User-Agent") == "" {
		out.Header.Set("User-Agent", "ripstop")
	}
	resp, err := g.transport.RoundTrip(out)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for name, vs := range resp.Header {
		rw.Header()[wire.PrefixFetch+name] = vs
	}
	if resp.ContentLength >= 0 {
		rw.Header().Set(wire.PrefixFetch+"Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	rw.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(rw)
	if flush.Flush() != nil {
		return nil
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, e := rw.Write(buf[:n]); e != nil {
				return nil // the guest does not want it any more
			}
			_ = flush.Flush() // the next write meets the same failure
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the guest sees that it does not have it all
		}
	}
}

func (w *worker) secret(rw http.ResponseWriter, r *http.Request, job string, g *grant) error {
	name := r.URL.Query().Get("name")
	if err := g.grants.Secret(name); err != nil {
		return err
	}
	b, err := w.store.Secret(r.Context(), job, name)
	if err != nil {
		return err
	}
	_, _ = rw.Write(b) // a worker that is gone needs it no more
	return nil
}

// inBucket checks that a bucket was granted, and reads the condition of a write (nil: none).
func inBucket(f func(rw http.ResponseWriter, r *http.Request, job, bucket string, expect *uint64) error) func(http.ResponseWriter, *http.Request, string, *grant) error {
	return func(rw http.ResponseWriter, r *http.Request, job string, g *grant) error {
		bucket := r.PathValue("bucket")
		if err := g.grants.KV(bucket); err != nil {
			return err
		}
		expect, err := expected(r)
		if err != nil {
			return err
		}
		return f(rw, r, job, bucket, expect)
	}
}

func expected(r *http.Request) (*uint64, error) {
	h := r.Header.Get(wire.HeaderIf)
	if h == "" {
		return nil, nil
	}
	v, err := strconv.ParseUint(h, 10, 64)
	if err != nil {
		return nil, hostcall.EINVAL
	}
	return &v, nil
}

func (w *worker) kvRead(rw http.ResponseWriter, r *http.Request, job, bucket string, _ *uint64) error {
	q := r.URL.Query()
	if q.Has("key") {
		item, err := w.store.KVGet(r.Context(), job, bucket, q.Get("key"))
		if err != nil {
			return err
		}
		rw.Header().Set(wire.HeaderRevision, strconv.FormatUint(item.Version, 10))
		_, _ = rw.Write(item.Value) // a worker that is gone needs it no more
		return nil
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 {
		return hostcall.EINVAL
	}
	items, err := w.store.KVList(r.Context(), job, bucket, q.Get("prefix"), q.Get("after"), min(limit, maxList))
	if err != nil {
		return err
	}
	list := make([]wire.Listed, len(items))
	for i, item := range items {
		list[i] = wire.Listed{Key: []byte(item.Key), Version: item.Version, Size: uint64(len(item.Value))}
	}
	return json.NewEncoder(rw).Encode(list)
}

func (w *worker) kvPut(rw http.ResponseWriter, r *http.Request, job, bucket string, expect *uint64) error {
	value, err := io.ReadAll(io.LimitReader(r.Body, broker.MaxValue+1))
	if err != nil {
		return err
	}
	v, err := w.store.KVPut(r.Context(), job, bucket, r.URL.Query().Get("key"), value, expect)
	if err != nil {
		return err
	}
	rw.Header().Set(wire.HeaderRevision, strconv.FormatUint(v, 10))
	rw.WriteHeader(http.StatusNoContent)
	return nil
}

func (w *worker) kvDelete(rw http.ResponseWriter, r *http.Request, job, bucket string, expect *uint64) error {
	if err := w.store.KVDelete(r.Context(), job, bucket, r.URL.Query().Get("key"), expect); err != nil {
		return err
	}
	rw.WriteHeader(http.StatusNoContent)
	return nil
}
