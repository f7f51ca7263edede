package guest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// responder hands a guest's response to a client, within a bound, and knows how far that went.
type responder struct {
	inv     *invocation
	w       http.ResponseWriter
	control *http.ResponseController
	most    uint64
	started bool // the guest has said its head
	stream  *stream

	// Written by the goroutine that sends, or by Serve when there is none.
	sent   bool // the status went to w
	status int
	bytes  uint64
	err    error // a bound that was crossed
}

// headerSize is what a header takes of the bound of a response.
func headerSize(h http.Header) (n uint64) {
	for name, values := range h {
		for _, v := range values {
			n += uint64(len(name) + len(v) + 4)
		}
	}
	return n
}

// head puts a guest's head on w, without what the host decides: fields that are there already, as the invocation's id,
// are the host's.
func (r *responder) head(status int, h http.Header) {
	dropHop(h)
	to := r.w.Header()
	for name, values := range h {
		if _, taken := to[name]; !taken && name != "Content-Length" {
			to[name] = values
		}
	}
	r.status = status
}

// whole sends a response that is there in one piece. length is of the body, for a HEAD request too.
func (r *responder) whole(status int, h http.Header, body []byte) error {
	if size := headerSize(h) + uint64(len(body)); size > r.most {
		return &runtime.LimitError{Limit: "response", Used: size, Max: r.most}
	}
	r.started = true
	r.head(status, h)
	if status != http.StatusNoContent && status != http.StatusNotModified {
		r.w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	} else {
		body = nil
	}
	r.sent = true
	if len(body) > unblocked {
		r.inv.mayBlock()
	}
	r.w.WriteHeader(status)
	if len(body) > 0 {
		n, err := r.w.Write(body)
		r.bytes = uint64(n)
		if err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
			return ErrClientGone
		}
	}
	return nil
}

// unblocked is how long a body may be that nobody waits for the client to take: a server's buffers hold as much, and when a server sends them
// the invocation is over. net/http has 2 KiB for one answer.
const unblocked = 1 << 10

// ErrClientGone reports that the client left before the guest's answer was sent whole, or its request was there. It is
// nobody's failure.
var ErrClientGone = errors.New("the client went away")

// start sends a head, and then what the guest writes to st, in a goroutine of the invocation.
func (r *responder) start(inv *invocation, st *stream, status int, h http.Header) {
	r.started, r.stream = true, st
	inv.mayBlock()
	inv.running.Go(func() {
		r.bytes = 0
		if size := headerSize(h); size > r.most {
			r.over(size)
			return
		}
		r.head(status, h)
		r.sent = true
		r.w.WriteHeader(status)
		_ = r.control.Flush() // a writer that cannot flush sends when it likes
		used := headerSize(h)
		buf := make([]byte, 16<<10)
		for {
			n, err := st.take(buf)
			if n > 0 {
				if used += uint64(n); used > r.most {
					r.over(used)
					return
				}
				if !r.write(buf[:n]) {
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && r.err == nil {
					r.err = err
				}
				return
			}
		}
	})
}

func (r *responder) write(p []byte) bool {
	n, err := r.w.Write(p)
	r.bytes += uint64(n)
	switch {
	case errors.Is(err, http.ErrBodyNotAllowed):
		return true // what a 204 or 304 says beside its head is nobody's
	case err == nil:
		err = r.control.Flush()
	}
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		r.err = ErrClientGone
		r.stream.refuse(hostcall.EPIPE)
		return false
	}
	return true
}

func (r *responder) over(used uint64) {
	r.err = &runtime.LimitError{Limit: "response", Used: used, Max: r.most}
	r.stream.refuse(hostcall.EFBIG)
}

// done waits for a streamed response to be sent, once the guest is done: whole if it was well, else cut off.
func (r *responder) done(well bool) {
	if r.stream == nil {
		return
	}
	if well {
		r.stream.endOut(io.EOF)
	} else {
		r.stream.stop(hostcall.ECANCELED)
	}
}

// unblock has reads and writes of a client that does not move return when ctx ends. The stop it answers has to be called
// when nobody reads or writes any more; then an error page can be sent.
func unblock(ctx context.Context, control *http.ResponseController, in *clientBody) (stop func()) {
	finished := make(chan struct{})
	after := context.AfterFunc(ctx, func() {
		defer close(finished)
		in.interrupt()
		_ = control.SetWriteDeadline(past) // a writer without deadlines is no connection
	})
	return func() {
		if !after() {
			<-finished
			_ = control.SetWriteDeadline(noDeadline)
		}
	}
}

// past is a moment that every clock has behind it; noDeadline takes a deadline away.
var past, noDeadline = time.Unix(1, 0), time.Time{}
