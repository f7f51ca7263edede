package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Queue runs the suite of broker.Queue. open answers an empty queue, and ends it with the test. Its server goes by the
// clock; one with a clock of its own runs ahead of it by as much as the given one was advanced. The suite asks for no
// time finer than a second.
func Queue(t *testing.T, open func(*testing.T, clock.Clock) broker.Queue) {
	cases := map[string]func(*testing.T, broker.Queue, *clock.Manual){}
	for _, some := range []map[string]func(queueTest){queueCases, queueChoiceCases, queueEndCases, queueCancelCases, queueConcurrentCases} {
		for name, check := range some {
			cases[name] = func(t *testing.T, q broker.Queue, c *clock.Manual) { check(queueTest{t, q, c}) }
		}
	}
	timedSuite(t, open, cases)
}

var queueCases = map[string]func(queueTest){
	"an invocation is leased as it was enqueued":                         leasedAsEnqueued,
	"a known ID is not enqueued again":                                   knownID,
	"an idempotency key stands for the invocation that had it first":     knownKey,
	"a batch over the limit changes nothing":                             queueLimit,
	"what is out of bounds is refused":                                   queueBounds,
	"the largest invocation and result are kept byte for byte":           largestInvocation,
	"the queue keeps no hold of the caller's bytes":                      queueCopies,
	"a cancelled context changes nothing":                                cancelledQueue,
	"a leased invocation is not offered to another":                      leasedOnce,
	"an invocation is offered again once its lease ends":                 expiredLeaseIsOfferedAgain,
	"an extended lease goes on":                                          extendedLease,
	"a lease that ended is not extended, though nobody took it":          lateExtension,
	"many extensions are answered one by one":                            manyExtensions,
	"a delayed invocation starts after its delay":                        delayedStart,
	"an invocation that is given back waits for its delay, in its place": givenBack,
	"an attempt that did not start does not count":                       unstarted,
	"a job that is purged is empty, and its leases are lost":             purged,
	"what is not known is not found":                                     unknownInvocation,
}

type queueTest struct {
	*testing.T
	q broker.Queue
	c *clock.Manual
}

var (
	job      = broker.Job{Entitlement: broker.DefaultEntitlement, Name: "job"}
	otherJob = broker.Job{Entitlement: broker.DefaultEntitlement, Name: "other"}
)

func want(n int, jobs ...broker.Job) broker.Want {
	if len(jobs) == 0 {
		jobs = []broker.Job{job}
	}
	return broker.Want{Worker: "worker", Jobs: jobs, Max: n, TTL: 10 * time.Second}
}

func calls(n int) broker.Want {
	w := want(n)
	w.Lane = broker.LaneCallback
	return w
}

// invocation is one with a payload of its own.
func invocation(id string) broker.Invocation {
	return broker.Invocation{ID: broker.InvocationID(id), Payload: []byte("payload of " + id)}
}

func (t queueTest) enqueue(vs ...broker.Invocation) {
	t.Helper()
	receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: vs})
	if err != nil || len(receipts) != len(vs) {
		t.Fatalf("enqueue answers %+v, %v", receipts, err)
	}
	for i, r := range receipts {
		if r.ID != vs[i].ID || r.Known {
			t.Fatalf("the receipt of %s is %+v", vs[i].ID, r)
		}
	}
}

func (t queueTest) lease(w broker.Want) []broker.Lease {
	t.Helper()
	ls, err := t.q.Lease(t.Context(), w)
	if err != nil {
		t.Fatalf("lease: %v", err)
	}
	return ls
}

// leaseIDs leases up to n and wants them to be these.
func (t queueTest) leaseIDs(w broker.Want, ids string) []broker.Lease {
	t.Helper()
	ls := t.lease(w)
	var got []string
	for _, l := range ls {
		got = append(got, string(l.ID))
	}
	if strings.Join(got, " ") != ids {
		t.Fatalf("%q were leased, want %q", got, ids)
	}
	return ls
}

func (t queueTest) leaseOne(id string, attempt int) broker.Lease {
	t.Helper()
	l := t.leaseIDs(want(1), id)[0]
	if l.Attempt != attempt {
		t.Fatalf("%s is at attempt %d, want %d", id, l.Attempt, attempt)
	}
	return l
}

func (t queueTest) complete(l broker.Lease) {
	t.Helper()
	if err := t.q.Complete(t.Context(), l, done(l)); err != nil {
		t.Fatalf("complete %s: %v", l.ID, err)
	}
}

