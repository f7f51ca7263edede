package processor

import (
	"context"
	"errors"
	"math/rand/v2"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// In these tests guests compute by sleeping on the bubble's clock, which moves only when all goroutines wait: a tick is exactly so
// long, and nothing depends on the machine.

const tick = 50 * time.Microsecond

// procs makes sure that tokens fit under GOMAXPROCS.
func procs(t testing.TB, n int) {
	old := goruntime.GOMAXPROCS(0)
	if old < n {
		goruntime.GOMAXPROCS(n)
		t.Cleanup(func() { goruntime.GOMAXPROCS(old) })
	}
}

func newProcessor(t testing.TB, opts Options) *Processor {
	t.Helper()
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// check is the state that must hold when nobody runs.
func (p *Processor) check(t testing.TB, tokens int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := &p.queue; q.free != tokens || len(q.running) != 0 || len(q.ready) != 0 || len(q.late) != 0 || q.weights != 0 || q.olds != 0 || q.youngs != 0 || q.evicted != 0 {
		t.Errorf("%d tokens of %d are free, %d runs run, %d shares wait", q.free, tokens, len(q.running), len(q.ready))
	}
	for name, s := range p.shares {
		if s.active != 0 || s.index != -1 || s.late != -1 || s.young.first != nil || s.old.first != nil {
			t.Errorf("%s: %d runs are active", name, s.active)
		}
	}
}

// compute is a guest in an endless loop: it ends when ctx does.
func compute(ctx context.Context, r *Run) error {
	if err := r.Enter(ctx); err != nil {
		return err
	}
	defer r.Leave()
	for ctx.Err() == nil {
		time.Sleep(tick)
		if err := r.Tick(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func TestJobsInEndlessLoopsShareByWeight(t *testing.T) {
	for name, c := range map[string]struct {
		tokens, runs int
		weights      map[string]int
	}{
		"one token, one run each":          {1, 1, map[string]int{"a": 1, "b": 2, "c": 4}},
		"one token, runs without number":   {1, 9, map[string]int{"a": 1, "b": 2, "c": 4}},
		"two tokens":                       {2, 3, map[string]int{"a": 1, "b": 2, "c": 4}},
		"three tokens":                     {3, 4, map[string]int{"a": 1, "b": 2, "c": 4}},
		"equal weights, unequal in number": {2, 0, map[string]int{"one": 1, "two": 1, "seven": 1}},
		"far apart":                        {1, 1, map[string]int{"a": 1, "b": 100}},
	} {
		t.Run(name, func(t *testing.T) {
			procs(t, c.tokens+1)
			synctest.Test(t, func(t *testing.T) {
				p := newProcessor(t, Options{Tokens: c.tokens})
				const span = 2 * time.Second
				ctx, cancel := context.WithTimeout(t.Context(), span)
				defer cancel()
				var wg sync.WaitGroup
				total := 0
				for job, weight := range c.weights {
					s := p.Job(job, weight)
					total += weight
					runs := c.runs
					if runs == 0 {
						runs = map[string]int{"one": 1, "two": 2, "seven": 7}[job]
					}
					for range runs {
						wg.Go(func() { _ = compute(ctx, s.Run()) }) // ends with ctx
					}
				}
				wg.Wait()
				var sum time.Duration
				for job, weight := range c.weights {
					got := p.Job(job, weight).Usage().CPU
					sum += got
					want := time.Duration(c.tokens) * span * time.Duration(weight) / time.Duration(total)
					if got < want*9/10 || got > want*11/10 {
						t.Errorf("%s got %v, wanted %v", job, got, want)
					}
				}
				if all := time.Duration(c.tokens) * span; sum < all-10*time.Millisecond || sum > all+10*time.Millisecond {
					t.Errorf("%v of %v were used", sum, all)
				}
				p.check(t, c.tokens)
			})
		})
	}
}

func TestAJobThatMostlyWaitsIsServedAtOnceBesideEndlessLoops(t *testing.T) {
	for _, weight := range []int{1, 4, 10} { // of the loops, each of which may have more than the quiet job asks for
		for _, tokens := range []int{1, 2} {
			procs(t, tokens+1)
			synctest.Test(t, func(t *testing.T) {
				p := newProcessor(t, Options{Tokens: tokens})
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for _, name := range []string{"a", "b", "c", "d"} {
					for range 2 {
						wg.Go(func() { _ = compute(ctx, p.Job(name, weight).Run()) })
					}
				}
				time.Sleep(50 * time.Millisecond)
				quiet := p.Job("quiet", 1).Run()
				var worst time.Duration
				for range 300 {
					time.Sleep(3 * time.Millisecond)
					began := time.Now()
					if err := quiet.Enter(ctx); err != nil {
						t.Fatal(err)
					}
					time.Sleep(tick)
					if err := quiet.Tick(ctx); err != nil {
						t.Fatal(err)
					}
					quiet.Leave()
					worst = max(worst, time.Since(began)-tick)
				}
				// A tick of whoever runs, and never a slice.
				if worst > 2*tick {
					t.Errorf("loops of weight %d, %d tokens: it waited %v", weight, tokens, worst)
				}
				cancel()
				wg.Wait()
				p.check(t, tokens)
			})
		}
	}
}

func TestShortRunsOfAJobGoAheadOfItsLongOnesWhichStillGoOn(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		s := p.Job("job", 1)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		loop := s.Run()
		wg.Go(func() { _ = compute(ctx, loop) })
		time.Sleep(20 * time.Millisecond)
		if !loop.Long() {
			t.Error("it is not long after 20 ms")
		}
		// Two clients without a pause want more than there is.
		var worst time.Duration
		var mu sync.Mutex
		before := loop.Used()
		for range 2 {
			wg.Go(func() {
				r := s.Run()
				for range 400 {
					began := time.Now()
					if r.Enter(ctx) != nil {
						return
					}
					for range 10 {
						time.Sleep(tick)
						if r.Tick(ctx) != nil {
							return
						}
					}
					r.Leave()
					mu.Lock()
					worst = max(worst, time.Since(began)-10*tick)
					mu.Unlock()
				}
			})
		}
		time.Sleep(200 * time.Millisecond)
		if got := loop.Used() - before; got < 10*time.Millisecond {
			t.Errorf("the long run got %v of 200 ms", got)
		}
		cancel()
		wg.Wait()
		if worst > 3*time.Millisecond {
			t.Errorf("a short run waited %v", worst)
		}
		p.check(t, 1)
	})
}

func TestNobodyStarvesAmongManyJobs(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		heavy := p.Job("heavy", 100)
		for range 4 {
			wg.Go(func() { _ = compute(ctx, heavy.Run()) })
		}
		// Each newcomer starts fresh, and must not keep those who stay from their turn.
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := "new" + string(rune('a'+i%26)) + string(rune('a'+i/26%26))
				sub, stop := context.WithTimeout(ctx, 500*time.Microsecond)
				_ = compute(sub, p.Job(name, 10).Run())
				stop()
				p.Remove(name)
			}
		})
		light := p.Job("light", MinWeight)
		wg.Go(func() { _ = compute(ctx, light.Run()) })
		wg.Wait()
		// Its turn by weight comes every 111 ms, and is kept at least every fourth time.
		if got := heavy.Usage().CPU; got < 250*time.Millisecond {
			t.Errorf("a job of weight 100 got %v of 3 s", got)
		}
		if got := light.Usage().CPU; got < 5*time.Millisecond {
			t.Errorf("a job of weight 1 beside 100 got %v of 3 s", got)
		}
	})
}

