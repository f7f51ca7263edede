package guest

import (
	"errors"
	"io"
	"sync"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

var _ wasi.Stream = (*stream)(nil)

// errTooLong is what the guest's reads fail with when a request's body is longer than allowed.
const errTooLong = hostcall.EMSGSIZE

// streamBuffer bounds what waits in each direction of a stream, in bytes.
const streamBuffer = 64 << 10

// errGone reports to the host's side of a stream that the guest closed it, or that its invocation is over.
var errGone = errors.New("the guest closed the stream")

// stream is a descriptor of a guest and the goroutines that serve it: two bounded buffers. The guest's side (wasi.Stream)
// never waits. The host's side waits, until the guest closes the stream or stop is called; it gets copies and holds
// no guest memory.
type stream struct {
	stopped func() // called once when the stream is closed or stopped, without the lock
	// closeEnds says that what the guest wrote before it closed the stream is whole. Else only Shutdown makes it so.
	closeEnds bool

	mu      sync.Mutex
	changed sync.Cond
	wake    func()
	in      queue // to the guest
	out     queue // from the guest
	inEnd   error // what the guest reads once in is empty; nil while more may come; io.EOF for the end
	outEnd  error // what the host reads once out is empty
	refused error // what the guest's writes fail with; nil while somebody reads them
	gone    bool  // closed or stopped: nothing the host does reaches the guest
}

func newStream(stopped func()) *stream {
	s := &stream{stopped: stopped, wake: func() {}}
	s.changed.L = &s.mu
	return s
}

// queue is bytes in order.
type queue struct {
	b    []byte
	head int
}

func (q *queue) len() int { return len(q.b) - q.head }

func (q *queue) push(p []byte) {
	if q.head > 0 && len(q.b)+len(p) > cap(q.b) {
		q.b = q.b[:copy(q.b, q.b[q.head:])]
		q.head = 0
	}
	q.b = append(q.b, p...)
}

func (q *queue) pop(p []byte) int {
	n := copy(p, q.b[q.head:])
	q.head += n
	if q.head == len(q.b) {
		q.b, q.head = q.b[:0], 0
	}
	return n
}

// Subscribe implements wasi.Stream.
func (s *stream) Subscribe(wake func()) {
	s.mu.Lock()
	s.wake = wake
	s.mu.Unlock()
}

// Read implements wasi.Stream.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in.len() > 0 {
		n := s.in.pop(p)
		s.changed.Broadcast()
		return n, nil
	}
	switch s.inEnd {
	case nil:
		return 0, hostcall.EAGAIN
	case io.EOF:
		return 0, nil
	}
	return 0, s.inEnd
}

// Write implements wasi.Stream.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.refused != nil:
		return 0, s.refused
	case s.outEnd != nil:
		return 0, hostcall.EPIPE
	}
	n := min(len(p), streamBuffer-s.out.len())
	if n == 0 && len(p) > 0 {
		return 0, hostcall.EAGAIN
	}
	s.out.push(p[:n])
	s.changed.Broadcast()
	return n, nil
}

// Ready implements wasi.Stream.
func (s *stream) Ready() wasi.Readiness {
	s.mu.Lock()
	defer s.mu.Unlock()
	return wasi.Readiness{
		Readable: s.in.len() > 0 || s.inEnd != nil,
		Bytes:    uint64(s.in.len()),
		Writable: s.refused != nil || s.outEnd != nil || s.out.len() < streamBuffer,
		Hangup:   s.inEnd != nil && (s.refused != nil || s.outEnd != nil),
	}
}

// Shutdown implements wasi.Stream: the host reads to the end of what was written.
func (s *stream) Shutdown() error {
	s.endOut(io.EOF)
	return nil
}

