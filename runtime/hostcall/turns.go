package hostcall

import (
	"context"
	"time"

	"github.com/ripstop-vm/ripstop/internal/loop"
)

// Turns is a sandbox's place among those that share the processor (package processor).
type Turns interface {
	// Block gives the sandbox's turn up before something that may wait.
	Block()
	// Unblock waits for another turn. It fails if ctx ends first.
	Unblock(ctx context.Context) error
	// Tick looks at whether the turn is over, and then waits for the next one. It fails if the guest has to end.
	Tick(ctx context.Context) error
	// Charge adds work that was done for the sandbox outside of its turns.
	Charge(d time.Duration)
}

// Share has the calls of the sandbox give up its turn while they wait. nil ends it.
func (d *Door) Share(t Turns) { d.turns = t }

// Block gives up the sandbox's turn at the processor: the call is about to wait for something. Unblock is due after it.
func (c *Call) Block() {
	loop.Leave(c.door.ctx)
	if c.door.turns != nil {
		c.door.turns.Block()
	}
}

// Unblock waits for the sandbox's next turn. The guest ends after the call if there is none, and if the invocation has ended meanwhile: what
// was waited for may have come to an end because of that.
func (c *Call) Unblock() {
	ctx := c.door.ctx
	if c.door.turns != nil {
		if err := c.door.turns.Unblock(ctx); err != nil {
			c.Stop(err)
			return
		}
	}
	if ctx.Err() != nil {
		c.Stop(context.Cause(ctx))
	}
}

// Tick is for calls that take long without waiting: others get their turns meanwhile. It is false if the guest ends after the call, which
// should do no more.
func (c *Call) Tick() bool {
	if c.door.turns == nil {
		return true
	}
	if err := c.door.turns.Tick(c.door.ctx); err != nil {
		c.Stop(err)
		return false
	}
	return true
}

// Shared reports whether the sandbox has turns at the processor at all.
func (c *Call) Shared() bool { return c.door.turns != nil }

// Charge adds work that the call did for the sandbox between Block and Unblock.
func (c *Call) Charge(d time.Duration) {
	if c.door.turns != nil {
		c.door.turns.Charge(d)
	}
}
