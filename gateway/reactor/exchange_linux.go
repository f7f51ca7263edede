package reactor

import (
	"context"
	"errors"
	"net/http"
	goruntime "runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/lazyctx"
	"github.com/ripstop-vm/ripstop/internal/loop"
)

// exchange is one request and its answer.
type exchange struct {
	ctx      requestContext
	conn     *conn
	runner   atomic.Pointer[runner] // nil once the handler is done
	raw      []byte                 // the request, while the handler is at work
	reply    reply
	adoption *adoption // net/http writes the answer
}

var _ loop.Loop = (*exchange)(nil)

// requestContext ends when the client leaves, or the handler returns, and leads to the loop.
type requestContext struct {
	lazyctx.Context
	x *exchange
}

func (c *requestContext) Value(key any) any {
	switch key {
	case loop.Key:
		return c.x
	case http.ServerContextKey:
		return c.x.conn.s.opts.HTTP
	}
	return c.Context.Value(key)
}

// Leave implements loop.Loop.
func (x *exchange) Leave() {
	if r := x.runner.Load(); r != nil {
		r.leave()
	}
}

// Compute implements loop.Loop.
func (x *exchange) Compute() {
	if r := x.runner.Load(); r != nil {
		r.goOut(computing)
	}
}

// adopt makes the connection net/http's, has it read the request again, and returns its response writer.
func (x *exchange) adopt() (http.ResponseWriter, error) {
	x.adoption = newAdoption()
	c := x.conn
	c.mu.Lock()
	c.request = nil // net/http looks after the client from here on
	c.mu.Unlock()
	c.give(c.detach(), append([]byte(nil), x.raw...), x.adoption)
	got, err := x.adoption.wait()
	c.s.forget(c)
	if err != nil {
		x.ctx.Cancel(context.Canceled)
		return nil, err
	}
	context.AfterFunc(got.ctx, func() { x.ctx.Cancel(context.Canceled) })
	return got.w, nil
}

// plain is what requests begin as.
var plain http.Request

// serve reads a request from a connection that the caller has, and sees to its answer. ending says that the client sends no more. It reports
// whether the goroutine has to end.
func (r *runner) serve(c *conn, ending bool) (spoiled bool) {
	n, err := whole(unix.Read, c.fd, r.buf)
	if errors.Is(err, unix.EAGAIN) && !ending {
		c.rest()
		return false
	}
	if err != nil || n == 0 {
		c.close()
		return false
	}
	read := r.buf[:n]
	if c.post { // old clients send a line's end after it, which net/http allows after a POST only
		if read = trimLines(read); len(read) == 0 && !ending {
			c.rest()
			return false
		}
	}
	c.mu.Lock()
	c.used = true
	c.more = c.more || n == len(r.buf) // it may not be all there is
	c.mu.Unlock()
	x := &exchange{conn: c, raw: read}
	x.ctx.x = x
	x.ctx.Begin(r.s.base, clock.System, time.Time{}, nil)
	req := plain.WithContext(&x.ctx)
	if ending || !parse(read, req) { // net/http sees to it, and to what follows
		c.handOver(read)
		return false
	}
	req.RemoteAddr = c.client
	c.post = req.Method == http.MethodPost
	x.reply = reply{x: x, header: make(http.Header, 8)}
	x.runner.Store(r)
	c.mu.Lock()
	c.request = x
	if c.gone {
		x.ctx.Cancel(context.Canceled)
	}
	c.mu.Unlock()

	began := clock.Elapsed()
	r.began.Store(int64(began))
	r.s.watched()
	well := x.handle(req)
	x.ctx.Cancel(context.Canceled)
	if x.adoption == nil {
		c.mu.Lock()
		c.request = nil
		c.mu.Unlock()
		r.finish(x, req, well)
	}
	if x.adoption != nil { // perhaps only just now
		x.adoption.abort = !well
		close(x.adoption.done)
	}
	x.runner.Store(nil)
	r.began.Store(0)
	return r.s.opts.Spoiled != nil && clock.Elapsed()-began >= r.s.opts.Spoils && r.s.opts.Spoiled()
}

// trimLines takes line ends off the beginning, up to two.
func trimLines(b []byte) []byte {
	for i := range min(len(b), 4) {
		if b[i] != '\r' && b[i] != '\n' {
			return b[i:]
		}
	}
	return b[min(len(b), 4):]
}

// whole calls a system call until no signal interrupts it.
func whole(call func(fd int, b []byte) (int, error), fd int, b []byte) (n int, err error) {
	for {
		if n, err = call(fd, b); !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// handle calls the handler. It is false if that panicked, and the answer is to be broken off.
func (x *exchange) handle(req *http.Request) (well bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it
			stack := make([]byte, 64<<10)
			x.conn.s.opts.Log.Error("panic while a request was served", "remote", x.conn.remote, "panic", p, "stack", string(stack[:goruntime.Stack(stack, false)]))
		}
	}()
	x.conn.s.handler.ServeHTTP(&x.reply, req)
	return true
}

// finish sends an answer that was kept.
func (r *runner) finish(x *exchange, req *http.Request, well bool) {
	c := x.conn
	if !well {
		c.close()
		return
	}
	last := req.Close || r.s.closing.Load()
	out, ok := x.reply.encode(r.out[:0], req.Method, date(), last)
	r.out = out[:0]
	if !ok {
		_ = x.reply.becomeReal() // a client that left misses nothing
		return
	}
	n, err := whole(unix.Write, c.fd, out)
	switch {
	case err != nil && !errors.Is(err, unix.EAGAIN):
		c.close()
	case n < len(out):
		c.sendRest(append([]byte(nil), out[n:]...), x.reply.deadline(), last)
	case last:
		c.close()
	default:
		c.rest()
	}
}

// sendRest sends what a client did not take at once of an answer, in a goroutine, and has net/http go on with the connection.
func (c *conn) sendRest(rest []byte, until *time.Time, last bool) {
	s, nc := c.s, c.detach()
	if until != nil {
		_ = nc.SetWriteDeadline(*until)
	} else if limit := s.opts.HTTP.WriteTimeout; limit > 0 {
		_ = nc.SetWriteDeadline(clock.System.Now().Add(limit))
	}
	stop := context.AfterFunc(s.base, func() { _ = nc.Close() })
	go func() {
		_, err := nc.Write(rest)
		if !stop() || err != nil || last || s.closing.Load() {
			_ = nc.Close()
			c.forget()
			return
		}
		_ = nc.SetWriteDeadline(time.Time{})
		c.give(nc, nil, nil)
		s.forget(c)
	}()
}

// stamp is the text of one second.
type stamp struct {
	second int64
	text   string
}

var stamped atomic.Pointer[stamp]

// date is the value of the field Date for now.
func date() string {
	now := clock.System.Now()
	if t := stamped.Load(); t != nil && t.second == now.Unix() {
		return t.text
	}
	t := &stamp{now.Unix(), now.UTC().Format(http.TimeFormat)}
	stamped.Store(t)
	return t.text
}
