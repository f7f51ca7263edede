package sdk

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// Transport has the host make requests, as far as the job's manifest grants them. It is what http.DefaultTransport is in
// a task. It does not follow redirects (an http.Client does, and each hop is judged again), decompress, or keep cookies.
type Transport struct{}

var _ http.RoundTripper = Transport{}

// RoundTrip implements http.RoundTripper. Errors are an *OpError.
func (Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return roundTrip(r, "fetch", r.URL.Redacted(), func(header []byte, length uint64) (stream, error) {
		return fetch(method(r), r.URL.String(), header, length)
	})
}

// Invoke sends a request to another job, which the manifest has to grant. Of its URL only path and query count.
func Invoke(job string, r *http.Request) (*http.Response, error) {
	return roundTrip(r, "invoke", job, func(header []byte, length uint64) (stream, error) {
		return invoke(job, method(r), r.URL.RequestURI(), header, length)
	})
}

func method(r *http.Request) string {
	if r.Method == "" {
		return http.MethodGet
	}
	return r.Method
}

func roundTrip(r *http.Request, op, name string, start func(header []byte, length uint64) (stream, error)) (*http.Response, error) {
	body := r.Body
	length := uint64(r.ContentLength)
	switch {
	case body == nil || body == http.NoBody:
		body, length = nil, 0
	case r.ContentLength <= 0: // 0 with a body means unknown
		length = unknownLength
	}
	fail := func(err error) (*http.Response, error) {
		if body != nil {
			_ = body.Close() // the contract of RoundTrip
		}
		return nil, opError(op, name, err)
	}
	ctx := r.Context()
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	h := r.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	delete(h, "Host")
	if r.Host != "" && r.URL != nil && r.Host != r.URL.Host {
		h.Set("Host", r.Host)
	}
	f, err := start(appendHeader(nil, h), length)
	if err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, f.interrupt)
	failed := make(chan error, 1)
	if body != nil {
		go send(f, body, failed)
	}
	fields, err := readAnswer(f)
	var status int
	var answer http.Header
	if err == nil {
		status, answer, err = decodeHead(fields)
	}
	if err != nil {
		stop()
		_ = f.Close() // it failed already
		if cause := ctx.Err(); cause != nil {
			err = cause
		} else {
			select {
			case err = <-failed:
			default:
			}
		}
		return nil, opError(op, name, err)
	}
	resp := &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer, ContentLength: -1, Request: r,
	}
	if v := answer.Get("Content-Length"); v != "" {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && n >= 0 {
			resp.ContentLength = n
		}
	}
	resp.Body = &responseBody{stream: f, ctx: ctx, stop: stop}
	return resp, nil
}

// send writes a request's body. If body itself fails, that is why the request does; if the host does not take it, the
// answer says why.
func send(f stream, body io.ReadCloser, failed chan<- error) {
	src := &source{Reader: body}
	_, err := io.Copy(f, src)
	_ = body.Close() // it was read as far as it is wanted
	switch {
	case src.err != nil:
		failed <- src.err
		f.interrupt() // closing without shutdown tells the host that the body is not whole
	case err == nil:
		_ = f.shutdown() // a host that is gone shows in the answer
	}
}

// source keeps how reading ended.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// responseBody is the rest of the descriptor.
type responseBody struct {
	stream stream
	ctx    context.Context
	stop   func() bool
	once   sync.Once
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.stream.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	return n, err
}

// Close implements io.Closer.
func (b *responseBody) Close() error {
	var err error
	b.once.Do(func() {
		b.stop()
		err = b.stream.Close()
	})
	return err
}
