package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime"
)

// Bounds of a task's request buffer, in bytes.
const (
	minBuffer = 4 << 10
	maxBuffer = 16 << 20
)

// maxInline is the longest body that is put into the buffer; longer ones are streams.
const maxInline = 64 << 10

func (s *Sandbox) initialize(ctx context.Context) error {
	if _, ok := s.vm.Module().Info().Export(TaskInitialize); ok {
		if _, err := s.vm.Call(ctx, TaskInitialize); err != nil {
			return fmt.Errorf("initialise: %w", err)
		}
	}
	at, err := s.vm.Call(ctx, TaskBuffer)
	if err != nil {
		return fmt.Errorf("ask for the request buffer: %w", err)
	}
	s.buffer, s.room = uint32(at[0]>>32), uint32(at[0])
	if s.room < minBuffer || s.room > maxBuffer {
		return &BadResponseError{What: fmt.Sprintf("a request buffer of %d bytes: it has to have %d to %d", s.room, minBuffer, maxBuffer)}
	}
	if _, err := s.memory(s.buffer, s.room, "the request buffer"); err != nil {
		return err
	}
	s.handle, err = s.vm.Function(TaskHandle)
	return err
}

// memory is a range of the guest's memory that the guest named. It is valid until the guest runs.
func (s *Sandbox) memory(ptr, n uint32, what string) ([]byte, error) {
	m := s.vm.Memory().Bytes()
	if uint64(ptr)+uint64(n) > uint64(len(m)) {
		return nil, &BadResponseError{What: fmt.Sprintf("%s is %d bytes at %#x, outside the memory of %d bytes", what, n, ptr, len(m))}
	}
	return m[ptr : uint64(ptr)+uint64(n)], nil
}

// serveTask makes one call into the guest.
func (s *Sandbox) serveTask(inv *invocation, r *http.Request, info *ServeInfo) error {
	feeding, n, err := s.writeRequest(inv, r, info)
	if err == nil {
		s.stack[0] = uint64(n)
		err = s.handle.Call(inv.ctx, s.stack[:])
		err = callerCause(inv, err)
	}
	resp := inv.responder
	resp.done(err == nil)
	feeding.end()
	inv.finish()
	feeding.reset()
	switch {
	case err != nil:
		return err
	case feeding.over:
		if !resp.sent {
			return &runtime.LimitError{Limit: "request", Used: uint64(s.program.opts.RequestBytes) + 1, Max: uint64(s.program.opts.RequestBytes)}
		}
	case resp.err != nil:
		return resp.err
	}
	ptr, size := uint32(s.stack[0]>>32), uint32(s.stack[0])
	if resp.started {
		if s.stack[0] != 0 {
			return &BadResponseError{What: "the handler answered twice: it started a response and returned another"}
		}
		return nil
	}
	if s.stack[0] == 0 {
		return &BadResponseError{What: "the handler returned no response and started none"}
	}
	b, err := s.memory(ptr, size, "the response")
	if err != nil {
		return err
	}
	if uint64(size) > resp.most+MaxHeaderBytes {
		return &runtime.LimitError{Limit: "response", Used: uint64(size), Max: resp.most}
	}
	status, h, body, err := decodeResponse(b)
	if err != nil {
		return &BadResponseError{What: err.Error()}
	}
	return resp.whole(status, h, body)
}

// callerCause is how the invocation really ended: its context's cause is the caller's.
func callerCause(inv *invocation, err error) error {
	if err != nil && errors.Is(err, context.Canceled) && inv.ctx.Err() != nil {
		return context.Cause(inv.ctx)
	}
	return err
}

// writeRequest puts the request into the guest's buffer, and answers its length there.
func (s *Sandbox) writeRequest(inv *invocation, r *http.Request, info *ServeInfo) (*feeding, uint32, error) {
	f := &feeding{request: r, responder: inv.responder}
	q := taskRequest{
		method: r.Method, scheme: info.Scheme, host: r.Host, target: r.URL.RequestURI(), prefix: prefixOf(r, info), protocol: r.Proto,
		remote: info.RemoteAddr, invocation: info.Invocation, header: requestHeader(r),
	}
	if !info.Deadline.IsZero() {
		q.timeLeft = uint64(max(info.Deadline.Sub(s.program.opts.Clock.Now()), 1))
	}
	n := r.ContentLength
	if r.Body == nil || r.Body == http.NoBody {
		n = 0
	}
	b := q.append(s.scratch[:0])
	q.length = uint64(n)
	switch {
	case n == 0:
	case n > 0 && n <= maxInline && uint64(len(b))+4+uint64(n) <= uint64(s.room):
		q.body = bodyInline
		q.inline = make([]byte, n)
		if _, err := io.ReadFull(r.Body, q.inline); err != nil {
			return f, 0, clientError(inv, err)
		}
	default:
		q.body = bodyStream
		if n < 0 {
			q.length = unknownLength
		}
		st := newStream(nil)
		fd, err := s.state.system.Insert(st)
		if err != nil {
			return f, 0, fmt.Errorf("hand over the request's body: %w", err)
		}
		q.fd = fd
		inv.add(st)
		_ = inv.responder.control.EnableFullDuplex() // HTTP/2 always is; others read first
		f.start(inv, st, s.program.opts.RequestBytes)
	}
	b = q.append(s.scratch[:0])
	s.scratch = b[:0]
	if uint64(len(b)) > uint64(s.room) {
		return f, 0, &runtime.LimitError{Limit: "request header", Used: uint64(len(b)), Max: uint64(s.room)}
	}
	to, err := s.memory(s.buffer, s.room, "the request buffer")
	if err != nil {
		return f, 0, err
	}
	return f, uint32(copy(to, b)), nil
}

// clientError is what a failed read of the request's body means.
func clientError(inv *invocation, err error) error {
	if inv.ctx.Err() != nil {
		return context.Cause(inv.ctx)
	}
	return fmt.Errorf("%w: %w", ErrClientGone, err)
}

// prefixOf is the part of the request's path that led to the job.
func prefixOf(r *http.Request, info *ServeInfo) string {
	p := strings.TrimSuffix(info.ScriptName, "/")
	rest, ok := strings.CutPrefix(r.URL.Path, p)
	if !ok || rest != "" && rest[0] != '/' {
		return ""
	}
	return p
}

// feeding copies a request's body to a guest.
type feeding struct {
	request   *http.Request
	responder *responder
	done      chan struct{} // closed when nobody reads the body any more; nil if nobody did
	over      bool          // more came than is allowed; valid once done is closed
	cut       bool
}

func (f *feeding) start(inv *invocation, st *stream, most int64) {
	f.done = make(chan struct{})
	inv.running.Go(func() {
		defer close(f.done)
		st.feed(f.request.Body, most)
		st.mu.Lock()
		f.over = errors.Is(st.inEnd, errTooLong)
		st.mu.Unlock()
		st.refuse(errBodyWrite)
	})
}

// end has the reader of the body give up, if it still reads.
func (f *feeding) end() {
	if f.done == nil {
		return
	}
	select {
	case <-f.done:
		return
	default:
	}
	f.cut = true
	if err := f.responder.control.SetReadDeadline(past); err != nil {
		_ = f.request.Body.Close() // no connection, as in tests: closing it ends the read
	}
}

// reset makes the connection readable again.
func (f *feeding) reset() {
	if f.cut {
		_ = f.responder.control.SetReadDeadline(noDeadline)
	}
}
