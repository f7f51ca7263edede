// Package fault makes host calls slow or fail on purpose, as an interposer: the same seed and the same calls give the same
// faults.
//
// Half of the failures come before the call and half after it took effect, as a lost answer looks to a guest like a lost
// request. Put it behind the tracer, so that a trace shows the faults, each with the rule that made it.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// When says at which end of a call it fails.
type When uint8

// Either is before or after with equal chances.
const (
	Either When = iota
	BeforeCall
	AfterCall
)

// Rule is one kind of fault. A call can meet several: each rule that matches has its chance.
type Rule struct {
	On          []string       // functions, as in hostcall.Func.Matches: "path_open", "fd_*", "*"
	Probability float64        // of the fault at one call, 0 to 1
	Errno       hostcall.Errno // what the call fails with; Success: it does not fail. Functions that cannot fail are left alone
	When        When           // of the failure
	Delay       time.Duration  // the longest delay before the call; each is between 0 and this
}

// Options configures an Injector.
type Options struct {
	Seed  uint64
	Rules []Rule
	Clock clock.Clock // that delays wait by; nil means the system clock
}

// Injector is the interposer. It may be shared by sandboxes, but faults repeat only if the calls come in the same order:
// for that, make one for each sandbox.
type Injector struct {
	rules []Rule
	names []string
	clock clock.Clock

	mu   sync.Mutex
	rand *rand.Rand
}

var _ hostcall.Interposer = (*Injector)(nil)

// New checks the rules and makes an Injector. The error joins one for every bad rule.
func New(opts Options) (*Injector, error) {
	in := &Injector{clock: opts.Clock, rand: rand.New(rand.NewPCG(opts.Seed, 0x9e3779b97f4a7c15))}
	if in.clock == nil {
		in.clock = clock.System
	}
	var errs []error
	for i, r := range opts.Rules {
		switch {
		case len(r.On) == 0:
			errs = append(errs, fmt.Errorf("fault %d names no function", i+1))
		case !(r.Probability >= 0 && r.Probability <= 1):
			errs = append(errs, fmt.Errorf("fault %d: %v is no probability (0 to 1)", i+1, r.Probability))
		case r.Delay < 0:
			errs = append(errs, fmt.Errorf("fault %d: the delay %s is negative", i+1, r.Delay))
		case r.When > AfterCall:
			errs = append(errs, fmt.Errorf("fault %d: %d is no end of a call", i+1, r.When))
		}
		r.On = append([]string(nil), r.On...)
		in.rules = append(in.rules, r)
		in.names = append(in.names, "fault "+strconv.Itoa(i+1)+": "+r.Errno.String())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return in, nil
}

// Watches reports whether a rule matches f.
func (in *Injector) Watches(f *hostcall.Func) bool {
	for i := range in.rules {
		if in.rules[i].matches(f) {
			return true
		}
	}
	return false
}

func (r *Rule) matches(f *hostcall.Func) bool {
	for _, p := range r.On {
		if f.Matches(p) {
			return true
		}
	}
	return false
}

// chance is the probability of a failure at one end of a call.
func (r *Rule) chance(end When) float64 {
	switch r.When {
	case end:
		return r.Probability
	case Either:
		return r.Probability / 2
	}
	return 0
}

// draw decides on all rules for one end of a call. It takes the same numbers from the sequence whatever comes of them, so
// that one rule's outcome does not move another's.
func (in *Injector) draw(f *hostcall.Func, end When) (fail int, delay time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	fail = -1
	for i := range in.rules {
		r := &in.rules[i]
		if !r.matches(f) {
			continue
		}
		failing, slow, part := in.rand.Float64(), in.rand.Float64(), in.rand.Float64()
		if fail < 0 && r.Errno != hostcall.Success && f.Fails && failing < r.chance(end) {
			fail = i
		}
		if end == BeforeCall && r.Delay > 0 && slow < r.Probability {
			delay += time.Duration(part * float64(r.Delay))
		}
	}
	return fail, delay
}

// Before delays the call, and may answer it with a failure.
func (in *Injector) Before(c *hostcall.Call) hostcall.Verdict {
	fail, delay := in.draw(c.Func, BeforeCall)
	if delay > 0 {
		t := in.clock.NewTimer(delay)
		select {
		case <-t.C():
		case <-c.Context().Done(): // the guest is about to be ended; the call itself notices
		}
		t.Stop()
	}
	if fail >= 0 {
		c.Rule = in.names[fail]
		c.Fail(in.rules[fail].Errno)
		return hostcall.Answer
	}
	return hostcall.Proceed
}

// After may turn a success into a failure.
func (in *Injector) After(c *hostcall.Call) {
	fail, _ := in.draw(c.Func, AfterCall)
	if fail >= 0 && !c.Answered() && c.Errno() == hostcall.Success {
		c.Rule = in.names[fail]
		c.Fail(in.rules[fail].Errno)
	}
}
