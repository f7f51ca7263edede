package guest

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// TaskModule is the name that guests import the task ABI under; its last number is the ABI's version.
const TaskModule = "ripstop_task_1"

// Bounds of the task ABI's arguments, in bytes unless said otherwise. sdk/ABI.md names them.
const (
	maxLog    = 16 << 10
	maxName   = 256
	maxKey    = 1024
	maxValue  = 1 << 20
	maxList   = 1000 // keys of one kv_list
	maxMethod = 32
	maxURL    = 8 << 10
	maxConfig = 64 << 10
	maxQueued = 960 << 10 // body of a request that is queued
	maxQueue  = 9         // priority of one
	maxOrder  = 192       // an idempotency key, with which the name of the guest's job is kept, and an order
)

// anyVersion is the condition of a kv_put or kv_delete without one.
const anyVersion = math.MaxUint64

var (
	levelNames  = []string{"debug", "info", "warn", "error"}
	metricNames = []string{"counter", "gauge", "histogram"}
)

// TaskLibrary is the functions of the task ABI. Every call answers the same one; NewSandbox binds a state to it. All of
// them return an errno, and none waits: what may take long gives the guest a descriptor to wait on.
func TaskLibrary() *hostcall.Library { return taskLibrary }

func text(name string, param int, most uint32) hostcall.Arg {
	return hostcall.Arg{Name: name, Kind: hostcall.Text, Param: param, Max: most, MaxErrno: hostcall.EMSGSIZE}
}

func secretText(name string, param int, most uint32) hostcall.Arg {
	a := text(name, param, most)
	a.Secret = true
	return a
}

func num(name string, kind hostcall.Kind, param int) hostcall.Arg {
	return hostcall.Arg{Name: name, Kind: kind, Param: param}
}

func fdOut(param int) hostcall.Arg {
	return hostcall.Arg{Name: "fd", Dir: hostcall.Out, Kind: hostcall.FD, Param: param, Size: 4}
}

func task(name string, class hostcall.Class, params string, call func(*state, *hostcall.Call), args ...hostcall.Arg) hostcall.Func {
	f := hostcall.Func{Module: TaskModule, Name: name, Class: class, Args: args, Fails: true, Results: []hostcall.ValueType{hostcall.I32}}
	for _, p := range params {
		t := hostcall.I32
		if p == 'L' {
			t = hostcall.I64
		}
		f.Params = append(f.Params, t)
	}
	f.Call = func(c *hostcall.Call) {
		s, ok := c.State().(*state)
		if !ok {
			c.Fail(hostcall.ENOSYS)
			return
		}
		call(s, c)
	}
	return f
}

// In the parameters' notation i is an i32 and L an i64.
var taskLibrary = &hostcall.Library{Name: "task", Funcs: []hostcall.Func{
	task("log", hostcall.WriteOutside, "iii", logCall,
		hostcall.Arg{Name: "level", Kind: hostcall.Enum, Param: 0, Names: levelNames}, text("text", 1, maxLog)),
	task("config_get", hostcall.ReadLocal, "iiiii", configGet, text("name", 0, maxName),
		hostcall.Arg{Name: "value", Dir: hostcall.Out, Kind: hostcall.Bytes, Param: 2, Max: maxConfig, MaxErrno: hostcall.EMSGSIZE},
		hostcall.Arg{Name: "size", Dir: hostcall.Out, Kind: hostcall.Uint, Param: 4, Size: 4}),
	task("secret_get", hostcall.ReadOutside, "iii", secretGet, text("name", 0, maxName), fdOut(2)),
	task("kv_get", hostcall.ReadOutside, "iiiii", kvGet, text("bucket", 0, maxName), text("key", 2, maxKey), fdOut(4)),
	task("kv_put", hostcall.WriteOutside, "iiiiiiLi", kvPut, text("bucket", 0, maxName), text("key", 2, maxKey),
		hostcall.Arg{Name: "value", Kind: hostcall.Bytes, Param: 4, Max: maxValue, MaxErrno: hostcall.EMSGSIZE},
		num("expect", hostcall.Uint, 6), fdOut(7)),
	task("kv_delete", hostcall.WriteOutside, "iiiiLi", kvDelete, text("bucket", 0, maxName), text("key", 2, maxKey),
		num("expect", hostcall.Uint, 4), fdOut(5)),
	task("kv_list", hostcall.ReadOutside, "iiiiiiii", kvList, text("bucket", 0, maxName), text("prefix", 2, maxKey),
		text("after", 4, maxKey), num("limit", hostcall.Uint, 6), fdOut(7)),
	task("fetch", hostcall.WriteOutside, "iiiiiiLi", fetch, text("method", 0, maxMethod), text("url", 2, maxURL),
		secretText("header", 4, MaxHeaderBytes), num("length", hostcall.Uint, 6), fdOut(7)),
	task("invoke", hostcall.WriteOutside, "iiiiiiiiLi", invoke, text("job", 0, maxName), text("method", 2, maxMethod),
		text("target", 4, maxURL), secretText("header", 6, MaxHeaderBytes), num("length", hostcall.Uint, 8), fdOut(9)),
	task("enqueue", hostcall.WriteOutside, "iiiiiiiiiiiiiiiiiLLi", enqueue, text("job", 0, maxName), text("method", 2, maxMethod),
		text("target", 4, maxURL), secretText("header", 6, MaxHeaderBytes),
		hostcall.Arg{Name: "body", Kind: hostcall.Bytes, Param: 8, Max: maxQueued, MaxErrno: hostcall.EMSGSIZE},
		text("key", 10, maxOrder), text("order", 12, maxOrder), text("callback", 14, maxURL),
		num("priority", hostcall.Uint, 16), num("delay", hostcall.Uint, 17), num("deadline", hostcall.Uint, 18), fdOut(19)),
	task("metric", hostcall.WriteOutside, "iiiii", metric,
		hostcall.Arg{Name: "kind", Kind: hostcall.Enum, Param: 0, Names: metricNames}, text("name", 1, maxName), text("value", 3, 32)),
	task("respond", hostcall.WriteOutside, "iii", respond, secretText("head", 0, MaxHeaderBytes), fdOut(2)),
}}

