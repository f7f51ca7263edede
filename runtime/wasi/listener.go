package wasi

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// listener is a pre-opened socket to accept on. A goroutine accepts one connection ahead, and only once the guest has
// asked for one.
type listener struct {
	l    net.Listener
	wake func()

	mu        sync.Mutex
	accepting bool
	conn      net.Conn // accepted and not taken yet
	err       error
	closed    bool
}

func newListener(l net.Listener, wake func()) *descriptor {
	return &descriptor{res: &listener{l: l, wake: wake}, base: rightsListener, inheriting: rightsSocket}
}

func (l *listener) filetype() filetype { return typeSocketStream }

// ready reports whether take would answer something. If not, wake is called once it would.
func (l *listener) ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil || l.err != nil || l.closed {
		return true
	}
	if !l.accepting {
		l.accepting = true
		go l.accept()
	}
	return false
}

func (l *listener) accept() {
	conn, err := l.l.Accept()
	l.mu.Lock()
	l.accepting = false
	if l.closed && conn != nil {
		_ = conn.Close() // nobody will take it
		conn = nil
	}
	l.conn, l.err = conn, err
	l.mu.Unlock()
	l.wake()
}

// take answers the connection that is ready, or why there is none.
func (l *listener) take() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	conn, err := l.conn, l.err
	l.conn, l.err = nil, nil
	if conn == nil && err == nil {
		err = hostcall.ECONNABORTED
	}
	return conn, err
}

// Close implements io.Closer: it ends an Accept under way.
func (l *listener) Close() error {
	l.mu.Lock()
	l.closed = true
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // nobody will take it
	}
	return l.l.Close()
}

// connBuffer is how much of a connection is held in each direction, in bytes.
const connBuffer = 64 << 10

var _ Stream = (*connStream)(nil)

// connStream is a net.Conn as a Stream: one goroutine reads ahead into a buffer, and one writes what the guest left in
// another. Both end when the stream is closed.
type connStream struct {
	conn net.Conn
	wake func()

	mu       sync.Mutex
	changed  sync.Cond // in, out, closed or shutdown did
	in       []byte    // read and not taken yet
	inErr    error     // what ended the reading
	out      []byte    // taken from the guest and not written yet
	outErr   error     // what ended the writing
	shutdown bool
	closed   bool
}

func newConnStream(conn net.Conn, wake func()) *connStream {
	s := &connStream{conn: conn, wake: wake}
	s.changed.L = &s.mu
	go s.reading()
	go s.writing()
	return s
}

func (s *connStream) reading() {
	buf := make([]byte, connBuffer)
	for {
		n, err := s.conn.Read(buf)
		s.mu.Lock()
		s.in = append(s.in[:0], buf[:n]...)
		s.inErr = err
		s.wake()
		for len(s.in) > 0 && !s.closed {
			s.changed.Wait()
		}
		end := s.closed || err != nil
		s.mu.Unlock()
		if end {
			return
		}
	}
}

func (s *connStream) writing() {
	s.mu.Lock()
	for ended := false; ; {
		for (len(s.out) == 0 || s.outErr != nil) && !s.closed && (ended || !s.shutdown) {
			s.changed.Wait()
		}
		if len(s.out) == 0 || s.outErr != nil {
			if s.closed {
				break
			}
			ended = true
			if w, ok := s.conn.(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite() // the other side is gone, then, and reading says so
			}
			continue
		}
		p := s.out
		s.mu.Unlock()
		n, err := s.conn.Write(p)
		s.mu.Lock()
		s.out = append([]byte(nil), s.out[n:]...)
		s.outErr = err
		s.wake()
	}
	s.mu.Unlock()
	_ = s.conn.Close() // everything was sent, or could not be
}

// Subscribe implements Stream; newConnStream has the wake already.
func (s *connStream) Subscribe(func()) {}

// Read implements Stream.
func (s *connStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.in) > 0 {
		n := copy(p, s.in)
		s.in = s.in[n:]
		s.changed.Broadcast()
		return n, nil
	}
	switch {
	case s.inErr == nil:
		return 0, hostcall.EAGAIN
	case errors.Is(s.inErr, io.EOF):
		return 0, nil
	}
	return 0, toErrno(s.inErr)
}

// Write implements Stream.
func (s *connStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.shutdown:
		return 0, hostcall.EPIPE
	case s.outErr != nil:
		return 0, toErrno(s.outErr)
	case len(s.out) >= connBuffer:
		return 0, hostcall.EAGAIN
	}
	n := min(len(p), connBuffer-len(s.out))
	s.out = append(s.out, p[:n]...)
	s.changed.Broadcast()
	return n, nil
}

// Ready implements Stream.
func (s *connStream) Ready() Readiness {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Readiness{
		Readable: len(s.in) > 0 || s.inErr != nil, Bytes: uint64(len(s.in)),
		Writable: len(s.out) < connBuffer || s.outErr != nil || s.shutdown, Hangup: s.outErr != nil || s.inErr != nil && s.shutdown,
	}
}

// Shutdown implements Stream: what was taken is still sent.
func (s *connStream) Shutdown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutdown = true
	s.changed.Broadcast()
	return nil
}

// closeGrace is how long what the guest sent may take to leave after it closed the stream.
const closeGrace = 5 * time.Second

// Close implements Stream. What was taken from the guest is still sent, within closeGrace.
func (s *connStream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
	return errors.Join(s.conn.SetReadDeadline(time.Unix(1, 0)), s.conn.SetWriteDeadline(clock.System.Now().Add(closeGrace)))
}
