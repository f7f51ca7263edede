package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote"
	"github.com/ripstop-vm/ripstop/broker/remote/remotetest"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
)

var job = broker.Job{Entitlement: broker.DefaultEntitlement, Name: "job"}

// cutWorld is a client behind a network that can be cut, and the broker itself.
type cutWorld struct {
	*testing.T
	plain server.Parts
	c     *remote.Client
	p     *proxy
}

func newCutWorld(t *testing.T) *cutWorld {
	w := &cutWorld{T: t, plain: modelParts(nil)}
	cluster := remotetest.Start(t, w.plain, server.Options{})
	w.p = newProxy(t, cluster.Addrs[0])
	w.c = cluster.Client(remotetest.Control, w.p.addr)
	return w
}

func (w *cutWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *cutWorld) put(key string) broker.Revision {
	w.Helper()
	rev, err := w.plain.Records.Commit(w.Context(), broker.Commit{Writes: []broker.Write{{Key: key, Value: []byte("v")}}})
	w.must(err)
	return rev
}

func (w *cutWorld) enqueue(id string) {
	w.Helper()
	_, err := w.plain.Queue.Enqueue(w.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{{ID: broker.InvocationID(id), MaxAttempts: 1}}})
	w.must(err)
}

func (w *cutWorld) dead(id string) {
	w.enqueue(id)
	ls, err := w.plain.Queue.Lease(w.Context(), want())
	w.must(err)
	w.must(w.plain.Queue.Complete(w.Context(), ls[0], broker.Result{Outcome: broker.OutcomeDead, Payload: []byte("result")}))
}

func (w *cutWorld) leased() broker.Lease {
	w.enqueue("i")
	ls, err := w.c.Queue().Lease(w.Context(), want())
	w.must(err)
	return ls[0]
}

func (w *cutWorld) state(id string) broker.State {
	st, err := w.plain.Queue.Status(w.Context(), job, broker.InvocationID(id))
	if err != nil {
		return ""
	}
	return st.State
}

func (w *cutWorld) hold(name string) broker.Hold {
	h, err := w.c.Leases().Acquire(w.Context(), name, "h", time.Minute)
	w.must(err)
	return h
}

func (w *cutWorld) held(name string) broker.Hold {
	hs, err := w.plain.Leases.Holders(w.Context(), name)
	w.must(err)
	return hs[0]
}

func (w *cutWorld) item() error {
	_, err := w.plain.Buckets.Get(w.Context(), "b", "k")
	return err
}

func want() broker.Want {
	return broker.Want{Worker: "w", Jobs: []broker.Job{job}, Max: 1, TTL: time.Minute}
}