func logCall(s *state, c *hostcall.Call) {
	level := c.Uint32(0)
	if level >= uint32(len(levelNames)) {
		c.Fail(hostcall.EINVAL)
		return
	}
	s.log.text("log", levelNames[level], string(c.Text(1)))
}

func configGet(s *state, c *hostcall.Call) {
	if s.starting {
		c.Fail(hostcall.EAGAIN)
		return
	}
	v, ok := s.program.opts.Services.Config(string(c.Text(0)))
	switch {
	case !ok:
		c.Fail(hostcall.ENOENT)
		return
	case len(v) > maxConfig:
		c.Fail(hostcall.EMSGSIZE)
		return
	}
	if len(v) > len(c.Value(1).Data) {
		c.Fail(hostcall.ENOBUFS) // the size says how much room there has to be
	} else {
		c.PutBytes(1, []byte(v))
	}
	c.PutUint32(2, uint32(len(v)))
}

// refusal is the errno of a grant's refusal; Success if there was none.
func refusal(err error) hostcall.Errno {
	if err == nil {
		return hostcall.Success
	}
	return errnoOr(err, hostcall.ENOTCAPABLE)
}

func secretGet(s *state, c *hostcall.Call) {
	name := string(c.Text(0))
	if e := refusal(s.program.opts.Grants.Secret(name)); e != hostcall.Success {
		c.Fail(e)
		return
	}
	s.long(c, 1, func(l *longCall) {
		v, err := s.program.opts.Services.Secret(l.ctx, name)
		l.answer(err, nil, v)
	})
}

// bucket answers the bucket that a call is about, if it is granted.
func bucket(s *state, c *hostcall.Call) (string, bool) {
	name := string(c.Text(0))
	if e := refusal(s.program.opts.Grants.KV(name)); e != hostcall.Success {
		c.Fail(e)
		return "", false
	}
	return name, true
}

// item answers the bucket and key that a call is about, if the bucket is granted.
func item(s *state, c *hostcall.Call) (b, k string, ok bool) {
	if b, ok = bucket(s, c); !ok {
		return "", "", false
	}
	if key := c.Text(1); len(key) > 0 && utf8.Valid(key) {
		return b, string(key), true
	}
	c.Fail(hostcall.EINVAL)
	return "", "", false
}

func expected(v uint64) *uint64 {
	if v == anyVersion {
		return nil
	}
	return &v
}

func kvGet(s *state, c *hostcall.Call) {
	b, k, ok := item(s, c)
	if !ok {
		return
	}
	s.long(c, 2, func(l *longCall) {
		v, version, err := s.program.opts.Services.KVGet(l.ctx, b, k)
		l.answer(err, appendUint64(nil, version), v)
	})
}

