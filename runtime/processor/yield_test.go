package processor

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ripstop-vm/ripstop/internal/loop"
)

func TestARunLetsTheKernelLookTenTimesASlice(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		yields := 0
		p := newProcessor(t, Options{Tokens: 1, Yield: func() { yields++ }})
		r := p.Job("a", 1).Run()
		if err := r.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		const step = 10 * time.Microsecond
		for n := range 500 {
			time.Sleep(step)
			if err := r.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := r.Took(); took != step {
				t.Fatalf("tick %d: it says that it went on for %v", n, took)
			}
		}
		r.Leave()
		if yields != 50 {
			t.Errorf("%d times in five slices", yields)
		}
		p.check(t, 1)
	})
}

// A run that has just been given its token, by a thread that goes on, has nobody to make way for: most runs are over before they should.
func TestARunThatWaitedForItsTurnDoesNotYieldAtOnce(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		var yields atomic.Int64
		p := newProcessor(t, Options{Tokens: 1, Yield: func() { yields.Add(1) }})
		first, second := p.Job("a", 1).Run(), p.Job("b", 1).Run()
		if err := first.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer second.Leave()
			if err := second.Enter(t.Context()); err != nil {
				t.Error(err)
			}
			for range 9 { // ten would be as long as a run goes on without
				time.Sleep(time.Millisecond / yieldsPerSlice / 10)
				if err := second.Tick(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		first.Leave()
		if <-done; yields.Load() != 0 {
			t.Errorf("it yielded %d times", yields.Load())
		}
	})
}

func TestWhatARunWaitedIsNotWhatItTook(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		first, second := p.Job("a", 1).Run(), p.Job("b", 1).Run()
		if err := first.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan time.Duration)
		go func() {
			defer second.Leave()
			if err := second.Enter(t.Context()); err != nil { // waits for the slice to end
				t.Error(err)
			}
			time.Sleep(tick)
			if err := second.Tick(t.Context()); err != nil {
				t.Error(err)
			}
			done <- second.Took()
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		first.Leave()
		if took := <-done; took != tick {
			t.Errorf("it says that it went on for %v", took)
		}
	})
}

func TestARunThatRestsHasNoTokenAndStaysBehindOthers(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		low := 0
		p := newProcessor(t, Options{Tokens: 1, Long: 2, OnLong: func() bool { low++; return true }, OnLongEnd: func() { low-- }})
		r, other := p.Job("a", 1).Run(), p.Job("b", 1).Run()
		if err := r.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(time.Millisecond)
			if err := r.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		r.Rest()
		if err := other.Enter(t.Context()); err != nil || low != 1 {
			t.Errorf("another enters: %v; %d runs are behind others", err, low)
		}
		other.Leave()
		r.Leave()
		if low != 0 {
			t.Errorf("%d runs are behind others in the end", low)
		}
		p.check(t, 1)
	})
}

// loops counts what a run says to the loop that it is run by.
type loops struct{ left, computes int }

func (l *loops) Leave()   { l.left++ }
func (l *loops) Compute() { l.computes++ }

func TestARunThatTheKernelKeptWaitingDoesNotComputeYet(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		var l loops
		ctx := context.WithValue(t.Context(), loop.Key, &l)
		yields, thread, used := 0, 1, time.Duration(0)
		p := newProcessor(t, Options{Tokens: 1, Yield: func() { yields++ }, Computed: func() (int, time.Duration) { return thread, used }})
		r := p.Job("a", 1).Run()
		enter := func() {
			t.Helper()
			if err := r.Enter(ctx); err != nil {
				t.Fatal(err)
			}
		}
		goOn := func(steps int, computing time.Duration, yield bool) {
			t.Helper()
			for range steps {
				yields, l = 0, loops{}
				time.Sleep(time.Millisecond / yieldsPerSlice)
				used += computing
				if err := r.Tick(ctx); err != nil {
					t.Fatal(err)
				}
				if yield != (yields == 1) || yield != (l.computes == 1) || l.left != 0 {
					t.Errorf("it yielded %d times, computed %d times, and left %d times", yields, l.computes, l.left)
				}
			}
		}
		const little, much = 10 * time.Microsecond, 60 * time.Microsecond
		enter()
		goOn(1, much, false) // nobody knows yet
		goOn(5, little, false)
		thread++
		goOn(1, much, false) // or again
		goOn(1, much, true)
		goOn(5, little, true)
		r.Leave()
		enter()
		goOn(5, little, false)
		thread = 0 // the system does not tell
		goOn(1, little, true)
		r.Leave()
		p.check(t, 1)
	})
}