// changes are methods that change something: what is answered does it, and says whether it took effect.
var changes = map[string]func(w *cutWorld) (do func(context.Context) error, done func() bool){
	"commit": func(w *cutWorld) (func(context.Context) error, func() bool) {
		return func(ctx context.Context) error {
				_, err := w.c.Records().Commit(ctx, broker.Commit{Conditions: []broker.Condition{{Key: "k"}}, Writes: []broker.Write{{Key: "k"}}})
				return err
			}, func() bool {
				rec, err := w.plain.Records.Get(w.Context(), "k")
				return err == nil && rec.Revision == 1
			}
	},
	"acquire": func(w *cutWorld) (func(context.Context) error, func() bool) {
		return func(ctx context.Context) error {
			_, err := w.c.Leases().Acquire(ctx, "n", "h", time.Minute)
			return err
		}, func() bool { return w.held("n").Epoch != 0 }
	},
	"renew": func(w *cutWorld) (func(context.Context) error, func() bool) {
		h := w.hold("n")
		h.TTL = time.Hour
		return func(ctx context.Context) error { _, err := w.c.Leases().Renew(ctx, h); return err },
			func() bool { return w.held("n").TTL == time.Hour }
	},
	"release a name": func(w *cutWorld) (func(context.Context) error, func() bool) {
		h := w.hold("n")
		return func(ctx context.Context) error { return w.c.Leases().Release(ctx, h) },
			func() bool { return w.held("n").Epoch == 0 }
	},
	"put blob": func(w *cutWorld) (func(context.Context) error, func() bool) {
		content := strings.Repeat("x", 200_000)
		return func(ctx context.Context) error {
				_, err := w.c.Blobs().Put(ctx, strings.NewReader(content))
				return err
			},
			func() bool { return len(blobsOf(w)) == 1 }
	},
	"enqueue": func(w *cutWorld) (func(context.Context) error, func() bool) {
		return func(ctx context.Context) error {
			_, err := w.c.Queue().Enqueue(ctx, broker.Batch{Job: job, Invocations: []broker.Invocation{{ID: "i"}}})
			return err
		}, func() bool { return w.state("i") == broker.StateWaiting }
	},
	"lease": func(w *cutWorld) (func(context.Context) error, func() bool) {
		w.enqueue("i")
		return func(ctx context.Context) error { _, err := w.c.Queue().Lease(ctx, want()); return err },
			func() bool { return w.state("i") == broker.StateLeased }
	},
	"extend": func(w *cutWorld) (func(context.Context) error, func() bool) {
		l := w.leased()
		l.TTL = time.Hour
		return func(ctx context.Context) error { _, err := w.c.Queue().Extend(ctx, l); return err }, func() bool {
			st, err := w.plain.Queue.Status(w.Context(), job, "i")
			return err == nil && st.Until.After(l.Until.Add(time.Minute))
		}
	},
	"complete": func(w *cutWorld) (func(context.Context) error, func() bool) {
		l := w.leased()
		return func(ctx context.Context) error {
			return w.c.Queue().Complete(ctx, l, broker.Result{Outcome: broker.OutcomeDone})
		}, func() bool { return w.state("i") == broker.StateDone }
	},
	"release": func(w *cutWorld) (func(context.Context) error, func() bool) {
		l := w.leased()
		return func(ctx context.Context) error {
			return w.c.Queue().Release(ctx, l, broker.Return{Unstarted: true})
		}, func() bool { return w.state("i") == broker.StateWaiting }
	},
	"requeue": func(w *cutWorld) (func(context.Context) error, func() bool) {
		w.dead("i")
		return func(ctx context.Context) error { return w.c.Queue().Requeue(ctx, job, "i") },
			func() bool { return w.state("i") == broker.StateWaiting }
	},
	"cancel": func(w *cutWorld) (func(context.Context) error, func() bool) {
		w.enqueue("i")
		return func(ctx context.Context) error { return w.c.Queue().Cancel(ctx, job, "i", "x") },
			func() bool { return w.state("i") == broker.StateDead }
	},
	"discard": func(w *cutWorld) (func(context.Context) error, func() bool) {
		w.dead("i")
		return func(ctx context.Context) error { return w.c.Queue().Discard(ctx, job, "i") }, func() bool {
			_, err := w.plain.Queue.Letter(w.Context(), job, "i")
			return errors.Is(err, broker.ErrNotFound)
		}
	},
	"purge": func(w *cutWorld) (func(context.Context) error, func() bool) {
		w.enqueue("i")
		return func(ctx context.Context) error { return w.c.Queue().Purge(ctx, job) }, func() bool { return w.state("i") == "" }
	},
	"put item": func(w *cutWorld) (func(context.Context) error, func() bool) {
		return func(ctx context.Context) error {
			_, err := w.c.Buckets().Put(ctx, "b", "k", []byte("v"), broker.PutOptions{Expect: new(uint64)})
			return err
		}, func() bool { return w.item() == nil }
	},
	"delete item": func(w *cutWorld) (func(context.Context) error, func() bool) {
		_, err := w.plain.Buckets.Put(w.Context(), "b", "k", nil, broker.PutOptions{})
		w.must(err)
		return func(ctx context.Context) error { return w.c.Buckets().Delete(ctx, "b", "k", nil) }, func() bool { return w.item() != nil }
	},
	"drop": func(w *cutWorld) (func(context.Context) error, func() bool) {
		_, err := w.plain.Buckets.Put(w.Context(), "b", "k", nil, broker.PutOptions{})
		w.must(err)
		return func(ctx context.Context) error { return w.c.Buckets().Drop(ctx, "b") }, func() bool { return w.item() != nil }
	},
}

func blobsOf(w *cutWorld) (all []broker.Blob) {
	for b, err := range w.plain.Blobs.List(w.Context()) {
		w.must(err)
		all = append(all, b)
	}
	return all
}

func TestAChangeThatIsCutOffBeforeItArrivesIsNotMade(t *testing.T) {
	for name, prepare := range changes {
		t.Run(name, func(t *testing.T) {
			w := newCutWorld(t)
			do, done := prepare(w)
			_, err := w.c.Records().Get(t.Context(), "there is a connection")
			if !errors.Is(err, broker.ErrNotFound) {
				t.Fatal(err)
			}
			w.p.drop.Store(true)
			if err := do(t.Context()); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("the call answers %v", err)
			}
			if done() {
				t.Error("it was made")
			}
			if err := do(t.Context()); err != nil || !done() {
				t.Errorf("made again, it answers %v; done: %t", err, done())
			}
		})
	}
}

