package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/ids"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// services is what the world offers to the guests of a task: its control process, over the link.
type services struct {
	task *task
	link *Link
}

var _ guest.Services = (*services)(nil)

// maxAnswer bounds a short request's answer, in bytes: a page of a bucket's list with its keys is the longest.
const maxAnswer = 8 << 20

// do makes a request for the guest. An answer that is an errno comes back as such.
func (s *services) do(r *http.Request) (*http.Response, error) {
	r.Header.Set(wire.HeaderJob, s.task.assigned.Job)
	r.Header.Set(wire.HeaderVersion, strconv.FormatUint(s.task.assigned.Version, 10))
	if info, ok := guest.InfoOf(r.Context()); ok {
		r.Header.Set(wire.HeaderInvocation, info.Invocation)
	}
	resp, err := s.link.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s %s over the link: %w", r.Method, r.URL.Path, err)
	}
	if name := resp.Header.Get(wire.HeaderError); name != "" {
		_ = resp.Body.Close() // nothing in it is needed
		return nil, errnoOf(name)
	}
	return resp, nil
}

// short makes a request with a short answer and reads it.
func (s *services) short(ctx context.Context, method, path string, body []byte, expect *uint64) (http.Header, []byte, error) {
	r, err := request(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if expect != nil {
		r.Header.Set(wire.HeaderIf, strconv.FormatUint(*expect, 10))
	}
	resp, err := s.do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, nil, fmt.Errorf("%s %s over the link: %s", method, path, resp.Status)
	}
	return resp.Header, b, nil
}

func errnoOf(name string) error {
	if e, ok := hostcall.ParseErrno(name); ok && e != hostcall.Success {
		return e
	}
	return hostcall.EIO
}

func (s *services) Fetch(ctx context.Context, r *http.Request) (*http.Response, error) {
	out, err := request(ctx, http.MethodPost, wire.PathFetch, r.Body)
	if err != nil {
		return nil, err
	}
	out.ContentLength = r.ContentLength
	out.Header.Set(wire.HeaderMethod, r.Method)
	out.Header.Set(wire.HeaderURL, r.URL.String())
	for name, vs := range r.Header {
		out.Header[wire.PrefixFetch+name] = vs
	}
	if r.Host != "" && r.Host != r.URL.Host {
		out.Header.Set(wire.PrefixFetch+"Host", r.Host)
	}
	resp, err := s.do(out)
	if err != nil {
		return nil, err
	}
	h := http.Header{}
	for name, vs := range resp.Header {
		if rest, ok := strings.CutPrefix(name, wire.PrefixFetch); ok {
			h[http.CanonicalHeaderKey(rest)] = vs
		}
	}
	resp.Header = h
	resp.Request = r
	return resp, nil
}

func kvPath(bucket string, query url.Values) string {
	return wire.PathKV + url.PathEscape(bucket) + "?" + query.Encode()
}

func (s *services) KVGet(ctx context.Context, bucket, key string) ([]byte, uint64, error) {
	h, b, err := s.short(ctx, http.MethodGet, kvPath(bucket, url.Values{"key": {key}}), nil, nil)
	if err != nil {
		return nil, 0, err
	}
	v, err := strconv.ParseUint(h.Get(wire.HeaderRevision), 10, 64)
	return b, v, err
}

func (s *services) KVPut(ctx context.Context, bucket, key string, value []byte, expect *uint64) (uint64, error) {
	h, _, err := s.short(ctx, http.MethodPut, kvPath(bucket, url.Values{"key": {key}}), value, expect)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(h.Get(wire.HeaderRevision), 10, 64)
}

func (s *services) KVDelete(ctx context.Context, bucket, key string, expect *uint64) error {
	_, _, err := s.short(ctx, http.MethodDelete, kvPath(bucket, url.Values{"key": {key}}), nil, expect)
	return err
}

func (s *services) KVList(ctx context.Context, bucket, prefix, after string, limit int) ([]guest.KVItem, error) {
	_, b, err := s.short(ctx, http.MethodGet, kvPath(bucket, url.Values{"prefix": {prefix}, "after": {after}, "limit": {strconv.Itoa(limit)}}), nil, nil)
	if err != nil {
		return nil, err
	}
	var list []wire.Listed
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", bucket, err)
	}
	items := make([]guest.KVItem, len(list))
	for i, l := range list {
		items[i] = guest.KVItem{Key: string(l.Key), Version: l.Version, Size: l.Size}
	}
	return items, nil
}

