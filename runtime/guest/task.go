package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
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
	if s.handle, err = s.vm.Function(TaskHandle); err != nil {
		return err
	}
	return s.wants(ctx)
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
func (s *Sandbox) serveTask(inv *invocation, in *clientBody, r *http.Request, info *ServeInfo) error {
	b, err := s.message(inv, in, r, info)
	if err == nil {
		err = callerCause(inv, s.callHandle(inv.ctx, b))
	}
	resp := &inv.responder
	resp.done(err == nil)
	in.interrupt()
	inv.finish()
	in.finish()
	switch {
	case err != nil:
		return err
	case in.over.Load():
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
	b, err = s.memory(ptr, size, "the response")
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

// callHandle puts a message into the guest's buffer and has the guest answer, in its turn.
func (s *Sandbox) callHandle(ctx context.Context, message []byte) error {
	if !s.in {
		if err := s.enter(ctx, s.program.opts.CPU); err != nil {
			return err
		}
	}
	defer s.leave()
	s.vm.Watch()
	defer s.vm.Unwatch()
	to, err := s.memory(s.buffer, s.room, "the request buffer")
	if err != nil {
		return err
	}
	s.stack[0] = uint64(copy(to, message))
	if err := s.handle.Call(ctx, s.stack[:]); err != nil {
		return err
	}
	s.touch(uint32(s.stack[0]>>32), uint32(s.stack[0]))
	return nil
}

// maxTouched is the longest answer that touch reads, in bytes. It does so in the guest's turn and makes way for nobody, and each page that the guest
// itself has not touched is a page fault: gigabytes would take seconds.
const maxTouched = 64 << 10

// touch reads from each page of the guest's answer, if it is one, while the memory is watched: the rest is read when it no longer is. That of a long
// one is missed instead.
func (s *Sandbox) touch(ptr, n uint32) {
	b, err := s.memory(ptr, n, "the response")
	switch {
	case err != nil || n == 0: // nobody will read it
		return
	case n > maxTouched:
		s.vm.Missed()
		return
	}
	for at := 0; at < len(b); at += 4 << 10 {
		s.touched ^= b[at]
	}
	s.touched ^= b[len(b)-1]
}

// callerCause is how the invocation really ended: its context's cause is the caller's.
func callerCause(inv *invocation, err error) error {
	if err != nil && errors.Is(err, context.Canceled) && inv.ctx.Err() != nil {
		return context.Cause(inv.ctx)
	}
	return err
}

// message is the request as it goes into the guest's buffer. It is valid until the next one.
func (s *Sandbox) message(inv *invocation, in *clientBody, r *http.Request, info *ServeInfo) ([]byte, error) {
	q := taskRequest{
		method: r.Method, scheme: info.Scheme, host: r.Host, target: r.URL.RequestURI(), prefix: prefixOf(r, info), protocol: r.Proto,
		remote: info.RemoteAddr, invocation: info.Invocation, header: requestHeader(r),
	}
	if !info.Deadline.IsZero() {
		q.timeLeft = uint64(max(info.Deadline.Sub(s.program.opts.Clock.Now()), 1))
	}
	n := r.ContentLength
	if in.eof.Load() {
		n = 0
	}
	q.length = uint64(n)
	switch {
	case n == 0:
	case n > 0 && n <= maxInline && uint64(len(q.append(s.scratch[:0])))+4+uint64(n) <= uint64(s.room):
		q.body = bodyInline
		q.inline = make([]byte, n)
		if _, err := io.ReadFull(in, q.inline); err != nil {
			return nil, clientError(inv, err)
		}
	default:
		q.body = bodyStream
		if n < 0 {
			q.length = unknownLength
		}
		st := newStream(nil)
		fd, err := s.state.system.Insert(st)
		if err != nil {
			return nil, fmt.Errorf("hand over the request's body: %w", err)
		}
		q.fd = fd
		inv.add(st)
		_ = inv.responder.control.EnableFullDuplex() // HTTP/2 always is; others read first
		inv.running.Go(func() {
			st.feed(in)
			st.refuse(hostcall.EPIPE) // it can only be read
		})
	}
	b := q.append(s.scratch[:0])
	s.scratch = b[:0]
	if uint64(len(b)) > uint64(s.room) {
		return nil, &runtime.LimitError{Limit: "request header", Used: uint64(len(b)), Max: uint64(s.room)}
	}
	return b, nil
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
