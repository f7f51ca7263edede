package wasi

import (
	"encoding/binary"
	"io"
	goruntime "runtime"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Clocks (witx: clockid).
const (
	clockRealtime = iota
	clockMonotonic
	clockProcess
	clockThread
)

var clockNames = []string{"REALTIME", "MONOTONIC", "PROCESS_CPUTIME_ID", "THREAD_CPUTIME_ID"}

// clockResolution is what clock_res_get answers, in nanoseconds: what the hosts' clocks can do.
const clockResolution = 1

// time is what a clock of the guest shows at now, in nanoseconds. The CPU clocks count from the start of the System as
// the monotonic one does: a guest cannot tell how much of the time was its own.
func (s *System) time(id uint32, now time.Time) uint64 {
	if id == clockRealtime {
		return uint64(max(now.UnixNano(), 0))
	}
	return uint64(max(now.Sub(s.start), 0)) + 1 // never 0, which guests take for "not set"
}

func clockResGet(c *hostcall.Call) {
	if c.Uint32(0) > clockThread {
		c.Fail(hostcall.EINVAL)
		return
	}
	c.PutUint64(1, clockResolution)
}

func clockTimeGet(c *hostcall.Call) {
	s := system(c)
	if c.Uint32(0) > clockThread {
		c.Fail(hostcall.EINVAL)
		return
	}
	c.PutUint64(2, s.time(c.Uint32(0), s.clock.Now()))
}

// putStrings writes zero-terminated strings to buf and their addresses to list.
func putStrings(c *hostcall.Call, list, buf uint32, all []string) {
	n, size := sizes(all)
	addresses, ok := c.View(list, 4*n)
	if !ok {
		c.Fail(hostcall.EFAULT)
		return
	}
	text, ok := c.View(buf, size)
	if !ok {
		c.Fail(hostcall.EFAULT)
		return
	}
	at := uint32(0)
	for i, s := range all {
		binary.LittleEndian.PutUint32(addresses[4*i:], buf+at)
		at += uint32(copy(text[at:], s))
		text[at] = 0
		at++
	}
	c.Wrote(list, 4*n)
	c.Wrote(buf, size)
}

// sizes is how many strings there are and how much room they take, in bytes.
func sizes(all []string) (n, size uint32) {
	for _, s := range all {
		size += uint32(len(s)) + 1
	}
	return uint32(len(all)), size
}

func argsGet(c *hostcall.Call) {
	putStrings(c, uint32(c.Num(0)), uint32(c.Num(1)), system(c).args)
}

func argsSizesGet(c *hostcall.Call) {
	n, size := sizes(system(c).args)
	c.PutUint32(0, n)
	c.PutUint32(1, size)
}

func environGet(c *hostcall.Call) {
	putStrings(c, uint32(c.Num(0)), uint32(c.Num(1)), system(c).env)
}

func environSizesGet(c *hostcall.Call) {
	n, size := sizes(system(c).env)
	c.PutUint32(0, n)
	c.PutUint32(1, size)
}

func procExit(c *hostcall.Call) { c.Stop(&hostcall.ExitError{Code: c.Uint32(0)}) }

// procRaise refuses: there are no signals in here, and none that could be sent out.
func procRaise(c *hostcall.Call) { c.Fail(hostcall.ENOTSUP) }

func schedYield(*hostcall.Call) { goruntime.Gosched() }

// randomPiece is how many random bytes are made between two looks at whether the guest's turn is over: they take some 0.1 ms.
const randomPiece = 64 << 10

func randomGet(c *hostcall.Call) {
	s := system(c)
	v := c.Value(0)
	ctx := c.Context()
	for rest := v.Data; len(rest) > 0; {
		if ctx.Err() != nil {
			interrupted(c, ctx)
			return
		}
		n := min(len(rest), randomPiece)
		if _, err := io.ReadFull(s.random, rest[:n]); err != nil {
			c.Fail(hostcall.EIO)
			return
		}
		rest = rest[n:]
		if !c.Tick() {
			return
		}
	}
	c.Wrote(v.Ptr, v.Len)
}
