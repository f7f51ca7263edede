package brokertest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// What happens at the end of an invocation: results, callbacks, dead letters.
var queueEndCases = map[string]func(queueTest){
	"completing after the deadline reports ErrLeaseLost and stores nothing": lateComplete,
	"a second result is refused":                                    secondResult,
	"a result is forgotten when its time is over":                   resultExpires,
	"a status tells each step":                                      statusTells,
	"counts tell what there is":                                     countsTell,
	"the last attempt that is given back makes a dead letter":       lastAttempt,
	"a lease that runs out at the last attempt makes a dead letter": lastLease,
	"giving up is a result":                                         givenUp,
	"dead letters are listed in pages, and read":                    lettersInPages,
	"a requeued dead letter begins anew":                            requeued,
	"a discarded dead letter keeps its result until it expires":     discarded,
	"a callback is ready once, when its invocation ends":            callbackOnce,
	"a callback has attempts of its own":                            callbackAttempts,
	"a result waits for its callback before it expires":             resultWaitsForCallback,
	"a dead letter's callback is withdrawn when it is requeued":     callbackWithdrawn,
}

func called(id string) broker.Invocation {
	v := invocation(id)
	v.Callback = &broker.Callback{Document: []byte("tell " + id)}
	return v
}

func (t queueTest) fail(l broker.Lease, reason string) {
	t.Helper()
	if err := t.q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDead, Reason: reason}); err != nil {
		t.Fatal(err)
	}
}

