package guest

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/processor"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// maxParked is how long a command waits for its request before its sandbox is given up: what it read of files when it started gets old, and
// so do the hours that it noted.
const maxParked = 5 * time.Minute

// parking is a command's run from its start to its end. It goes on in a goroutine of its own up to the first host call that needs the request,
// waits there, and is then handed the request, once. It sees calls before anyone else does, so that traces and policies meet the call at which
// it waits after that, as one of the invocation.
//
// Between start and wait, and between serve and its return, the guest runs. In between it only holds memory.
type parking struct {
	system   *wasi.System
	clearing *sync.Mutex    // the program's
	static   bool           // the environment does not tell of the request
	run      *processor.Run // may be nil; the guest's goroutine enters and leaves. What waits is out
	most     time.Duration  // at the processor once it has its request
	ctx      *relay
	fate     atomic.Int32  // who decided what becomes of it
	waits    chan struct{} // closed by the guest's goroutine
	goOn     chan struct{}
	ended    chan struct{} // closed by the guest's goroutine once the run is over
	err      error         // how; set before
	served   bool          // it was handed the request; set before goOn is closed
	expiry   clock.Timer
	gone     chan struct{} // closed once a sandbox that expired is closed
}

// The fates of a parked run. Only the first to set one acts on it.
const (
	fateOpen int32 = iota
	fateServed
	fateExpired
	fateClosed
)

var (
	_ hostcall.Interposer = (*parking)(nil)

	// errAbandoned is how a run ends that nobody hands a request.
	errAbandoned = errors.New("there was no request for it")
)

func newParking(sys *wasi.System, clearing *sync.Mutex, static bool) *parking {
	return &parking{system: sys, clearing: clearing, static: static, waits: make(chan struct{}), goOn: make(chan struct{}), ended: make(chan struct{}), gone: make(chan struct{})}
}

// Watches implements hostcall.Interposer.
func (p *parking) Watches(f *hostcall.Func) bool {
	switch {
	case f.Class == hostcall.WriteOutside:
		return true
	case f.Module == TaskModule:
		return f.Class.Outside()
	}
	switch f.Name {
	case "environ_get", "environ_sizes_get", "fd_read", "poll_oneoff":
		return true
	}
	return false
}

// Before implements hostcall.Interposer: it waits if the call needs the request.
func (p *parking) Before(c *hostcall.Call) hostcall.Verdict {
	if p.served || !p.needs(c) {
		return hostcall.Proceed
	}
	leave(p.run)
	close(p.waits)
	<-p.goOn
	err := errAbandoned
	if p.served {
		if p.run != nil {
			p.run.Patient(false)
		}
		err = enter(c.Context(), p.run, p.most)
	}
	if err != nil {
		c.Stop(err)
		return hostcall.Stop
	}
	return hostcall.Proceed
}

// After implements hostcall.Interposer.
func (p *parking) After(*hostcall.Call) {}

func (p *parking) needs(c *hostcall.Call) bool {
	if c.Func.Module == TaskModule {
		return c.Func.Name != "log"
	}
	switch p.system.Needs(c) {
	case wasi.NeedsRequest:
		return true
	case wasi.NeedsEnviron:
		return !p.static
	}
	return false
}

// start begins the run and returns once it waits. ctx bounds that. After an error the run is over.
func (p *parking) start(ctx context.Context, vm *runtime.Sandbox) error {
	p.ctx = newRelay(ctx)
	go func() {
		defer close(p.ended)
		defer func() {
			// Nobody else recovers it here, and it would end every other guest, too.
			if v := recover(); v != nil {
				p.err = fmt.Errorf("%w: %v\n%s", hostcall.ErrHost, v, debug.Stack())
			}
		}()
		if p.run != nil {
			p.run.Patient(true) // a request is to be served in this goroutine
		}
		if p.err = enter(p.ctx, p.run, 0); p.err != nil {
			return
		}
		defer leave(p.run)
		_, p.err = vm.Call(p.ctx, CommandStart)
		if p.run != nil && p.run.Long() {
			// Here it is behind others, too. A program's sandboxes are closed one at a time: the kernel has one lock for the memory of all threads, and each that
			// gives back much keeps a P meanwhile.
			p.run.Rest()
			p.clearing.Lock()
			chargeFor(p.run, func() { p.err = errors.Join(p.err, vm.Close()) })
			p.clearing.Unlock()
		}
	}()
	select {
	case <-p.waits:
		if p.ctx.release() {
			return nil
		}
		p.abandon(fateClosed)
		return context.Cause(ctx)
	case <-p.ended:
		p.ctx.release()
		p.fate.Store(fateClosed)
		var exit *runtime.ExitError
		if p.err == nil || errors.As(p.err, &exit) && exit.Code == 0 {
			return &BadResponseError{What: "the program ended before it read its request or wrote anything"}
		}
		return fmt.Errorf("run to the request: %w", p.err)
	}
}

// take reserves a run that waits for whoever decides its fate; false if somebody else has.
func (p *parking) take(fate int32) bool { return p.fate.CompareAndSwap(fateOpen, fate) }

// serve has a run that was taken go on for ctx, with the request, and answers how it ended.
func (p *parking) serve(ctx context.Context) error {
	p.ctx.follow(ctx)
	p.served = true
	close(p.goOn)
	<-p.ended
	p.ctx.release()
	return p.err
}

// end ends a run that was taken, without a request.
func (p *parking) end() {
	close(p.goOn)
	<-p.ended
}

// abandon ends a run unless its fate is decided, and reports whether it did.
func (p *parking) abandon(fate int32) bool {
	if !p.take(fate) {
		return false
	}
	p.end()
	return true
}
