package guest

import (
	"context"
	"sync/atomic"
	"time"
)

// relay is the context of a guest's run that begins for one reason and goes on for another: it has the values, the deadline and the end
// of the context that it follows at the moment.
type relay struct {
	context.Context
	cancel context.CancelCauseFunc
	at     *followed
	stop   func() bool
}

// followed is the values and the deadline of a context that changes.
type followed struct {
	ctx atomic.Pointer[context.Context]
}

func (f *followed) Deadline() (time.Time, bool) { return (*f.ctx.Load()).Deadline() }
func (f *followed) Done() <-chan struct{}       { return nil }
func (f *followed) Err() error                  { return nil }
func (f *followed) Value(key any) any           { return (*f.ctx.Load()).Value(key) }

func newRelay(ctx context.Context) *relay {
	r := &relay{at: &followed{}}
	r.at.ctx.Store(&ctx)
	r.Context, r.cancel = context.WithCancelCause(r.at)
	r.follow(ctx)
	return r
}

// follow has ctx end r from now on, with ctx's cause. Those it followed before are let go.
func (r *relay) follow(ctx context.Context) {
	r.at.ctx.Store(&ctx)
	r.stop = context.AfterFunc(ctx, func() { r.cancel(context.Cause(ctx)) })
}

// Err implements context.Context. It does not wait for the news to reach r: what else heard that the context ended may have had a host call
// return, and the guest must not go on.
func (r *relay) Err() error {
	if at := *r.at.ctx.Load(); at.Err() != nil {
		r.cancel(context.Cause(at))
	}
	return r.Context.Err()
}

// release lets go of the context that r follows. It is false if that has ended r, or is about to.
func (r *relay) release() bool {
	at := context.WithoutCancel(*r.at.ctx.Load())
	r.at.ctx.Store(&at)
	return r.stop()
}
