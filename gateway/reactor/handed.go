package reactor

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
)

// handed is a connection that net/http serves from here on, with what was read of it already.
type handed struct {
	net.Conn
	read     []byte
	adoption *adoption // of its first request; nil: that goes to the handler
	once     sync.Once
	free     func() // its place among the connections
}

// Read reads what was read already, and then the connection.
func (h *handed) Read(p []byte) (int, error) {
	if len(h.read) > 0 {
		n := copy(p, h.read)
		if h.read = h.read[n:]; len(h.read) == 0 {
			h.read = nil
		}
		return n, nil
	}
	return h.Conn.Read(p)
}

// ReadFrom keeps the kernel's own copying for large bodies.
func (h *handed) ReadFrom(r io.Reader) (int64, error) { return io.Copy(h.Conn, r) }

// CloseWrite has the client read to the end of what was written before the connection is closed.
func (h *handed) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

func (h *handed) Close() error {
	err := h.Conn.Close()
	h.once.Do(func() {
		h.free()
		if h.adoption != nil {
			close(h.adoption.lost)
		}
	})
	return err
}

// adoption is how a handler that is at work gets net/http's response writer for its request.
type adoption struct {
	got   chan *adopted // buffered
	done  chan struct{} // closed by who asked for it, once the handler is done
	abort bool          // set before that: the connection is broken off
	lost  chan struct{} // closed with the connection
}

type adopted struct {
	w   http.ResponseWriter
	ctx context.Context // ends when the client leaves
}

func newAdoption() *adoption {
	return &adoption{got: make(chan *adopted, 1), done: make(chan struct{}), lost: make(chan struct{})}
}

var errLost = errors.New("the connection ended before the answer began")

// wait returns net/http's side of it.
func (a *adoption) wait() (*adopted, error) {
	select {
	case got := <-a.got:
		return got, nil
	case <-a.lost:
		return nil, errLost
	}
}

// handOver is a listener for connections that net/http is to serve.
type handOver struct {
	addr  net.Addr
	conns chan *handed
	once  sync.Once
	done  chan struct{}
}

func newHandOver(addr net.Addr) *handOver {
	return &handOver{addr: addr, conns: make(chan *handed), done: make(chan struct{})}
}

// give hands a connection over; it is closed if nobody takes any.
func (l *handOver) give(h *handed) {
	select {
	case l.conns <- h:
	case <-l.done:
		_ = h.Close()
	}
}

func (l *handOver) Accept() (net.Conn, error) {
	select {
	case h := <-l.conns:
		return h, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *handOver) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *handOver) Addr() net.Addr { return l.addr }

type handedKey struct{}

// connContext lets the handler know of a connection's adoption.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if h, ok := c.(*handed); ok && h.adoption != nil {
		return context.WithValue(ctx, handedKey{}, &first{adoption: h.adoption})
	}
	return ctx
}

// first is the adoption of a connection's first request, until that is there.
type first struct{ adoption *adoption }

// adopting is the handler of net/http's server: requests that are answered already by somebody else wait for that, others go to next.
func adopting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := r.Context().Value(handedKey{}).(*first)
		if !ok || f.adoption == nil {
			next.ServeHTTP(w, r)
			return
		}
		a := f.adoption
		f.adoption = nil
		a.got <- &adopted{w, r.Context()}
		<-a.done
		if a.abort {
			panic(http.ErrAbortHandler)
		}
	})
}
