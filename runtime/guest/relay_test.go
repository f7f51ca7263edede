package guest

import (
	"context"
	"errors"
	"testing"
)

// slow is a context that has ended, and whose Done has not said so yet.
type slow struct{ context.Context }

func (s slow) Done() <-chan struct{} { return make(chan struct{}) }

func TestARelayHasEndedWhenWhatItFollowsHas(t *testing.T) {
	late := errors.New("late")
	first, cancelFirst := context.WithCancel(t.Context())
	r := newRelay(first)
	if !r.release() {
		t.Fatal("the first has not ended")
	}
	cancelFirst()
	if err := r.Err(); err != nil {
		t.Fatalf("%v, though it no longer follows what ended", err)
	}
	second, cancelSecond := context.WithCancelCause(t.Context())
	r.follow(slow{second})
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	cancelSecond(late)
	if err := r.Err(); !errors.Is(err, context.Canceled) || context.Cause(r) != late {
		t.Errorf("%v, because of %v", err, context.Cause(r))
	}
}
