package guest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// serveCommand has the guest go on with the request as its environment and standard input.
func (s *Sandbox) serveCommand(inv *invocation, in *clientBody, r *http.Request, info *ServeInfo) error {
	resp := &inv.responder
	if strings.ContainsRune(r.URL.Path, 0) || strings.ContainsRune(r.URL.RawQuery, 0) {
		// No environment holds it.
		s.parking.end()
		inv.finish()
		http.Error(resp.w, "the path holds a NUL", http.StatusBadRequest)
		resp.sent, resp.status = true, http.StatusBadRequest
		return nil
	}
	out := &cgiOutput{resp: resp, clock: s.program.opts.Clock, vain: &in.over}
	_ = resp.control.EnableFullDuplex() // a program may write before it has read everything
	env, stdin := s.program.frame(in, r, info)
	err := s.state.system.Provide(env, stdin, out)
	if err == nil {
		err = s.parking.serve(inv.ctx)
	} else {
		s.parking.end()
	}
	var exit *runtime.ExitError
	if errors.As(err, &exit) && exit.Code == 0 {
		err = nil
	}
	err = callerCause(inv, err)
	if in.over.Load() && (err == nil || errors.As(err, &exit)) {
		// As if its length had been known before: a program may take what it could read for all there is, or fail of it. What it has said before that is
		// taken back, or broken off.
		most := uint64(s.program.opts.RequestBytes)
		err = &runtime.LimitError{Limit: "request", Used: most + 1, Max: most}
	}
	if err == nil {
		out.finish()
	}
	out.stop()
	inv.finish()
	in.finish()
	if out.failure != nil {
		return out.failure // it was the guest's, even if a failed write ended it
	}
	return err
}

// frame is what a request is to a command: the environment that it gets, and what it reads.
func (p *Program) frame(in *clientBody, r *http.Request, info *ServeInfo) (env []string, stdin io.Reader) {
	if p.opts.Request == RequestStdin {
		header := scgiHeader(cgiVariables(p.env, r, info), r.ContentLength)
		return p.env, io.MultiReader(bytes.NewReader(header), in)
	}
	return cgiEnviron(p.env, r, info), in
}

// cgiEnviron is the environment of a command: what the job is granted, and the meta-variables, which win.
func cgiEnviron(granted []string, r *http.Request, info *ServeInfo) []string {
	meta := cgiVariables(granted, r, info)
	env := make([]string, 0, len(granted)+len(meta))
	for _, kv := range granted {
		name := kv[:strings.IndexByte(kv, '=')+1]
		if !slices.ContainsFunc(meta, func(m string) bool { return strings.HasPrefix(m, name) }) {
			env = append(env, kv)
		}
	}
	return append(env, meta...)
}

// cgiVariables is the meta-variables of RFC 3875, 4.1. None that a client's header fields make has the name of one that the job is granted.
func cgiVariables(granted []string, r *http.Request, info *ServeInfo) []string {
	var env []string
	have := map[string]bool{}
	for _, kv := range granted {
		name, _, _ := strings.Cut(kv, "=")
		have[name] = true
	}
	set := func(name, value string) { env = append(env, name+"="+value) }
	prefix := prefixOf(r, info)
	set("GATEWAY_INTERFACE", "CGI/1.1")
	set("SERVER_SOFTWARE", "ripstop")
	set("SERVER_PROTOCOL", r.Proto)
	set("REQUEST_METHOD", r.Method)
	set("REQUEST_URI", r.URL.RequestURI())
	set("REQUEST_SCHEME", info.Scheme)
	set("SCRIPT_NAME", prefix)
	set("PATH_INFO", strings.TrimPrefix(r.URL.Path, prefix))
	set("QUERY_STRING", r.URL.RawQuery)
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host, port = r.Host, "80"
		if info.Scheme == "https" {
			port = "443"
		}
	}
	set("SERVER_NAME", host)
	set("SERVER_PORT", port)
	if info.Scheme == "https" {
		set("HTTPS", "on")
	}
	remote, remotePort, err := net.SplitHostPort(info.RemoteAddr)
	if err != nil {
		remote, remotePort = info.RemoteAddr, ""
	}
	set("REMOTE_ADDR", remote)
	set("REMOTE_HOST", remote)
	if remotePort != "" {
		set("REMOTE_PORT", remotePort)
	}
	if info.Invocation != "" {
		set("UNIQUE_ID", info.Invocation)
	}
	if r.ContentLength > 0 {
		set("CONTENT_LENGTH", strconv.FormatInt(r.ContentLength, 10))
	}
	if t := r.Header.Get("Content-Type"); t != "" && strings.IndexByte(t, 0) < 0 {
		set("CONTENT_TYPE", t)
	}
	if r.Host != "" {
		set("HTTP_HOST", r.Host)
	}
	h := requestHeader(r)
	names := make([]string, 0, len(h))
	for name := range h {
		if name != "Content-Type" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		v, ok := cgiName(name)
		if !ok || have[v] || v == "HTTP_HOST" { // a client does not change what the operator granted
			continue
		}
		sep := ", "
		if name == "Cookie" {
			sep = "; "
		}
		if value := strings.Join(h[name], sep); strings.IndexByte(value, 0) < 0 {
			env = append(env, v+"="+value)
		}
	}
	return env
}