func kvPut(s *state, c *hostcall.Call) {
	b, k, ok := item(s, c)
	if !ok {
		return
	}
	expect := expected(c.Num(3))
	value := append([]byte(nil), c.Value(2).Data...)
	s.long(c, 4, func(l *longCall) {
		version, err := s.program.opts.Services.KVPut(l.ctx, b, k, value, expect)
		l.answer(err, appendUint64(nil, version), nil)
	})
}

func kvDelete(s *state, c *hostcall.Call) {
	b, k, ok := item(s, c)
	if !ok {
		return
	}
	expect := expected(c.Num(2))
	s.long(c, 3, func(l *longCall) {
		l.answer(s.program.opts.Services.KVDelete(l.ctx, b, k, expect), nil, nil)
	})
}

func kvList(s *state, c *hostcall.Call) {
	b, ok := bucket(s, c)
	if !ok {
		return
	}
	prefix, after, limit := string(c.Text(1)), string(c.Text(2)), c.Uint32(3)
	if limit == 0 || limit > maxList || !utf8.ValidString(prefix) || !utf8.ValidString(after) {
		c.Fail(hostcall.EINVAL)
		return
	}
	s.long(c, 4, func(l *longCall) {
		items, err := s.program.opts.Services.KVList(l.ctx, b, prefix, after, int(limit))
		items = items[:min(len(items), int(limit))]
		payload := appendUint32(nil, uint32(len(items)))
		for _, it := range items {
			payload = appendString(payload, it.Key)
			payload = appendUint64(payload, it.Version)
			payload = appendUint64(payload, it.Size)
		}
		l.answer(err, nil, payload)
	})
}

func validMethod(m string) bool { return m != "" && httpguts.ValidHeaderFieldName(m) }

