package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/redis"
)

// What both sides of queues have.
const (
	queueClients = 32 // who enqueue, and invocations worked on at once
	queueBytes   = 256
	retention    = 24 * time.Hour
	callBatch    = 100 // invocations that one call enqueues where they come in batches
)

// moreClients are how many more enqueue at once, one a call, on Redis.
var moreClients = []int{128, 512}

// queues compares queued invocations with asynq, on the same Redis, and with what the file format below the embedded broker can do.
var queues = comparison{
	name: "queue", about: "enqueue and process queued invocations, on Redis and embedded; against asynq on Redis, and raw bbolt",
	prepare: func(ctx context.Context, b *bench) error {
		_, err := findRedis()
		if err := b.without("asynq", err); err != nil {
			return err
		}
		return b.testBinary(ctx, "broker/embedded")
	},
	measure: measureQueues,
}

func measureQueues(ctx context.Context, b *bench) ([]Figure, error) {
	var figs []Figure
	settings := []string{"always", "everysec"}
	if b.missing["asynq"] != nil {
		settings = nil
	}
	part := b.time / 2
	own := func(batch int, open func(context.Context) (broker.Queue, func(), error)) func(context.Context) (values, error) {
		return func(ctx context.Context) (values, error) {
			q, end, err := open(ctx)
			if err != nil {
				return nil, err
			}
			defer end()
			return measureQueue(ctx, q, batch, part)
		}
	}
	var sides []side
	for _, fsync := range settings {
		onRedis := func(ctx context.Context) (broker.Queue, func(), error) { return b.redisQueue(ctx, fsync) }
		sides = append(sides,
			side{"redis " + fsync, own(1, onRedis)},
			side{"redis in batches " + fsync, own(callBatch, onRedis)},
			side{"asynq " + fsync, func(ctx context.Context) (values, error) { return b.measureAsynq(ctx, fsync, part) }})
		for _, n := range moreClients {
			sides = append(sides,
				side{fmt.Sprintf("redis %s, %d", fsync, n), func(ctx context.Context) (values, error) {
					q, end, err := onRedis(ctx)
					if err != nil {
						return nil, err
					}
					defer end()
					rate, err := enqueueOwn(ctx, q, 1, n, part)
					return values{"enqueue": rate}, err
				}},
				side{fmt.Sprintf("asynq %s, %d", fsync, n), func(ctx context.Context) (values, error) {
					s, err := b.startRedis(ctx, fsync)
					if err != nil {
						return nil, err
					}
					defer s.close()
					rate, _, err := enqueueAsynq(ctx, asynqAt(s, n), n, part)
					return values{"enqueue": rate}, err
				}})
		}
	}
	sides = append(sides,
		side{"embedded", own(1, embeddedQueue)}, side{"embedded in batches", own(callBatch, embeddedQueue)},
		side{"bbolt", func(ctx context.Context) (values, error) {
			return b.testBench(ctx, "broker/embedded", "^Benchmark(RawBbolt|Queue)$", part.String())
		}})
	r, err := b.interleave(ctx, b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	sameFor := func(n int) string {
		return fmt.Sprintf("%d bytes, %d at once, kept for %s", queueBytes, n, retention)
	}
	same := sameFor(queueClients)
	for _, fsync := range settings {
		peer, on := "asynq "+fsync, ", Redis, appendfsync "+fsync
		figs = append(figs, r.figures(
			line{name: "enqueue" + on, unit: "1/s", of: "redis " + fsync, metric: "enqueue", against: peer, target: atLeastTimes(2), note: "one a call; " + same},
			line{name: "enqueue" + on, unit: "1/s", of: "redis in batches " + fsync, metric: "enqueue", against: peer, target: atLeastTimes(2), note: fmt.Sprintf("%d a call, asynq one; %s", callBatch, same)},
			line{name: "process" + on, unit: "1/s", of: "redis " + fsync, metric: "process", against: peer, target: atLeastTimes(2), note: fmt.Sprintf("leased up to %d a call, completed one by one; %s", queueClients, same)})...)
		for _, n := range moreClients {
			figs = append(figs, r.figures(line{
				name: "enqueue" + on, unit: "1/s", of: fmt.Sprintf("redis %s, %d", fsync, n), metric: "enqueue",
				against: fmt.Sprintf("asynq %s, %d", fsync, n), target: atLeastTimes(2), note: "one a call; " + sameFor(n),
			})...)
		}
	}
	syncs := "synced before each answer; asynq on Redis, appendfsync always; "
	figs = append(figs, r.figures(
		line{name: "enqueue, embedded", unit: "1/s", of: "embedded", metric: "enqueue", against: "asynq always", note: syncs + "one a call"},
		line{name: "enqueue, embedded", unit: "1/s", of: "embedded in batches", metric: "enqueue", against: "asynq always", note: syncs + fmt.Sprintf("%d a call", callBatch)},
		line{name: "process, embedded", unit: "1/s", of: "embedded", metric: "process", against: "asynq always", note: syncs + fmt.Sprintf("leased up to %d a call", queueClients)})...)
	r.by["raw bbolt, a commit each"], r.by["raw bbolt, group commit"] = r.by["bbolt"], r.by["bbolt"]
	for _, batch := range []string{"1", "10", "100"} {
		for _, raw := range []string{"a_commit_each", "group_commit"} {
			figs = append(figs, r.figures(line{name: "enqueue, lease and complete, embedded, in batches of " + batch, unit: "1/s", of: "bbolt", metric: "Queue/batches_of_" + batch + " invocations/s",
				against: map[string]string{"a_commit_each": "raw bbolt, a commit each", "group_commit": "raw bbolt, group commit"}[raw], againstMetric: "RawBbolt/" + raw + " invocations/s",
				note: "raw bbolt puts a payload, a lease, and a result"})...)
		}
	}
	return figs, nil
}

// redisQueue is the queue of a store in a Redis of its own.
func (b *bench) redisQueue(ctx context.Context, fsync string) (broker.Queue, func(), error) {
	s, err := b.startRedis(ctx, fsync)
	if err != nil {
		return nil, nil, err
	}
	store, err := redis.Open(ctx, redis.Options{URL: "unix://" + s.socket})
	if err != nil {
		s.close()
		return nil, nil, err
	}
	return store.Queue(), func() {
		_ = store.Close() // its server ends, too
		s.close()
	}, nil
}

// embeddedQueue is the queue of a store in a folder of its own.
func embeddedQueue(context.Context) (broker.Queue, func(), error) {
	dir, err := os.MkdirTemp("", "ripstop-bench")
	if err != nil {
		return nil, nil, err
	}
	store, err := embedded.Open(dir, embedded.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return store.Queue(), func() {
		_ = store.Close() // what it holds goes with its folder
		_ = os.RemoveAll(dir)
	}, nil
}

// atOnce calls do from n goroutines until it answers false or fails, or d is over; it answers how many times a second.
func atOnce(ctx context.Context, n int, d time.Duration, do func(context.Context) (bool, error)) (float64, error) {
	var calls atomic.Int64
	errs := make(chan error, n)
	began := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for time.Since(began) < d {
				more, err := do(ctx)
				if err != nil {
					errs <- err
					return
				}
				if !more {
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	close(errs)
	return float64(calls.Load()) / took.Seconds(), <-errs
}

var queuedJob = broker.Job{Entitlement: broker.DefaultEntitlement, Name: "bench"}

// measureQueue enqueues for d, batch in each call, and then processes for d. It answers "enqueue" and "process" a second.
func measureQueue(ctx context.Context, q broker.Queue, batch int, d time.Duration) (values, error) {
	enqueued, err := enqueueOwn(ctx, q, batch, queueClients, d)
	if err != nil {
		return nil, err
	}
	rate, err := processQueue(ctx, q, d)
	if err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	return values{"enqueue": enqueued, "process": rate}, nil
}

// enqueueOwn enqueues for d from n goroutines, batch in each call, and answers how many a second.
func enqueueOwn(ctx context.Context, q broker.Queue, batch, n int, d time.Duration) (float64, error) {
	var next atomic.Int64
	payload := make([]byte, queueBytes)
	calls, err := atOnce(ctx, n, d, func(ctx context.Context) (bool, error) {
		in := broker.Batch{Job: queuedJob, Limit: broker.MaxQueueLength}
		for range batch {
			in.Invocations = append(in.Invocations, broker.Invocation{ID: broker.InvocationID(fmt.Sprintf("id-%012d", next.Add(1))), Payload: payload, ResultTTL: retention})
		}
		_, err := q.Enqueue(ctx, in)
		return err == nil, err
	})
	if err != nil {
		return 0, fmt.Errorf("enqueue: %w", err)
	}
	return calls * float64(batch), nil
}

// asynqAt is how asynq connects: with a connection for each of n clients, and as many to spare.
func asynqAt(s *redisServer, n int) asynq.RedisClientOpt {
	return asynq.RedisClientOpt{Network: "unix", Addr: s.socket, PoolSize: 2 * n}
}

// enqueueAsynq enqueues for d from n goroutines, one in each call. It answers how many a second, and how many in all.
func enqueueAsynq(ctx context.Context, at asynq.RedisClientOpt, n int, d time.Duration) (float64, int64, error) {
	client := asynq.NewClient(at)
	defer client.Close()
	payload := make([]byte, queueBytes)
	var queued atomic.Int64
	rate, err := atOnce(ctx, n, d, func(ctx context.Context) (bool, error) {
		_, err := client.EnqueueContext(ctx, asynq.NewTask("bench", payload, asynq.Retention(retention)))
		queued.Add(1)
		return err == nil, err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("enqueue: %w", err)
	}
	return rate, queued.Load(), nil
}

// processQueue leases as many as there are free slots and completes each by itself, until nothing is left or d is over. It answers how many
// a second.
func processQueue(ctx context.Context, q broker.Queue, d time.Duration) (float64, error) {
	slots := make(chan struct{}, queueClients)
	for range queueClients {
		slots <- struct{}{}
	}
	var n atomic.Int64
	var failed atomic.Pointer[error]
	result := broker.Result{Outcome: broker.OutcomeDone, Payload: make([]byte, queueBytes)}
	began := time.Now()
	var wg sync.WaitGroup
	for time.Since(began) < d && failed.Load() == nil {
		<-slots
		free := 1
	more:
		for {
			select {
			case <-slots:
				free++
			default:
				break more
			}
		}
		leases, err := q.Lease(ctx, broker.Want{Worker: "bench", Jobs: []broker.Job{queuedJob}, Max: free, TTL: time.Minute})
		if err != nil {
			return 0, err
		}
		if len(leases) == 0 {
			break
		}
		for range free - len(leases) {
			slots <- struct{}{}
		}
		for _, l := range leases {
			wg.Go(func() {
				if err := q.Complete(ctx, l, result); err != nil {
					failed.Store(&err)
				}
				n.Add(1)
				slots <- struct{}{}
			})
		}
	}
	wg.Wait()
	took := time.Since(began)
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(n.Load()) / took.Seconds(), nil
}

// measureAsynq does the same with asynq: its clients enqueue one at a time, its server works on as many at once, and each
// leaves a result of the same size.
func (b *bench) measureAsynq(ctx context.Context, fsync string, d time.Duration) (values, error) {
	s, err := b.startRedis(ctx, fsync)
	if err != nil {
		return nil, err
	}
	defer s.close()
	at := asynqAt(s, queueClients)
	rate, queued, err := enqueueAsynq(ctx, at, queueClients, d)
	if err != nil {
		return nil, err
	}
	payload := make([]byte, queueBytes)
	server := asynq.NewServer(at, asynq.Config{Concurrency: queueClients, LogLevel: asynq.ErrorLevel})
	var done atomic.Int64
	all := make(chan struct{})
	began := time.Now()
	err = server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		if _, err := t.ResultWriter().Write(payload); err != nil {
			return err
		}
		if done.Add(1) == queued {
			close(all)
		}
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	select {
	case <-all:
	case <-time.After(d):
	case <-ctx.Done():
	}
	n, took := done.Load(), time.Since(began)
	server.Shutdown()
	return values{"enqueue": rate, "process": float64(n) / took.Seconds()}, ctx.Err()
}
