package hostcall

import "sync/atomic"

// Outcome is how a host call ended, as Counts tells them apart.
type Outcome uint8

// The outcomes.
const (
	OutcomeOK     Outcome = iota
	OutcomeError          // the function answered an errno, or a pointer was bad
	OutcomeDenied         // the errno is an interposer's, or says that no capability covers the call
	OutcomeEnded          // the guest was ended by it: it exited, or was stopped
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "error", "denied", "ended"}

func (o Outcome) String() string { return outcomeNames[o] }

// Counts counts the host calls of many sandboxes by function and outcome. Given to a door among its interposers, it watches
// nothing, so that no call takes the longer way for it: the door itself counts, without allocating. It is safe for
// concurrent use.
type Counts struct {
	table *Table
	n     []atomic.Uint64 // by function number and outcome
}

var _ Interposer = (*Counts)(nil)

// NewCounts makes Counts of calls of t's functions.
func NewCounts(t *Table) *Counts {
	return &Counts{table: t, n: make([]atomic.Uint64, len(t.funcs)*int(outcomes))}
}

// Watches implements Interposer.
func (c *Counts) Watches(*Func) bool { return false }

// Before implements Interposer. It is never called.
func (c *Counts) Before(*Call) Verdict { return Proceed }

// After implements Interposer. It is never called.
func (c *Counts) After(*Call) {}

// Each calls f for every function and outcome that was seen, with how often.
func (c *Counts) Each(f func(fn *Func, o Outcome, n uint64)) {
	for i := range c.n {
		if n := c.n[i].Load(); n > 0 {
			f(c.table.funcs[i/int(outcomes)], Outcome(i%int(outcomes)), n)
		}
	}
}

// count notes a call that has its results.
func (c *Counts) count(call *Call, ended error) {
	o := OutcomeOK
	switch e := call.Errno(); {
	case ended != nil:
		o = OutcomeEnded
	case e == Success:
	case e == ENOTCAPABLE, call.answered && call.fault == Success:
		o = OutcomeDenied
	default:
		o = OutcomeError
	}
	c.n[call.number*int(outcomes)+int(o)].Add(1)
}
