package faulty

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/brokertest"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/broker/remote/remotetest"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

func none() *Faults { return New(Options{}) }

func modelOf(c clock.Clock) *model.Broker { return model.New(model.Options{Clock: c}) }

func TestRecordsWithoutFaults(t *testing.T) {
	brokertest.Records(t, func(*testing.T) broker.Records { return NewRecords(modelOf(nil).Records(), none()) })
}

func TestLeasesWithoutFaults(t *testing.T) {
	brokertest.Leases(t, func(_ *testing.T, c clock.Clock) broker.Leases { return NewLeases(modelOf(c).Leases(), none()) })
}

func TestBlobsWithoutFaults(t *testing.T) {
	brokertest.Blobs(t, func(_ *testing.T, c clock.Clock) broker.Blobs { return NewBlobs(modelOf(c).Blobs(), none()) })
}

func TestQueueWithoutFaults(t *testing.T) {
	brokertest.Queue(t, func(_ *testing.T, c clock.Clock) broker.Queue { return NewQueue(modelOf(c).Queue(), none()) })
}

func TestBucketsWithoutFaults(t *testing.T) {
	brokertest.Buckets(t, func(*testing.T) broker.Buckets { return NewBuckets(modelOf(nil).Buckets(), none()) })
}

func TestASeedGivesTheSameFailuresHalfOfThemBefore(t *testing.T) {
	run := func(seed uint64) (texts []string) {
		f := New(Options{Seed: seed, Rate: 0.3})
		for range 1000 {
			done := false
			if err := act(f, "x", func() error { done = true; return nil }); err != nil {
				if !errors.Is(err, ErrInjected) || done == strings.Contains(err.Error(), "before") {
					t.Fatalf("a call that took effect (%t) answers %v", done, err)
				}
				texts = append(texts, err.Error())
			} else if !done {
				t.Fatal("a call that succeeded had no effect")
			}
		}
		return texts
	}
	one, again, two := run(1), run(1), run(2)
	if !slices.Equal(one, again) || slices.Equal(one, two) {
		t.Error("failures do not follow from the seed")
	}
	before := 0
	for _, text := range one {
		if strings.Contains(text, "before") {
			before++
		}
	}
	if len(one) < 250 || len(one) > 350 || before < len(one)*2/5 || before > len(one)*3/5 {
		t.Errorf("%d of 1000 calls failed, %d of them before their effect", len(one), before)
	}
}

func TestFailuresEnd(t *testing.T) {
	f := New(Options{Rate: 1, Max: 3})
	for i := range 10 {
		if err := act(f, "x", func() error { return nil }); (err != nil) != (i < 3) {
			t.Errorf("call %d answers %v", i, err)
		}
	}
	if f.Count() != 3 {
		t.Errorf("there were %d failures", f.Count())
	}
	f = New(Options{Rate: 1})
	f.Stop()
	if err := act(f, "x", func() error { return nil }); err != nil {
		t.Errorf("when stopped, a call answers %v", err)
	}
}

// backend is a broker with faults, and the same one without.
type backend struct {
	*Faults
	clock   *clock.Manual
	records broker.Records
	leases  broker.Leases
	blobs   broker.Blobs
	queue   broker.Queue
	plain   broker.Queue
}

