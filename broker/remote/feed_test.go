package remote_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/remotetest"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// serve runs a server until the test ends, and answers its address.
func serve(t testing.TB, s *server.Server) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// watched counts the watches of records.
type watched struct {
	broker.Records
	begun atomic.Int32
}

func (w *watched) Watch(ctx context.Context, prefix string, from broker.Revision) iter.Seq2[broker.Event, error] {
	w.begun.Add(1)
	return w.Records.Watch(ctx, prefix, from)
}

func TestAllWatchersShareOneWatchOfTheBrokers(t *testing.T) {
	parts := modelParts(nil)
	records := &watched{Records: parts.Records}
	parts.Records = records
	c := remotetest.Start(t, parts, server.Options{}).Client(remotetest.Control)
	_, from, err := c.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	const watchers, commits = 100, 20
	var wg sync.WaitGroup
	for w := range watchers {
		wg.Go(func() {
			n := uint64(0)
			for e, err := range c.Records().Watch(t.Context(), fmt.Sprint(w%4), from) {
				if err != nil {
					t.Errorf("watcher %d: %v", w, err)
					return
				}
				if n++; len(e.Changes) != 1 || e.Changes[0].Key != fmt.Sprint(w%4) || e.Revision.Number != n {
					t.Errorf("watcher %d: event %d is %+v", w, n, e)
				}
				if n == commits {
					return
				}
			}
		})
	}
	for range commits {
		var all broker.Commit
		for k := range 4 {
			all.Writes = append(all.Writes, broker.Write{Key: fmt.Sprint(k), Value: []byte("v")})
		}
		if _, err := c.Records().Commit(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if n := records.begun.Load(); n != 1 {
		t.Errorf("the broker has had %d watches", n)
	}
}

func TestASlowWatcherIsToldToListAgainAndDelaysNobody(t *testing.T) {
	parts := modelParts(nil)
	cluster := remotetest.Start(t, parts, server.Options{History: 64, HistoryBytes: 4 << 20})
	slow, quick := cluster.Client(hostA), cluster.Client(remotetest.Control)
	_, from, err := quick.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	const commits, size = 300, 256 << 10 // far more than buffers of sockets and streams hold
	read, told := make(chan struct{}), make(chan error, 1)
	began := make(chan struct{})
	go func() {
		first := true
		for _, err := range slow.Records().Watch(t.Context(), "", from) {
			if err != nil {
				told <- err
				return
			}
			if first {
				first = false
				close(began)
				<-read
			}
		}
	}()
	events := make(chan uint64)
	go func() {
		for e, err := range quick.Records().Watch(t.Context(), "", from) {
			if err != nil {
				return
			}
			events <- e.Revision.Number
		}
	}()
	for i := range uint64(commits) {
		if _, err := parts.Records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "k", Value: make([]byte, size)}}}); err != nil {
			t.Fatal(err)
		}
		if n := <-events; n != i+1 {
			t.Fatalf("the quick watcher is told of %d, want %d", n, i+1)
		}
		if i == 0 {
			<-began
		}
	}
	close(read)
	if err := <-told; !errors.Is(err, broker.ErrCompacted) {
		t.Errorf("the slow watcher is told %v", err)
	}
}

// asked counts the questions of a policy that allows everything.
type asked struct {
	server.Everything
	n atomic.Int32
}

func (a *asked) Allow(context.Context, identity.Identity, ...server.Access) error {
	a.n.Add(1)
	return nil
}

