package wasi

import (
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// A Gate bounds how many file calls of all Systems that share it are in the kernel at once: each of them holds a thread for as
// long as the host's disk likes, and a process has only so many. A call waits for its turn, until its context ends. Gates
// are safe for concurrent use.
type Gate struct{ slots chan struct{} }

// NewGate lets n calls through at once; less than 1 means 256.
func NewGate(n int) *Gate {
	if n < 1 {
		n = 256
	}
	return &Gate{make(chan struct{}, n)}
}

// pass waits for a turn at the gate, if there is one, and gives up the one at the processor: nobody knows how long a disk takes. If it
// answers false the guest is being ended; else the caller calls leave.
func (s *System) pass(c *hostcall.Call) bool {
	c.Block()
	if s.gate != nil && !s.gate.pass(c) {
		return false
	}
	if c.Shared() {
		s.passed = clock.Elapsed()
	}
	return true
}

func (g *Gate) pass(c *hostcall.Call) bool {
	select {
	case g.slots <- struct{}{}:
		return true
	default:
	}
	ctx := c.Context()
	select {
	case g.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		interrupted(c, ctx)
		return false
	}
}

// fileCharge is what a file call is charged at most. What takes longer than moving MaxTransfer does is the disk, most likely.
const fileCharge = time.Millisecond

// leave ends a turn.
func (s *System) leave(c *hostcall.Call) {
	if s.gate != nil {
		<-s.gate.slots
	}
	if c.Shared() {
		c.Charge(min(clock.Elapsed()-s.passed, fileCharge))
	}
	c.Unblock()
}

// gated is a function that touches files and nothing else, behind the gate.
func gated(f hostcall.Func) hostcall.Func {
	call := f.Call
	f.Blocks = true
	f.Call = func(c *hostcall.Call) {
		s := system(c)
		if !s.pass(c) {
			return
		}
		defer s.leave(c)
		call(c)
	}
	return f
}

// What is reckoned of a root's file system between two looks at what is free there, and what a change takes at least,
// in bytes: the block of a file written with holes, or of a directory's entry.
const (
	spaceStep  = 1 << 20
	spaceBlock = 4 << 10
)

// space reports whether n more bytes may go to the file system of r, which h is on: ENOSPC if that would leave less than the
// reserve. It looks once for each spaceStep, so that sandboxes that write at the same time may together pass it by as many steps.
func (s *System) space(r *root, h *handle, n uint64) error {
	if s.reserve == 0 {
		return nil
	}
	n = max(n, spaceBlock)
	if r.reckoned >= n {
		r.reckoned -= n
		return nil
	}
	free, known := h.free()
	if known && (free < s.reserve || free-s.reserve < n) {
		return hostcall.ENOSPC
	}
	r.reckoned = spaceStep
	return nil
}
