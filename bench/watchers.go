package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/redis"
)

// watchers measures commits while others watch them.
var watchers = comparison{
	name: "watchers", about: "commits/s while 1, 100 and 1,000 watch them all; on each backend, and through a control process",
	prepare: func(ctx context.Context, b *bench) error {
		_, err := findRedis()
		if err := b.without("redis", err); err != nil {
			return err
		}
		return b.testBinary(ctx, "broker/remote")
	},
	measure: measureWatchers,
}

// remoteCommits is how many commits are measured through a control process.
const remoteCommits = 1000

// recordStores opens the records of each backend.
func (b *bench) recordStores() map[string]func(context.Context) (broker.Records, func(), error) {
	return map[string]func(context.Context) (broker.Records, func(), error){
		"embedded": func(context.Context) (broker.Records, func(), error) {
			dir, err := os.MkdirTemp("", "ripstop-bench")
			if err != nil {
				return nil, nil, err
			}
			s, err := embedded.Open(dir, embedded.Options{})
			if err != nil {
				return nil, nil, errors.Join(err, os.RemoveAll(dir))
			}
			return s.Records(), func() { _, _ = s.Close(), os.RemoveAll(dir) }, nil
		},
		"redis": func(ctx context.Context) (broker.Records, func(), error) {
			r, err := b.startRedis(ctx, "always")
			if err != nil {
				return nil, nil, err
			}
			s, err := redis.Open(ctx, redis.Options{URL: "unix://" + r.socket})
			if err != nil {
				r.close()
				return nil, nil, err
			}
			return s.Records(), func() { _ = s.Close(); r.close() }, nil
		},
	}
}

func measureWatchers(ctx context.Context, b *bench) ([]Figure, error) {
	counts := []int{1, 100, 1000}
	stores := b.recordStores()
	var sides []side
	names := []string{"embedded", "redis"}
	for _, name := range names {
		for _, n := range counts {
			sides = append(sides, side{fmt.Sprintf("%s, %d", name, n), func(ctx context.Context) (values, error) {
				if b.missing[name] != nil {
					return values{}, nil
				}
				records, end, err := stores[name](ctx)
				if err != nil {
					return nil, err
				}
				defer end()
				return commitWatched(ctx, records, n, b.time/2)
			}})
		}
	}
	for _, n := range counts {
		sides = append(sides, side{fmt.Sprintf("remote, %d", n), func(ctx context.Context) (values, error) {
			vs, err := b.testBench(ctx, "broker/remote", fmt.Sprintf("^BenchmarkCommit$/^watchers=%d$", n), fmt.Sprintf("%dx", remoteCommits))
			name := fmt.Sprintf("Commit/watchers=%d ", n)
			return values{"commits": vs[name+"commits/s"], "events": vs[name+"events/s"]}, err
		}})
	}
	r, err := b.interleave(ctx, b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var lines []line
	names = append(names, "remote")
	for _, name := range names {
		if b.missing[name] != nil {
			b.say("  commits on %s are left out: %v", name, b.missing[name])
			continue
		}
		for _, n := range counts {
			against, on := fmt.Sprintf("%s, %d", name, counts[0]), name
			if n == counts[0] {
				against = ""
			}
			switch name {
			case "redis":
				on = "Redis, appendfsync always"
			case "remote":
				on = "through a control process (mTLS), embedded"
			}
			l := line{name: fmt.Sprintf("commits, %d watching, %s", n, on), unit: "1/s", of: fmt.Sprintf("%s, %d", name, n), metric: "commits", against: against,
				note: fmt.Sprintf("%d commit at once, 256 bytes; %.3g events/s delivered", queueClients, r.by[fmt.Sprintf("%s, %d", name, n)]["events"].median())}
			lines = append(lines, l)
		}
	}
	return r.figures(lines...), nil
}

// commitWatched commits for d while n watch, and waits until all have seen everything or one has fallen behind. It answers "commits" and
// "events" a second; the latter over the whole time.
func commitWatched(ctx context.Context, records broker.Records, n int, d time.Duration) (values, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_, from, err := records.List(ctx, broker.Range{Prefix: "k"})
	if err != nil {
		return nil, err
	}
	var seen atomic.Int64
	var behind atomic.Int64
	var last atomic.Uint64 // revision that watchers wait for; 0: not known yet
	var wg sync.WaitGroup
	stop := errors.New("the measurement is over")
	for range n {
		wg.Go(func() {
			for e, err := range records.Watch(ctx, "k", from) {
				if err != nil {
					if !errors.Is(err, stop) && ctx.Err() == nil {
						behind.Add(1)
					}
					return
				}
				seen.Add(1)
				if l := last.Load(); l != 0 && e.Revision.Number >= l {
					return
				}
			}
		})
	}
	began := time.Now()
	var next atomic.Uint64
	rate, err := atOnce(ctx, queueClients, d, func(ctx context.Context) (bool, error) {
		_, err := records.Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint("k", next.Add(1)%1000), Value: make([]byte, 256)}}})
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	// One more commit that tells those who watch that they have seen everything. It comes after last is set, so that nobody misses it.
	_, now, err := records.List(ctx, broker.Range{Prefix: "k", Limit: 1})
	if err != nil {
		return nil, err
	}
	last.Store(now.Number + 1)
	if _, err := records.Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "k", Value: []byte("the end")}}}); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		cancel(stop)
		<-done
		return nil, errors.New("some who watch had not seen the last commit after 30 s")
	}
	took := time.Since(began)
	if behind.Load() > 0 {
		return nil, fmt.Errorf("%d of %d who watch fell behind", behind.Load(), n)
	}
	return values{"commits": rate, "events": float64(seen.Load()) / took.Seconds()}, nil
}