func (s *services) Config(name string) (string, bool) {
	v, ok := s.task.manifest.Config[name]
	return v, ok
}

func (s *services) Secret(ctx context.Context, name string) ([]byte, error) {
	_, b, err := s.short(ctx, http.MethodGet, wire.PathSecrets+"?"+url.Values{"name": {name}}.Encode(), nil, nil)
	return b, err
}

func (s *services) Log(ctx context.Context, line guest.Line) {
	id := ""
	if info, ok := guest.InfoOf(ctx); ok {
		id = info.Invocation
	}
	if o := s.task.starting.Load(); o != nil {
		o.add(line.Text)
	}
	s.task.agent.reports.offer(wire.Report{Kind: wire.ReportLog, Job: s.task.assigned.Job, Version: s.task.assigned.Version, Invocation: id,
		Stream: line.Stream, Level: line.Level, Text: line.Text})
}

func (s *services) Metric(_ context.Context, kind, name string, value float64) {
	s.task.recorder.Metric(kind, name, value)
}

// hopsKey leads to how many guests led to an invocation.
type hopsKey struct{}

func hopsOf(ctx context.Context) int {
	hops, _ := ctx.Value(hopsKey{}).(int)
	return hops
}

// allowance is how many requests one invocation may enqueue: maxEnqueued if it came from outside, a tenth for each guest that led to it,
// but at least one. So the number that one request leads to does not grow with each of them without end; attempts and invoked jobs multiply it, and
// what bounds it in fact is how fast the guests of a job may enqueue, and how long queues are.
func allowance(hops int) int {
	n := maxEnqueued
	for range min(hops, envelope.MaxHops) {
		n /= 10
	}
	return max(n, 1)
}

const maxEnqueued = 1000

// Enqueue has the control process queue q.
func (s *services) Enqueue(ctx context.Context, q guest.QueuedRequest) (guest.Enqueued, error) {
	hops := hopsOf(ctx)
	switch {
	case hops >= envelope.MaxHops:
		return guest.Enqueued{}, hostcall.ELOOP
	case q.Nth >= allowance(hops):
		return guest.Enqueued{}, hostcall.EDQUOT
	}
	payload, err := envelope.Request{Method: q.Method, Target: q.Target, Header: q.Header, Body: q.Body, Hops: hops + 1}.Encode()
	switch {
	case errors.Is(err, envelope.ErrTooLarge):
		return guest.Enqueued{}, hostcall.EMSGSIZE
	case err != nil:
		return guest.Enqueued{}, hostcall.EINVAL
	}
	options := url.Values{"key": {q.Key}, "order": {q.Order}, "callback": {q.Callback}, "priority": {strconv.Itoa(q.Priority)},
		"delay": {strconv.FormatInt(int64(q.Delay), 10)}, "deadline": {strconv.FormatInt(int64(q.Deadline), 10)}}
	_, b, err := s.short(ctx, http.MethodPost, wire.PathEnqueue+url.PathEscape(q.Job)+"?"+options.Encode(), payload, nil)
	if err != nil {
		return guest.Enqueued{}, err
	}
	var got wire.Enqueued
	if err := json.Unmarshal(b, &got); err != nil {
		return guest.Enqueued{}, fmt.Errorf("enqueue for job %s: %w", q.Job, err)
	}
	return guest.Enqueued{ID: got.ID, Known: got.Known}, nil
}

// Invoke has another job on this host answer r. The callee ends when the caller does, and has no more time than it.
func (s *services) Invoke(ctx context.Context, job string, r *http.Request) (*http.Response, error) {
	hops := hopsOf(ctx)
	if hops >= envelope.MaxHops {
		return nil, hostcall.ELOOP
	}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, hopsKey{}, hops+1))
	w := &piped{header: http.Header{}, head: make(chan struct{}), cancel: cancel}
	w.body, w.in = io.Pipe()
	info := guest.ServeInfo{Scheme: "http", RemoteAddr: "127.0.0.1:0", Invocation: string(ids.NewInvocation())}
	r = r.Clone(ctx)
	s.task.agent.background.Go(func() {
		sent, err := s.task.agent.Serve(job, info, w, r)
		w.finish(sent, err)
	})
	select {
	case <-w.head:
	case <-ctx.Done():
		cancel()
		return nil, context.Cause(ctx)
	}
	if w.err != nil {
		cancel()
		return nil, w.err
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: w, ContentLength: -1, Request: r,
	}, nil
}