// cgiName is the variable of a header field. Names with an underscore have none: they would be taken for those with a
// hyphen, which a proxy in front may have checked.
func cgiName(field string) (string, bool) {
	b := make([]byte, 0, len(field)+5)
	b = append(b, "HTTP_"...)
	for i := range len(field) {
		switch c := field[i]; {
		case c >= 'a' && c <= 'z':
			b = append(b, c-'a'+'A')
		case c >= 'A' && c <= 'Z' || c >= '0' && c <= '9':
			b = append(b, c)
		case c == '-':
			b = append(b, '_')
		default:
			return "", false
		}
	}
	if s := string(b); s != "HTTP_PROXY" && s != "HTTP_" {
		return s, true
	}
	return "", false
}

// cgiLatency is how long output waits for more of it before it is sent.
const cgiLatency = 10 * time.Millisecond

// cgiOutput is standard output as a response: a header is read first, the rest goes to the client as it comes.
type cgiOutput struct {
	resp  *responder
	clock clock.Clock
	vain  *atomic.Bool // nobody will hear it, unless its head is on its way

	mu      sync.Mutex
	parse   cgiParser
	used    uint64
	failure error
	timer   clock.Timer // armed while something waits to be sent
	stopped bool
}

var _ wasi.Waiter = (*cgiOutput)(nil)

// Waits implements wasi.Waiter.
func (*cgiOutput) Waits() {}

// Write implements io.Writer. It waits for a slow client.
func (o *cgiOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failure != nil {
		return 0, hostcall.EPIPE
	}
	if o.vain.Load() && !o.resp.sent {
		return len(p), nil
	}
	rest := p
	if !o.parse.done {
		rest = o.parse.write(p)
		if !o.parse.done {
			return len(p), nil
		}
		if !o.begin() {
			return 0, hostcall.EPIPE
		}
	}
	if !o.body(rest) {
		return 0, hostcall.EPIPE
	}
	return len(p), nil
}

// begin sends the head.
func (o *cgiOutput) begin() bool {
	status, h, body, err := o.parse.head()
	if err != nil {
		o.failure = &BadResponseError{What: err.Error()}
		return false
	}
	if o.used = headerSize(h); o.used > o.resp.most {
		o.failure = &runtime.LimitError{Limit: "response", Used: o.used, Max: o.resp.most}
		return false
	}
	o.resp.started = true
	o.resp.head(status, h)
	o.resp.sent = true
	o.resp.w.WriteHeader(status)
	return o.body(body)
}

func (o *cgiOutput) body(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if o.used += uint64(len(p)); o.used > o.resp.most {
		o.failure = &runtime.LimitError{Limit: "response", Used: o.used, Max: o.resp.most}
		return false
	}
	n, err := o.resp.w.Write(p)
	o.resp.bytes += uint64(n)
	if err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		o.failure = ErrClientGone
		return false
	}
	if o.timer == nil && !o.stopped {
		o.timer = o.clock.AfterFunc(cgiLatency, o.flush)
	}
	return true
}

func (o *cgiOutput) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer = nil
	if !o.stopped {
		_ = o.resp.control.Flush() // a client that is gone shows at the next write
	}
}

// finish takes the guest's end as the end of its output.
func (o *cgiOutput) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.parse.done && o.failure == nil {
		o.parse.finish()
		o.begin()
	}
}

// stop lets nobody use the response from now on.
func (o *cgiOutput) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	if o.timer != nil {
		o.timer.Stop()
	}
}
