package control

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

func posting(body string) NewInvocation {
	return NewInvocation{Request: envelope.Request{Method: "POST", Target: "/", Body: []byte(body)}}
}

func TestAnInvocationIsQueuedAsTheManifestSaysUnlessItSaysItself(t *testing.T) {
	w := newWorld(t)
	m := &manifest.Manifest{Queue: manifest.Queue{Attempts: 7, TTL: manifest.Duration(time.Hour), Backoff: manifest.Backoff{First: manifest.Duration(time.Second), Max: manifest.Duration(time.Minute)}},
		Capabilities: policy.Capabilities{Fetch: []policy.Fetch{{Scheme: "https", Host: "hooks.example"}}}}
	w.deploy("hello", "m", m)
	plain, err := w.Enqueue(t.Context(), "hello", posting("a"))
	if err != nil {
		t.Fatal(err)
	}
	own := posting("b")
	own.Key, own.Order, own.Priority, own.Attempts, own.ResultTTL, own.Callback = "k", "o", 9, 2, time.Minute, "https://hooks.example/x"
	first, err := w.Enqueue(t.Context(), "hello", own)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Enqueue(t.Context(), "hello", own); err != nil || again.ID != first.ID || !again.Known {
		t.Errorf("the same key: %+v, %v", again, err)
	}
	ls := w.lease("hello")
	if l := ls[""]; l.ID != plain.ID || l.MaxAttempts != 7 || l.ResultTTL != time.Hour || l.Order != "" || l.Backoff != (broker.Backoff{First: time.Second, Max: time.Minute}) || l.Callback != nil {
		t.Errorf("as the manifest says: %+v", l)
	}
	if l := ls["k"]; l.ID != first.ID || l.MaxAttempts != 2 || l.ResultTTL != time.Minute || l.Order != "o" || l.Priority != 9 || l.Callback == nil {
		t.Errorf("as it says itself: %+v", l)
	}

	m.Queue.Ordered = true
	w.deploy("hello", "m", m)
	own.Key = "k2"
	if _, err := w.Enqueue(t.Context(), "hello", own); err != nil {
		t.Fatal(err)
	}
	if l := w.lease("hello")["k2"]; l.Order != "*" {
		t.Errorf("of an ordered queue: %+v", l)
	}
}