func TestAWatchOnWhichNothingComesIsNotEnded(t *testing.T) {
	const stall = 50 * time.Millisecond
	parts, policy := modelParts(nil), &asked{}
	c := remotetest.Start(t, parts, server.Options{Policy: policy, Stall: stall}).Client(remotetest.Control)
	_, from, err := parts.Records.List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	put := func() {
		if _, err := parts.Records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "k"}}}); err != nil {
			t.Fatal(err)
		}
	}
	put()
	n := int32(0)
	for e, err := range c.Records().Watch(t.Context(), "", from) {
		if n++; err != nil || e.Revision.Number != uint64(n) {
			t.Fatalf("event %d is %+v, %v", n, e, err)
		}
		if n == 3 {
			break
		}
		<-clock.System.NewTimer(4 * stall).C() // the time in which nothing comes
		put()
	}
	// Once when it began and once for each event: the watch did not begin anew.
	if got := policy.n.Load(); got != n+1 {
		t.Errorf("the policy was asked %d times for %d events", got, n)
	}
}

// renewals counts the calls that renew.
type renewals struct {
	broker.Leases
	calls, holds atomic.Int32
}

func (r *renewals) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	r.calls.Add(1)
	r.holds.Add(int32(len(holds)))
	return r.Leases.Renew(ctx, holds...)
}

func TestRenewalsOfManyHostsShareCalls(t *testing.T) {
	parts := modelParts(nil)
	leases := &renewals{Leases: parts.Leases}
	parts.Leases = leases
	c := remotetest.Start(t, parts, server.Options{Window: 200 * time.Millisecond}).Client(remotetest.Control)
	const hosts = 60
	var wg sync.WaitGroup
	for i := range hosts {
		h, err := c.Leases().Acquire(t.Context(), fmt.Sprint("host/", i), "h", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		lost := broker.Hold{Name: fmt.Sprint("lost/", i), Holder: "h", Epoch: 1, TTL: time.Minute}
		wg.Go(func() {
			holds := [][]broker.Hold{{h}, {lost}, {lost, h}, {h, lost}}[i%4]
			got, err := c.Leases().Renew(t.Context(), holds...)
			lives := 0
			for at, one := range holds {
				if one.Name == h.Name {
					lives++
					continue
				}
				var e *broker.LostError
				if !errors.As(err, &e) || e.Name != lost.Name || e.Index != at {
					t.Errorf("host %d: what was lost answers %v", i, err)
				}
			}
			if len(got) != lives || lives > 0 && (got[0].Name != h.Name || got[0].Epoch != h.Epoch) || lives == len(holds) && err != nil {
				t.Errorf("host %d is answered %+v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if n := leases.calls.Load(); n > hosts/4 {
		t.Errorf("%d hosts made %d calls", hosts, n)
	}
	if n := leases.holds.Load(); n != hosts*3/2 {
		t.Errorf("%d leases were renewed", n)
	}
}

// BenchmarkCommit commits records through a control process, 32 at once, while watchers are told of each.
func BenchmarkCommit(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint("watchers=", watchers), func(b *testing.B) {
			cluster := remotetest.Start(b, embeddedParts(b, nil), server.Options{MaxStreams: watchers})
			c := cluster.Client(remotetest.Control)
			_, from, err := c.Records().List(b.Context(), broker.Range{})
			if err != nil {
				b.Fatal(err)
			}
			var began, ended sync.WaitGroup
			var told atomic.Int64
			var last atomic.Uint64
			began.Add(watchers)
			for range watchers {
				w := cluster.Client(remotetest.Control)
				ended.Go(func() {
					first := true
					for e, err := range w.Records().Watch(b.Context(), "", from) {
						if err != nil {
							b.Error(err)
							return
						}
						if told.Add(1); first {
							first = false
							began.Done()
						}
						if e.Revision.Number == last.Load() {
							return
						}
					}
				})
			}
			commit := func() {
				if _, err := c.Records().Commit(b.Context(), broker.Commit{Writes: []broker.Write{{Key: "k", Value: make([]byte, 256)}}}); err != nil {
					b.Error(err)
				}
			}
			commit()
			began.Wait()
			told.Store(0)
			last.Store(uint64(b.N) + 1)
			b.SetParallelism(32 / goruntime.GOMAXPROCS(0))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					commit()
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			ended.Wait() // all have been told of all
			b.ReportMetric(float64(told.Load())/b.Elapsed().Seconds(), "events/s")
		})
	}
}