// Close implements wasi.Stream. What was written and ended is still read by the host; what the host writes goes nowhere.
func (s *stream) Close() error {
	s.mu.Lock()
	switch {
	case s.outEnd != nil:
	case s.closeEnds:
		s.outEnd = io.EOF
	default:
		s.outEnd, s.out = errGone, queue{}
	}
	s.inEnd = errGone
	s.in = queue{}
	was := s.gone
	s.gone = true
	s.changed.Broadcast()
	s.mu.Unlock()
	if !was && s.stopped != nil {
		s.stopped()
	}
	return nil
}

// stop ends the stream from the host's side: the guest's reads and writes fail with e, the host's with errGone.
func (s *stream) stop(e hostcall.Errno) {
	s.mu.Lock()
	was := s.gone
	if !was {
		s.gone = true
		s.in = queue{}
		s.inEnd, s.refused = e, e
		s.outEnd, s.out = errGone, queue{}
	} else if s.outEnd == nil || s.outEnd == io.EOF { // closed by the guest, and somebody may still read what it wrote
		s.outEnd, s.out = errGone, queue{}
	}
	s.changed.Broadcast()
	wake := s.wake
	s.mu.Unlock()
	wake()
	if !was && s.stopped != nil {
		s.stopped()
	}
}

func (s *stream) endOut(err error) {
	s.mu.Lock()
	if s.outEnd == nil {
		s.outEnd = err
	}
	s.changed.Broadcast()
	s.mu.Unlock()
}

// refuse has the guest's writes fail from now on: nobody reads them.
func (s *stream) refuse(e hostcall.Errno) {
	s.mu.Lock()
	if s.refused == nil {
		s.refused = e
		s.out = queue{}
	}
	wake := s.wake
	s.mu.Unlock()
	wake()
}

// send hands p to the guest whole, even past the buffer's bound: for answers that have a bound of their own.
func (s *stream) send(p []byte) {
	s.mu.Lock()
	if !s.gone && s.inEnd == nil {
		s.in.push(p)
	}
	wake := s.wake
	s.mu.Unlock()
	wake()
}

// end says that nothing more comes: err is io.EOF or an errno.
func (s *stream) end(err error) {
	s.mu.Lock()
	if s.inEnd == nil {
		s.inEnd = err
	}
	wake := s.wake
	s.mu.Unlock()
	wake()
}

// feed copies r to the guest as it takes it, and ends with r.
func (s *stream) feed(r io.Reader) {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if !s.put(buf[:n]) {
			return
		}
		switch {
		case err == io.EOF:
			s.end(io.EOF)
			return
		case err != nil:
			s.end(errnoOr(err, hostcall.ECONNRESET))
			return
		}
	}
}

// put hands p to the guest, waiting for room; false if the guest is gone.
func (s *stream) put(p []byte) bool {
	for len(p) > 0 {
		s.mu.Lock()
		for !s.gone && s.in.len() >= streamBuffer {
			s.changed.Wait()
		}
		if s.gone {
			s.mu.Unlock()
			return false
		}
		n := min(len(p), streamBuffer-s.in.len())
		s.in.push(p[:n])
		p = p[n:]
		wake := s.wake
		s.mu.Unlock()
		wake()
	}
	return true
}

// take waits for bytes that the guest wrote.
func (s *stream) take(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.out.len() == 0 && s.outEnd == nil && len(p) > 0 {
		s.changed.Wait()
	}
	if s.out.len() > 0 {
		n := s.out.pop(p)
		s.wake() // it takes no lock of ours
		return n, nil
	}
	if s.outEnd != nil {
		return 0, s.outEnd
	}
	return 0, nil
}

// body is what the guest writes, as the body of a request that the host makes.
type body struct{ *stream }

func (b body) Read(p []byte) (int, error) { return b.take(p) }

// Close says that the request needs no more of it.
func (b body) Close() error {
	b.refuse(hostcall.EPIPE)
	return nil
}

// errnoOr is the errno that an error stands for, or other if it stands for none.
func errnoOr(err error, other hostcall.Errno) hostcall.Errno {
	var e hostcall.Errno
	if errors.As(err, &e) && e != hostcall.Success {
		return e
	}
	return other
}