func TestABlockedRunHoldsNoTokenAndComesBackWithBoundedCredit(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		a, b := p.Job("a", 1), p.Job("b", 1)
		r := a.Run()
		if err := r.Enter(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Microsecond)
		r.Block()
		if u := a.Usage(); u.Running != 0 || u.CPU != 200*time.Microsecond {
			t.Errorf("blocked: %+v", u)
		}
		wg.Go(func() { _ = compute(ctx, b.Run()) })
		time.Sleep(time.Second) // saves up nothing
		began := time.Now()
		if err := r.Unblock(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*tick {
			t.Errorf("it waited %v", took)
		}
		wg.Go(func() {
			defer r.Leave()
			for ctx.Err() == nil && r.Tick(ctx) == nil {
				time.Sleep(tick)
			}
		})
		from := b.Usage().CPU
		time.Sleep(10 * time.Millisecond)
		if got := b.Usage().CPU - from; got < 3500*time.Microsecond {
			t.Errorf("the job that stayed got %v of the 10 ms after", got)
		}
		cancel()
		wg.Wait()
		p.check(t, 1)
	})
}

// A job that gives its token back before each slice is over must not get more than one that does not.
func TestGivingBackEarlyGainsNothing(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		sly, plain := p.Job("sly", 1), p.Job("plain", 1)
		var wg sync.WaitGroup
		wg.Go(func() { _ = compute(ctx, plain.Run()) })
		for range 2 {
			wg.Go(func() {
				r := sly.Run()
				defer r.Leave()
				if r.Enter(ctx) != nil {
					return
				}
				for ctx.Err() == nil {
					for range 19 {
						time.Sleep(tick)
						if r.Tick(ctx) != nil {
							return
						}
					}
					r.Block()
					if r.Unblock(ctx) != nil {
						return
					}
				}
			})
		}
		wg.Wait()
		if got := sly.Usage().CPU; got > 1150*time.Millisecond {
			t.Errorf("the sly job got %v of 2 s", got)
		}
		p.check(t, 1)
	})
}

