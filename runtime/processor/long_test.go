package processor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ripstop-vm/ripstop/internal/loop"
)

// busyShare makes a share one that uses much and whose runs are expected to be long.
func busyShare(t *testing.T, job *Share) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	_ = compute(ctx, job.Run())
}

// Least says how long a run has held a token at least before OnLong is called in it; agent.apart and reactor ask only goroutines whose function
// took that long whether their thread is spoiled.
func TestNoRunIsLoweredBeforeItsTime(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		var began time.Time
		early := time.Duration(-1)
		var p *Processor
		p = newProcessor(t, Options{Tokens: 1, OnLong: func() bool {
			if d := time.Since(began); d < p.Least() && early < 0 {
				early = d
			}
			return true
		}, Computed: func() (int, time.Duration) { return 1, time.Duration(time.Now().UnixNano()) }})
		job := p.Job("hostile", 1)
		began = time.Now()
		busyShare(t, job)
		r := job.Run()
		began = time.Now()
		if err := r.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		for time.Since(began) < 500*time.Microsecond {
			time.Sleep(tick)
			if err := r.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		r.Leave()
		if early >= 0 {
			t.Errorf("a run was lowered after %v; Least says %v, and the goroutine of one that ends before is not asked whether its thread is spoiled", early, p.Least())
		}
	})
}

// A run is lowered only once the loop that it began in was told to go on without it: else the goroutine of everybody's connections is behind others.
func TestNoRunIsLoweredWhileALoopHasIt(t *testing.T) {
	for name, busy := range map[string]bool{"a quiet job": false, "a busy job": true} {
		t.Run(name, func(t *testing.T) {
			procs(t, 2)
			synctest.Test(t, func(t *testing.T) {
				var l loops
				inLoop, lowered := false, 0
				used := time.Duration(0)
				began := time.Now()
				share := int64(100) // percent of the time
				p := newProcessor(t, Options{Tokens: 1, OnLong: func() bool {
					lowered++
					if l.computes == 0 && l.left == 0 {
						inLoop = true
					}
					return true
				}, Computed: func() (int, time.Duration) {
					return 1, used + time.Since(began)*time.Duration(share)/100
				}})
				job := p.Job("hostile", 1)
				if busy {
					busyShare(t, job)
				}
				lowered, inLoop, share = 0, false, 40 // others have most of the core
				ctx := context.WithValue(t.Context(), loop.Key, &l)
				r := job.Run()
				if err := r.Enter(ctx); err != nil {
					t.Fatal(err)
				}
				for range 400 {
					time.Sleep(tick)
					if err := r.Tick(ctx); err != nil {
						t.Fatal(err)
					}
				}
				r.Leave()
				if inLoop {
					t.Errorf("lowered %d times while the loop was told %d times that it computes, and %d times that it left", lowered, l.computes, l.left)
				}
			})
		})
	}
}
func TestAJobThatOthersKeepWaitingIsNotBehindThem(t *testing.T) {
	procs(t, 2)
	synctest.Test(t, func(t *testing.T) {
		told := 0
		began := time.Now()
		p := newProcessor(t, Options{Tokens: 1, OnLong: func() bool { told++; return true },
			Computed: func() (int, time.Duration) { return 1, time.Since(began) / 20 }})
		r := p.Job("neighbour", 1).Run()
		lowered := 0
		for range 200 {
			told = 0
			if err := r.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 6 * time.Millisecond / tick {
				time.Sleep(tick)
				if err := r.Tick(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			r.Leave()
			lowered += told
			time.Sleep(2 * time.Millisecond) // its next request
		}
		if lowered > 0 {
			t.Errorf("%d of 200 requests that computed for 0.3 ms were put behind others, and their threads with them", lowered)
		}
	})
}

// A run that waits in the world for a moment between two slices computes no less for it.
func TestARunThatBlocksBetweenSlicesIsBusyAllTheSame(t *testing.T) {
	for _, each := range []time.Duration{190 * time.Microsecond, 450 * time.Microsecond, 900 * time.Microsecond, 950 * time.Microsecond} {
		t.Run(each.String(), func(t *testing.T) {
			procs(t, 2)
			synctest.Test(t, func(t *testing.T) {
				told := 0
				began := time.Now()
				p := newProcessor(t, Options{Tokens: 1, OnLong: func() bool { told++; return true },
					Computed: func() (int, time.Duration) { return 1, time.Since(began) + 1 }})
				job := p.Job("hostile", 1)
				r := job.Run()
				if err := r.Enter(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer r.Leave()
				for time.Since(began) < 3*time.Second {
					for s := time.Now(); time.Since(s) < each; {
						time.Sleep(tick)
						if err := r.Tick(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					r.Block()
					if err := r.Unblock(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if used := time.Duration(job.recent); used < lately*8/10 || told == 0 {
					t.Errorf("it computed all the time, of which %v of the last %v count, and was lowered %d times", used, lately, told)
				}
			})
		})
	}
}
