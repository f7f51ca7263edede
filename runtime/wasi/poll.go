package wasi

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Sizes of witx subscription and event in guest memory, in bytes.
const (
	subscriptionSize = 48
	eventSize        = 32
)

// Kinds of events (witx: eventtype).
const (
	eventClock = iota
	eventFDRead
	eventFDWrite
)

// event is what became of a subscription.
type event struct {
	userdata uint64
	err      hostcall.Errno
	kind     byte
	bytes    uint64
	hangup   bool
}

func (e event) put(b []byte) {
	clear(b[:eventSize])
	binary.LittleEndian.PutUint64(b, e.userdata)
	binary.LittleEndian.PutUint16(b[8:], uint16(e.err))
	b[10] = e.kind
	binary.LittleEndian.PutUint64(b[16:], e.bytes)
	if e.hangup {
		b[24] = 1
	}
}

func pollOneoff(c *hostcall.Call) {
	s := system(c)
	subs := c.Text(0)
	out := c.Value(1)
	if len(subs) == 0 {
		c.Fail(hostcall.EINVAL)
		return
	}
	began := s.clock.Now()
	ctx := c.Context()
	for {
		now := s.clock.Now()
		n, wait, timed := 0, time.Duration(math.MaxInt64), false
		for i := 0; i < len(subs); i += subscriptionSize {
			e, left, done := s.check(subs[i:i+subscriptionSize], began, now)
			if done {
				e.put(out.Data[n*eventSize:])
				n++
			} else if left > 0 {
				wait, timed = min(wait, left), true
			}
		}
		if n > 0 {
			c.Wrote(out.Ptr, uint32(n*eventSize))
			c.PutUint32(3, uint32(n))
			return
		}
		if !s.sleep(c, wait, timed) {
			interrupted(c, ctx)
			return
		}
	}
}

// sleep waits for a wake-up, for at most d if timed is set. It answers false if the call's context ended.
func (s *System) sleep(c *hostcall.Call, d time.Duration, timed bool) bool {
	c.Block()
	defer c.Unblock()
	var fire <-chan time.Time
	if timed {
		t := s.clock.NewTimer(d)
		defer t.Stop()
		fire = t.C()
	}
	select {
	case <-s.wake:
	case <-fire:
	case <-c.Context().Done():
		return false
	}
	return true
}

// check looks at one subscription: it is done and e says how, or it waits for left more (0: for something other than
// time).
func (s *System) check(sub []byte, began, now time.Time) (e event, left time.Duration, done bool) {
	le := binary.LittleEndian
	e = event{userdata: le.Uint64(sub), kind: sub[8]}
	switch e.kind {
	case eventClock:
		id, timeout, flags := le.Uint32(sub[16:]), le.Uint64(sub[24:]), le.Uint16(sub[40:])
		left, e.err = s.remaining(id, timeout, flags, began, now)
		return e, left, e.err != hostcall.Success || left <= 0
	case eventFDRead, eventFDWrite:
		done = s.checkFD(&e, le.Uint32(sub[16:]))
		return e, 0, done
	}
	e.err = hostcall.EINVAL
	return e, 0, true
}

// remaining is how much time a clock subscription has left.
func (s *System) remaining(id uint32, timeout uint64, flags uint16, began, now time.Time) (time.Duration, hostcall.Errno) {
	if flags > 1 {
		return 0, hostcall.EINVAL
	}
	switch id {
	case clockRealtime, clockMonotonic:
	case clockProcess, clockThread:
		return 0, hostcall.ENOTSUP // nobody but the guest's own work moves them
	default:
		return 0, hostcall.EINVAL
	}
	if flags == 0 {
		return time.Duration(min(timeout, math.MaxInt64)) - now.Sub(began), hostcall.Success
	}
	at := s.time(id, now)
	if timeout <= at {
		return 0, hostcall.Success
	}
	return time.Duration(min(timeout-at, math.MaxInt64)), hostcall.Success
}

// checkFD looks at whether a descriptor can be read or written without waiting.
func (s *System) checkFD(e *event, fd uint32) (done bool) {
	need := rightPollFDReadwrite | rightFDRead
	if e.kind == eventFDWrite {
		need = rightPollFDReadwrite | rightFDWrite
	}
	d, err := s.fds.get(fd, 0)
	if err != hostcall.Success {
		e.err = err
		return true
	}
	if d.res.filetype() == typeDirectory {
		e.err = hostcall.EBADF
		return true
	}
	if d.base&need != need {
		e.err = hostcall.ENOTCAPABLE
		return true
	}
	switch r := d.res.(type) {
	case *fileResource:
		if e.kind == eventFDRead {
			st, err := r.h.stat()
			at, seekErr := r.h.seek(0, 1)
			if err == nil && seekErr == nil && uint64(at) < st.size {
				e.bytes = st.size - uint64(at)
			}
		}
		return true
	case *stdin:
		n, ok := r.ready()
		e.bytes = uint64(n)
		return ok
	case *socket:
		ready := r.ready()
		e.hangup = ready.Hangup
		if e.kind == eventFDWrite {
			return ready.Writable || ready.Hangup
		}
		e.bytes = ready.Bytes
		return ready.Readable || ready.Hangup
	case *listener:
		e.bytes = 1
		return r.ready()
	}
	return true // a standard output: a Write takes what it is given
}