func TestHostWorkIsCharged(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, b := p.Job("a", 1), p.Job("b", 1)
		var wg sync.WaitGroup
		wg.Go(func() { _ = compute(ctx, a.Run()) })
		wg.Go(func() { _ = compute(ctx, b.Run()) })
		for range 200 {
			time.Sleep(5 * time.Millisecond)
			a.Charge(time.Millisecond) // a fifth of the time
		}
		wg.Wait()
		a.Charge(-time.Hour)
		ua, ub := a.Usage(), b.Usage()
		if ua.Host != 200*time.Millisecond {
			t.Errorf("host work: %v", ua.Host)
		}
		if total := ua.CPU + ua.Host; total < ub.CPU*9/10 || total > ub.CPU*11/10 {
			t.Errorf("%v with its host work, the other %v", total, ub.CPU)
		}
	})
}

func TestUsageIsMeasuredAndSoIsWaiting(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		a, b := p.Job("a", 1), p.Job("b", 1)
		r := a.Run()
		if err := r.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			r := b.Run()
			if r.Enter(t.Context()) == nil {
				time.Sleep(time.Millisecond)
				r.Leave()
			}
		}()
		time.Sleep(3 * time.Millisecond)
		synctest.Wait()
		if u := a.Usage(); u.CPU != 3*time.Millisecond || u.Running != 1 || u.Waiting != 0 || u.Grants != 1 {
			t.Errorf("while it runs: %+v", u)
		}
		if u := b.Usage(); u.CPU != 0 || u.Waiting != 1 {
			t.Errorf("while it waits: %+v", u)
		}
		r.Leave()
		if r.Used() != 3*time.Millisecond {
			t.Errorf("the run used %v", r.Used())
		}
		time.Sleep(2 * time.Millisecond)
		if u := b.Usage(); u.CPU != time.Millisecond || u.Waited != 3*time.Millisecond || u.Waiting+u.Running != 0 {
			t.Errorf("after: %+v", u)
		}
		p.check(t, 1)
	})
}