func done(l broker.Lease) broker.Result {
	return broker.Result{Outcome: broker.OutcomeDone, Payload: []byte("result of " + l.ID)}
}

func (t queueTest) release(l broker.Lease, r broker.Return) {
	t.Helper()
	if err := t.q.Release(t.Context(), l, r); err != nil {
		t.Fatalf("release %s: %v", l.ID, err)
	}
}

func (t queueTest) status(id string) broker.Status {
	t.Helper()
	s, err := t.q.Status(t.Context(), job, broker.InvocationID(id))
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	return s
}

func (t queueTest) wantState(id string, state broker.State, attempts int) {
	t.Helper()
	if s := t.status(id); s.ID != broker.InvocationID(id) || s.State != state || s.Attempts != attempts {
		t.Fatalf("%s is %+v, want %s at attempt %d", id, s, state, attempts)
	}
}

func (t queueTest) wantResult(id string, outcome broker.Outcome, payload string) broker.Result {
	t.Helper()
	r, err := t.q.Result(t.Context(), job, broker.InvocationID(id))
	if err != nil || r.Outcome != outcome || string(r.Payload) != payload {
		t.Fatalf("the result of %s is %+v, %v; want %s, %q", id, r, err, outcome, payload)
	}
	return r
}

func (t queueTest) wantNoResult(id string) {
	t.Helper()
	if r, err := t.q.Result(t.Context(), job, broker.InvocationID(id)); !errors.Is(err, broker.ErrNotFound) {
		t.Fatalf("the result of %s is %+v, %v", id, r, err)
	}
}

func (t queueTest) wantForgotten(id string) {
	t.Helper()
	if s, err := t.q.Status(t.Context(), job, broker.InvocationID(id)); !errors.Is(err, broker.ErrNotFound) {
		t.Fatalf("%s is %+v, %v", id, s, err)
	}
	t.wantNoResult(id)
}

func (t queueTest) counts() broker.Counts {
	t.Helper()
	c, err := t.q.Counts(t.Context(), job)
	if err != nil || len(c) != 1 {
		t.Fatalf("counts answers %+v, %v", c, err)
	}
	return c[0]
}

// wantLost wants a lease to be over: nothing can be done under it, and trying changes nothing.
func (t queueTest) wantLost(l broker.Lease) {
	t.Helper()
	before, err := t.q.Status(t.Context(), l.Job, l.ID)
	known := err == nil
	check := func(what string, err error) {
		t.Helper()
		var lost *broker.LostError
		if !errors.Is(err, broker.ErrLeaseLost) || !errors.As(err, &lost) || lost.Name != string(l.ID) {
			t.Fatalf("%s under a lost lease of %s answers %v", what, l.ID, err)
		}
		if after, err := t.q.Status(t.Context(), l.Job, l.ID); known && (err != nil || after != before) {
			t.Fatalf("%s under a lost lease made of it %+v, %v; it was %+v", what, after, err, before)
		}
	}
	check("completing", t.q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte("too late")}))
	check("giving up", t.q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDead, Reason: "too late"}))
	check("releasing", t.q.Release(t.Context(), l, broker.Return{Reason: "too late"}))
	_, err = t.q.Extend(t.Context(), l)
	check("extending", err)
}

func leasedAsEnqueued(t queueTest) {
	v := broker.Invocation{
		ID: "a-B_1", Payload: []byte("\x00\xffpayload"), Priority: 3, Order: "order", Key: "key", MaxAttempts: 7,
		Backoff: broker.Backoff{First: time.Second, Max: time.Minute}, ResultTTL: time.Hour,
		Callback: &broker.Callback{Document: []byte("\x00callback"), MaxAttempts: 2},
	}
	t.enqueue(v, invocation("plain"))
	l := t.leaseOne("a-B_1", 1)
	if !bytes.Equal(l.Payload, v.Payload) || l.Callback == nil || !bytes.Equal(l.Callback.Document, v.Callback.Document) || l.Callback.MaxAttempts != 2 {
		t.Errorf("the lease has %q and %+v", l.Payload, l.Callback)
	}
	if l.Job != job || l.Lane != broker.LaneRun || l.Token == "" || l.TTL != 10*time.Second || l.Enqueued.IsZero() || !l.Until.After(l.Enqueued) {
		t.Errorf("the lease is %+v", l)
	}
	l.Payload, l.Callback, v.Payload, v.Callback = nil, nil, nil, nil
	if got, wanted := fmt.Sprintf("%+v", l.Invocation), fmt.Sprintf("%+v", v); got != wanted {
		t.Errorf("the invocation is %s, want %s", got, wanted)
	}
	p := t.leaseOne("plain", 1)
	if p.MaxAttempts != broker.DefaultAttempts || p.ResultTTL != broker.DefaultResultTTL || p.Callback != nil || p.Token == l.Token && p.ID == l.ID {
		t.Errorf("the defaults are %+v", p)
	}
	t.complete(p)
	t.wantResult("plain", broker.OutcomeDone, "result of plain")
	t.leaseIDs(want(5), "")
}

