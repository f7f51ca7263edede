package brokertest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// Which invocations are leased, and how a worker waits for them.
var queueChoiceCases = map[string]func(queueTest){
	"higher priorities come first, and within one the first enqueued": priorities,
	"invocations in an order run one by one":                          orderedOneByOne,
	"an order waits for a delay and goes on after a dead letter":      orderWaits,
	"jobs and entitlements are apart":                                 jobsAreApart,
	"a lease is of all jobs asked for, and none is starved":           noJobIsStarved,
	"an answer is cut at its bound in bytes":                          leaseIsBounded,
	"waiting ends at once if something is ready":                      waitReady,
	"waiting ends when something is enqueued":                         waitEnqueued,
	"waiting ends when a delay or a lease ends":                       waitTime,
	"waiting ends with its context":                                   waitEnds,
}

func priorities(t queueTest) {
	var vs []broker.Invocation
	for i, p := range []int{0, 5, 9, 5, 0, 9, 1} {
		v := invocation(fmt.Sprintf("p%d-%d", p, i))
		v.Priority = p
		vs = append(vs, v)
	}
	t.enqueue(vs...)
	t.leaseIDs(want(3), "p9-2 p9-5 p5-1")
	late := invocation("p9-late")
	late.Priority = 9
	t.enqueue(late)
	t.leaseIDs(want(10), "p9-late p5-3 p1-6 p0-0 p0-4")
}

func inOrder(id, order string) broker.Invocation {
	v := invocation(id)
	v.Order = order
	return v
}

func orderedOneByOne(t queueTest) {
	urgent := inOrder("a2", "a")
	urgent.Priority = 9
	t.enqueue(inOrder("a1", "a"), urgent, inOrder("b1", "b"), inOrder("a3", "a"), inOrder("b2", "b"), invocation("free"))
	ls := t.leaseIDs(want(10), "a1 b1 free")
	t.complete(ls[2])
	t.leaseIDs(want(10), "")
	if c := t.counts(); c.Waiting != 3 || c.Ready != 0 || c.Leased != 2 {
		t.Errorf("the counts are %+v", c)
	}
	t.complete(ls[1])
	b2 := t.leaseOne("b2", 1)
	t.release(ls[0], broker.Return{})
	t.complete(t.leaseOne("a1", 2)) // the first again, not the second
	t.complete(t.leaseOne("a2", 1))
	t.complete(b2)
	a3 := t.leaseOne("a3", 1)
	t.enqueue(inOrder("a4", "a"))
	t.leaseIDs(want(10), "")
	t.c.Advance(10 * time.Second)
	t.wantLost(a3)
	t.complete(t.leaseOne("a3", 2))
	t.complete(t.leaseOne("a4", 1))
	t.enqueue(inOrder("a5", "a"))
	t.leaseIDs(want(10), "a5")
}

func orderWaits(t queueTest) {
	first, second := inOrder("a1", "a"), inOrder("a2", "a")
	first.Delay, first.MaxAttempts = 30*time.Second, 1
	t.enqueue(first, second, inOrder("a3", "a"))
	t.leaseIDs(want(10), "")
	t.c.Advance(30 * time.Second)
	t.release(t.leaseOne("a1", 1), broker.Return{Reason: "it failed"})
	t.wantState("a1", broker.StateDead, 1)
	l := t.leaseOne("a2", 1)
	if err := t.q.Requeue(t.Context(), job, "a1"); err != nil {
		t.Fatal(err)
	}
	t.complete(l)
	t.complete(t.leaseOne("a3", 1))
	t.leaseOne("a1", 1) // a dead letter goes behind the others
	t.c.Advance(10 * time.Second)
	t.enqueue(inOrder("a4", "a"))
	t.complete(t.leaseIDs(want(10), "a4")[0]) // a lease that runs out at the last attempt lets the order go on, too
	t.wantState("a1", broker.StateDead, 1)
}

func jobsAreApart(t queueTest) {
	foreign := broker.Job{Entitlement: "team", Name: job.Name}
	for i, j := range []broker.Job{job, otherJob, foreign} {
		v := invocation("a")
		v.Payload, v.Order, v.Key = []byte(fmt.Sprint(i)), "order", "key"
		if receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: j, Limit: 1, Invocations: []broker.Invocation{v}}); err != nil || receipts[0].Known {
			t.Fatalf("enqueue answers %+v, %v", receipts, err)
		}
	}
	for i, j := range []broker.Job{job, otherJob, foreign} {
		ls := t.lease(want(5, j))
		if len(ls) != 1 || ls[0].Job != j || string(ls[0].Payload) != fmt.Sprint(i) {
			t.Fatalf("job %s has %+v", j, ls)
		}
		stolen := ls[0]
		stolen.Job = broker.Job{Entitlement: "team", Name: "another"}
		if err := t.q.Complete(t.Context(), stolen, done(stolen)); !errors.Is(err, broker.ErrLeaseLost) {
			t.Errorf("completing in another job answers %v", err)
		}
		t.complete(ls[0])
		if s, err := t.q.Status(t.Context(), j, "a"); err != nil || s.State != broker.StateDone {
			t.Errorf("job %s has %+v, %v", j, s, err)
		}
	}
	counts, err := t.q.Counts(t.Context(), foreign, job)
	if err != nil || len(counts) != 2 || counts[0].Length() != 0 || counts[1].Length() != 0 {
		t.Errorf("counts answers %+v, %v", counts, err)
	}
}

