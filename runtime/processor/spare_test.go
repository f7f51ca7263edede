package processor

import (
	"context"
	"errors"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestThereAreMorePsWhileRunsAreLong(t *testing.T) {
	usual := goruntime.GOMAXPROCS(3)
	defer goruntime.GOMAXPROCS(usual)
	synctest.Test(t, func(t *testing.T) {
		answer, seen := true, 0
		p := newProcessor(t, Options{Tokens: 2, Long: 3, Procs: 5, OnLong: func() bool { seen = goruntime.GOMAXPROCS(0); return answer }, OnLongEnd: func() {}})
		overlap := func() int {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.queue.overlap
		}
		run := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_ = compute(ctx, p.Job("job", 1).Run()) // ends with ctx
		}
		is := func(when string, procs, losers int) {
			t.Helper()
			if n := goruntime.GOMAXPROCS(0); n != procs || overlap() != losers {
				t.Errorf("%s: GOMAXPROCS is %d, and %d may lose their token before they know", when, n, overlap())
			}
		}
		is("at first", 3, 0)
		run(2 * time.Millisecond)
		is("after a short run", 3, 0)
		run(20 * time.Millisecond)
		if seen != 5 {
			t.Errorf("GOMAXPROCS was %d when a run became long", seen)
		}
		is("after a long run", 5, 2)
		time.Sleep(900 * time.Millisecond)
		run(20 * time.Millisecond)
		time.Sleep(900 * time.Millisecond)
		is("900 ms after the last one", 5, 2)
		time.Sleep(300 * time.Millisecond)
		is("after more than a second", 3, 0)
		go run(3 * time.Second)
		time.Sleep(2900 * time.Millisecond)
		is("while one goes on", 5, 2)
		time.Sleep(2 * time.Second)
		is("after that", 3, 0)
		answer = false
		run(20 * time.Millisecond)
		time.Sleep(2 * time.Second)
		is("after one that could not be lowered", 3, 0)
		p.check(t, 2)
	})
	if _, err := New(Options{Procs: -1}); err == nil {
		t.Error("fewer Ps than none")
	}
}

// TestNobodyWaitsForGOMAXPROCS: while it changes, which takes until a garbage collection ends, runs that are to be long go on as they were, and are long
// afterwards.
func TestNobodyWaitsForGOMAXPROCS(t *testing.T) {
	procs(t, 3)
	synctest.Test(t, func(t *testing.T) {
		const takes = 100 * time.Millisecond
		told := 0
		p := newProcessor(t, Options{Tokens: 2, Long: 3, Procs: 1000, OnLong: func() bool { told++; return true }, OnLongEnd: func() {}})
		var set atomic.Int64
		set.Store(3)
		p.spare.set = func(n int) int {
			if n == 0 {
				return int(set.Load())
			}
			time.Sleep(takes)
			return int(set.Swap(int64(n)))
		}
		run := func(d time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			began := time.Now()
			_ = compute(ctx, p.Job("job", 1).Run()) // ends with ctx
			if took := time.Since(began); took > d+time.Millisecond {
				t.Errorf("it waited for %v", took-d)
			}
		}
		is := func(when string, procs, times int) {
			t.Helper()
			if n := int(set.Load()); n != procs || told != times {
				t.Errorf("%s: GOMAXPROCS is %d, and OnLong was called %d times", when, n, told)
			}
		}
		run(takes / 2)
		is("while it is raised", 3, 0)
		run(takes)
		is("once it is", 1000, 1)
		time.Sleep(spareFor + takes/2)
		run(takes)
		is("when it is put back, and raised again", 3, 1)
		run(takes)
		is("in the end", 1000, 2)
		time.Sleep(spareFor + 2*takes)
		is("after that", 3, 2)
		p.check(t, 2)
	})
}

