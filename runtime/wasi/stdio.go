package wasi

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

var systemRandom io.Reader = crand.Reader

// stdinChunk is how much of an input that may wait is read at once, in bytes.
const stdinChunk = 64 << 10

// stdin is a standard input. What may wait is read by a goroutine that lives for one Read, into a buffer of the host, so
// that the guest's memory is never held by a Read that outlives its call.
type stdin struct {
	r      io.Reader
	direct bool // a Read never waits
	kind   filetype
	wake   func()

	mu      sync.Mutex
	reading bool
	buf     []byte // read and not taken yet
	err     error  // what the last Read said
	closed  bool
}

func newStdin(r io.Reader, wake func()) *stdin {
	s := &stdin{wake: wake}
	s.set(r)
	return s
}

// set has it read r from now on. No Read of another reader is under way.
func (s *stdin) set(r io.Reader) {
	s.r, s.direct, s.kind = r, false, typeUnknown
	switch r := r.(type) {
	case nil:
		s.r, s.direct = strings.NewReader(""), true
	case *strings.Reader, *bytes.Reader, *bytes.Buffer:
		s.direct = true
	case *os.File:
		s.kind = hostFiletype(r)
		s.direct = s.kind == typeRegularFile
	}
}

func (s *stdin) descriptor() *descriptor { return &descriptor{res: s, base: rightsStdin} }

func (s *stdin) filetype() filetype { return s.kind }

// ready reports whether read would give something now: bytes, the end or an error. If not, it sees to it that wake is
// called once it would.
func (s *stdin) ready() (n int, ok bool) {
	if s.direct {
		return 1, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buf) > 0 || s.err != nil || s.closed {
		return len(s.buf), true
	}
	if !s.reading {
		s.reading = true
		go s.fill()
	}
	return 0, false
}

// fill reads once.
func (s *stdin) fill() {
	buf := make([]byte, stdinChunk)
	n, err := s.r.Read(buf)
	s.mu.Lock()
	s.buf, s.err, s.reading = buf[:n], err, false
	s.mu.Unlock()
	s.wake()
}

// read takes what is there. The caller has made sure of ready.
func (s *stdin) read(p []byte) (int, error) {
	if s.direct {
		return s.r.Read(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buf) > 0 {
		n := copy(p, s.buf)
		s.buf = s.buf[n:]
		return n, nil
	}
	err := s.err
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = nil // told once; the next read tries again
	}
	return 0, err
}

// Close ends a Read under way if the reader has a deadline to do it with.
func (s *stdin) Close() error {
	s.mu.Lock()
	s.closed = true
	reading := s.reading
	s.mu.Unlock()
	if d, ok := s.r.(interface{ SetReadDeadline(time.Time) error }); ok && reading {
		_ = d.SetReadDeadline(time.Unix(1, 0)) // a reader that cannot do it is read to its end
	}
	return nil
}

// stdout is a standard output or error.
type stdout struct {
	w     io.Writer
	waits bool // a Write may wait for whoever reads the other side
	slow  bool // and nothing ends it
	kind  filetype
	stuck bool // a Write was left behind; there is no more order to keep
}

// A Waiter is a standard output whose Write may wait, for a client to read it, but no longer than the guest's call may.
type Waiter interface {
	io.Writer
	Waits()
}

func newStdout(w io.Writer) *stdout {
	s := &stdout{}
	s.set(w)
	return s
}

// set has it write to w from now on. No Write to another writer is under way.
func (s *stdout) set(w io.Writer) {
	s.w, s.waits, s.slow, s.kind = w, false, false, typeUnknown
	switch w := w.(type) {
	case nil:
		s.w = io.Discard
	case *os.File:
		s.kind = hostFiletype(w)
		s.slow = s.kind != typeRegularFile
		s.waits = s.slow
	case Waiter:
		s.waits = true
	}
}

func (s *stdout) descriptor() *descriptor { return &descriptor{res: s, base: rightsStdout} }

func (s *stdout) filetype() filetype { return s.kind }

// write writes p, which is the guest's memory. It answers the context's error if that ended before a slow Write did.
func (s *stdout) write(ctx context.Context, p []byte) (int, error) {
	if !s.slow || ctx.Done() == nil {
		return s.w.Write(p)
	}
	if s.stuck {
		return 0, hostcall.EIO
	}
	type outcome struct {
		n   int
		err error
	}
	own := bytes.Clone(p)
	done := make(chan outcome, 1)
	go func() {
		n, err := s.w.Write(own)
		done <- outcome{n, err}
	}()
	select {
	case o := <-done:
		return o.n, o.err
	case <-ctx.Done():
		s.stuck = true
		return 0, context.Cause(ctx)
	}
}

func (s *stdout) Close() error { return nil }

// hostFiletype is what a standard stream of the host shows up as.
func hostFiletype(f *os.File) filetype {
	st, err := f.Stat()
	if err != nil {
		return typeUnknown
	}
	switch m := st.Mode(); {
	case m.IsRegular():
		return typeRegularFile
	case m&os.ModeCharDevice != 0:
		return typeCharacterDevice
	}
	return typeUnknown
}
