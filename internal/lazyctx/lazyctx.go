// Package lazyctx has contexts for what mostly ends before anybody waits for its end: no timer, goroutine or entry in a parent's list is
// made until somebody does.
package lazyctx

import (
	"context"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

var _ context.Context = (*Context)(nil)

// Context is a context with a deadline that may be canceled. It is embedded or pointed to, and made by Begin.
type Context struct {
	parent   context.Context
	clock    clock.Clock
	deadline time.Time // zero: there is none but the parent's
	late     error     // the cause of an end at the deadline; wraps context.DeadlineExceeded

	mu     sync.Mutex
	ended  bool
	cause  error           // of that
	real   context.Context // nil until somebody waits, or asks for the cause
	cancel context.CancelCauseFunc
}

// Begin makes c a child of parent, before anybody else has it. At the deadline, by the clock, it ends for the reason late; a zero deadline is
// none. Cancel has to be called in the end.
func (c *Context) Begin(parent context.Context, cl clock.Clock, deadline time.Time, late error) {
	c.parent, c.clock, c.deadline, c.late = parent, cl, deadline, late
}

// Parent is what Begin was given.
func (c *Context) Parent() context.Context { return c.parent }

// Cancel ends the context for a reason, if it has not ended.
func (c *Context) Cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.cause = true, cause
	if c.real != nil {
		c.cancel(cause)
	}
}

// realLocked is a context of the standard library in the same state.
func (c *Context) realLocked() context.Context {
	if c.real == nil {
		c.real, c.cancel = context.WithCancelCause(c.parent)
		if !c.deadline.IsZero() {
			outer := c.cancel
			ctx, stop := context.WithTimeoutCause(c.real, c.deadline.Sub(c.clock.Now()), c.late)
			c.real, c.cancel = ctx, func(cause error) { outer(cause); stop() }
		}
		if c.ended {
			c.cancel(c.cause)
		}
	}
	return c.real
}

// Deadline implements context.Context.
func (c *Context) Deadline() (time.Time, bool) {
	if at, ok := c.parent.Deadline(); ok && (c.deadline.IsZero() || at.Before(c.deadline)) {
		return at, true
	}
	return c.deadline, !c.deadline.IsZero()
}

// Done implements context.Context.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.realLocked().Done()
}

// Err implements context.Context.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil && !c.ended && c.parent.Err() == nil && (c.deadline.IsZero() || c.clock.Now().Before(c.deadline)) {
		return nil
	}
	return c.realLocked().Err()
}

// Value implements context.Context.
func (c *Context) Value(key any) any {
	c.mu.Lock()
	in := c.real // it knows its cause
	if in == nil {
		in = c.parent
	}
	c.mu.Unlock()
	return in.Value(key)
}