func (t queueTest) letters(after broker.InvocationID, limit int) string {
	t.Helper()
	list, err := t.q.Letters(t.Context(), job, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, s := range list {
		texts = append(texts, fmt.Sprintf("%s:%s", s.ID, s.Reason))
	}
	return strings.Join(texts, " ")
}

func lateComplete(t queueTest) {
	t.enqueue(called("a"))
	l := t.leaseOne("a", 1)
	t.c.Advance(10 * time.Second)
	t.wantLost(l)
	t.wantNoResult("a")
	t.leaseIDs(calls(1), "")
	second := t.leaseOne("a", 2)
	t.wantLost(l)
	t.wantNoResult("a")
	t.complete(second)
	t.wantResult("a", broker.OutcomeDone, "result of a")
}

func secondResult(t queueTest) {
	t.enqueue(called("a"))
	l := t.leaseOne("a", 1)
	t.complete(l)
	t.wantLost(l)
	t.wantResult("a", broker.OutcomeDone, "result of a")
	c := t.leaseIDs(calls(5), "a")[0]
	t.complete(c)
	t.wantLost(l)
	t.wantLost(c)
	t.leaseIDs(calls(5), "")
	t.leaseIDs(want(5), "")
	t.wantResult("a", broker.OutcomeDone, "result of a")
}

func resultExpires(t queueTest) {
	v := invocation("a")
	v.ResultTTL = time.Minute
	t.enqueue(v)
	t.c.Advance(time.Hour) // waiting takes as long as it takes
	l := t.leaseOne("a", 1)
	t.c.Advance(5 * time.Second)
	t.complete(l)
	if s := t.status("a"); s.Expires.Sub(s.Finished).Round(time.Second) != time.Minute {
		t.Errorf("the status is %+v", s)
	}
	t.c.Advance(58 * time.Second)
	t.wantResult("a", broker.OutcomeDone, "result of a")
	t.c.Advance(2 * time.Second)
	t.wantForgotten("a")
	t.wantLost(l)
	t.enqueue(v)
	t.leaseOne("a", 1)
}

func statusTells(t queueTest) {
	v := called("a")
	v.Priority, v.Order, v.Key, v.MaxAttempts = 4, "order", "key", 3
	t.enqueue(v)
	s := t.status("a")
	if s.State != broker.StateWaiting || s.Attempts != 0 || s.MaxAttempts != 3 || s.Priority != 4 || s.Order != "order" || s.Key != "key" || s.Callback != broker.CallbackPending ||
		s.Enqueued.IsZero() || s.Due.Sub(s.Enqueued).Round(time.Second) != 0 || s.Worker != "" || !s.Until.IsZero() || s.Reason != "" || !s.Finished.IsZero() || !s.Expires.IsZero() ||
		s.PayloadBytes != len(v.Payload) || s.ResultBytes != 0 {
		t.Errorf("waiting, it is %+v", s)
	}
	t.c.Advance(20 * time.Second)
	t.release(t.leaseOne("a", 1), broker.Return{Reason: "once", Delay: 20 * time.Second})
	s = t.status("a")
	if s.State != broker.StateWaiting || s.Attempts != 1 || s.Reason != "once" || s.Due.Sub(s.Enqueued).Round(time.Second) != 40*time.Second || s.Worker != "" {
		t.Errorf("given back, it is %+v", s)
	}
	t.c.Advance(20 * time.Second)
	l := t.leaseOne("a", 2)
	s = t.status("a")
	if s.State != broker.StateLeased || s.Attempts != 2 || s.Worker != "worker" || s.Until.Sub(s.Enqueued).Round(time.Second) != 50*time.Second || s.Reason != "once" || !s.Due.IsZero() {
		t.Errorf("leased, it is %+v", s)
	}
	t.complete(l)
	s = t.status("a")
	if s.State != broker.StateDone || s.Attempts != 2 || s.Worker != "" || !s.Until.IsZero() || s.Finished.Sub(s.Enqueued).Round(time.Second) != 40*time.Second || !s.Expires.IsZero() ||
		s.PayloadBytes != 0 || s.ResultBytes != len("result of a") || s.Callback != broker.CallbackPending {
		t.Errorf("done, it is %+v", s)
	}
	t.c.Advance(20 * time.Second)
	t.complete(t.leaseIDs(calls(1), "a")[0])
	s = t.status("a")
	if s.State != broker.StateDone || s.Callback != broker.CallbackDone || s.CallbackAttempts != 1 || s.Expires.Sub(s.Enqueued).Round(time.Second) != time.Minute+broker.DefaultResultTTL {
		t.Errorf("called back, it is %+v", s)
	}
}

func countsTell(t queueTest) {
	delayed, later := invocation("delayed"), invocation("later")
	delayed.Delay, later.Delay = 90*time.Second, time.Hour
	failing := invocation("failing")
	failing.Priority = 9
	t.enqueue(invocation("a"), invocation("b"), delayed, later, called("called"), failing)
	t.fail(t.leaseOne("failing", 1), "x")
	t.leaseIDs(want(2), "a b")
	t.complete(t.leaseOne("called", 1))
	t.c.Advance(100 * time.Second)
	long := want(1)
	long.TTL = time.Hour
	t.leaseIDs(long, "a")
	t.enqueue(invocation("c"))
	c := t.counts()
	oldest := c.Oldest
	c.Oldest = time.Time{}
	if c != (broker.Counts{Waiting: 4, Ready: 3, Leased: 1, Dead: 1, Callbacks: 1}) || c.Length() != 7 {
		t.Errorf("the counts are %+v", c)
	}
	if age := t.status("c").Due.Sub(oldest).Round(time.Second); age != 90*time.Second { // b's lease ended then
		t.Errorf("the oldest is %s old", age)
	}
	counts, err := t.q.Counts(t.Context(), otherJob, job)
	if err != nil || len(counts) != 2 || counts[0] != (broker.Counts{}) || counts[1].Waiting != 4 {
		t.Errorf("counts answers %+v, %v", counts, err)
	}
}

func lastAttempt(t queueTest) {
	v := called("a")
	v.MaxAttempts = 2
	t.enqueue(v)
	t.release(t.leaseOne("a", 1), broker.Return{Reason: "first"})
	l := t.leaseOne("a", 2)
	t.release(l, broker.Return{Reason: "second", Delay: time.Minute})
	t.wantLost(l)
	if s := t.status("a"); s.State != broker.StateDead || s.Attempts != 2 || s.Reason != "second" || s.Finished.IsZero() {
		t.Errorf("the status is %+v", s)
	}
	if r := t.wantResult("a", broker.OutcomeDead, ""); r.Reason != "second" {
		t.Errorf("the result is %+v", r)
	}
	if got := t.letters("", 0); got != "a:second" {
		t.Errorf("the dead letters are %s", got)
	}
	t.c.Advance(time.Hour)
	t.leaseIDs(want(1), "")
	t.leaseIDs(calls(1), "a")
}

func lastLease(t queueTest) {
	v := called("a")
	v.MaxAttempts = 2
	t.enqueue(v, called("b"))
	t.release(t.leaseOne("a", 1), broker.Return{Reason: "first"})
	l := t.leaseOne("a", 2)
	t.c.Advance(20 * time.Second)
	t.leaseIDs(want(2), "b")
	t.wantLost(l)
	s := t.status("a")
	if s.State != broker.StateDead || s.Attempts != 2 || !strings.Contains(s.Reason, "lease ran out") || s.Finished.Sub(s.Enqueued).Round(time.Second) != 10*time.Second {
		t.Errorf("the status is %+v", s)
	}
	if r := t.wantResult("a", broker.OutcomeDead, ""); r.Reason != s.Reason {
		t.Errorf("the result is %+v", r)
	}
	if got := t.letters("", 0); got != "a:"+s.Reason {
		t.Errorf("the dead letters are %s", got)
	}
	t.leaseIDs(calls(2), "a")
}

func givenUp(t queueTest) {
	t.enqueue(called("a"))
	if err := t.q.Complete(t.Context(), t.leaseOne("a", 1), broker.Result{Outcome: broker.OutcomeDead, Reason: "no such handler", Payload: []byte("404")}); err != nil {
		t.Fatal(err)
	}
	if r := t.wantResult("a", broker.OutcomeDead, "404"); r.Reason != "no such handler" {
		t.Errorf("the result is %+v", r)
	}
	if s := t.status("a"); s.State != broker.StateDead || s.Reason != "no such handler" || !s.Expires.IsZero() {
		t.Errorf("the status is %+v", s)
	}
	l := t.leaseIDs(calls(1), "a")[0]
	if string(l.Callback.Document) != "tell a" || l.Payload != nil {
		t.Errorf("the callback is %+v", l)
	}
	t.c.Advance(broker.MaxResultTTL)
	if got := t.letters("", 0); got != "a:no such handler" {
		t.Errorf("the dead letters are %q", got)
	}
}

func lettersInPages(t queueTest) {
	const n = 25
	for i := range n {
		v := invocation(fmt.Sprintf("%02d", i*7%n))
		v.Delay, v.Order = time.Second, fmt.Sprint(i%3)
		t.enqueue(v)
	}
	t.c.Advance(2 * time.Second)
	for failed := 0; failed < n; {
		ls := t.lease(want(n))
		if len(ls) == 0 {
			t.Fatalf("%d of %d were leased", failed, n)
		}
		for _, l := range ls {
			t.fail(l, "reason "+string(l.ID))
			failed++
		}
	}
	var all []string
	for after := broker.InvocationID(""); ; {
		page, err := t.q.Letters(t.Context(), job, after, 10)
		if err != nil || len(page) > 10 {
			t.Fatalf("a page has %d, %v", len(page), err)
		}
		if len(page) == 0 {
			break
		}
		for _, s := range page {
			all = append(all, string(s.ID))
			after = s.ID
		}
	}
	list, err := t.q.Letters(t.Context(), job, "", 0)
	if err != nil || len(list) != n {
		t.Fatalf("letters answers %d, %v", len(list), err)
	}
	for i, s := range list {
		id := fmt.Sprintf("%02d", i)
		if string(s.ID) != id || s.Reason != "reason "+id || s.State != broker.StateDead || s.Attempts != 1 || s.PayloadBytes == 0 {
			t.Errorf("dead letter %d is %+v", i, s)
		}
		if i < len(all) && all[i] != id {
			t.Errorf("in pages, dead letter %d is %s", i, all[i])
		}
	}
	if len(all) != n {
		t.Errorf("pages gave %q", all)
	}
	v, err := t.q.Letter(t.Context(), job, "07")
	if err != nil || v.ID != "07" || string(v.Payload) != "payload of 07" || v.Order == "" || v.MaxAttempts != broker.DefaultAttempts {
		t.Errorf("the dead letter reads %+v, %v", v, err)
	}
}

func requeued(t queueTest) {
	v := invocation("a")
	v.MaxAttempts, v.Key, v.Delay = 1, "key", 2*time.Second
	t.enqueue(v)
	t.c.Advance(2 * time.Second)
	old := t.leaseOne("a", 1)
	t.fail(old, "x")
	t.enqueue(invocation("b"))
	if err := t.q.Requeue(t.Context(), job, "a"); err != nil {
		t.Fatal(err)
	}
	t.wantNoResult("a")
	t.wantLost(old)
	if got := t.letters("", 0); got != "" {
		t.Errorf("the dead letters are %q", got)
	}
	s := t.status("a")
	if s.State != broker.StateWaiting || s.Attempts != 0 || s.Reason != "" || !s.Finished.IsZero() || s.Key != "key" {
		t.Errorf("the status is %+v", s)
	}
	other := invocation("other")
	other.Key = "key"
	if receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{other}}); err != nil || receipts[0].ID != "a" {
		t.Errorf("under the key, enqueue answers %+v, %v", receipts, err)
	}
	if err := t.q.Requeue(t.Context(), job, "a"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("requeueing it twice answers %v", err)
	}
	ls := t.leaseIDs(want(5), "b a")
	if ls[1].Attempt != 1 || string(ls[1].Payload) != "payload of a" {
		t.Errorf("the lease is %+v", ls[1])
	}
	t.wantLost(old)
	t.complete(ls[1])
	t.wantResult("a", broker.OutcomeDone, "result of a")
}

