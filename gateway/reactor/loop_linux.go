package reactor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	goruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

const (
	bufferSize  = 8 << 10              // of what is read at once, in bytes: longer requests are net/http's
	maxSpare    = 256                  // goroutines that left the loop and wait to be needed again
	overdue     = 2 * time.Millisecond // after which a handler should have left the loop even if it does not say so
	seldom      = 5 * overdue          // between two looks for overdue handlers while there are none
	alert       = time.Second          // for which they come every overdue once there was one
	yieldEvery  = 8 * time.Millisecond // less than the 10 after which Go's monitor takes a goroutine's place away
	sweepEvery  = time.Second          // how often connections are looked through for idle ones
	watchRounds = 50                   // looks for overdue handlers without any handler at work, before that is given up for a while
)

// polling is the part of a Server that waits for connections.
type polling struct {
	epoll    int // of all connections that are not net/http's
	over     int // eventfd: readable once the loop is over
	next     atomic.Uint64
	watching atomic.Bool
	watch    chan struct{} // has a value when watching is to begin again

	mu        sync.Mutex
	ready     bool // Serve has begun
	users     int  // of epoll and over
	conns     map[uint64]*conn
	empty     chan struct{} // closed when conns is empty, if somebody waits for that
	runners   []*runner     // in the loop
	computing []*runner     // outside of it, but with the processor that one in the loop would have
	spare     []*runner     // outside of it, which wait
	ended     bool          // the loop is over
}

// serve accepts connections and runs the loop.
func (s *Server) serve(l net.Listener) error {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return s.opts.HTTP.Serve(gated{l, s})
	}
	if begun, err := s.begin(l.Addr()); !begun {
		return err
	}
	defer s.drop()
	own, err := tcp.File() // a net.Listener's own descriptor cannot be waited for
	if err != nil {
		return fmt.Errorf("accept connections: %w", err)
	}
	defer own.Close()
	defer context.AfterFunc(s.accepting, func() { _ = own.Close() })()
	raw, err := own.SyscallConn()
	if err != nil {
		return fmt.Errorf("accept connections: %w", err)
	}
	for failures := 0; ; {
		if !s.acquire() {
			return nil
		}
		fd, from, err := accept(raw)
		if err != nil {
			s.release()
			if s.closing.Load() || errors.Is(err, os.ErrClosed) {
				return err
			}
			s.opts.Log.Warn("accept a connection", "error", err)
			failures++
			pause := clock.System.NewTimer(acceptPause(failures))
			select {
			case <-pause.C():
			case <-s.accepting.Done():
			}
			pause.Stop()
			continue
		}
		failures = 0
		s.add(fd, from)
	}
}

// begin makes what the loop needs, and starts its goroutines. The caller holds the loop then. It does nothing once the loop is over.
func (s *Server) begin(addr net.Addr) (begun bool, err error) {
	epoll, over, err := newEpoll()
	if err != nil {
		return false, fmt.Errorf("wait for connections: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false, errors.Join(unix.Close(epoll), unix.Close(over))
	}
	s.epoll, s.over, s.users = epoll, over, 2 // until the end, and for who accepts
	s.conns, s.watch = map[uint64]*conn{}, make(chan struct{}, 1)
	s.handed = newHandOver(addr)
	s.ready = true
	go func() { _ = s.opts.HTTP.Serve(s.handed) }() // ends with an error when the server is closed
	s.fillLocked()
	s.watching.Store(true)
	go s.watchOverdue()
	go s.sweep()
	return true, nil
}

// newEpoll makes what a loop waits with, and what ends it.
func newEpoll() (epoll, over int, err error) {
	if epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return 0, 0, err
	}
	if over, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return 0, 0, errors.Join(err, unix.Close(epoll))
	}
	if err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, over, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil { // as of connection 0, which is none
		return 0, 0, errors.Join(err, unix.Close(epoll), unix.Close(over))
	}
	return epoll, over, nil
}

// accept waits for a connection.
func accept(l syscall.RawConn) (fd int, from unix.Sockaddr, err error) {
	wait := l.Read(func(listener uintptr) bool {
		for {
			fd, from, err = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	return fd, from, errors.Join(wait, err)
}

// keepAlive is how long a connection may be silent before the kernel asks whether the client is still there, in seconds, and between two times that it
// asks, as in package net.
const keepAlive = 15

// add makes a connection the loop's.
func (s *Server) add(fd int, from unix.Sockaddr) {
	for _, o := range [...]struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAlive}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAlive},
	} {
		_ = unix.SetsockoptInt(fd, o.level, o.name, o.value) // a connection that fails this has ended, which reading tells
	}
	remote := address(from)
	c := &conn{s: s, id: s.next.Add(1), fd: fd, remote: remote, client: remote.String(), since: clock.Elapsed()}
	c.mu.Lock() // whoever learns of it waits
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		c.mu.Unlock()
		_ = unix.Close(fd)
		s.release()
		return
	}
	s.conns[c.id] = c
	s.mu.Unlock()
	err := s.control(unix.EPOLL_CTL_ADD, c)
	c.busy = err != nil
	c.mu.Unlock()
	if err != nil {
		s.opts.Log.Error("wait for a connection", "error", err)
		c.close()
	}
}

// hold keeps the loop's descriptors open until drop; false if they are closed.
func (s *Server) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return false
	}
	s.users++
	return true
}

// drop ends what hold began, and closes the descriptors once nobody holds them.
func (s *Server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		_, _ = unix.Close(s.epoll), unix.Close(s.over)
	}
}