func TestNoTokenIsLostWhenAWaitIsCancelledOrAGuestPanics(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		holder := p.Job("holder", 1).Run()
		if err := holder.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		failed := make(chan error, 3)
		// One waits at the door, one after its slice, one after a call that blocked.
		other := p.Job("other", 1)
		go func() {
			r := other.Run()
			defer r.Leave()
			failed <- r.Enter(ctx)
		}()
		blockedRun := p.Job("blocked", 1).Run()
		holder.Leave()
		synctest.Wait() // other has come in and left
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
		if err := blockedRun.Enter(ctx); err != nil {
			t.Fatal(err)
		}
		blockedRun.Block()
		sliced := p.Job("sliced", 1).Run()
		if err := sliced.Enter(ctx); err != nil {
			t.Fatal(err)
		}
		go func() { failed <- blockedRun.Unblock(ctx) }()
		synctest.Wait()
		time.Sleep(2 * time.Millisecond)
		go func() { failed <- sliced.Tick(ctx) }() // makes way for the other, and waits for it
		synctest.Wait()
		if err := <-failed; err != nil { // the blocked one came back
			t.Fatal(err)
		}
		go func() {
			r := other.Run()
			failed <- r.Enter(ctx)
			r.Leave()
		}()
		synctest.Wait()
		cancel(gone)
		for range 2 {
			if err := <-failed; !errors.Is(err, gone) {
				t.Errorf("it ended with %v", err)
			}
		}
		if err := sliced.Tick(ctx); !errors.Is(err, ErrNotRunning) && err != nil {
			t.Errorf("a tick of a run that is out: %v", err)
		}
		sliced.Leave()
		blockedRun.Leave()
		blockedRun.Leave()
		p.check(t, 1)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			if err := holder.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer holder.Leave()
			panic("a guest's end")
		}()
		p.check(t, 1)
	})
}

func TestCallsOutOfOrderAreRefusedAndHarmNothing(t *testing.T) {
	procs(t, 2)
	p := newProcessor(t, Options{Tokens: 1, Slice: time.Nanosecond})
	r := p.Job("job", 1).Run()
	ctx := t.Context()
	if err := r.Tick(ctx); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a tick outside: %v", err)
	}
	if err := r.Unblock(ctx); !errors.Is(err, ErrNotRunning) {
		t.Errorf("unblocked outside: %v", err)
	}
	r.Block()
	r.Leave()
	if err := r.Enter(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Enter(ctx); !errors.Is(err, ErrEntered) {
		t.Errorf("entered twice: %v", err)
	}
	r.Block()
	r.Block()
	if err := r.Enter(ctx); !errors.Is(err, ErrEntered) {
		t.Errorf("entered while blocked: %v", err)
	}
	if err := r.Tick(ctx); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a tick while blocked: %v", err)
	}
	r.Leave()
	p.check(t, 1)
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := r.Enter(done); err != nil { // there is a token: nobody has to wait
		t.Errorf("entering without a wait: %v", err)
	}
	r.Leave()
	p.check(t, 1)
}

func TestOptionsAreChecked(t *testing.T) {
	procs(t, 3)
	n := goruntime.GOMAXPROCS(0)
	for _, o := range []Options{{Tokens: n}, {Tokens: n + 7}, {Tokens: -1}, {Slice: -1}, {Long: -1}} {
		if _, err := New(o); err == nil || !strings.HasPrefix(err.Error(), "processor options: ") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	p, err := New(Options{})
	if err != nil || p.queue.free != n-1 || p.queue.slice != time.Millisecond {
		t.Errorf("%+v, %v", p, err)
	}
	old := goruntime.GOMAXPROCS(1)
	defer goruntime.GOMAXPROCS(old)
	if _, err := New(Options{}); err == nil {
		t.Error("as many tokens as GOMAXPROCS")
	}
}

func TestAJobsWeightCanChangeAndIsBounded(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		ctx, cancel := context.WithCancel(t.Context())
		a, b := p.Job("a", -5), p.Job("b", 1_000_000)
		if a.weight != MinWeight || b.weight != MaxWeight || a.Name() != "a" {
			t.Errorf("%s has weight %v, %s %v", a.name, a.weight, b.name, b.weight)
		}
		if p.Job("a", 1) != a {
			t.Error("another share of the same name")
		}
		p.Job("b", 1)
		var wg sync.WaitGroup
		wg.Go(func() { _ = compute(ctx, a.Run()) })
		wg.Go(func() { _ = compute(ctx, b.Run()) })
		time.Sleep(100 * time.Millisecond)
		p.Job("b", 3)
		ua, ub := a.Usage(), b.Usage()
		time.Sleep(400 * time.Millisecond)
		ga, gb := a.Usage().CPU-ua.CPU, b.Usage().CPU-ub.CPU
		if ratio := float64(gb) / float64(ga); ratio < 2.7 || ratio > 3.3 {
			t.Errorf("at weights 1 and 3 they got %v and %v", ga, gb)
		}
		cancel()
		wg.Wait()
		p.Remove("a")
		if p.Job("a", 1) == a {
			t.Error("a job that was removed is remembered")
		}
	})
}

