package embedded

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
)

// One operation of these benchmarks is an invocation that is enqueued, leased and completed, by 32 goroutines at a time, with a
// payload and a result of 256 bytes each. Raw bbolt does the least that any such queue has to write, with bbolt's own
// batching or with a commit each: a put of the payload, a put for the lease, and one step that deletes both and puts the result.

const (
	benchWorkers = 32
	benchBytes   = 256
)

// inParallel calls do for 0 to n-1 from many goroutines.
func inParallel(n int, do func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range benchWorkers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && failed.Load() == nil; i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func BenchmarkQueue(b *testing.B) {
	for _, batch := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batches of %d", batch), func(b *testing.B) {
			s, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			q, ctx, payload := s.Queue(), context.Background(), make([]byte, benchBytes)
			b.ResetTimer()
			err = inParallel((b.N+batch-1)/batch, func(i int) error {
				in := broker.Batch{Job: queued, Limit: broker.MaxQueueLength}
				for k := range batch {
					in.Invocations = append(in.Invocations, broker.Invocation{ID: broker.InvocationID(fmt.Sprintf("%09d-%03d", i, k)), Payload: payload})
				}
				if _, err := q.Enqueue(ctx, in); err != nil {
					return err
				}
				ls, err := q.Lease(ctx, broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: batch, TTL: time.Minute})
				if err != nil {
					return err
				}
				var wg sync.WaitGroup
				errs := make(chan error, len(ls))
				for _, l := range ls {
					wg.Go(func() { errs <- q.Complete(ctx, l, broker.Result{Outcome: broker.OutcomeDone, Payload: payload}) })
				}
				wg.Wait()
				close(errs)
				for err := range errs {
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "invocations/s")
		})
	}
}

func BenchmarkRawBbolt(b *testing.B) {
	for name, step := range map[string]func(*bolt.DB) func(func(*bolt.Tx) error) error{
		"group commit":  func(db *bolt.DB) func(func(*bolt.Tx) error) error { return db.Batch },
		"a commit each": func(db *bolt.DB) func(func(*bolt.Tx) error) error { return db.Update },
	} {
		b.Run(name, func(b *testing.B) { rawBbolt(b, step) })
	}
}

func rawBbolt(b *testing.B, by func(*bolt.DB) func(func(*bolt.Tx) error) error) {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "raw.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	names := [][]byte{[]byte("payloads"), []byte("leases"), []byte("results")}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range names {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	step, payload := by(db), make([]byte, benchBytes)
	b.ResetTimer()
	err = inParallel(b.N, func(i int) error {
		key := fmt.Appendf(nil, "%09d", i)
		if err := step(func(tx *bolt.Tx) error { return tx.Bucket(names[0]).Put(key, payload) }); err != nil {
			return err
		}
		if err := step(func(tx *bolt.Tx) error { return tx.Bucket(names[1]).Put(key, []byte("worker")) }); err != nil {
			return err
		}
		return step(func(tx *bolt.Tx) error {
			if err := tx.Bucket(names[0]).Delete(key); err != nil {
				return err
			}
			if err := tx.Bucket(names[1]).Delete(key); err != nil {
				return err
			}
			return tx.Bucket(names[2]).Put(key, payload)
		})
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "invocations/s")
}