// withFaults runs a check over every backend that this repository has in memory or on the disk, and over one that is served, with the faults
// at either side of the wire.
func withFaults(t *testing.T, check func(*testing.T, backend)) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	epoch := time.Unix(1_700_000_000, 0)
	t.Run("model", func(t *testing.T) {
		f, c := New(Options{Seed: seed, Rate: 0.2}), clock.NewManual(epoch)
		m := modelOf(c)
		check(t, backend{f, c, NewRecords(m.Records(), f), NewLeases(m.Leases(), f), NewBlobs(m.Blobs(), f), NewQueue(m.Queue(), f), m.Queue()})
	})
	t.Run("served, with faults behind", func(t *testing.T) {
		f, c := New(Options{Seed: seed, Rate: 0.2}), clock.NewManual(epoch)
		m := modelOf(c)
		p := served(t, server.Parts{Records: NewRecords(m.Records(), f), Leases: NewLeases(m.Leases(), f), Blobs: NewBlobs(m.Blobs(), f), Queue: NewQueue(m.Queue(), f), Buckets: NewBuckets(m.Buckets(), f)})
		check(t, backend{f, c, p.Records, p.Leases, p.Blobs, p.Queue, m.Queue()})
	})
	t.Run("served, with faults before", func(t *testing.T) {
		f, c := New(Options{Seed: seed, Rate: 0.2}), clock.NewManual(epoch)
		m := modelOf(c)
		p := served(t, server.Parts{Records: m.Records(), Leases: m.Leases(), Blobs: m.Blobs(), Queue: m.Queue(), Buckets: m.Buckets()})
		check(t, backend{f, c, NewRecords(p.Records, f), NewLeases(p.Leases, f), NewBlobs(p.Blobs, f), NewQueue(p.Queue, f), m.Queue()})
	})
	t.Run("embedded", func(t *testing.T) {
		f, c := New(Options{Seed: seed, Rate: 0.2}), clock.NewManual(epoch)
		s, err := embedded.Open(t.TempDir(), embedded.Options{Clock: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		check(t, backend{f, c, NewRecords(s.Records(), f), NewLeases(s.Leases(), f), NewBlobs(s.Blobs(), f), NewQueue(s.Queue(), f), s.Queue()})
	})
}

// served serves a broker, and answers it as a client sees it.
func served(t *testing.T, p server.Parts) server.Parts {
	c := remotetest.Start(t, p, server.Options{}).Client(remotetest.Control)
	return server.Parts{Records: c.Records(), Leases: c.Leases(), Blobs: c.Blobs(), Queue: c.Queue(), Buckets: c.Buckets()}
}

// injected says whether a call was made to fail, here or at the other end of a wire, which only tells in words.
func injected(err error) bool {
	return errors.Is(err, ErrInjected) || err != nil && strings.Contains(err.Error(), ErrInjected.Error())
}

// again calls f until it answers anything but an injected fault.
func again(f func() error) error {
	for {
		if err := f(); !injected(err) {
			return err
		}
	}
}

func TestUnderFaultsNoCommitIsLostOrDoneTwice(t *testing.T) {
	withFaults(t, func(t *testing.T, b backend) {
		const writers, each = 4, 15
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					mine := fmt.Sprintf("%d-%d;", w, i)
					// A commit whose reply was lost is found by reading what it would have written.
					err := again(func() error {
						rec, err := b.records.Get(t.Context(), "list")
						if err != nil && !errors.Is(err, broker.ErrNotFound) {
							return err
						}
						if bytes.Contains(rec.Value, []byte(mine)) {
							return nil
						}
						_, err = b.records.Commit(t.Context(), broker.Commit{
							Conditions: []broker.Condition{{Key: "list", Revision: rec.Revision}},
							Writes:     []broker.Write{{Key: "list", Value: append(rec.Value, mine...)}},
						})
						if errors.Is(err, broker.ErrConflict) {
							return ErrInjected
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		b.Stop()
		rec, err := b.records.Get(t.Context(), "list")
		if err != nil || len(strings.Split(string(rec.Value), ";"))-1 != writers*each {
			t.Errorf("the list is %s, %v", rec.Value, err)
		}
		for w := range writers {
			for i := range each {
				if n := strings.Count(";"+string(rec.Value), fmt.Sprintf(";%d-%d;", w, i)); n != 1 {
					t.Errorf("writer %d's commit %d was made %d times", w, i, n)
				}
			}
		}
	})
}

func TestUnderFaultsAWatcherSeesAllCommits(t *testing.T) {
	withFaults(t, func(t *testing.T, b backend) {
		_, from, err := b.records.List(t.Context(), broker.Range{})
		for injected(err) {
			_, from, err = b.records.List(t.Context(), broker.Range{})
		}
		for i := range 20 {
			if err := again(func() error {
				_, err := b.records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint(i)}}})
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[string]bool{}
		for len(seen) < 20 {
			for e, err := range b.records.Watch(t.Context(), "", from) {
				if injected(err) {
					break // and watch on from where it was
				}
				if err != nil || e.Revision.Number <= from.Number {
					t.Fatalf("after %s, the watch yields %+v, %v", from, e, err)
				}
				from = e.Revision
				for _, c := range e.Changes {
					seen[c.Key] = true
				}
				if len(seen) == 20 {
					break
				}
			}
		}
	})
}

func TestUnderFaultsANameHasOneHolder(t *testing.T) {
	withFaults(t, func(t *testing.T, b backend) {
		rng := rand.New(rand.NewPCG(b.opts.Seed, 1))
		type holder struct {
			hold  broker.Hold
			until time.Time // by its own clock
		}
		holders := map[int]holder{}
		last, tenures := uint64(0), 0
		for range 400 {
			b.clock.Advance(time.Duration(rng.IntN(3000)) * time.Millisecond)
			i, now := rng.IntN(4), b.clock.Now()
			h, held := holders[i]
			if held && !now.Before(h.until) {
				delete(holders, i) // it has stopped by itself
				held = false
			}
			if held {
				switch got, err := b.leases.Renew(t.Context(), h.hold); {
				case err == nil:
					holders[i] = holder{got[0], now.Add(got[0].Safe())}
				case !injected(err):
					t.Fatalf("renewing what is held for another %s answers %v", h.until.Sub(now), err)
				}
				continue
			}
			got, err := b.leases.Acquire(t.Context(), "leader", fmt.Sprint(i), 5*time.Second)
			if err != nil {
				continue
			}
			for k, other := range holders {
				if now.Before(other.until) {
					t.Fatalf("%d took what %d holds", i, k)
				}
			}
			if got.Epoch <= last {
				t.Fatalf("epoch %d came after %d", got.Epoch, last)
			}
			holders[i], last = holder{got, now.Add(got.Safe())}, got.Epoch
			tenures++
		}
		if tenures < 5 {
			t.Errorf("there were %d tenures", tenures)
		}
	})
}

func TestUnderFaultsABlobThatWasPutIsThere(t *testing.T) {
	withFaults(t, func(t *testing.T, b backend) {
		for i := range 20 {
			content := strings.Repeat(fmt.Sprint(i), 1000*i)
			var blob broker.Blob
			if err := again(func() (err error) { blob, err = b.blobs.Put(t.Context(), strings.NewReader(content)); return err }); err != nil {
				t.Fatal(err)
			}
			err := again(func() error {
				r, err := b.blobs.Open(t.Context(), blob.Digest)
				if err != nil {
					return err
				}
				defer r.Close()
				got, err := io.ReadAll(r)
				if err == nil && string(got) != content {
					t.Errorf("blob %d reads %d bytes", i, len(got))
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestUnderFaultsEachAcknowledgedInvocationHasOneResult(t *testing.T) {
	withFaults(t, func(t *testing.T, b backend) {
		const n, workers = 60, 4
		job := broker.Job{Entitlement: broker.DefaultEntitlement, Name: "job"}
		for i := range n {
			v := broker.Invocation{ID: broker.InvocationID(fmt.Sprint(i)), Key: fmt.Sprint("key ", i), MaxAttempts: broker.MaxAttempts}
			if err := again(func() error {
				_, err := b.queue.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{v}})
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		accepted, ended := map[broker.InvocationID]string{}, map[broker.InvocationID]bool{}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for ctx.Err() == nil {
					ls, err := b.queue.Lease(t.Context(), broker.Want{Worker: "w", Jobs: []broker.Job{job}, Max: 3, TTL: 10 * time.Second})
					if err != nil && !injected(err) {
						t.Error(err)
						return
					}
					if len(ls) == 0 {
						b.clock.Advance(time.Second) // leases whose reply was lost run out
					}
					for _, l := range ls {
						mine := fmt.Sprintf("%d at attempt %d", w, l.Attempt)
						err := b.queue.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte(mine)})
						mu.Lock()
						if err == nil {
							if accepted[l.ID] != "" {
								t.Errorf("%s has two results", l.ID)
							}
							accepted[l.ID] = mine
						}
						if _, err := b.plain.Result(t.Context(), job, l.ID); err == nil {
							ended[l.ID] = true
						}
						if len(ended) == n {
							cancel()
						}
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		for i := range n {
			id := broker.InvocationID(fmt.Sprint(i))
			r, err := b.plain.Result(t.Context(), job, id)
			if err != nil || accepted[id] != "" && string(r.Payload) != accepted[id] {
				t.Errorf("%s has the result %q, %v; a worker was told that it is %q", id, r.Payload, err, accepted[id])
			}
		}
	})
}