func TestAChangeWhoseAnswerIsCutOffIsMadeOnceAndNotKnown(t *testing.T) {
	for name, prepare := range changes {
		t.Run(name, func(t *testing.T) {
			w := newCutWorld(t)
			do, done := prepare(w)
			if _, err := w.c.Records().Get(t.Context(), "there is a connection"); !errors.Is(err, broker.ErrNotFound) {
				t.Fatal(err)
			}
			if name == "put blob" { // which needs what the server says about room, so that it is cut when it is made
				var cutter sync.WaitGroup
				cutter.Go(func() {
					for !done() {
						runtime.Gosched()
					}
					w.p.cut()
				})
				if err := do(t.Context()); err != nil && !errors.Is(err, broker.ErrUnavailable) {
					t.Errorf("the call answers %v", err)
				}
				cutter.Wait()
				return
			}
			w.p.mute.Store(true)
			answer := make(chan error, 1)
			go func() { answer <- do(t.Context()) }()
			for !done() {
				runtime.Gosched()
			}
			w.p.cut()
			if err := <-answer; !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("the call answers %v", err)
			}
			if !done() {
				t.Error("what was made is gone, or was made again")
			}
		})
	}
}

func TestReadsAreRepeatedWhenTheyAreCutOff(t *testing.T) {
	w := newCutWorld(t)
	ctx := t.Context()
	w.put("k")
	h := w.hold("n")
	w.dead("dead")
	w.enqueue("i")
	blob, err := w.plain.Blobs.Put(ctx, strings.NewReader("x"))
	w.must(err)
	_, err = w.plain.Buckets.Put(ctx, "b", "k", []byte("v"), broker.PutOptions{})
	w.must(err)
	is := func(ok bool, err error) error {
		if err == nil && !ok {
			err = errors.New("the answer is another")
		}
		return err
	}
	for name, read := range map[string]func() error{
		"get": func() error { r, err := w.c.Records().Get(ctx, "k"); return is(r.Key == "k", err) },
		"list": func() error {
			l, at, err := w.c.Records().List(ctx, broker.Range{})
			return is(len(l) == 1 && at.Number == 1, err)
		},
		"holders": func() error {
			hs, err := w.c.Leases().Holders(ctx, "n", "m")
			return is(len(hs) == 2 && hs[0].Epoch == h.Epoch, err)
		},
		"stat": func() error { b, err := w.c.Blobs().Stat(ctx, blob.Digest); return is(b.Size == 1, err) },
		"open": func() error {
			r, err := w.c.Blobs().Open(ctx, blob.Digest)
			if err != nil {
				return err
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			return is(string(b) == "x", err)
		},
		"status": func() error {
			s, err := w.c.Queue().Status(ctx, job, "i")
			return is(s.State == broker.StateWaiting, err)
		},
		"result": func() error {
			r, err := w.c.Queue().Result(ctx, job, "dead")
			return is(string(r.Payload) == "result", err)
		},
		"counts":   func() error { c, err := w.c.Queue().Counts(ctx, job); return is(len(c) == 1 && c[0].Waiting == 1, err) },
		"queued":   func() error { l, _, err := w.c.Queue().List(ctx, job, "", 0); return is(len(l) == 1, err) },
		"letters":  func() error { l, err := w.c.Queue().Letters(ctx, job, "", 0); return is(len(l) == 1, err) },
		"letter":   func() error { v, err := w.c.Queue().Letter(ctx, job, "dead"); return is(v.ID == "dead", err) },
		"wait":     func() error { return w.c.Queue().Wait(ctx, want()) },
		"get item": func() error { i, err := w.c.Buckets().Get(ctx, "b", "k"); return is(string(i.Value) == "v", err) },
		"items":    func() error { l, err := w.c.Buckets().List(ctx, "b", "", "", 0); return is(len(l) == 1, err) },
		"usage":    func() error { u, err := w.c.Buckets().Usage(ctx, "b"); return is(u.Items == 1, err) },
		"names":    func() error { n, err := w.c.Buckets().Names(ctx, ""); return is(len(n) == 1, err) },
	} {
		w.p.drop.Store(true)
		if err := read(); err != nil {
			t.Errorf("%s: when its connection is cut it answers %v", name, err)
		}
		if w.p.drop.Load() {
			t.Errorf("%s: the connection was not cut", name)
		}
	}
}

func TestAWatchGoesOnWhereItWasCutOff(t *testing.T) {
	w := newCutWorld(t)
	_, from, err := w.plain.Records.List(t.Context(), broker.Range{})
	w.must(err)
	const n = 60
	got := uint64(0)
	w.put("k")
	for e, err := range w.c.Records().Watch(t.Context(), "k", from) {
		if err != nil {
			t.Fatalf("after %d events the watch ends with %v", got, err)
		}
		if got++; e.Revision.Number != got {
			t.Fatalf("event %d is of revision %s", got, e.Revision)
		}
		if got == n {
			break
		}
		if got%7 == 0 {
			w.p.cut()
		}
		w.put("k")
	}
	if w.p.opened.Load() < n/7 {
		t.Errorf("there were %d connections only", w.p.opened.Load())
	}
}

func TestABlobThatIsCutOffIsNeitherWholeNorStored(t *testing.T) {
	w := newCutWorld(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<20/16)
	blob, err := w.plain.Blobs.Put(t.Context(), bytes.NewReader(content))
	w.must(err)
	r, err := w.c.Blobs().Open(t.Context(), blob.Digest)
	w.must(err)
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	w.p.cut()
	if rest, err := io.ReadAll(r); !errors.Is(err, broker.ErrUnavailable) || len(rest) >= len(content)-1000 {
		t.Errorf("a reader that is cut off gives %d bytes, %v", len(rest), err)
	}
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(content[:1<<20])
		w.p.cut()
		_, _ = pw.Write(content[1<<20:])
		_ = pw.Close()
	}()
	if _, err := w.c.Blobs().Put(t.Context(), pr); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("a put that is cut off answers %v", err)
	}
	_ = pr.Close()
	if all := blobsOf(w); len(all) != 1 {
		t.Errorf("%d blobs are there", len(all))
	}
}