func noJobIsStarved(t queueTest) {
	add := func(j broker.Job, n int) {
		b := broker.Batch{Job: j}
		for i := range n {
			b.Invocations = append(b.Invocations, invocation(fmt.Sprint(i)))
		}
		if _, err := t.q.Enqueue(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	quiet := []broker.Job{{Entitlement: "default", Name: "q1"}, {Entitlement: "default", Name: "q2"}}
	add(job, 50)
	add(quiet[0], 1)
	add(quiet[1], 1)
	jobs := []broker.Job{job, quiet[0], quiet[1]}
	seen := map[broker.Job]int{}
	for range 2 * len(jobs) {
		for _, l := range t.lease(want(2, jobs...)) {
			seen[l.Job]++
		}
	}
	if seen[quiet[0]] != 1 || seen[quiet[1]] != 1 {
		t.Errorf("beside a busy job, %+v were leased", seen)
	}
	if ls := t.lease(want(100, jobs...)); len(ls)+seen[job] != 50 {
		t.Errorf("%d were left", len(ls))
	}
	if ls := t.lease(want(1, otherJob)); len(ls) > 0 {
		t.Errorf("an unknown job has %+v", ls)
	}
}

func leaseIsBounded(t queueTest) {
	const n = 2 * broker.MaxBatchBytes / broker.MaxPayload
	for i := range n {
		v := invocation(fmt.Sprintf("%02d", i))
		v.Payload = make([]byte, broker.MaxPayload)
		t.enqueue(v)
	}
	seen := 0
	for range n {
		ls := t.lease(want(n))
		if size := len(ls) * broker.MaxPayload; size > broker.MaxBatchBytes || len(ls) == 0 {
			t.Fatalf("an answer has %d bytes", size)
		}
		if seen += len(ls); seen == n {
			return
		}
	}
	t.Errorf("%d were leased", seen)
}

func waitReady(t queueTest) {
	t.enqueue(invocation("a"))
	if err := t.q.Wait(t.Context(), want(1)); err != nil {
		t.Error(err)
	}
	t.leaseOne("a", 1)
}

// waitFor calls Wait until a lease gives something: it may return early.
func (t queueTest) waitFor(w broker.Want, then func()) []broker.Lease {
	t.Helper()
	got := make(chan []broker.Lease)
	go func() {
		defer close(got)
		for {
			err := t.q.Wait(t.Context(), w)
			var ls []broker.Lease
			if err == nil {
				ls, err = t.q.Lease(t.Context(), w)
			}
			if err != nil {
				t.Error(err)
				return
			}
			if len(ls) > 0 {
				got <- ls
				return
			}
		}
	}()
	then()
	return <-got
}

func waitEnqueued(t queueTest) {
	for i := range 10 {
		id := fmt.Sprint(i)
		ls := t.waitFor(want(1), func() { t.enqueue(invocation(id)) })
		if len(ls) != 1 || string(ls[0].ID) != id {
			t.Fatalf("%+v were leased", ls)
		}
		t.complete(ls[0])
	}
	v := invocation("called")
	v.Callback = &broker.Callback{}
	t.enqueue(v)
	l := t.leaseOne("called", 1)
	if ls := t.waitFor(calls(1), func() { t.complete(l) }); len(ls) != 1 || ls[0].Lane != broker.LaneCallback {
		t.Errorf("%+v were leased", ls)
	}
}

func waitTime(t queueTest) {
	v := invocation("a")
	v.Delay = time.Minute
	t.enqueue(v)
	ls := t.waitFor(want(1), func() { t.c.Advance(time.Minute) })
	if len(ls) != 1 || ls[0].Attempt != 1 {
		t.Fatalf("%+v were leased", ls)
	}
	ls = t.waitFor(want(1), func() { t.c.Advance(10 * time.Second) })
	if len(ls) != 1 || ls[0].Attempt != 2 {
		t.Fatalf("%+v were leased", ls)
	}
	ls = t.waitFor(want(1), func() { t.release(ls[0], broker.Return{Delay: time.Minute}); t.c.Advance(time.Minute) })
	if len(ls) != 1 || ls[0].Attempt != 3 {
		t.Fatalf("%+v were leased", ls)
	}
}

func waitEnds(t queueTest) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	ended := make(chan error)
	go func() {
		for {
			if err := t.q.Wait(ctx, want(1)); err != nil {
				ended <- err
				return
			}
		}
	}()
	cancel(reason)
	if err := <-ended; !errors.Is(err, reason) {
		t.Errorf("wait answers %v", err)
	}
}