func TestWhatCannotBeQueuedIsAProblem(t *testing.T) {
	w := newWorld(t)
	w.deploy("hello", "m", &manifest.Manifest{Queue: manifest.Queue{Length: 1}, Capabilities: policy.Capabilities{Fetch: []policy.Fetch{{Scheme: "https", Host: "hooks.example"}}}})
	for what, c := range map[string]struct {
		job    string
		change func(*NewInvocation)
		status int
		code   string
		kind   error
	}{
		"no such job":            {"other", func(*NewInvocation) {}, 404, "job-unknown", ErrNotFound},
		"no job's name":          {"A", func(*NewInvocation) {}, 400, "name-invalid", nil},
		"a body too large":       {"hello", func(v *NewInvocation) { v.Request.Body = make([]byte, envelope.MaxBody+1) }, 413, "too-large", envelope.ErrTooLarge},
		"a key too large":        {"hello", func(v *NewInvocation) { v.Key = strings.Repeat("k", 257) }, 413, "too-large", broker.ErrTooLarge},
		"no method":              {"hello", func(v *NewInvocation) { v.Request.Method = "" }, 400, "invocation-invalid", envelope.ErrInvalid},
		"an order too large":     {"hello", func(v *NewInvocation) { v.Order = strings.Repeat("o", 257) }, 413, "too-large", broker.ErrTooLarge},
		"a delay too long":       {"hello", func(v *NewInvocation) { v.Delay = broker.MaxDelay + 1 }, 400, "invocation-invalid", broker.ErrInvalid},
		"a ttl too short":        {"hello", func(v *NewInvocation) { v.ResultTTL = broker.MinResultTTL - 1 }, 400, "invocation-invalid", broker.ErrInvalid},
		"a ttl too long":         {"hello", func(v *NewInvocation) { v.ResultTTL = broker.MaxResultTTL + 1 }, 400, "invocation-invalid", broker.ErrInvalid},
		"too many attempts":      {"hello", func(v *NewInvocation) { v.Attempts = broker.MaxAttempts + 1 }, 400, "invocation-invalid", broker.ErrInvalid},
		"a schedule's key":       {"hello", func(v *NewInvocation) { v.Key = "@x" }, 400, "invocation-invalid", broker.ErrInvalid},
		"a priority too high":    {"hello", func(v *NewInvocation) { v.Priority = 10 }, 400, "invocation-invalid", broker.ErrInvalid},
		"a callback to nowhere":  {"hello", func(v *NewInvocation) { v.Callback = "ftp://hooks.example/" }, 400, "callback-invalid", broker.ErrInvalid},
		"a callback with a name": {"hello", func(v *NewInvocation) { v.Callback = "https://a:b@hooks.example/" }, 400, "callback-invalid", broker.ErrInvalid},
		"a callback elsewhere":   {"hello", func(v *NewInvocation) { v.Callback = "https://else.example/" }, 422, "callback-refused", nil},
		"a callback too long": {"hello", func(v *NewInvocation) {
			v.Callback = "https://hooks.example/" + strings.Repeat("x", broker.MaxCallback)
		}, 413, "too-large", envelope.ErrTooLarge},
	} {
		v := posting("x")
		c.change(&v)
		_, err := w.Enqueue(t.Context(), c.job, v)
		wantProblem(t, err, c.status, c.code)
		if strings.Contains(err.Error(), "enqueue: ") || strings.HasPrefix(err.Error(), "invalid: ") {
			t.Errorf("%s: %q is in the broker's words", what, err)
		}
		if c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%s: %v is no %v", what, err, c.kind)
		}
		if refused, ok := errors.AsType[*policy.RefusedError](err); c.code == "callback-refused" && (!ok || refused.What != "fetch") {
			t.Errorf("%s: %v does not say that it is not granted", what, err)
		}
	}
	if _, err := w.Enqueue(t.Context(), "hello", posting("x")); err != nil {
		t.Fatal(err)
	}
	_, err := w.Enqueue(t.Context(), "hello", posting("y"))
	wantProblem(t, err, http.StatusTooManyRequests, "queue-full", "queue.length")
	if n, err := w.Queued(t.Context(), "hello"); err != nil || n.Length() != 1 {
		t.Errorf("%+v are queued, %v", n, err)
	}
}

func TestWhatWaitsIsListedAndCancelled(t *testing.T) {
	w := newWorld(t)
	w.deploy("hello", "m", &manifest.Manifest{Capabilities: policy.Capabilities{Fetch: []policy.Fetch{{Scheme: "https", Host: "example.com"}}}})
	enqueue := func(key string, change func(*NewInvocation)) string {
		t.Helper()
		v := posting(key)
		v.Key = key
		if change != nil {
			change(&v)
		}
		got, err := w.Enqueue(t.Context(), "hello", v)
		if err != nil {
			t.Fatal(err)
		}
		return string(got.ID)
	}
	running := enqueue("running", nil)
	l := w.lease("hello")["running"]
	waiting := enqueue("waiting", func(v *NewInvocation) { v.Callback = "https://example.com/told" })
	enqueue("later", func(v *NewInvocation) { v.Delay = time.Hour })

	var states []string
	for after := ""; ; {
		page, next, err := w.Invocations(t.Context(), "hello", after, 2)
		if err != nil || len(page) > 2 {
			t.Fatalf("%d, %v", len(page), err)
		}
		for _, st := range page {
			states = append(states, st.Key+" "+string(st.State))
		}
		if after = next; next == "" {
			break
		}
	}
	if got := strings.Join(states, ", "); got != "running leased, waiting waiting, later waiting" {
		t.Errorf("listed are %s", got)
	}
	_, _, err := w.Invocations(t.Context(), "hello", "nonsense", 2)
	wantProblem(t, err, http.StatusBadRequest, "bad-parameter", "nonsense")
	_, _, err = w.Invocations(t.Context(), "nobody", "", 2)
	wantProblem(t, err, 404, "job-unknown")

	if err := w.Cancel(t.Context(), "ann", "hello", waiting); err != nil {
		t.Fatal(err)
	}
	if ls := w.lease("hello"); len(ls) != 0 {
		t.Errorf("it is leased: %v", ls)
	}
	_, err = w.InvocationResult(t.Context(), "hello", waiting)
	wantProblem(t, err, http.StatusBadGateway, "invocation-dead", "cancelled")
	if st, err := w.Invocation(t.Context(), "hello", waiting); err != nil || st.Callback != broker.CallbackPending || st.State != broker.StateDead {
		t.Errorf("it is %+v, %v", st, err)
	}
	if list, err := w.DeadLetters(t.Context(), "hello", "", 10); err != nil || len(list) != 0 {
		t.Errorf("the dead letters are %+v, %v", list, err)
	}
	if again := enqueue("waiting", nil); again != waiting {
		t.Errorf("its key is that of %s", again)
	}
	wantProblem(t, w.Cancel(t.Context(), "ann", "hello", waiting), http.StatusConflict, "invocation-ended", "dead")
	wantProblem(t, w.Cancel(t.Context(), "ann", "hello", running), http.StatusConflict, "invocation-running", "attempt 1")
	w.complete(l)
	wantProblem(t, w.Cancel(t.Context(), "ann", "hello", running), http.StatusConflict, "invocation-ended", "done")
	wantProblem(t, w.Cancel(t.Context(), "ann", "hello", "nothing"), 404, "invocation-unknown")
	wantProblem(t, w.Cancel(t.Context(), "ann", "hello", "no~id"), 404, "invocation-unknown")
	wantProblem(t, w.Cancel(t.Context(), "ann", "nobody", waiting), 404, "job-unknown")
	if log, err := w.AuditLog(t.Context(), AuditFilter{Job: "hello", Kind: AuditCancel}); err != nil || len(log) != 1 || log[0].By != "ann" || log[0].Invocation != waiting {
		t.Errorf("the audit log has %+v, %v", log, err)
	}
}

