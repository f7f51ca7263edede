// Package loop lets work that the goroutine of an event loop does in place tell the loop that it is about to wait, or takes long, so that
// another goroutine goes on with what else there is.
package loop

import "context"

// Loop is the loop that does something in place.
type Loop interface {
	// Leave has the loop go on without the work that asks for it. It may be called by any goroutine, more than once, and once the work is done.
	Leave()
	// Compute says that the work takes long, but waits for nothing: as long as another goroutine is in the loop, that is enough. It may be called
	// like Leave.
	Compute()
}

type key struct{}

// Key is under which the context of work done in place has its Loop.
var Key any = key{}

// Leave has the loop that does ctx's work go on without it, if there is one.
func Leave(ctx context.Context) {
	if l, ok := ctx.Value(Key).(Loop); ok {
		l.Leave()
	}
}

// Compute has the loop that does ctx's work, if there is one, see to it that another goroutine is there.
func Compute(ctx context.Context) {
	if l, ok := ctx.Value(Key).(Loop); ok {
		l.Compute()
	}
}

// With is parent with the loop that does ctx's work, if there is one: for work of its own that is done in the same place.
func With(parent, ctx context.Context) context.Context {
	if l := ctx.Value(Key); l != nil {
		return context.WithValue(parent, Key, l)
	}
	return parent
}

// In reports whether a loop does ctx's work in place.
func In(ctx context.Context) bool { return ctx.Value(Key) != nil }