func TestARunIsLongOnceItHasComputed(t *testing.T) {
	procs(t, 2)
	for name, c := range map[string]struct {
		computed func(calls int, since time.Duration) (int, time.Duration)
		long     bool
	}{
		"it computes":                 {func(_ int, since time.Duration) (int, time.Duration) { return 1, since }, true},
		"a third of the time":         {func(_ int, since time.Duration) (int, time.Duration) { return 1, since / 3 }, true},
		"others have the core":        {func(int, time.Duration) (int, time.Duration) { return 1, time.Hour }, false},
		"from thread to thread":       {func(calls int, _ time.Duration) (int, time.Duration) { return calls, time.Hour }, true},
		"the system does not tell":    {func(int, time.Duration) (int, time.Duration) { return 0, 0 }, true},
		"it did, then others have it": {func(_ int, since time.Duration) (int, time.Duration) { return 1, min(since, 4*time.Millisecond) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told, calls := 0, 0
				began := time.Now()
				p := newProcessor(t, Options{Tokens: 1, Long: 3, OnLong: func() bool { told++; return true },
					Computed: func() (int, time.Duration) { calls++; return c.computed(calls, time.Since(began)) }})
				r := p.Job("job", 1).Run()
				for i := range 2 {
					began = time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					_ = compute(ctx, r) // ends with ctx
					cancel()
					if c.long && told != i+1 || !c.long && told > 0 {
						t.Errorf("run %d: told %d times after %d looks", i, told, calls)
					}
					calls = 0
				}
			})
		})
	}
}

func TestWhatOthersComputeWhileARunBlocksIsNotItsOwn(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		told, computed := 0, time.Duration(0)
		p := newProcessor(t, Options{Tokens: 1, Long: 3, OnLong: func() bool { told++; return true },
			Computed: func() (int, time.Duration) { return 1, computed }})
		r := p.Job("job", 1).Run()
		if err := r.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer r.Leave()
		for range 5 {
			for range 100 {
				time.Sleep(tick)
				if err := r.Tick(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			r.Block()
			computed += time.Hour
			if err := r.Unblock(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if told > 0 {
			t.Error("a run that did not compute is long")
		}
	})
}

// A share that used much lately is not given a slice's time in front of everybody by each of its runs.
func TestRunsOfAShareThatUsedMuchAreLongAlmostAtOnce(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var told []time.Duration // since the run began
		p := newProcessor(t, Options{Tokens: 1, OnLong: func() bool { told = append(told, time.Since(began)); return true },
			Computed: func() (int, time.Duration) { return 1, time.Duration(time.Now().UnixNano()) }})
		job := p.Job("job", 1)
		run := func(d time.Duration) {
			t.Helper()
			began = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			if err := compute(ctx, job.Run()); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		long := func(when string, least, most time.Duration) {
			t.Helper()
			if len(told) != 1 || told[0] < least || told[0] > most {
				t.Errorf("%s: runs were long after %v, want once between %v and %v", when, told, least, most)
			}
			told = nil
		}
		run(400 * time.Millisecond)
		long("at first", 10*time.Millisecond, 11*time.Millisecond)
		run(20 * time.Millisecond)
		long("after much", 200*time.Microsecond, 400*time.Microsecond)
		for range 2 * forgiven {
			run(time.Millisecond)
		}
		told = nil
		for range 300 {
			run(time.Millisecond)
		}
		if len(told) > 0 {
			t.Errorf("runs of a millisecond, none of which is long any more, were long after %v", told)
		}
		run(20 * time.Millisecond)
		long("after many brief ones", 2*time.Millisecond, 3*time.Millisecond)
		for range 50 {
			run(60 * time.Microsecond)
		}
		if len(told) > 0 {
			t.Errorf("brief runs were long after %v", told)
		}
		time.Sleep(time.Second)
		run(20 * time.Millisecond)
		long("after a second of nothing", 10*time.Millisecond, 11*time.Millisecond)
		p.check(t, 1)
	})
}
