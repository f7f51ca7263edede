package redis

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// BenchmarkEnqueue enqueues invocations of 256 bytes from 32 goroutines: each alone, or in batches.
func BenchmarkEnqueue(b *testing.B) {
	for _, fsync := range []string{"everysec", "always"} {
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprint(fsync, "/batch=", batch), func(b *testing.B) {
				s := mustOpen(b, redistest.Start(b, "appendonly yes", "appendfsync "+fsync).URL(), Options{})
				var next atomic.Int64
				b.SetParallelism(16)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := enqueue(b, s, batch, &next); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.ReportMetric(float64(next.Load())/b.Elapsed().Seconds(), "invocations/s")
			})
		}
	}
}

func enqueue(b *testing.B, s *Store, batch int, next *atomic.Int64) error {
	c := broker.Batch{Job: testJob, Limit: broker.MaxQueueLength}
	for range batch {
		c.Invocations = append(c.Invocations, broker.Invocation{ID: broker.InvocationID(fmt.Sprintf("id-%012d", next.Add(1))), Payload: make([]byte, 256)})
	}
	_, err := s.Queue().Enqueue(b.Context(), c)
	return err
}

// BenchmarkProcess leases and completes invocations of 256 bytes by 32 workers that take up to 32 at a time.
func BenchmarkProcess(b *testing.B) {
	s := mustOpen(b, redistest.Start(b, "appendonly yes", "appendfsync everysec").URL(), Options{})
	var next, left atomic.Int64
	for int(next.Load()) < b.N {
		if err := enqueue(b, s, 500, &next); err != nil {
			b.Fatal(err)
		}
	}
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for left.Load() > 0 {
				ls, err := s.Queue().Lease(b.Context(), broker.Want{Worker: fmt.Sprint(w), Jobs: []broker.Job{testJob}, Max: 32, TTL: time.Minute})
				if err != nil {
					b.Error(err)
					return
				}
				errs := together(len(ls), func(i int) error {
					return s.Queue().Complete(b.Context(), ls[i], broker.Result{Outcome: broker.OutcomeDone, Payload: make([]byte, 64)})
				})
				for _, err := range errs {
					if err != nil {
						b.Error(err)
						return
					}
				}
				left.Add(-int64(len(ls)))
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "invocations/s")
}

// BenchmarkCommit commits one record each from 32 goroutines.
func BenchmarkCommit(b *testing.B) {
	for _, fsync := range []string{"everysec", "always"} {
		b.Run(fsync, func(b *testing.B) {
			s := mustOpen(b, redistest.Start(b, "appendonly yes", "appendfsync "+fsync).URL(), Options{})
			var next atomic.Int64
			b.SetParallelism(16)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Records().Commit(b.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint("k", next.Add(1)%1000), Value: make([]byte, 256)}}}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