func TestResultsAndDeadLettersAreToldAndEnded(t *testing.T) {
	w := newWorld(t)
	w.deploy("hello", "m", &manifest.Manifest{})
	var ids []string
	for _, key := range []string{"good", "bad", "worse"} {
		v := posting(key)
		v.Key = key
		got, err := w.Enqueue(t.Context(), "hello", v)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, string(got.ID))
	}
	_, err := w.InvocationResult(t.Context(), "hello", ids[0])
	wantProblem(t, err, 404, "result-none", "waiting")
	_, err = w.InvocationResult(t.Context(), "hello", "nothing")
	wantProblem(t, err, 404, "invocation-unknown")
	_, err = w.Invocation(t.Context(), "hello", "no~id")
	wantProblem(t, err, 404, "invocation-unknown")

	ls := w.lease("hello")
	w.complete(ls["good"])
	for _, key := range []string{"bad", "worse"} {
		if err := w.queue.Complete(t.Context(), ls[key], broker.Result{Outcome: broker.OutcomeDead, Reason: "it broke"}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := w.InvocationResult(t.Context(), "hello", ids[0]); err != nil || r.Status != 200 {
		t.Errorf("the result is %+v, %v", r, err)
	}
	_, err = w.InvocationResult(t.Context(), "hello", ids[1])
	wantProblem(t, err, http.StatusBadGateway, "invocation-dead", "it broke")
	if list, err := w.DeadLetters(t.Context(), "hello", "", 10); err != nil || len(list) != 2 {
		t.Errorf("the dead letters are %+v, %v", list, err)
	}
	if st, r, err := w.DeadLetter(t.Context(), "hello", ids[1]); err != nil || st.Reason != "it broke" || string(r.Body) != "bad" {
		t.Errorf("the dead letter is %+v %+v, %v", st, r, err)
	}
	_, _, err = w.DeadLetter(t.Context(), "hello", ids[0])
	wantProblem(t, err, 404, "dead-letter-unknown")
	if err := errors.Join(w.Requeue(t.Context(), "ann", "hello", ids[1]), w.Discard(t.Context(), "bob", "hello", ids[2])); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, w.Requeue(t.Context(), "ann", "hello", ids[2]), 404, "dead-letter-unknown")
	if ls := w.lease("hello"); ls["bad"].Attempt != 1 || len(ls) != 1 {
		t.Errorf("requeued: %v", ls)
	}
	for kind, by := range map[string]string{AuditRequeue: "ann", AuditDiscard: "bob"} {
		if log, err := w.AuditLog(t.Context(), AuditFilter{Job: "hello", Kind: kind}); err != nil || len(log) != 1 || log[0].By != by || log[0].Invocation == "" {
			t.Errorf("%s: the audit log has %+v, %v", kind, log, err)
		}
	}
}