func discarded(t queueTest) {
	v := invocation("a")
	v.ResultTTL, v.Key = time.Minute, "key"
	t.enqueue(v)
	t.fail(t.leaseOne("a", 1), "x")
	t.c.Advance(time.Hour)
	t.wantResult("a", broker.OutcomeDead, "")
	if err := t.q.Discard(t.Context(), job, "a"); err != nil {
		t.Fatal(err)
	}
	if got := t.letters("", 0); got != "" {
		t.Errorf("the dead letters are %q", got)
	}
	if _, err := t.q.Letter(t.Context(), job, "a"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("the dead letter answers %v", err)
	}
	if err := t.q.Requeue(t.Context(), job, "a"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("requeue answers %v", err)
	}
	if s := t.status("a"); s.State != broker.StateDead || s.PayloadBytes != 0 || s.Expires.IsZero() {
		t.Errorf("the status is %+v", s)
	}
	if c := t.counts(); c.Length() != 0 {
		t.Errorf("the counts are %+v", c)
	}
	t.c.Advance(58 * time.Second)
	if r := t.wantResult("a", broker.OutcomeDead, ""); r.Reason != "x" {
		t.Errorf("the result is %+v", r)
	}
	t.c.Advance(2 * time.Second)
	t.wantForgotten("a")
	t.enqueue(v)
}