// outbound makes the request of a fetch or invoke; its body is not set.
func outbound(s *state, method string, u *url.URL, header []byte, length uint64) (*http.Request, hostcall.Errno) {
	h, err := decodeFields(header)
	if err != nil || !validMethod(method) || length != unknownLength && length > math.MaxInt64 {
		return nil, hostcall.EINVAL
	}
	host := h.Get("Host")
	delete(h, "Host")
	delete(h, "Content-Length")
	dropHop(h)
	if s.inv != nil && h.Get("Traceparent") == "" && s.inv.trace[0] != "" {
		h.Set("Traceparent", s.inv.trace[0])
		if s.inv.trace[1] != "" {
			h.Set("Tracestate", s.inv.trace[1])
		}
	}
	r := &http.Request{Method: method, URL: u, Header: h, Host: host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if host == "" {
		r.Host = u.Host
	}
	return r, hostcall.Success
}

// exchange starts the request r: its body is what the guest writes, its answer what the guest reads.
func exchange(s *state, c *hostcall.Call, r *http.Request, length uint64, fd int, do func(*longCall) (*http.Response, error)) {
	s.long(c, fd, func(l *longCall) {
		switch length {
		case 0:
			r.Body = http.NoBody
			l.stream.refuse(hostcall.EPIPE)
		case unknownLength:
			r.Body, r.ContentLength = body{l.stream}, -1
		default:
			r.Body, r.ContentLength = body{l.stream}, int64(length)
		}
		l.request = r
		resp, err := do(l)
		if err != nil {
			l.answer(err, nil, nil)
			return
		}
		defer func() { _ = resp.Body.Close() }() // it was read, or nobody wants it
		h := resp.Header.Clone()
		dropHop(h)
		head := appendUint32(nil, uint32(resp.StatusCode))
		head = appendHeader(head, h)
		l.head(hostcall.Success, head)
		l.stream.feed(resp.Body)
		l.stream.refuse(hostcall.EPIPE)
	})
}

func fetch(s *state, c *hostcall.Call) {
	u, err := url.Parse(string(c.Text(1)))
	if err != nil || u.Host == "" {
		c.Fail(hostcall.EINVAL)
		return
	}
	u.Fragment, u.RawFragment = "", ""
	if e := refusal(s.program.opts.Grants.Fetch(u)); e != hostcall.Success {
		c.Fail(e)
		return
	}
	length := c.Num(3)
	r, e := outbound(s, string(c.Text(0)), u, c.Text(2), length)
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	exchange(s, c, r, length, 4, func(l *longCall) (*http.Response, error) {
		return s.program.opts.Services.Fetch(l.ctx, l.request.WithContext(l.ctx))
	})
}

func invoke(s *state, c *hostcall.Call) {
	job := string(c.Text(0))
	if e := refusal(s.program.opts.Grants.Invoke(job)); e != hostcall.Success {
		c.Fail(e)
		return
	}
	target := string(c.Text(2))
	u, err := url.ParseRequestURI(target)
	if err != nil || !strings.HasPrefix(target, "/") {
		c.Fail(hostcall.EINVAL)
		return
	}
	u.Scheme, u.Host = "http", job
	length := c.Num(4)
	r, e := outbound(s, string(c.Text(1)), u, c.Text(3), length)
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	exchange(s, c, r, length, 5, func(l *longCall) (*http.Response, error) {
		return s.program.opts.Services.Invoke(l.ctx, job, l.request.WithContext(l.ctx))
	})
}

func enqueue(s *state, c *hostcall.Call) {
	q := QueuedRequest{Job: string(c.Text(0)), Method: string(c.Text(1)), Target: string(c.Text(2)), Key: string(c.Text(5)), Order: string(c.Text(6)),
		Callback: string(c.Text(7)), Priority: int(c.Uint32(8))}
	if e := refusal(s.program.opts.Grants.Enqueue(q.Job)); e != hostcall.Success {
		c.Fail(e)
		return
	}
	if q.Callback != "" {
		to, err := url.Parse(q.Callback)
		if err != nil || to.Host == "" {
			c.Fail(hostcall.EINVAL)
			return
		}
		if e := refusal(s.program.opts.Grants.Fetch(to)); e != hostcall.Success {
			c.Fail(e)
			return
		}
	}
	u, err := url.ParseRequestURI(q.Target)
	delay, deadline := c.Num(9), c.Num(10)
	if err != nil || !strings.HasPrefix(q.Target, "/") || c.Uint32(8) > maxQueue || !utf8.ValidString(q.Key) || !utf8.ValidString(q.Order) || delay > math.MaxInt64 || deadline > math.MaxInt64 {
		c.Fail(hostcall.EINVAL)
		return
	}
	q.Delay, q.Deadline = time.Duration(delay), time.Duration(deadline)
	u.Scheme, u.Host = "http", q.Job
	r, e := outbound(s, q.Method, u, c.Text(3), 0)
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "Ripstop-") { // the server's own
			c.Fail(hostcall.EINVAL)
			return
		}
	}
	q.Header = r.Header
	q.Body = append([]byte(nil), c.Value(4).Data...)
	if s.inv != nil {
		q.Nth = s.inv.enqueued
		s.inv.enqueued++
	}
	s.long(c, 11, func(l *longCall) {
		got, err := s.program.opts.Services.Enqueue(l.ctx, q)
		l.answer(err, got.append(nil), nil)
	})
}

// append writes the fields of an enqueue's answer.
func (e Enqueued) append(b []byte) []byte {
	known := uint32(0)
	if e.Known {
		known = 1
	}
	return appendUint32(appendString(b, e.ID), known)
}

func metric(s *state, c *hostcall.Call) {
	kind, name := c.Uint32(0), string(c.Text(1))
	value, err := strconv.ParseFloat(string(c.Text(2)), 64)
	if kind >= uint32(len(metricNames)) || err != nil || math.IsNaN(value) || math.IsInf(value, 0) || !metricName(name) ||
		metricNames[kind] == "counter" && value < 0 {
		c.Fail(hostcall.EINVAL)
		return
	}
	s.program.opts.Services.Metric(s.ctx(), metricNames[kind], name, value)
}

// metricName reports whether OpenTelemetry takes name for an instrument.
func metricName(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || !(r >= '0' && r <= '9' || strings.ContainsRune("_.-/", r))) {
			return false
		}
	}
	return name != "" && len(name) <= 255
}

func respond(s *state, c *hostcall.Call) {
	if s.inv == nil {
		c.Fail(hostcall.EAGAIN)
		return
	}
	status, h, rest, err := decodeHead(c.Text(0))
	switch {
	case err != nil || len(rest) > 0:
		c.Fail(hostcall.EINVAL)
		return
	case s.inv.responder.started:
		c.Fail(hostcall.EALREADY)
		return
	}
	st := newStream(nil)
	st.closeEnds = true
	fd, err := s.system.Insert(st)
	if err != nil {
		c.Fail(errnoOr(err, hostcall.EMFILE))
		return
	}
	s.inv.responder.start(s.inv, st, status, h)
	c.PutUint32(1, fd)
}
