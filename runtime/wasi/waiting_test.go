package wasi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	goruntime "runtime"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// sub is one subscription.
type sub struct {
	kind    byte
	id      uint32 // clock or descriptor
	timeout uint64
	abs     bool
}

// poll answers the events by the place of their subscription.
func (g *caller) poll(subs ...sub) (map[uint64]event, hostcall.Errno) {
	g.t.Helper()
	le := binary.LittleEndian
	clear(g.mem[dataAt : dataAt+len(subs)*subscriptionSize])
	for i, s := range subs {
		b := g.mem[dataAt+i*subscriptionSize:]
		le.PutUint64(b, uint64(i))
		b[8] = s.kind
		le.PutUint32(b[16:], s.id)
		le.PutUint64(b[24:], s.timeout)
		if s.abs {
			b[40] = 1
		}
	}
	const eventsAt = dataAt + 1<<18
	e := g.call("poll_oneoff", dataAt, eventsAt, uint64(len(subs)), outAt)
	events := map[uint64]event{}
	if e == hostcall.Success {
		for i := range g.u32(outAt) {
			b := g.mem[eventsAt+i*eventSize:]
			ev := event{userdata: le.Uint64(b), err: hostcall.Errno(le.Uint16(b[8:])), kind: b[10], bytes: le.Uint64(b[16:]), hangup: b[24]&1 != 0}
			events[ev.userdata] = ev
		}
	}
	return events, e
}

// advance moves a clock on whenever somebody set a timer, until stopped.
func advance(c *clock.Manual, by time.Duration) (stop func()) {
	done := make(chan struct{})
	var w sync.WaitGroup
	w.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				c.Advance(by)
				goruntime.Gosched()
			}
		}
	})
	return func() { close(done); w.Wait() }
}

func TestPollWaitsForClocks(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	for _, s := range []sub{
		{kind: eventClock, id: clockMonotonic, timeout: 5e9},
		{kind: eventClock, id: clockRealtime, timeout: 5e9},
		{kind: eventClock, id: clockMonotonic, timeout: 5e9, abs: true},
		{kind: eventClock, id: clockRealtime, timeout: uint64(start.Add(5 * time.Second).UnixNano()), abs: true},
	} {
		c := clock.NewManual(start)
		g := newCaller(t, Options{Clock: c})
		stop := advance(c, time.Second)
		events, e := g.poll(s, sub{kind: eventClock, id: clockMonotonic, timeout: 1<<64 - 1})
		stop()
		if e != hostcall.Success || len(events) != 1 || events[0].err != hostcall.Success {
			t.Errorf("%+v: %v, %s", s, events, e)
		}
		if now := c.Now(); now.Sub(start) < 5*time.Second-2 {
			t.Errorf("%+v: over after %s", s, now.Sub(start))
		}
	}
}

func TestPollTellsOfEachSubscriptionApart(t *testing.T) {
	g, _ := dirCaller(t, map[string]string{"f": "hello"})
	f := g.mustOpen(3, "f", 0, reading, 0)
	events, e := g.poll(
		sub{kind: eventFDRead, id: f}, sub{kind: eventFDWrite, id: f}, sub{kind: eventFDRead, id: 99}, sub{kind: eventFDRead, id: 3},
		sub{kind: eventFDRead, id: 0}, sub{kind: eventFDWrite, id: 1}, sub{kind: 9}, sub{kind: eventClock, id: 9},
		sub{kind: eventClock, id: clockProcess}, sub{kind: eventClock, id: clockMonotonic, timeout: 1 << 62},
	)
	want := map[uint64]hostcall.Errno{0: 0, 1: hostcall.ENOTCAPABLE, 2: hostcall.EBADF, 3: hostcall.EBADF, 4: 0, 5: 0, 6: hostcall.EINVAL, 7: hostcall.EINVAL, 8: hostcall.ENOTSUP}
	if e != hostcall.Success || len(events) != len(want) || events[0].bytes != 5 {
		t.Errorf("%v, %s", events, e)
	}
	for i, w := range want {
		wantErrno(t, "subscription "+itoa(int(i)), events[i].err, w)
	}
	_, e = g.poll()
	wantErrno(t, "no subscriptions", e, hostcall.EINVAL)
	wantErrno(t, "too many", g.call("poll_oneoff", dataAt, dataAt, MaxSubscriptions+1, outAt), hostcall.EINVAL)
}