func TestACallGoesToAnotherControlProcessWhenOneIsGone(t *testing.T) {
	parts := modelParts(nil)
	cluster := remotetest.Start(t, parts, server.Options{})
	stop := cluster.Serve()
	c := cluster.Client(remotetest.Control, cluster.Addrs[1], cluster.Addrs[0])
	l, err := c.Queue().Enqueue(t.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{{ID: "i"}}})
	if err != nil || len(l) != 1 {
		t.Fatal(err)
	}
	ls, err := c.Queue().Lease(t.Context(), want())
	if err != nil || len(ls) != 1 {
		t.Fatal(ls, err)
	}
	_, from, err := c.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan broker.Event)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(events)
		for e, err := range c.Records().Watch(ctx, "", from) {
			if err != nil {
				return
			}
			events <- e
		}
	}()
	for i := range 2 {
		if _, err := parts.Records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint(i)}}}); err != nil {
			t.Fatal(err)
		}
		if e := <-events; e.Changes[0].Key != fmt.Sprint(i) {
			t.Errorf("the event is %+v", e)
		}
		stop()
	}
	// What one process gave out is good with the other, too.
	if err := c.Queue().Complete(t.Context(), ls[0], broker.Result{Outcome: broker.OutcomeDone}); err != nil {
		t.Error(err)
	}
	cancel()
	for range events {
	}
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		ctx, cancel := context.WithCancel(t.Context())
		cluster := remotetest.Start(t, modelParts(nil), server.Options{})
		stop := cluster.Serve()
		c := cluster.Client(remotetest.Control, cluster.Addrs[1])
		_, from, err := c.Records().List(t.Context(), broker.Range{})
		if err != nil {
			t.Fatal(err)
		}
		var ended atomic.Int32
		for range 20 {
			go func() {
				for range c.Records().Watch(ctx, "", from) {
				}
				ended.Add(1)
			}()
			go func() {
				_ = c.Queue().Wait(ctx, want())
				ended.Add(1)
			}()
		}
		for i := range 20 {
			h, err := c.Leases().Acquire(t.Context(), fmt.Sprint(i), "h", time.Minute)
			if err == nil {
				_, err = c.Leases().Renew(t.Context(), h)
			}
			if err != nil {
				t.Error(err)
			}
		}
		cancel()
		for ended.Load() < 40 {
			runtime.Gosched()
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		stop()
		if _, err := c.Records().Get(t.Context(), "k"); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("once closed, get answers %v", err)
		}
	}()
	// The first process of the cluster is still there; what ends needs a moment.
	limit := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+8 && time.Now().Before(limit) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before+8 {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines are left of %d:\n%s", n-before, before, buf[:runtime.Stack(buf, true)])
	}
}