func knownID(t queueTest) {
	t.enqueue(invocation("a"), invocation("b"))
	l := t.leaseOne("a", 1)
	again := invocation("a")
	again.Payload, again.Priority = []byte("another"), 9
	receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job, Limit: 3, Invocations: []broker.Invocation{again, invocation("c"), invocation("c")}})
	if err != nil || fmt.Sprint(receipts) != "[{a true} {c false} {c true}]" {
		t.Errorf("enqueue answers %+v, %v", receipts, err)
	}
	t.wantState("a", broker.StateLeased, 1)
	t.complete(l)
	receipts, err = t.q.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{again}})
	if err != nil || !receipts[0].Known {
		t.Errorf("enqueue answers %+v, %v", receipts, err)
	}
	t.wantResult("a", broker.OutcomeDone, "result of a")
	t.leaseIDs(want(5), "b c")
	if receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job}); err != nil || len(receipts) > 0 {
		t.Errorf("enqueueing nothing answers %+v, %v", receipts, err)
	}
}

func knownKey(t queueTest) {
	keyed := func(id, key string) broker.Invocation {
		v := invocation(id)
		v.Key, v.ResultTTL = key, time.Minute
		return v
	}
	t.enqueue(keyed("a", "one"))
	wantReceipts := func(want string, vs ...broker.Invocation) {
		t.Helper()
		receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: vs})
		if err != nil || fmt.Sprint(receipts) != want {
			t.Fatalf("enqueue answers %+v, %v; want %s", receipts, err, want)
		}
	}
	wantReceipts("[{a true} {c false} {c true} {e false}]", keyed("b", "one"), keyed("c", "two"), keyed("d", "two"), keyed("e", "{one} \n"))
	// The ID counts before the key.
	wantReceipts("[{a true}]", keyed("a", "two"))
	for _, l := range t.leaseIDs(want(5), "a c e") {
		t.complete(l)
	}
	wantReceipts("[{a true}]", keyed("b", "one"))
	t.c.Advance(58 * time.Second)
	wantReceipts("[{a true}]", keyed("b", "one"))
	t.c.Advance(2 * time.Second)
	wantReceipts("[{b false}]", keyed("b", "one"))
	// In another job it is another key.
	if receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: otherJob, Invocations: []broker.Invocation{keyed("x", "one")}}); err != nil || receipts[0].Known {
		t.Errorf("in another job, enqueue answers %+v, %v", receipts, err)
	}
}

func queueLimit(t queueTest) {
	add := func(ids ...string) error {
		b := broker.Batch{Job: job, Limit: 4}
		for _, id := range ids {
			v := invocation(id)
			v.Callback = &broker.Callback{}
			b.Invocations = append(b.Invocations, v)
		}
		_, err := t.q.Enqueue(t.Context(), b)
		return err
	}
	full := func(ids ...string) {
		t.Helper()
		if err := add(ids...); !errors.Is(err, broker.ErrQueueFull) {
			t.Fatalf("enqueueing %q answers %v", ids, err)
		}
		for _, id := range ids {
			t.wantForgotten(id)
		}
	}
	full("a", "b", "c", "d", "e")
	if err := add("a", "b", "c", "d"); err != nil {
		t.Fatal(err)
	}
	full("e")
	if err := add("a", "d"); err != nil {
		t.Errorf("known ones need room: %v", err)
	}
	ls := t.leaseIDs(want(3), "a b c")
	full("e") // leased ones count
	if err := t.q.Complete(t.Context(), ls[0], broker.Result{Outcome: broker.OutcomeDead, Reason: "x"}); err != nil {
		t.Fatal(err)
	}
	t.complete(ls[1])
	full("e") // so do dead letters and callbacks
	for _, l := range t.leaseIDs(calls(5), "a b") {
		t.complete(l)
	}
	if err := add("e"); err != nil {
		t.Errorf("there is no room though one has ended: %v", err)
	}
	full("f")
	if err := t.q.Discard(t.Context(), job, "a"); err != nil {
		t.Fatal(err)
	}
	if err := add("f"); err != nil {
		t.Errorf("there is no room though a dead letter was discarded: %v", err)
	}
}