func TestLongRunsAreToldOnce(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		told, ended := 0, 0
		p := newProcessor(t, Options{Tokens: 1, Long: 3, OnLong: func() bool { told++; return true }, OnLongEnd: func() { ended++ }})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		r := p.Job("job", 1).Run()
		if err := compute(ctx, r); !errors.Is(err, context.DeadlineExceeded) || told != 1 || !r.Long() {
			t.Errorf("%v; told %d times", err, told)
		}
		if ended != 1 {
			t.Errorf("told %d times that a long run left", ended)
		}
		if err := r.Enter(t.Context()); err != nil || r.Long() {
			t.Errorf("a new run is long at once, %v", err)
		}
		if r.Leave(); ended != 1 {
			t.Error("a run that was not long ended as one")
		}
	})
}

func TestLongRunsLeaveTokensToOthers(t *testing.T) {
	procs(t, 3)
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 2, Long: 3, Longs: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for name, weight := range map[string]int{"a": 1, "b": 3} {
			for range 2 {
				wg.Go(func() { _ = compute(ctx, p.Job(name, weight).Run()) })
			}
		}
		time.Sleep(100 * time.Millisecond)
		before := [2]Usage{p.Job("a", 1).Usage(), p.Job("b", 3).Usage()}
		quick := p.Job("quick", 1).Run()
		for range 200 {
			began := time.Now()
			if err := quick.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(began); waited > 0 {
				t.Errorf("a short run waited %v for a token that long ones leave", waited)
			}
			quick.Leave()
			time.Sleep(time.Millisecond)
		}
		a, b := p.Job("a", 1).Usage().CPU-before[0].CPU, p.Job("b", 3).Usage().CPU-before[1].CPU
		if all := a + b; all < 195*time.Millisecond || all > 205*time.Millisecond || b < 28*a/10 || b > 32*a/10 {
			t.Errorf("in 200 ms long runs used %v and %v of one token", a, b)
		}
		wg.Wait()
		p.check(t, 2)
	})
}

