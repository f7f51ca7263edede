package reactor

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// conn is a connection that is the loop's.
type conn struct {
	s      *Server
	id     uint64 // unlike fd it is never used again
	fd     int
	remote net.Addr
	client string // remote as text

	mu      sync.Mutex
	busy    bool          // somebody has it, who alone reads, writes and closes it
	more    bool          // there was something to read meanwhile
	gone    bool          // the client sends no more
	used    bool          // there was a request
	post    bool          // the last one was a POST; of who has it
	since   time.Duration // it rests, as clock.Elapsed
	request *exchange     // under way
}

// address is a client's address and port.
func address(from unix.Sockaddr) net.Addr {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: a.Addr[:], Port: a.Port}
	case *unix.SockaddrInet6:
		zone := ""
		if a.ZoneId != 0 {
			if i, err := net.InterfaceByIndex(int(a.ZoneId)); err == nil {
				zone = i.Name
			}
		}
		return &net.TCPAddr{IP: a.Addr[:], Port: a.Port, Zone: zone}
	}
	return &net.TCPAddr{}
}

// control tells epoll, which the caller holds, of a connection that the caller has, or has locked. Epoll tells once of what comes; and at once, if there is something.
func (s *Server) control(op int, c *conn) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(uint32(c.id)), Pad: int32(c.id >> 32)}
	return unix.EpollCtl(s.epoll, op, c.fd, &e)
}

// ends are the events of a connection on which the client sends no more.
const ends = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR

// atEnd reports whether there is nothing left to read before a connection's end. The connection is locked.
func (c *conn) atEnd() bool {
	var b [1]byte
	n, _, err := unix.Recvfrom(c.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n <= 0 && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
}

// take makes the caller the one that has a connection about which there is something new; nil if somebody else has it, and is told.
func (s *Server) take(id uint64, events uint32) *conn {
	s.mu.Lock()
	c := s.conns[id]
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy {
		c.busy = true
		return c
	}
	c.more = true
	if events&ends != 0 && c.fd >= 0 && c.atEnd() {
		c.gone = true
		if c.request != nil {
			c.request.ctx.Cancel(context.Canceled)
		}
	}
	return nil
}

// rest gives a connection back to the loop.
func (c *conn) rest() {
	c.mu.Lock()
	if c.gone || c.s.closing.Load() {
		c.mu.Unlock()
		c.close()
		return
	}
	if c.more {
		_ = c.s.control(unix.EPOLL_CTL_MOD, c) // which tells of it again, behind others
	}
	c.busy, c.more, c.since = false, false, clock.Elapsed()
	c.mu.Unlock()
}

// close ends a connection that the caller has.
func (c *conn) close() {
	_ = unix.Close(c.takeFD())
	c.forget()
}

// takeFD takes the descriptor away from the connection, which the caller has.
func (c *conn) takeFD() (fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd, c.fd = c.fd, -1
	return fd
}

// forget ends the loop's part in a connection, which is closed.
func (c *conn) forget() {
	c.s.forget(c)
	c.s.release()
}

// forget ends the loop's part in a connection.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.id)
	if len(s.conns) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// detach makes a connection that the caller has one of package net, which the loop tells of no more. forget is due after that.
func (c *conn) detach() net.Conn {
	_ = c.s.control(unix.EPOLL_CTL_DEL, c)
	return &netConn{File: os.NewFile(uintptr(c.takeFD()), "connection"), remote: c.remote}
}

// handOver makes a connection that the caller has net/http's, with what was read of it. forget is not due after it.
func (c *conn) handOver(read []byte) {
	c.give(c.detach(), append([]byte(nil), read...), nil)
	c.s.forget(c)
}

// give makes what detach made net/http's.
func (c *conn) give(nc net.Conn, read []byte, a *adoption) {
	c.s.handed.give(&handed{Conn: nc, read: read, adoption: a, free: c.s.release})
}