func queueBounds(t queueTest) {
	ctx := t.Context()
	tooLarge := invocation("a")
	tooLarge.Payload = make([]byte, broker.MaxPayload+1)
	for name, c := range map[string]struct {
		b    broker.Batch
		want error
	}{
		"a payload too large": {broker.Batch{Job: job, Invocations: []broker.Invocation{invocation("b"), tooLarge}}, broker.ErrTooLarge},
		"no ID":               {broker.Batch{Job: job, Invocations: []broker.Invocation{invocation("b"), {}}}, broker.ErrInvalid},
		"a bad ID":            {broker.Batch{Job: job, Invocations: []broker.Invocation{invocation("b"), {ID: "a b"}}}, broker.ErrInvalid},
		"a bad job":           {broker.Batch{Job: broker.Job{Name: "x"}, Invocations: []broker.Invocation{invocation("b")}}, broker.ErrInvalid},
		"too many":            {broker.Batch{Job: job, Invocations: make([]broker.Invocation, broker.MaxBatch+1)}, broker.ErrTooLarge},
	} {
		if _, err := t.q.Enqueue(ctx, c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: enqueue answers %v", name, err)
		}
	}
	t.wantForgotten("b")
	if _, err := t.q.Lease(ctx, broker.Want{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("lease answers %v", err)
	}
	if err := t.q.Wait(ctx, broker.Want{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("wait answers %v", err)
	}
	t.enqueue(invocation("a"))
	l := t.leaseOne("a", 1)
	if err := t.q.Complete(ctx, l, broker.Result{Outcome: broker.OutcomeDone, Payload: make([]byte, broker.MaxResult+1)}); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("complete answers %v", err)
	}
	if err := t.q.Complete(ctx, l, broker.Result{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("complete without an outcome answers %v", err)
	}
	if err := t.q.Release(ctx, l, broker.Return{Delay: -1}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("release answers %v", err)
	}
	if _, err := t.q.Extend(ctx, broker.Lease{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("extend answers %v", err)
	}
	if _, err := t.q.Counts(ctx, broker.Job{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("counts answers %v", err)
	}
	if _, err := t.q.Status(ctx, job, ""); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("status answers %v", err)
	}
	t.wantState("a", broker.StateLeased, 1)
	if err := t.q.Complete(ctx, l, broker.Result{Outcome: broker.OutcomeDead, Reason: strings.Repeat("x", broker.MaxReason+1)}); err != nil {
		t.Errorf("a long reason answers %v", err)
	}
	if r := t.wantResult("a", broker.OutcomeDead, ""); len(r.Reason) != broker.MaxReason {
		t.Errorf("the reason has %d bytes", len(r.Reason))
	}
}

func largestInvocation(t queueTest) {
	v := broker.Invocation{
		ID: broker.InvocationID(strings.Repeat("i", broker.MaxInvocationID)), Payload: bytes.Repeat([]byte{0xff, 0, '\r', '\n'}, broker.MaxPayload/4),
		Key: strings.Repeat("k", broker.MaxIdempotencyKey), Order: strings.Repeat("o", broker.MaxIdempotencyKey),
		Priority: broker.MaxPriority, MaxAttempts: broker.MaxAttempts, ResultTTL: broker.MaxResultTTL,
		Callback: &broker.Callback{Document: bytes.Repeat([]byte{1, 0xfe}, broker.MaxCallback/2), MaxAttempts: broker.MaxAttempts},
	}
	t.enqueue(v)
	l := t.leaseOne(string(v.ID), 1)
	if !bytes.Equal(l.Payload, v.Payload) || !bytes.Equal(l.Callback.Document, v.Callback.Document) || l.Key != v.Key || l.Order != v.Order {
		t.Error("the invocation was changed")
	}
	result := bytes.Repeat([]byte{0x80, 'r'}, broker.MaxResult/2)
	if err := t.q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: result}); err != nil {
		t.Fatal(err)
	}
	t.wantResult(string(v.ID), broker.OutcomeDone, string(result))
	if s := t.status(string(v.ID)); s.PayloadBytes != 0 || s.ResultBytes != broker.MaxResult {
		t.Errorf("the status is %+v", s)
	}
}

func queueCopies(t queueTest) {
	v := invocation("a")
	v.Callback = &broker.Callback{Document: []byte("before")}
	t.enqueue(v)
	copy(v.Payload, "spoilt")
	copy(v.Callback.Document, "spoilt")
	l := t.leaseOne("a", 1)
	if string(l.Payload) != "payload of a" || string(l.Callback.Document) != "before" {
		t.Errorf("the queue has %q and %q", l.Payload, l.Callback.Document)
	}
	copy(l.Payload, "spoilt")
	t.release(l, broker.Return{})
	l = t.leaseOne("a", 2)
	if string(l.Payload) != "payload of a" {
		t.Errorf("the queue has %q", l.Payload)
	}
	r := done(l)
	if err := t.q.Complete(t.Context(), l, r); err != nil {
		t.Fatal(err)
	}
	copy(r.Payload, "spoilt")
	got := t.wantResult("a", broker.OutcomeDone, "result of a")
	copy(got.Payload, "spoilt")
	t.wantResult("a", broker.OutcomeDone, "result of a")
}

func cancelledQueue(t queueTest) {
	t.enqueue(invocation("a"), invocation("b"))
	l := t.leaseOne("a", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, enqueue := t.q.Enqueue(ctx, broker.Batch{Job: job, Invocations: []broker.Invocation{invocation("c")}})
	_, lease := t.q.Lease(ctx, want(1))
	_, extend := t.q.Extend(ctx, l)
	for name, err := range map[string]error{
		"enqueue": enqueue, "lease": lease, "extend": extend,
		"complete": t.q.Complete(ctx, l, done(l)), "release": t.q.Release(ctx, l, broker.Return{}), "wait": t.q.Wait(ctx, want(1)),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s answers %v", name, err)
		}
	}
	t.wantForgotten("c")
	t.wantState("a", broker.StateLeased, 1)
	t.wantState("b", broker.StateWaiting, 0)
}

func leasedOnce(t queueTest) {
	t.enqueue(invocation("a"), invocation("b"), invocation("c"))
	t.leaseIDs(want(2), "a b")
	t.leaseIDs(want(2), "c")
	t.c.Advance(8 * time.Second)
	t.leaseIDs(want(2), "")
}

func expiredLeaseIsOfferedAgain(t queueTest) {
	t.enqueue(invocation("a"))
	first := t.leaseOne("a", 1)
	t.c.Advance(8 * time.Second)
	t.leaseIDs(want(1), "")
	t.c.Advance(2 * time.Second)
	t.wantState("a", broker.StateWaiting, 1)
	t.wantLost(first) // though nobody has it yet
	second := t.leaseOne("a", 2)
	if second.Token == first.Token {
		t.Error("two leases have one token")
	}
	t.wantLost(first)
	t.wantState("a", broker.StateLeased, 2)
	t.complete(second)
	t.wantLost(first)
	t.wantLost(second)
	t.wantResult("a", broker.OutcomeDone, "result of a")
}

func extendedLease(t queueTest) {
	t.enqueue(invocation("a"))
	l := t.leaseOne("a", 1)
	for range 3 {
		t.c.Advance(8 * time.Second)
		got, err := t.q.Extend(t.Context(), l)
		if err != nil || len(got) != 1 || got[0].ID != "a" || !got[0].Until.After(l.Until) {
			t.Fatalf("extend answers %+v, %v", got, err)
		}
		l = got[0]
	}
	t.leaseIDs(want(1), "")
	t.wantState("a", broker.StateLeased, 1)
	t.complete(l)
}

func lateExtension(t queueTest) {
	t.enqueue(invocation("a"))
	l := t.leaseOne("a", 1)
	t.c.Advance(10 * time.Second)
	if got, err := t.q.Extend(t.Context(), l); len(got) > 0 || !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("extend answers %+v, %v", got, err)
	}
	t.wantLost(l)
	t.leaseOne("a", 2)
}

