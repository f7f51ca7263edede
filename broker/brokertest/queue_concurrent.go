package brokertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

var queueConcurrentCases = map[string]func(queueTest){
	"many workers lease each invocation once":              leasedOnceByMany,
	"workers that stall make nobody else's result wrong":   stallingWorkers,
	"of many who complete one lease one succeeds":          contendedComplete,
	"of many who enqueue under one key one is first":       contendedKey,
	"an ID that looks like an answer is an ID":             numberedID,
	"many who enqueue stay within the limit together":      contendedLimit,
	"of an order one runs at a time, whoever leases":       contendedOrder,
	"of those who cancel and those who lease one succeeds": contendedCancel,
	"random calls do what the model does":                  queueLikeTheModel,
}

func (t queueTest) enqueueMany(n int, change func(int, *broker.Invocation)) {
	t.Helper()
	var vs []broker.Invocation
	for i := range n {
		v := invocation(fmt.Sprintf("%04d", i))
		if change != nil {
			change(i, &v)
		}
		vs = append(vs, v)
	}
	t.enqueue(vs...)
}

func leasedOnceByMany(t queueTest) {
	const n, workers = 200, 8
	t.enqueueMany(n, nil)
	var wg sync.WaitGroup
	var done atomic.Int32
	var leased sync.Map
	for range workers {
		wg.Go(func() {
			for done.Load() < n {
				w := want(7)
				w.TTL = time.Hour
				ls, err := t.q.Lease(t.Context(), w)
				if err != nil {
					t.Error(err)
					return
				}
				for _, l := range ls {
					if _, twice := leased.LoadOrStore(l.ID, true); twice || l.Attempt != 1 {
						t.Errorf("%s was leased again: %+v", l.ID, l)
					}
					if err := t.q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte(l.ID)}); err != nil {
						t.Error(err)
					}
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range n {
		id := fmt.Sprintf("%04d", i)
		t.wantResult(id, broker.OutcomeDone, id)
	}
	if c := t.counts(); c != (broker.Counts{}) {
		t.Errorf("the counts are %+v", c)
	}
}

// Workers lease, some dawdle until their lease has ended, all complete; the clock is moved meanwhile.
func stallingWorkers(t queueTest) {
	const n, workers = 60, 6
	t.enqueueMany(n, func(_ int, v *broker.Invocation) { v.MaxAttempts = broker.MaxAttempts })
	var wg sync.WaitGroup
	var ended atomic.Int32
	var mu sync.Mutex
	accepted := map[broker.InvocationID]string{} // whose result was accepted
	for i := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for ended.Load() < n {
				ls, err := t.q.Lease(t.Context(), want(3))
				if err != nil {
					t.Error(err)
					return
				}
				for _, l := range ls {
					if rng.IntN(3) == 0 {
						t.c.Advance(10 * time.Second)
					}
					mine := fmt.Sprintf("%d at attempt %d", i, l.Attempt)
					err := t.q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte(mine)})
					switch {
					case err == nil:
						mu.Lock()
						if other := accepted[l.ID]; other != "" {
							t.Errorf("%s has results of %s and of %s", l.ID, other, mine)
						}
						accepted[l.ID] = mine
						mu.Unlock()
						ended.Add(1)
					case !errors.Is(err, broker.ErrLeaseLost):
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range n {
		id := fmt.Sprintf("%04d", i)
		t.wantResult(id, broker.OutcomeDone, accepted[broker.InvocationID(id)])
	}
}

func contendedComplete(t queueTest) {
	t.enqueue(called("a"))
	l := t.leaseOne("a", 1)
	var wg sync.WaitGroup
	var winners sync.Map
	for i := range 12 {
		wg.Go(func() {
			var err error
			if i%3 == 0 {
				err = t.q.Release(t.Context(), l, broker.Return{Delay: time.Minute, Reason: fmt.Sprint(i)})
			} else {
				err = t.q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte(fmt.Sprint(i))})
			}
			if err == nil {
				winners.Store(i, true)
			} else if !errors.Is(err, broker.ErrLeaseLost) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	winners.Range(func(i, _ any) bool {
		n++
		if i.(int)%3 == 0 {
			t.wantState("a", broker.StateWaiting, 1)
			t.wantNoResult("a")
		} else {
			t.wantResult("a", broker.OutcomeDone, fmt.Sprint(i))
			t.leaseIDs(calls(5), "a")
		}
		return true
	})
	if n != 1 {
		t.Errorf("%d succeeded", n)
	}
}

func contendedKey(t queueTest) {
	var wg sync.WaitGroup
	ids := make([]broker.InvocationID, 12)
	for i := range ids {
		wg.Go(func() {
			v := invocation(fmt.Sprint(i))
			v.Key = "key"
			receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{v}})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = receipts[0].ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("the key stands for %q", ids)
			break
		}
	}
	t.leaseIDs(want(100), string(ids[0]))
}

func numberedID(t queueTest) {
	for _, id := range []string{"0", "1", "ok", "settle"} {
		for i, name := range []string{id, "another-of-" + id} {
			v := invocation(name)
			v.Key = "key of " + id
			receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{v}})
			if err != nil || string(receipts[0].ID) != id || receipts[0].Known != (i > 0) {
				t.Errorf("%s: %+v, %v", name, receipts, err)
			}
		}
	}
}

func contendedLimit(t queueTest) {
	const limit = 20
	var wg sync.WaitGroup
	var stored atomic.Int32
	for i := range 12 {
		wg.Go(func() {
			for k := range 3 {
				b := broker.Batch{Job: job, Limit: limit, Invocations: []broker.Invocation{invocation(fmt.Sprintf("%d-%d-0", i, k)), invocation(fmt.Sprintf("%d-%d-1", i, k))}}
				switch _, err := t.q.Enqueue(t.Context(), b); {
				case err == nil:
					stored.Add(2)
				case !errors.Is(err, broker.ErrQueueFull):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := t.counts().Waiting; n != limit || stored.Load() != limit {
		t.Errorf("%d are waiting and %d were stored, of at most %d", n, stored.Load(), limit)
	}
}

func contendedOrder(t queueTest) {
	const orders, each, workers = 4, 12, 6
	t.enqueueMany(orders*each, func(i int, v *broker.Invocation) { v.Order = fmt.Sprint(i % orders) })
	var wg sync.WaitGroup
	var mu sync.Mutex
	running := map[string]broker.InvocationID{}
	last := map[string]broker.InvocationID{}
	ended := 0
	for range workers {
		wg.Go(func() {
			for {
				mu.Lock()
				over := ended == orders*each
				mu.Unlock()
				if over {
					return
				}
				w := want(2)
				w.TTL = time.Hour
				ls, err := t.q.Lease(t.Context(), w)
				if err != nil {
					t.Error(err)
					return
				}
				for _, l := range ls {
					mu.Lock()
					if running[l.Order] != "" || l.ID <= last[l.Order] {
						t.Errorf("%s began while %q ran, after %q", l.ID, running[l.Order], last[l.Order])
					}
					running[l.Order], last[l.Order] = l.ID, l.ID
					mu.Unlock()
				}
				for _, l := range ls {
					mu.Lock()
					delete(running, l.Order)
					mu.Unlock()
					if err := t.q.Complete(t.Context(), l, done(l)); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					ended++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
}

// pair does the same calls on a queue and on the model, and compares all answers. Times are not compared, only what they do.
// All durations end on 5 seconds and all steps of the clock on 0, so that a server with a clock of its own may be some
// seconds ahead.
type pair struct {
	*rapid.T
	job    broker.Job
	q, m   broker.Queue
	leases [][2]broker.Lease // the same one, of the queue and of the model
	ids    []broker.InvocationID
}

func (p *pair) same(what string, got, want any, gotErr, wantErr error) {
	for _, e := range []error{broker.ErrNotFound, broker.ErrLeaseLost, broker.ErrNotWaiting, broker.ErrQueueFull, broker.ErrInvalid, broker.ErrTooLarge} {
		if errors.Is(gotErr, e) != errors.Is(wantErr, e) {
			p.Fatalf("%s answers %v, the model %v", what, gotErr, wantErr)
		}
	}
	if (gotErr == nil) != (wantErr == nil) {
		p.Fatalf("%s answers %v, the model %v", what, gotErr, wantErr)
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		p.Fatalf("%s answers\n%s, the model\n%s", what, g, w)
	}
}

func timeless(s broker.Status) broker.Status {
	for _, at := range []*time.Time{&s.Enqueued, &s.Due, &s.Until, &s.Finished, &s.Expires} {
		if !at.IsZero() {
			*at = time.Unix(0, 0)
		}
	}
	return s
}

func timelessAll(list []broker.Status) (all []broker.Status) {
	for _, s := range list {
		all = append(all, timeless(s))
	}
	return all
}

func (p *pair) compare() {
	ctx := context.Background()
	for _, id := range p.ids {
		gs, gerr := p.q.Status(ctx, p.job, id)
		ms, merr := p.m.Status(ctx, p.job, id)
		p.same("status "+string(id), timeless(gs), timeless(ms), gerr, merr)
		gr, gerr := p.q.Result(ctx, p.job, id)
		mr, merr := p.m.Result(ctx, p.job, id)
		p.same("result "+string(id), gr, mr, gerr, merr)
	}
}

func (p *pair) step(advance func(time.Duration)) {
	ctx := context.Background()
	seconds := func(name string) time.Duration {
		return time.Duration(10*rapid.IntRange(0, 4).Draw(p.T, name)+5) * time.Second
	}
	text := func(name string) string { return rapid.SampledFrom([]string{"", "x", "y"}).Draw(p.T, name) }
	lease := func() *[2]broker.Lease {
		if len(p.leases) == 0 {
			return nil
		}
		return &p.leases[rapid.IntRange(0, len(p.leases)-1).Draw(p.T, "lease")]
	}
	id := rapid.SampledFrom(p.ids).Draw(p.T, "id")
	switch rapid.IntRange(0, 12).Draw(p.T, "call") {
	case 0, 1:
		b := broker.Batch{Job: p.job, Limit: 5}
		for range rapid.IntRange(1, 3).Draw(p.T, "size") {
			v := broker.Invocation{
				ID: rapid.SampledFrom(p.ids).Draw(p.T, "new id"), Payload: []byte(text("payload")), Key: text("key"), Order: text("order"),
				Priority: rapid.IntRange(0, 2).Draw(p.T, "priority"), MaxAttempts: rapid.IntRange(1, 3).Draw(p.T, "attempts"), ResultTTL: seconds("ttl"),
			}
			if rapid.Bool().Draw(p.T, "delayed") {
				v.Delay = seconds("delay")
			}
			if rapid.Bool().Draw(p.T, "callback") {
				v.Callback = &broker.Callback{Document: []byte("document"), MaxAttempts: rapid.IntRange(1, 2).Draw(p.T, "calls")}
			}
			b.Invocations = append(b.Invocations, v)
		}
		// A queue may be late with what counts against the limit until its next lease.
		p.settle(ctx)
		got, gerr := p.q.Enqueue(ctx, b)
		wanted, werr := p.m.Enqueue(ctx, b)
		p.same("enqueue", got, wanted, gerr, werr)
	case 2, 3, 4:
		w := want(rapid.IntRange(1, 3).Draw(p.T, "max"), p.job)
		w.TTL = seconds("lease ttl")
		if rapid.IntRange(0, 2).Draw(p.T, "lane") == 0 {
			w.Lane = broker.LaneCallback
		}
		p.lease(ctx, w)
	case 5, 6:
		if l := lease(); l != nil {
			r := broker.Result{Outcome: broker.OutcomeDone, Payload: []byte(text("result"))}
			if rapid.IntRange(0, 2).Draw(p.T, "dead") == 0 {
				r = broker.Result{Outcome: broker.OutcomeDead, Reason: text("reason")}
			}
			p.same("complete "+string(l[0].ID), nil, nil, p.q.Complete(ctx, l[0], r), p.m.Complete(ctx, l[1], r))
		}
	case 7:
		if l := lease(); l != nil {
			r := broker.Return{Reason: text("reason"), Unstarted: rapid.Bool().Draw(p.T, "unstarted")}
			if rapid.Bool().Draw(p.T, "later") {
				r.Delay = seconds("delay")
			}
			p.same("release "+string(l[0].ID), nil, nil, p.q.Release(ctx, l[0], r), p.m.Release(ctx, l[1], r))
		}
	case 8:
		if l := lease(); l != nil {
			got, gerr := p.q.Extend(ctx, l[0])
			wanted, werr := p.m.Extend(ctx, l[1])
			p.same("extend "+string(l[0].ID), len(got), len(wanted), gerr, werr)
		}
	case 9:
		p.same("requeue "+string(id), nil, nil, p.q.Requeue(ctx, p.job, id), p.m.Requeue(ctx, p.job, id))
	case 10:
		if rapid.Bool().Draw(p.T, "discard") {
			p.same("discard "+string(id), nil, nil, p.q.Discard(ctx, p.job, id), p.m.Discard(ctx, p.job, id))
			return
		}
		p.settle(ctx)
		after := rapid.SampledFrom([]broker.InvocationID{"", "b"}).Draw(p.T, "after")
		got, gerr := p.q.Letters(ctx, p.job, after, 2)
		wanted, werr := p.m.Letters(ctx, p.job, after, 2)
		p.same("letters", timelessAll(got), timelessAll(wanted), gerr, werr)
		p.same("list", listed(p.Fatalf, p.q, p.job, 2), listed(p.Fatalf, p.m, p.job, 2), nil, nil)
		counts, gerr := p.q.Counts(ctx, p.job)
		modelCounts, werr := p.m.Counts(ctx, p.job)
		counts[0].Oldest, modelCounts[0].Oldest = time.Time{}, time.Time{}
		p.same("counts", counts, modelCounts, gerr, werr)
	case 11:
		reason := text("reason")
		p.same("cancel "+string(id), nil, nil, p.q.Cancel(ctx, p.job, id, reason), p.m.Cancel(ctx, p.job, id, reason))
	case 12:
		advance(time.Duration(10*rapid.IntRange(1, 5).Draw(p.T, "seconds")) * time.Second)
	}
}

// settle leases one invocation, as counts, letters and limits may be late until then, and gives it back.
func (p *pair) settle(ctx context.Context) {
	for _, l := range p.lease(ctx, want(1, p.job)) {
		r := broker.Return{Unstarted: true}
		p.same("release "+string(l[0].ID), nil, nil, p.q.Release(ctx, l[0], r), p.m.Release(ctx, l[1], r))
	}
}

func (p *pair) lease(ctx context.Context, w broker.Want) (ls [][2]broker.Lease) {
	got, gerr := p.q.Lease(ctx, w)
	wanted, werr := p.m.Lease(ctx, w)
	describe := func(ls []broker.Lease) string {
		var b strings.Builder
		for _, l := range ls {
			fmt.Fprintf(&b, "%s attempt %d %q %s, ", l.ID, l.Attempt, l.Payload, l.Lane)
		}
		return b.String()
	}
	p.same("lease", describe(got), describe(wanted), gerr, werr)
	for i := range got {
		ls = append(ls, [2]broker.Lease{got[i], wanted[i]})
	}
	p.leases = append(p.leases, ls...)
	return ls
}

func queueLikeTheModel(t queueTest) {
	round := 0
	rapid.Check(t.T, func(rt *rapid.T) {
		round++
		c := clock.NewManual(t.c.Now())
		p := &pair{T: rt, job: broker.Job{Entitlement: "model", Name: fmt.Sprint(round)}, q: t.q, m: model.New(model.Options{Clock: c}).Queue(),
			ids: []broker.InvocationID{"a", "b", "c", "d", "e", "f"}}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			p.step(func(d time.Duration) { c.Advance(d); t.c.Advance(d) })
			p.compare()
		}
	})
}