func callbackOnce(t queueTest) {
	t.enqueue(called("a"), invocation("plain"), called("b"))
	t.leaseIDs(calls(5), "")
	ls := t.leaseIDs(want(5), "a plain b")
	t.leaseIDs(calls(5), "")
	t.complete(ls[2])
	t.c.Advance(2 * time.Second)
	t.complete(ls[1])
	t.complete(ls[0])
	cs := t.leaseIDs(calls(5), "b a") // in the order of their ends
	c := cs[1]
	if c.Lane != broker.LaneCallback || c.Job != job || c.Attempt != 1 || string(c.Callback.Document) != "tell a" || len(c.Payload) > 0 {
		t.Errorf("the callback is %+v", c)
	}
	t.leaseIDs(calls(5), "")
	t.leaseIDs(want(5), "")
	t.complete(c)
	t.wantResult("a", broker.OutcomeDone, "result of a") // and not what the callback said
	t.wantLost(c)
	t.c.Advance(10 * time.Second)
	again := t.leaseIDs(calls(5), "b")[0]
	t.wantLost(cs[0])
	if again.Attempt != 2 {
		t.Errorf("the callback is %+v", again)
	}
	t.complete(again)
	t.leaseIDs(calls(5), "")
}

func callbackAttempts(t queueTest) {
	v := called("a")
	v.MaxAttempts, v.Callback.MaxAttempts = 1, 3
	w := called("b")
	w.Callback.MaxAttempts = 1
	t.enqueue(v, w)
	for _, l := range t.leaseIDs(want(5), "a b") {
		t.complete(l)
	}
	cs := t.leaseIDs(calls(2), "a b")
	t.release(cs[0], broker.Return{Reason: "answered 503", Delay: 20 * time.Second})
	if err := t.q.Complete(t.Context(), cs[1], broker.Result{Outcome: broker.OutcomeDead, Reason: "answered 410"}); err != nil {
		t.Fatal(err)
	}
	if s := t.status("b"); s.Callback != broker.CallbackDead || s.CallbackReason != "answered 410" || s.State != broker.StateDone || s.Expires.IsZero() {
		t.Errorf("the status is %+v", s)
	}
	if s := t.status("a"); s.Callback != broker.CallbackPending || s.CallbackReason != "answered 503" || s.CallbackAttempts != 1 {
		t.Errorf("the status is %+v", s)
	}
	t.leaseIDs(calls(1), "")
	t.c.Advance(20 * time.Second)
	c := t.leaseIDs(calls(1), "a")[0]
	t.release(c, broker.Return{Unstarted: true})
	c = t.leaseIDs(calls(1), "a")[0]
	if c.Attempt != 2 {
		t.Errorf("the callback is %+v", c)
	}
	if got, err := t.q.Extend(t.Context(), c); err != nil || len(got) != 1 {
		t.Errorf("extend answers %+v, %v", got, err)
	}
	t.c.Advance(10 * time.Second) // its lease runs out
	c = t.leaseIDs(calls(1), "a")[0]
	t.release(c, broker.Return{Reason: "answered 500"})
	s := t.status("a")
	if s.Callback != broker.CallbackDead || s.CallbackReason != "answered 500" || s.CallbackAttempts != 3 || s.State != broker.StateDone {
		t.Errorf("the status is %+v", s)
	}
	if got := t.letters("", 0); got != "" {
		t.Errorf("the dead letters are %q", got)
	}
	if c := t.counts(); c.Length() != 0 {
		t.Errorf("the counts are %+v", c)
	}
	t.leaseIDs(calls(5), "")
}