func manyExtensions(t queueTest) {
	t.enqueue(invocation("a"), invocation("b"), invocation("c"), invocation("d"))
	ls := t.leaseIDs(want(4), "a b c d")
	t.complete(ls[1])
	t.c.Advance(8 * time.Second)
	got, err := t.q.Extend(t.Context(), ls...)
	var lost *broker.LostError
	if len(got) != 3 || got[0].ID != "a" || got[1].ID != "c" || got[2].ID != "d" || !errors.As(err, &lost) || lost.Index != 1 || lost.Name != "b" {
		t.Fatalf("extend answers %+v, %v", got, err)
	}
	t.c.Advance(8 * time.Second)
	t.complete(ls[2]) // the lease as it was before is the same lease
	if got, err := t.q.Extend(t.Context()); len(got) > 0 || err != nil {
		t.Errorf("extending nothing answers %+v, %v", got, err)
	}
}

func delayedStart(t queueTest) {
	v := invocation("later")
	v.Delay, v.Priority = time.Minute, 9
	t.enqueue(v, invocation("now"))
	t.leaseIDs(want(5), "now")
	s := t.status("later")
	if wait := s.Due.Sub(s.Enqueued); s.State != broker.StateWaiting || wait < 59*time.Second || wait > 61*time.Second {
		t.Errorf("the status is %+v", s)
	}
	t.c.Advance(58 * time.Second)
	t.leaseIDs(want(5), "now") // its lease has ended
	t.c.Advance(2 * time.Second)
	t.leaseIDs(want(5), "later")
}