// Real goroutines on a real clock, computing. How evenly they share is bounded by the longest stretch without a tick, which is the
// operating system's doing, so the bound is measured with it.
func TestSpinningGoroutinesShareByWeight(t *testing.T) {
	procs(t, 3)
	p, err := New(Options{Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hold := p.Job("hold", 1).Run() // until all have arrived
	if err := hold.Enter(ctx); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var longest time.Duration
	var wg sync.WaitGroup
	weights := map[string]int{"1": 1, "2": 2, "4": 4}
	for job, weight := range weights {
		s := p.Job(job, weight)
		wg.Go(func() {
			r := s.Run()
			defer r.Leave()
			if r.Enter(ctx) != nil {
				return
			}
			for x := uint64(1); ctx.Err() == nil; {
				began := clock.Elapsed()
				for range 3000 {
					x = x*6364136223846793005 + 1442695040888963407
				}
				mu.Lock()
				longest = max(longest, clock.Elapsed()-began)
				mu.Unlock()
				if x == 0 || r.Tick(ctx) != nil {
					return
				}
			}
		})
		for s.Usage().Waiting == 0 {
			goruntime.Gosched()
		}
	}
	end := time.AfterFunc(600*time.Millisecond, cancel)
	defer end.Stop()
	hold.Leave()
	wg.Wait()
	least, most := time.Duration(1<<62), time.Duration(0)
	for job, weight := range weights {
		u := p.Job(job, weight).Usage()
		t.Log(job, u)
		least, most = min(least, u.CPU/time.Duration(weight)), max(most, u.CPU/time.Duration(weight))
	}
	if bound := 2 * (longest + 2*time.Millisecond); most-least > bound {
		t.Errorf("over their weights they got from %v to %v, %v apart at most", least, most, bound)
	}
	p.check(t, 1)
}

func TestManyGoroutinesNeverHoldMoreThanTheTokensAndLoseNone(t *testing.T) {
	const tokens = 3
	for _, most := range []int{0, tokens} {
		old := goruntime.GOMAXPROCS(tokens + 1 + most)
		manyGoroutines(t, tokens, most)
		goruntime.GOMAXPROCS(old)
	}
}

// manyGoroutines has goroutines do all that they can with the processor at once; most of them may have lost their token without knowing.
func manyGoroutines(t *testing.T, tokens, most int) {
	p, err := New(Options{Tokens: tokens, Longs: 1, Slice: 20 * time.Microsecond, Long: 2, OnLong: func() bool { return true }, OnLongEnd: func() {}, Undone: true})
	if err != nil {
		t.Fatal(err)
	}
	var holding atomic.Int64
	hold := func(n int64) {
		if h := holding.Add(n); h > int64(tokens+most) || h < 0 {
			t.Errorf("%d runs hold tokens", h)
		}
	}
	var wg sync.WaitGroup
	for g := range 24 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(g)))
			r := p.Job(string(rune('a'+g%6)), 1+g%4).Run()
			once := func(ctx context.Context) {
				inside := false
				defer func() {
					if inside {
						hold(-1)
					}
					r.Leave()
					if p := recover(); p != nil && p != "a guest's end" {
						panic(p)
					}
				}()
				if r.Enter(ctx) != nil {
					return
				}
				inside = true
				hold(1)
				for range random.IntN(40) {
					switch random.IntN(12) {
					case 0:
						hold(-1)
						inside = false
						r.Block()
						if random.IntN(2) == 0 {
							goruntime.Gosched()
						}
						if r.Unblock(ctx) != nil {
							return
						}
						inside = true
						hold(1)
					case 1:
						if random.IntN(20) == 0 {
							panic("a guest's end")
						}
					default:
						for range 500 {
							random.Uint64()
						}
						// While it is parked it holds none, but only the processor knows when that is.
						hold(-1)
						inside = false
						if r.Tick(ctx) != nil {
							return
						}
						inside = true
						hold(1)
					}
				}
			}
			for range 150 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(400))*time.Microsecond)
				once(ctx)
				cancel()
			}
		})
	}
	wg.Go(func() {
		for i := range 2000 {
			s := p.Job(string(rune('a'+i%6)), 1+i%5)
			s.Charge(time.Microsecond)
			if u := s.Usage(); u.Running > tokens || u.Waiting < 0 {
				t.Errorf("%+v", u)
			}
			goruntime.Gosched()
		}
	})
	wg.Wait()
	p.check(t, tokens)
}

