package processor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever runs do, no token is lost and nobody stays behind others.
func TestWhateverRunsDoNothingIsLost(t *testing.T) {
	procs(t, 5)
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex
			opts := Options{Tokens: 1 + rnd.IntN(3), Undone: seed%2 == 0, Longs: rnd.IntN(3)}
			if seed%5 == 0 {
				opts.Procs = 9
			}
			began := time.Now()
			percent := time.Duration(20 + rnd.IntN(90))
			opts.Computed = func() (int, time.Duration) { return 1, time.Since(began) * percent / 100 }
			p := newProcessor(t, opts)
			total, ends := 0, 0
			p.onLong = func() bool { mu.Lock(); defer mu.Unlock(); total++; return total%7 != 0 }
			p.onLongEnd = func() { mu.Lock(); defer mu.Unlock(); ends++ }
			var all sync.WaitGroup
			stop := time.Now().Add(300 * time.Millisecond)
			for g := range 8 {
				gr := rand.New(rand.NewPCG(seed, uint64(g)+10))
				job := p.Job(fmt.Sprint(g%3), 1+gr.IntN(100))
				all.Go(func() {
					r := job.Run()
					for time.Now().Before(stop) {
						r.Patient(gr.IntN(3) == 0)
						r.Bound(time.Duration(gr.IntN(2)*gr.IntN(30)) * time.Millisecond)
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(gr.IntN(60_000))*time.Microsecond)
						err := r.Enter(ctx)
						n := gr.IntN(400)
						for i := 0; err == nil && i < n; i++ {
							time.Sleep(time.Duration(gr.IntN(200)) * time.Microsecond)
							switch gr.IntN(40) {
							case 0:
								r.Block()
								time.Sleep(time.Duration(gr.IntN(3000)) * time.Microsecond)
								if gr.IntN(8) == 0 {
									err = context.Canceled // it ends while it is blocked
									break
								}
								err = r.Unblock(ctx)
							case 1:
								job.Charge(time.Duration(gr.IntN(1000)) * time.Microsecond)
							case 2:
								p.Job(job.Name(), 1+gr.IntN(1000))
							default:
								err = r.Tick(ctx)
							}
						}
						if gr.IntN(4) == 0 {
							r.Rest()
							time.Sleep(time.Duration(gr.IntN(500)) * time.Microsecond)
						}
						r.Leave()
						if gr.IntN(3) == 0 {
							r.Leave()
						}
						cancel()
						time.Sleep(time.Duration(gr.IntN(1000)) * time.Microsecond)
					}
				})
			}
			all.Wait()
			time.Sleep(3 * time.Second)
			p.mu.Lock()
			q := &p.queue
			if q.free != opts.Tokens || len(q.running) != 0 || len(q.ready) != 0 || len(q.late) != 0 || q.olds != 0 || q.youngs != 0 || q.evicted != 0 {
				t.Errorf("seed %d: %d of %d tokens are free, %d run, %d evicted, %d olds", seed, q.free, opts.Tokens, len(q.running), q.evicted, q.olds)
			}
			p.mu.Unlock()
			if declined := total / 7; ends != total-declined {
				t.Errorf("seed %d: lowered %d times (%d declined), raised %d", seed, total, declined, ends)
			}
			p.spare.mu.Lock()
			if p.spare.long != 0 || p.spare.raised || p.spare.changing {
				t.Errorf("seed %d: spare %d %t %t", seed, p.spare.long, p.spare.raised, p.spare.changing)
			}
			p.spare.mu.Unlock()
		})
	}
}