func givenBack(t queueTest) {
	t.enqueue(invocation("a"), invocation("b"), invocation("c"))
	ls := t.leaseIDs(want(2), "a b")
	t.release(ls[0], broker.Return{Delay: 30 * time.Second, Reason: "the guest trapped"})
	t.release(ls[1], broker.Return{})
	t.wantLost(ls[0])
	t.wantLost(ls[1])
	if s := t.status("a"); s.State != broker.StateWaiting || s.Attempts != 1 || s.Reason != "the guest trapped" {
		t.Errorf("the status is %+v", s)
	}
	t.complete(t.leaseOne("b", 2))
	t.c.Advance(30 * time.Second)
	t.complete(t.leaseOne("a", 2)) // before c, which came after it
	t.leaseOne("c", 1)
}

func unstarted(t queueTest) {
	v := invocation("a")
	v.MaxAttempts = 1
	t.enqueue(v)
	for range 3 {
		t.release(t.leaseOne("a", 1), broker.Return{Unstarted: true})
	}
	t.wantState("a", broker.StateWaiting, 0)
	t.complete(t.leaseOne("a", 1))
	t.wantState("a", broker.StateDone, 1)
}

func purged(t queueTest) {
	for i := range 20 {
		v := inOrder(fmt.Sprintf("%02d", i), fmt.Sprint(i%2))
		v.Key, v.Callback = fmt.Sprint("key", i), &broker.Callback{}
		t.enqueue(v)
	}
	ls := t.leaseIDs(want(2), "00 01")
	t.complete(ls[0])
	if _, err := t.q.Enqueue(t.Context(), broker.Batch{Job: otherJob, Invocations: []broker.Invocation{invocation("a")}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := t.q.Purge(t.Context(), job); err != nil {
			t.Fatal(err)
		}
	}
	t.wantLost(ls[1])
	t.leaseIDs(want(100), "")
	t.leaseIDs(calls(100), "")
	if c := t.counts(); c != (broker.Counts{}) {
		t.Errorf("the counts are %+v", c)
	}
	t.wantForgotten("00")
	v := inOrder("01", "1")
	v.Key = "key1"
	t.enqueue(v)
	t.wantLost(ls[1]) // of the one that had this ID before
	t.leaseOne("01", 1)
	if ls := t.lease(want(5, otherJob)); len(ls) != 1 {
		t.Errorf("the other job has %+v", ls)
	}
}

func unknownInvocation(t queueTest) {
	ctx := t.Context()
	t.enqueue(invocation("a"))
	for _, id := range []broker.InvocationID{"a", "b"} {
		_, letter := t.q.Letter(ctx, job, id)
		for name, err := range map[string]error{"letter": letter, "requeue": t.q.Requeue(ctx, job, id), "discard": t.q.Discard(ctx, job, id)} {
			if !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("%s %s answers %v", name, id, err)
			}
		}
		t.wantNoResult(string(id))
	}
	t.wantForgotten("b")
	t.wantLost(broker.Lease{Job: job, Lane: broker.LaneRun, Invocation: invocation("b"), Token: "1", TTL: time.Minute})
	t.wantLost(broker.Lease{Job: job, Lane: broker.LaneRun, Invocation: invocation("a"), Token: "", TTL: time.Minute})
	t.wantLost(broker.Lease{Job: job, Lane: broker.LaneCallback, Invocation: invocation("a"), Token: "1", TTL: time.Minute})
	t.wantState("a", broker.StateWaiting, 0)
}