// What was enqueued while its job was being removed is forgotten by a sweep.
func TestTheQueueOfARemovedJobIsSwept(t *testing.T) {
	w := newWorld(t)
	job, _ := w.deploy("hello", "m", &manifest.Manifest{})
	if _, err := w.Enqueue(t.Context(), "hello", posting("early")); err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(t.Context(), "ann", "hello"); err != nil {
		t.Fatal(err)
	}
	_, err := w.Enqueue(t.Context(), "hello", posting("late"))
	wantProblem(t, err, 404, "job-unknown")
	counts := func() int {
		n, err := w.queue.Counts(t.Context(), JobQueue(job))
		if err != nil {
			t.Fatal(err)
		}
		return n[0].Length()
	}
	if n := counts(); n != 0 {
		t.Errorf("%d are left of a removed job", n)
	}
	payload, _ := posting("meanwhile").Request.Encode()
	if _, err := w.queue.Enqueue(t.Context(), broker.Batch{Job: JobQueue(job), Invocations: []broker.Invocation{{ID: "i", Payload: payload}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is past the grace, and the last
		w.clock.Advance(45 * time.Minute)
		if _, err := w.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := counts(); n != 0 {
			t.Errorf("%d are left after a sweep", n)
		}
	}
	if list, _, err := w.records.List(t.Context(), broker.Range{Prefix: purgesPrefix}); err != nil || len(list) != 0 {
		t.Errorf("%d jobs are still to be forgotten, %v", len(list), err)
	}
}

// A job that may enqueue for another, or whoever has a token, must not have its schedules or its whole queue wait.
func TestNobodyHoldsASchedulesOrderOrAnotherJobsQueueUp(t *testing.T) {
	w := newWorld(t)
	w.deploy("open", "x", &manifest.Manifest{})
	w.deploy("ordered", "x", &manifest.Manifest{Queue: manifest.Queue{Ordered: true}})
	for name, test := range map[string]struct {
		job     string
		v       NewInvocation
		refused bool
	}{
		"a schedule's order":             {"open", NewInvocation{Order: "@nightly"}, true},
		"a schedule's key":               {"open", NewInvocation{Key: "@nightly/x"}, true},
		"an order of its own":            {"open", NewInvocation{Order: "nightly", Delay: time.Hour}, false},
		"a delay of another job's guest": {"ordered", NewInvocation{From: "open", Delay: time.Second}, true},
		"none of another job's guest":    {"ordered", NewInvocation{From: "open"}, false},
		"a delay of its own guest":       {"ordered", NewInvocation{From: "ordered", Delay: time.Second}, false},
		"a delay of somebody's":          {"ordered", NewInvocation{Delay: time.Second}, false},
	} {
		test.v.Request = posting("x").Request
		_, err := w.Enqueue(t.Context(), test.job, test.v)
		if (err != nil) != test.refused || test.refused && !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// busyQueue finds an invocation under way the next few times that it is cancelled.
type busyQueue struct {
	broker.Queue
	busy int
}

func (q *busyQueue) Cancel(ctx context.Context, j broker.Job, id broker.InvocationID, reason string) error {
	if q.busy--; q.busy >= 0 {
		return broker.ErrNotWaiting
	}
	return q.Queue.Cancel(ctx, j, id, reason)
}

func TestOneThatIsGivenBackMeanwhileIsCancelled(t *testing.T) {
	w := newWorld(t)
	w.deploy("hello", "m", nil)
	busy := &busyQueue{Queue: w.queue}
	w.queue = busy
	got, err := w.Enqueue(t.Context(), "hello", posting("x"))
	if err != nil {
		t.Fatal(err)
	}
	busy.busy = 1000
	wantProblem(t, w.Cancel(t.Context(), "ann", "hello", string(got.ID)), 409, "invocation-running")
	busy.busy = cancelTries - 1
	if err := w.Cancel(t.Context(), "ann", "hello", string(got.ID)); err != nil {
		t.Errorf("Cancel answers %v", err)
	}
}
