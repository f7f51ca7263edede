package lazyctx

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

var (
	errLate  = fmt.Errorf("too late: %w", context.DeadlineExceeded)
	errOver  = errors.New("over")
	errClose = errors.New("closed")
)

// ends is every way to see that a context ended; each is asked of a context of its own, as the first thing.
var ends = map[string]func(context.Context) error{
	"Err":  func(c context.Context) error { return c.Err() },
	"Done": func(c context.Context) error { <-c.Done(); return c.Err() },
	"a child": func(c context.Context) error {
		child, cancel := context.WithCancel(c)
		defer cancel()
		<-child.Done()
		return child.Err()
	},
}

func TestAContextEndsAsOneOfTheStandardLibrary(t *testing.T) {
	for name, end := range map[string]struct {
		do         func(c *Context, parent context.CancelCauseFunc)
		err, cause error
	}{
		"canceled":        {func(c *Context, _ context.CancelCauseFunc) { c.Cancel(errOver) }, context.Canceled, errOver},
		"canceled twice":  {func(c *Context, _ context.CancelCauseFunc) { c.Cancel(errOver); c.Cancel(errClose) }, context.Canceled, errOver},
		"with its parent": {func(_ *Context, parent context.CancelCauseFunc) { parent(errClose) }, context.Canceled, errClose},
		"at its deadline": {func(*Context, context.CancelCauseFunc) { time.Sleep(time.Minute) }, context.DeadlineExceeded, errLate},
	} {
		for how, see := range ends {
			for _, waits := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, seen by %s, waited for: %t", name, how, waits), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), keyOfTest{}, "value"))
						defer cancel(nil)
						c := new(Context)
						c.Begin(parent, clock.System, time.Now().Add(time.Minute), errLate)
						defer c.Cancel(nil)
						if c.Err() != nil || context.Cause(c) != nil {
							t.Fatal("it ended before it began")
						}
						if waits {
							c.Done()
						}
						if at, ok := c.Deadline(); !ok || time.Until(at) != time.Minute {
							t.Errorf("deadline %v %t", at, ok)
						}
						end.do(c, cancel)
						synctest.Wait()
						if err := see(c); err != end.err {
							t.Errorf("%v, want %v", err, end.err)
						}
						if err := context.Cause(c); err != end.cause {
							t.Errorf("cause %v, want %v", err, end.cause)
						}
						if c.Value(keyOfTest{}) != "value" {
							t.Error("the parent's values are gone")
						}
					})
				})
			}
		}
	}
}

type keyOfTest struct{}

func TestAnEarlierDeadlineOfTheParentCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := new(Context)
		c.Begin(parent, clock.System, time.Now().Add(time.Minute), errLate)
		defer c.Cancel(nil)
		if at, ok := c.Deadline(); !ok || time.Until(at) != time.Second {
			t.Errorf("deadline %v %t", at, ok)
		}
		c.Begin(t.Context(), clock.System, time.Time{}, nil)
		if at, ok := c.Deadline(); ok {
			t.Errorf("a deadline of nobody: %v", at)
		}
	})
}

func TestNobodyWaitsAndNothingIsAllocated(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := new(Context)
	if n := testing.AllocsPerRun(100, func() {
		*c = Context{}
		c.Begin(parent, clock.System, time.Time{}, nil)
		if c.Err() != nil {
			t.Fatal("ended")
		}
		c.Cancel(errOver)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
