package wasi

import (
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// socket is a Stream in the table.
type socket struct {
	st     Stream
	peeked []byte // received with RECV_PEEK and not taken yet
}

func newSocket(st Stream) *descriptor {
	return &descriptor{res: &socket{st: st}, base: rightsSocket, flags: fdNonblock}
}

func (s *socket) filetype() filetype { return typeSocketStream }

// Close implements io.Closer.
func (s *socket) Close() error { return s.st.Close() }

func (s *socket) ready() Readiness {
	r := s.st.Ready()
	if len(s.peeked) > 0 {
		r.Readable = true
		r.Bytes += uint64(len(s.peeked))
	}
	return r
}

// Flags of sock_recv (witx: riflags) and its answer (roflags).
const (
	recvPeek = 1 << iota
	recvWaitall
)

var (
	riflagNames = []string{"PEEK", "WAITALL"}
	sdflagNames = []string{"RD", "WR"}
)

// receive moves what is there to the vectors of argument i.
func (s *socket) receive(c *hostcall.Call, d *descriptor, i int, flags uint32) (int, hostcall.Errno) {
	readable := func() bool { return s.ready().Readable }
	blocks := d.flags&fdNonblock == 0
	if blocks && !system(c).wait(c, readable) {
		return 0, hostcall.ECANCELED
	}
	if flags&recvPeek != 0 {
		return s.peek(c, i)
	}
	total := 0
	n, e := transfer(c, i, func(p []byte, _ int) (int, error) {
		got := 0
		for got < len(p) {
			if len(s.peeked) > 0 {
				n := copy(p[got:], s.peeked)
				s.peeked = s.peeked[n:]
				got += n
				continue
			}
			n, err := s.st.Read(p[got:])
			n = min(max(n, 0), len(p)-got)
			got += n
			if err == nil && n == 0 { // the end
				return got, nil
			}
			if err != nil {
				if toErrno(err) != hostcall.EAGAIN || flags&recvWaitall == 0 || !blocks {
					if got > 0 || total > 0 {
						return got, nil
					}
					return got, err
				}
				if !system(c).wait(c, readable) {
					return got, nil
				}
				continue
			}
			if flags&recvWaitall == 0 {
				break
			}
		}
		total += got
		return got, nil
	})
	return n, e
}

// peek answers what is there and leaves it there. At most 64 KiB are held for it.
func (s *socket) peek(c *hostcall.Call, i int) (int, hostcall.Errno) {
	want := 0
	for _, v := range c.Value(i).Vecs {
		want = min(want+int(v.Len), 64<<10)
	}
	if more := want - len(s.peeked); more > 0 {
		buf := make([]byte, more)
		n, err := s.st.Read(buf)
		if n = min(max(n, 0), more); err != nil && n == 0 && len(s.peeked) == 0 {
			return 0, toErrno(err)
		}
		s.peeked = append(s.peeked, buf[:n]...)
	}
	return transfer(c, i, func(p []byte, done int) (int, error) { return copy(p, s.peeked[min(done, len(s.peeked)):]), nil })
}

// send moves the vectors of argument i to the stream, as much as it takes.
func (s *socket) send(c *hostcall.Call, d *descriptor, i int) (int, hostcall.Errno) {
	writable := func() bool { return s.ready().Writable }
	if d.flags&fdNonblock == 0 && !system(c).wait(c, writable) {
		return 0, hostcall.ECANCELED
	}
	return transfer(c, i, func(p []byte, _ int) (int, error) {
		n, err := s.st.Write(p)
		return min(max(n, 0), len(p)), err
	})
}

// getSocket finds descriptor argument 0, which has to be a connected socket.
func getSocket(c *hostcall.Call, need rights) (*descriptor, *socket, bool) {
	d, ok := get(c, 0)
	if !ok {
		return nil, nil, false
	}
	s, ok := d.res.(*socket)
	if !ok {
		e := hostcall.ENOTSOCK
		if _, listens := d.res.(*listener); listens {
			e = hostcall.ENOTCONN
		}
		c.Fail(e)
		return nil, nil, false
	}
	if d.base&need != need {
		c.Fail(hostcall.ENOTCAPABLE)
		return nil, nil, false
	}
	return d, s, true
}

func sockRecv(c *hostcall.Call) {
	d, s, ok := getSocket(c, rightFDRead)
	if !ok {
		return
	}
	if c.Uint32(2) > recvPeek|recvWaitall {
		c.Fail(hostcall.EINVAL)
		return
	}
	n, e := s.receive(c, d, 1, c.Uint32(2))
	finish(c, 3, n, e)
	if e == hostcall.Success {
		c.PutBytes(4, []byte{0, 0}) // a stream is never truncated
	}
}

func sockSend(c *hostcall.Call) {
	d, s, ok := getSocket(c, rightFDWrite)
	if !ok {
		return
	}
	if c.Uint32(2) != 0 {
		c.Fail(hostcall.EINVAL) // there are no flags
		return
	}
	n, e := s.send(c, d, 1)
	finish(c, 3, n, e)
}

func sockShutdown(c *hostcall.Call) {
	_, s, ok := getSocket(c, rightSockShutdown)
	if !ok {
		return
	}
	switch how := c.Uint32(1); {
	case how == 0 || how > 3:
		c.Fail(hostcall.EINVAL)
	case how&2 != 0:
		c.Fail(toErrno(s.st.Shutdown()))
	}
	// The receiving half needs no telling: what is not read is thrown away with the stream.
}

func sockAccept(c *hostcall.Call) {
	s := system(c)
	d, ok := get(c, 0)
	if !ok {
		return
	}
	l, ok := d.res.(*listener)
	flags := fdflags(c.Uint32(1))
	switch {
	case !ok:
		e := hostcall.ENOTSOCK
		if _, connected := d.res.(*socket); connected {
			e = hostcall.EINVAL
		}
		c.Fail(e)
		return
	case d.base&rightSockAccept == 0:
		c.Fail(hostcall.ENOTCAPABLE)
		return
	case c.Uint32(1)&^uint32(fdNonblock) != 0:
		c.Fail(hostcall.EINVAL)
		return
	case s.fds.full():
		c.Fail(hostcall.EMFILE)
		return
	}
	if d.flags&fdNonblock != 0 {
		if !l.ready() {
			c.Fail(hostcall.EAGAIN)
			return
		}
	} else if !s.wait(c, l.ready) {
		return
	}
	conn, err := l.take()
	if err != nil {
		c.Fail(toErrno(err))
		return
	}
	accepted := newSocket(newConnStream(conn, s.notify))
	accepted.flags = flags
	fd, err := s.fds.add(accepted)
	if err != nil {
		c.Fail(toErrno(err))
		return
	}
	c.PutUint32(2, fd)
}