func TestStdinIsWaitedForWithoutBlocking(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	g := newCaller(t, Options{Stdin: r})
	wantErrno(t, "non-blocking", g.call("fd_fdstat_set_flags", 0, uint64(fdNonblock)), hostcall.Success)
	_, e := g.read(0, 5)
	wantErrno(t, "nothing there", e, hostcall.EAGAIN)
	events, e := g.poll(sub{kind: eventFDRead, id: 0}, sub{kind: eventClock, id: clockMonotonic, timeout: 1})
	if _, early := events[0]; early || e != hostcall.Success {
		t.Errorf("%v, %s", events, e)
	}
	go func() { _, _ = w.Write([]byte("hello")) }()
	events, e = g.poll(sub{kind: eventFDRead, id: 0})
	if e != hostcall.Success || events[0].bytes != 5 {
		t.Errorf("%v, %s", events, e)
	}
	if s, e := g.read(0, 3); s != "hel" || e != hostcall.Success {
		t.Errorf("%q, %s", s, e)
	}
	if s, e := g.read(0, 3); s != "lo" || e != hostcall.Success {
		t.Errorf("%q, %s", s, e)
	}
	wantErrno(t, "blocking", g.call("fd_fdstat_set_flags", 0, 0), hostcall.Success)
	go func() { _ = w.Close() }()
	if s, e := g.read(0, 3); s != "" || e != hostcall.Success {
		t.Errorf("the end: %q, %s", s, e)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("deadline")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	full, fullEnd, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	defer fullEnd.Close()
	g := newCaller(t, Options{Stdin: r, Stdout: fullEnd, Listeners: []net.Listener{l}})
	for name, wait := range map[string]func(){
		"fd_read":     func() { g.read(0, 5) },
		"poll_oneoff": func() { g.poll(sub{kind: eventFDRead, id: 0}) },
		"clock":       func() { g.poll(sub{kind: eventClock, id: clockMonotonic, timeout: 1 << 62}) },
		"sock_accept": func() { g.call("sock_accept", 3, 0, outAt) },
		"fd_write": func() {
			for range 3 {
				g.write(1, string(make([]byte, 1<<16)))
			}
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		g.ctx, g.err = ctx, nil
		time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
		wait()
		if !errors.Is(g.err, why) {
			t.Errorf("%s ended with %v", name, g.err)
		}
	}
}

// chanStream is a stream that a test feeds.
type chanStream struct {
	mu     sync.Mutex
	wake   func()
	in     []byte
	end    bool
	room   int
	out    []byte
	shut   bool
	closed int
	asked  int // calls of Ready
}

func (s *chanStream) Subscribe(wake func()) { s.wake = wake }
func (s *chanStream) Shutdown() error       { s.shut = true; return nil }
func (s *chanStream) Close() error          { s.closed++; return nil }

func (s *chanStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.in) == 0 && !s.end {
		return 0, hostcall.EAGAIN
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *chanStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room == 0 {
		return 0, hostcall.EAGAIN
	}
	n := min(len(p), s.room)
	s.out, s.room = append(s.out, p[:n]...), s.room-n
	return n, nil
}

func (s *chanStream) Ready() Readiness {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return Readiness{Readable: len(s.in) > 0 || s.end, Bytes: uint64(len(s.in)), Writable: s.room > 0}
}

func (s *chanStream) feed(text string, end bool, room int) {
	s.mu.Lock()
	s.in, s.end, s.room = append(s.in, text...), end, room
	s.mu.Unlock()
	s.wake()
}

func TestStreamsAreNonBlockingSockets(t *testing.T) {
	g := newCaller(t, Options{})
	s := &chanStream{}
	fd, err := g.sys.Insert(s)
	if err != nil || fd != 3 {
		t.Fatal(fd, err)
	}
	wantErrno(t, "fdstat", g.call("fd_fdstat_get", 3, outAt), hostcall.Success)
	if g.mem[outAt] != byte(typeSocketStream) || g.mem[outAt+2] != byte(fdNonblock) {
		t.Errorf("type %d, flags %d", g.mem[outAt], g.mem[outAt+2])
	}
	_, e := g.read(3, 5)
	wantErrno(t, "nothing there", e, hostcall.EAGAIN)
	_, e = g.write(3, "x")
	wantErrno(t, "no room", e, hostcall.EAGAIN)
	go s.feed("hello", false, 3)
	events, e := g.poll(sub{kind: eventFDRead, id: 3}, sub{kind: eventFDWrite, id: 3}, sub{kind: eventClock, id: clockMonotonic, timeout: 1 << 62})
	if e != hostcall.Success || events[0].bytes != 5 || len(events) != 2 {
		t.Errorf("%v, %s", events, e)
	}
	if s.asked > 8 {
		t.Errorf("asked %d times: a busy wait", s.asked)
	}
	v, n := g.vec(2)
	wantErrno(t, "peek", g.call("sock_recv", 3, v, n, recvPeek, outAt, outAt+4), hostcall.Success)
	if got := string(g.mem[dataAt : dataAt+2]); got != "he" || g.u32(outAt) != 2 {
		t.Errorf("%q", got)
	}
	if s, e := g.read(3, 10); s != "hello" || e != hostcall.Success {
		t.Errorf("%q, %s", s, e)
	}
	if n, e := g.write(3, "abcd"); n != 3 || e != hostcall.Success {
		t.Errorf("%d, %s", n, e)
	}
	wantErrno(t, "send flags", g.call("sock_send", 3, v, n, 1, outAt), hostcall.EINVAL)
	wantErrno(t, "shutdown of nothing", g.call("sock_shutdown", 3, 0), hostcall.EINVAL)
	wantErrno(t, "shutdown", g.call("sock_shutdown", 3, 2), hostcall.Success)
	wantErrno(t, "close", g.call("fd_close", 3), hostcall.Success)
	if !s.shut || s.closed != 1 {
		t.Errorf("shut %v, closed %d times", s.shut, s.closed)
	}
	full := newCaller(t, Options{MaxFiles: 3})
	extra := &chanStream{}
	if _, err := full.sys.Insert(extra); !errors.Is(err, hostcall.EMFILE) || extra.closed != 1 {
		t.Errorf("%v, closed %d times", err, extra.closed)
	}
}

func TestAcceptGivesConnectionsAndKeepsWhatWasSentBeforeClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newCaller(t, Options{Listeners: []net.Listener{l}})
	wantErrno(t, "non-blocking", g.call("fd_fdstat_set_flags", 3, uint64(fdNonblock)), hostcall.Success)
	wantErrno(t, "nobody there", g.call("sock_accept", 3, 0, outAt), hostcall.EAGAIN)
	v, n := g.vec(4)
	wantErrno(t, "receive from a listener", g.call("sock_recv", 3, v, n, 0, outAt, outAt+4), hostcall.ENOTCONN)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, e := g.poll(sub{kind: eventFDRead, id: 3}); e != hostcall.Success {
		t.Fatal(e)
	}
	wantErrno(t, "accept", g.call("sock_accept", 3, 0, outAt), hostcall.Success)
	fd := g.u32(outAt)
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if s, e := g.read(fd, 4); s != "ping" || e != hostcall.Success {
		t.Errorf("%q, %s", s, e)
	}
	if n, e := g.write(fd, "pong"); n != 4 || e != hostcall.Success {
		t.Errorf("%d, %s", n, e)
	}
	wantErrno(t, "close", g.call("fd_close", uint64(fd)), hostcall.Success)
	if b, err := io.ReadAll(conn); err != nil || string(b) != "pong" {
		t.Errorf("%q, %v", b, err)
	}
}