func resultWaitsForCallback(t queueTest) {
	v := called("a")
	v.ResultTTL, v.Callback.MaxAttempts = time.Minute, 2
	t.enqueue(v)
	t.complete(t.leaseOne("a", 1))
	t.c.Advance(time.Hour)
	t.wantResult("a", broker.OutcomeDone, "result of a")
	t.leaseIDs(calls(1), "a")
	t.c.Advance(20 * time.Second)
	t.leaseIDs(calls(1), "a")
	t.c.Advance(60 * time.Second) // the last lease ended 50 s ago
	t.wantResult("a", broker.OutcomeDone, "result of a")
	if s := t.status("a"); s.Callback != broker.CallbackDead || !strings.Contains(s.CallbackReason, "lease ran out") {
		t.Errorf("the status is %+v", s)
	}
	t.c.Advance(10 * time.Second)
	t.wantForgotten("a")
}

func callbackWithdrawn(t queueTest) {
	t.enqueue(called("a"), called("b"))
	for _, l := range t.leaseIDs(want(2), "a b") {
		t.fail(l, "x")
	}
	c := t.leaseIDs(calls(1), "a")[0]
	for _, id := range []broker.InvocationID{"a", "b"} {
		if err := t.q.Requeue(t.Context(), job, id); err != nil {
			t.Fatal(err)
		}
	}
	t.wantLost(c)
	t.leaseIDs(calls(5), "")
	if s := t.status("a"); s.Callback != broker.CallbackPending || s.CallbackAttempts != 0 {
		t.Errorf("the status is %+v", s)
	}
	t.complete(t.leaseOne("a", 1))
	if c := t.leaseIDs(calls(5), "a")[0]; c.Attempt != 1 {
		t.Errorf("the callback is %+v", c)
	}
	// A dead letter whose callback is over has another one at its next end.
	t.fail(t.leaseOne("b", 1), "y")
	t.complete(t.leaseIDs(calls(5), "b")[0])
	if err := t.q.Requeue(t.Context(), job, "b"); err != nil {
		t.Fatal(err)
	}
	t.complete(t.leaseOne("b", 1))
	t.leaseIDs(calls(5), "b")
}