// runner is a goroutine that answers requests in place.
type runner struct {
	s     *Server
	buf   []byte
	out   []byte
	wake  chan struct{} // it is in the loop again; closed: it ends
	began atomic.Int64  // when it began with the request that it answers, as clock.Elapsed, or 0
	place atomic.Int32  // set under the loop's lock
}

// Where a runner is.
const (
	inLoop int32 = iota
	computing
	left
)

// fillLocked puts goroutines into the loop: as many as it is to have, but for those that compute, and one at least.
func (s *Server) fillLocked() {
	for len(s.runners) == 0 || len(s.runners)+len(s.computing) < s.opts.Runners {
		s.runLocked()
	}
}

// runLocked puts one more goroutine into the loop.
func (s *Server) runLocked() {
	if n := len(s.spare); n > 0 {
		r := s.spare[n-1]
		s.spare[n-1] = nil
		s.spare = s.spare[:n-1]
		r.place.Store(inLoop)
		s.runners = append(s.runners, r)
		r.wake <- struct{}{}
		return
	}
	r := &runner{s: s, buf: make([]byte, bufferSize), wake: make(chan struct{}, 1)}
	s.runners = append(s.runners, r)
	s.users++
	go r.run()
}

// removeLocked takes a runner off the list that it is on, if it is on one.
func (s *Server) removeLocked(r *runner) {
	for _, list := range []*[]*runner{&s.runners, &s.computing} {
		if i := slices.Index(*list, r); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// leave takes the runner out of the loop, and puts another in.
func (r *runner) leave() { r.goOut(left) }

// goOut takes the runner out of the loop, or from computing to left, and puts others in if it takes some.
func (r *runner) goOut(to int32) {
	if r.place.Load() >= to {
		return
	}
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.place.Load() >= to || s.ended {
		return
	}
	s.removeLocked(r)
	r.place.Store(to)
	if to == computing {
		s.computing = append(s.computing, r)
	}
	s.fillLocked()
}

// again reports whether the runner, which left the loop, is in it again, after it waited to be if need be. If it is not, it ends.
func (r *runner) again() bool {
	s := r.s
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.removeLocked(r)
	if len(s.runners)+len(s.computing) < s.opts.Runners {
		r.place.Store(inLoop)
		s.runners = append(s.runners, r)
		s.mu.Unlock()
		return true
	}
	r.place.Store(left)
	if len(s.spare) >= maxSpare {
		s.mu.Unlock()
		return false
	}
	s.spare = append(s.spare, r)
	s.mu.Unlock()
	_, ok := <-r.wake
	return ok
}

// run waits for connections and serves them. It waits in the system call, and not in Go's poller, which would be asked after it and have another
// thread take this goroutine up: then most requests would cost two switches of threads. It yields now and then, since Go's monitor takes the place of one
// that never does, whenever it finds that in a system call, and looks around every 20 µs for a while after that, which takes more than it finds.
func (r *runner) run() {
	s := r.s
	defer s.drop()
	var events [1]unix.EpollEvent
	yielded := clock.Elapsed()
	for r.place.Load() == inLoop || r.again() {
		n, err := unix.EpollWait(s.epoll, events[:], -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			s.opts.Log.Error("wait for connections", "error", err)
			return
		}
		e := &events[0]
		if n != 1 {
			continue
		}
		if e.Fd == 0 && e.Pad == 0 { // the loop is over
			return
		}
		c := s.take(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32, e.Events)
		if c != nil && r.serve(c, e.Events&ends != 0) {
			r.leave() // the goroutine ends, and its thread with it
			return
		}
		if now := clock.Elapsed(); now-yielded >= yieldEvery {
			goruntime.Gosched()
			yielded = now
		}
	}
}

func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		all = append(all, c)
	}
	return all
}

// Shutdown has no more connections accepted, and waits until all requests under way are answered, or ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	s.mu.Lock()
	ready := s.ready
	s.mu.Unlock()
	if !ready || !s.hold() {
		return s.opts.HTTP.Shutdown(ctx)
	}
	defer s.drop()
	s.opts.HTTP.SetKeepAlivesEnabled(false) // it has to take over some until all are done
	for _, c := range s.all() {
		c.mu.Lock()
		mine, used := !c.busy, c.used
		c.busy = true
		c.mu.Unlock()
		switch {
		case !mine: // rest closes it
		case used:
			c.close()
		default:
			c.handOver(nil) // its request may be on its way, for which net/http waits
		}
	}
	s.mu.Lock()
	var empty chan struct{}
	if len(s.conns) > 0 {
		if s.empty == nil {
			s.empty = make(chan struct{})
		}
		empty = s.empty
	}
	s.mu.Unlock()
	if empty != nil {
		select {
		case <-empty:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.opts.HTTP.Shutdown(ctx)
}

// Close ends everything at once.
func (s *Server) Close() error {
	s.stop()
	s.cancel()
	err := s.opts.HTTP.Close()
	s.mu.Lock()
	if s.ended || !s.ready {
		s.ended = true
		s.mu.Unlock()
		return err
	}
	s.ended = true
	for _, r := range s.spare {
		close(r.wake)
	}
	s.spare = nil
	s.mu.Unlock()
	_ = s.handed.Close()
	for _, c := range s.all() {
		c.mu.Lock()
		mine := !c.busy
		c.busy = true
		if !mine { // whoever has it closes it
			c.gone = true
			if c.fd >= 0 {
				_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
			}
			if c.request != nil {
				c.request.ctx.Cancel(context.Canceled)
			}
		}
		c.mu.Unlock()
		if mine {
			c.close()
		}
	}
	_, failed := unix.Write(s.over, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	s.drop()
	return errors.Join(err, failed)
}
