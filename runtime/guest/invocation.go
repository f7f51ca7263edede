package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/lazyctx"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// state is what the task ABI's functions see in one sandbox.
type state struct {
	program *Program
	system  *wasi.System
	log     logger
	inv     *invocation // nil while no request is served
	// starting says that the guest initialises itself, and that its image may be taken after that: it learns nothing of the job.
	starting bool
}

func (s *state) ctx() context.Context {
	if s.log.ctx != nil {
		return s.log.ctx
	}
	return context.Background()
}

// errOver ends an invocation's context once it was served.
var errOver = errors.New("the invocation is over")

// invocation is one request under way. Streams and goroutines that serve it end with it.
type invocation struct {
	ctx       context.Context // own
	own       invocationContext
	trace     [2]string // W3C traceparent and tracestate of the request
	responder responder
	body      clientBody
	unblock   func() // of what may block when the context ends; nil while nothing does

	running sync.WaitGroup
	mu      sync.Mutex
	streams map[*stream]struct{} // not closed yet
	calls   int                  // long calls under way

	enqueued int // requests that were to be queued
}

// invocationContext leads to the ServeInfo.
type invocationContext struct {
	lazyctx.Context
	info ServeInfo
}

func (c *invocationContext) Value(key any) any {
	if key == (infoKey{}) {
		return &c.info
	}
	return c.Context.Value(key)
}

func newInvocation(ctx context.Context, info ServeInfo, w http.ResponseWriter, r *http.Request, o *Options) *invocation {
	inv := &invocation{trace: [2]string{first(r.Header, "Traceparent"), first(r.Header, "Tracestate")}}
	inv.own.info = info
	inv.own.Begin(ctx, o.Clock, time.Time{}, nil)
	inv.ctx = &inv.own
	inv.responder = responder{inv: inv, w: w, control: http.NewResponseController(w), most: uint64(o.ResponseBytes)}
	inv.body.begin(r, inv.responder.control, o.RequestBytes)
	if !inv.body.eof.Load() {
		inv.mayBlock()
	}
	return inv
}

// first is a field's first value; name is in its canonical form.
func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// mayBlock says that somebody is about to wait for the client, which must not outlast the invocation.
func (inv *invocation) mayBlock() {
	if inv.unblock == nil {
		inv.unblock = unblock(inv.own.Parent(), inv.responder.control, &inv.body)
	}
}

// blocksNoMore is called once nobody reads from the client or writes to it; then an error page can be sent.
func (inv *invocation) blocksNoMore() {
	if inv.unblock != nil {
		inv.unblock()
	}
}

// add notes a stream so that it ends with the invocation.
func (inv *invocation) add(s *stream) {
	inv.mu.Lock()
	if inv.streams == nil {
		inv.streams = map[*stream]struct{}{}
	}
	inv.streams[s] = struct{}{}
	inv.mu.Unlock()
}

func (inv *invocation) remove(s *stream) {
	inv.mu.Lock()
	delete(inv.streams, s)
	inv.mu.Unlock()
}

// finish ends all streams but the response's, and waits for the goroutines that serve the invocation.
func (inv *invocation) finish() {
	inv.own.Cancel(errOver)
	inv.mu.Lock()
	open := make([]*stream, 0, len(inv.streams))
	for s := range inv.streams {
		open = append(open, s)
	}
	inv.mu.Unlock()
	for _, s := range open {
		s.stop(hostcall.ECANCELED)
	}
	inv.running.Wait()
}

// longCall is one call of a guest that takes a while, and the goroutine that makes it.
type longCall struct {
	ctx     context.Context
	stream  *stream
	request *http.Request
}

// long answers the call with a descriptor in argument fd at once, and has do run beside the guest.
func (s *state) long(c *hostcall.Call, fd int, do func(*longCall)) {
	inv := s.inv
	if inv == nil {
		c.Fail(hostcall.EAGAIN) // a sandbox that starts has no invocation to do it for
		return
	}
	inv.mu.Lock()
	full := inv.calls >= s.program.opts.Descriptors
	if !full {
		inv.calls++
	}
	inv.mu.Unlock()
	if full {
		c.Fail(hostcall.EMFILE)
		return
	}
	ctx, cancel := context.WithCancel(inv.ctx)
	l := &longCall{ctx: ctx}
	l.stream = newStream(cancel)
	n, err := s.system.Insert(l.stream)
	if err != nil {
		cancel()
		inv.mu.Lock()
		inv.calls--
		inv.mu.Unlock()
		c.Fail(errnoOr(err, hostcall.EMFILE))
		return
	}
	inv.add(l.stream)
	c.PutUint32(fd, n)
	inv.running.Go(func() {
		do(l)
		cancel()
		inv.remove(l.stream)
		inv.mu.Lock()
		inv.calls--
		inv.mu.Unlock()
	})
}

func appendUint32(b []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(b, v) }
func appendUint64(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }

// head sends the answer's head: its length, an errno, and fields of the call's own if there was no error.
func (l *longCall) head(e hostcall.Errno, fields []byte) {
	b := appendUint32(nil, uint32(4+len(fields)))
	b = appendUint32(b, uint32(e))
	l.stream.send(append(b, fields...))
}

// answer sends a whole answer.
func (l *longCall) answer(err error, fields, payload []byte) {
	e := hostcall.Success
	if err != nil {
		e = errnoOr(err, hostcall.EIO)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			e = errnoOr(err, hostcall.ETIMEDOUT)
		case errors.Is(err, context.Canceled):
			e = errnoOr(err, hostcall.ECANCELED)
		}
		fields, payload = nil, nil
	}
	l.head(e, fields)
	l.stream.send(payload)
	l.stream.end(io.EOF)
	l.stream.refuse(hostcall.EPIPE)
}