func TestEnteringTickingAndLeavingAllocateNothing(t *testing.T) {
	procs(t, 2)
	p, err := New(Options{Tokens: 1, Slice: 10 * time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	r := p.Job("job", 1).Run()
	ctx := t.Context()
	if n := testing.AllocsPerRun(2000, func() {
		if r.Enter(ctx) != nil || r.Tick(ctx) != nil {
			t.Error("no token")
		}
		r.Block()
		if r.Unblock(ctx) != nil {
			t.Error("no token")
		}
		r.Leave()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEnterLeave(b *testing.B) {
	procs(b, 2)
	p, err := New(Options{Tokens: 1})
	if err != nil {
		b.Fatal(err)
	}
	r := p.Job("job", 1).Run()
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Enter(ctx); err != nil {
			b.Fatal(err)
		}
		r.Leave()
	}
}

func BenchmarkTick(b *testing.B) {
	procs(b, 2)
	p, err := New(Options{Tokens: 1})
	if err != nil {
		b.Fatal(err)
	}
	r := p.Job("job", 1).Run()
	ctx := b.Context()
	if err := r.Enter(ctx); err != nil {
		b.Fatal(err)
	}
	defer r.Leave()
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Tick(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// Two runs that hand one token to each other at every tick.
func BenchmarkHandOver(b *testing.B) {
	procs(b, 3)
	p, err := New(Options{Tokens: 1, Slice: 1})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	other := make(chan struct{})
	go func() {
		defer close(other)
		r := p.Job("other", 1).Run()
		defer r.Leave()
		if r.Enter(ctx) != nil {
			return
		}
		for ctx.Err() == nil && r.Tick(ctx) == nil {
		}
	}()
	r := p.Job("job", 1).Run()
	if err := r.Enter(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Tick(ctx); err != nil {
			b.Fatal(err)
		}
	}
	r.Leave()
	cancel()
	<-other
}

// A run that arrives need not wait until the one that makes way, which the kernel may not let run, comes to its next tick.
func TestARunThatArrivesTakesTheTokenOfOneThatDoesNotTick(t *testing.T) {
	defer goruntime.GOMAXPROCS(goruntime.GOMAXPROCS(3))
	synctest.Test(t, func(t *testing.T) {
		p := newProcessor(t, Options{Tokens: 1})
		loop, quick, third := p.Job("loop", 1).Run(), p.Job("quick", 1).Run(), p.Job("third", 1).Run()
		if err := loop.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // without a tick
		if err := quick.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		if u := p.Job("loop", 1).Usage(); u.CPU != 5*time.Millisecond || u.Running != 0 || u.Waiting != 1 {
			t.Errorf("the one that lost its token: %+v", u)
		}
		// There is no P for another one that goes on without: this one waits.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond/2)
		defer cancel()
		if err := third.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third run was let in, %v", err)
		}
		waited := make(chan error, 1)
		go func() { waited <- loop.Tick(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Errorf("it went on without a token, %v", err)
		default:
		}
		quick.Leave()
		if err := <-waited; err != nil {
			t.Error(err)
		}
		loop.Leave()
		p.check(t, 1)
	})
}

// It may block, leave, or be given another token before it knows that it lost one.
func TestARunThatLostItsTokenMayDoAnythingBeforeItKnows(t *testing.T) {
	defer goruntime.GOMAXPROCS(goruntime.GOMAXPROCS(3))
	for name, then := range map[string]func(t *testing.T, r *Run){
		"leaves": func(t *testing.T, r *Run) { r.Leave() },
		"blocks": func(t *testing.T, r *Run) {
			r.Block()
			if err := r.Unblock(t.Context()); err != nil {
				t.Error(err)
			}
			r.Leave()
		},
		"ticks": func(t *testing.T, r *Run) {
			if err := r.Tick(t.Context()); err != nil {
				t.Error(err)
			}
			r.Leave()
		},
	} {
		for _, again := range []bool{false, true} { // it has another token by then
			synctest.Test(t, func(t *testing.T) {
				p := newProcessor(t, Options{Tokens: 1})
				loop, quick := p.Job("loop", 1).Run(), p.Job("quick", 1).Run()
				if err := loop.Enter(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Millisecond)
				if err := quick.Enter(t.Context()); err != nil {
					t.Fatal(err)
				}
				if again {
					quick.Leave()
				} else {
					go func() { time.Sleep(time.Millisecond); quick.Leave() }()
				}
				then(t, loop)
				synctest.Wait()
				time.Sleep(2 * time.Millisecond)
				p.check(t, 1)
				if err := loop.Enter(t.Context()); err != nil { // nothing is left in its wake
					t.Errorf("%s: %v", name, err)
				}
				if err := loop.Tick(t.Context()); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				loop.Leave()
				p.check(t, 1)
			})
		}
	}
}

// Where OnLong can be taken back it is while the run waits: it may wait for ever, and hold a thread.
func TestALongRunThatBlocksIsNoneUntilItComputesAgain(t *testing.T) {
	procs(t, 2)
	for _, undone := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			lowered := 0
			p := newProcessor(t, Options{Tokens: 1, Long: 3, Undone: undone, OnLong: func() bool { lowered++; return true }, OnLongEnd: func() { lowered-- }})
			r := p.Job("job", 1).Run()
			if err := r.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			work := func() {
				for range 5 {
					time.Sleep(time.Millisecond)
					if err := r.Tick(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			work()
			if lowered != 1 {
				t.Errorf("it computed for long, and is lowered %d times", lowered)
			}
			want := 1
			if undone {
				want = 0
			}
			if r.Block(); lowered != want {
				t.Errorf("while it blocks it is lowered %d times, want %d", lowered, want)
			}
			if err := r.Unblock(t.Context()); err != nil {
				t.Fatal(err)
			}
			if work(); lowered != 1 {
				t.Errorf("it computes again, and is lowered %d times", lowered)
			}
			if r.Leave(); lowered != 0 {
				t.Errorf("it left, and is lowered %d times", lowered)
			}
			p.check(t, 1)
		})
	}
}
