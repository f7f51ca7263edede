package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
)

// away is a queue that fails while it is told to.
type away struct {
	broker.Queue
	gone atomic.Bool
}

var errAway = fmt.Errorf("the queue: %w", broker.ErrUnavailable)

func (a *away) Wait(ctx context.Context, w broker.Want) error {
	if a.gone.Load() {
		return errAway
	}
	return a.Queue.Wait(ctx, w)
}

func (a *away) Lease(ctx context.Context, w broker.Want) ([]broker.Lease, error) {
	if a.gone.Load() {
		return nil, errAway
	}
	return a.Queue.Lease(ctx, w)
}

func (a *away) Extend(ctx context.Context, ls ...broker.Lease) ([]broker.Lease, error) {
	if a.gone.Load() {
		return nil, errAway
	}
	return a.Queue.Extend(ctx, ls...)
}

func (a *away) Complete(ctx context.Context, l broker.Lease, r broker.Result) error {
	if a.gone.Load() {
		return errAway
	}
	return a.Queue.Complete(ctx, l, r)
}

func queueOf(job string) broker.Job {
	return broker.Job{Entitlement: broker.DefaultEntitlement, Name: job}
}

func enqueue(t *testing.T, q broker.Queue, job string, n int, change ...func(*broker.Invocation)) {
	t.Helper()
	payload, err := envelope.Request{Method: "POST", Target: "/", Body: []byte("body")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		v := broker.Invocation{ID: broker.InvocationID(fmt.Sprintf("%s-%d", job, i)), Payload: payload, MaxAttempts: 3, Backoff: broker.Backoff{First: time.Second, Max: time.Minute}}
		for _, f := range change {
			f(&v)
		}
		if _, err := q.Enqueue(t.Context(), broker.Batch{Job: queueOf(job), Invocations: []broker.Invocation{v}}); err != nil {
			t.Fatal(err)
		}
	}
}

func lease(t *testing.T, q broker.Queue, job string, n int) []broker.Lease {
	t.Helper()
	ls, err := q.Lease(t.Context(), broker.Want{Worker: "test", Jobs: []broker.Job{queueOf(job)}, Max: n, TTL: leaseTTL})
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

// during runs loops until f returns, and waits for them.
func during(t *testing.T, f func(), loops ...func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, loop := range loops {
		wg.Go(func() { loop(ctx) })
	}
	f()
	cancel()
	wg.Wait()
}

func isClosed(c <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestLeasesAreKeptWhileTheyAreWorkedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := model.New(model.Options{}).Queue()
		enqueue(t, q, "a", 2*broker.MaxBatch/1000+1) // three
		k := newKeeper(q, clock.System)
		var all []*held
		for _, l := range lease(t, q, "a", 10) {
			all = append(all, k.hold(l))
		}
		during(t, func() {
			time.Sleep(10 * leaseTTL)
			if others := lease(t, q, "a", 10); len(others) != 0 || isClosed(all[0].lost) {
				t.Errorf("others got %d of the leases that were kept", len(others))
			}
			k.drop(all[0])
			if err := q.Complete(t.Context(), all[1].lease, broker.Result{Outcome: broker.OutcomeDone}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(leaseTTL + time.Second)
			if others := lease(t, q, "a", 10); len(others) != 1 || others[0].ID != all[0].lease.ID {
				t.Errorf("what is not kept any more: %v", others)
			}
			if !isClosed(all[1].lost) || isClosed(all[2].lost) {
				t.Error("one that has ended is not lost, or one that has not is")
			}
		}, k.Run)
	})
}

func TestALeaseThatCannotBeExtendedIsGivenUpBeforeOthersHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &away{Queue: model.New(model.Options{}).Queue()}
		enqueue(t, q, "a", 2)
		k := newKeeper(q, clock.System)
		ls := lease(t, q, "a", 2)
		h := k.hold(ls[0])
		during(t, func() {
			time.Sleep(3*leaseTTL + time.Second) // apart from the moments of extending
			q.gone.Store(true)
			time.Sleep(leaseTTL / 2) // nobody can have it yet
			if isClosed(h.lost) {
				t.Error("it was given up at once")
			}
			q.gone.Store(false)
			time.Sleep(2 * leaseTTL)
			if isClosed(h.lost) {
				t.Error("it was given up though the queue was back in time")
			}
			q.gone.Store(true)
			began := time.Now()
			<-h.lost
			if d := time.Since(began); d > leaseTTL+leaseTTL/4 {
				t.Errorf("it was given up after %s", d)
			}
		}, k.Run)
	})
}

func TestAnIntakeTakesNoMoreThanThereIsRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &away{Queue: model.New(model.Options{}).Queue()}
		var mu sync.Mutex
		now, most, done := map[string]int{}, map[string]int{}, map[string]int{}
		in := newIntake(q, broker.LaneRun, "test", clock.System, slog.New(slog.DiscardHandler), func(ctx context.Context, l broker.Lease) {
			mu.Lock()
			now[l.Job.Name]++
			most[l.Job.Name] = max(most[l.Job.Name], now[l.Job.Name])
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now[l.Job.Name]--
			done[l.Job.Name]++
			mu.Unlock()
			if err := q.Complete(context.WithoutCancel(ctx), l, broker.Result{Outcome: broker.OutcomeDone}); err != nil {
				t.Error(err)
			}
		})
		ran := func() string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return fmt.Sprint(done["a"], done["b"], done["c"])
		}
		in.put(queueOf("a"), 3)
		in.put(queueOf("b"), 1)
		for _, job := range []string{"a", "b", "c"} {
			enqueue(t, q, job, 6)
		}
		during(t, func() {
			time.Sleep(time.Minute)
			if got := ran(); got != "0 0 0" {
				t.Errorf("closed, it ran %s", got)
			}
			in.set(true)
			time.Sleep(2500 * time.Millisecond)
			if got := ran(); got != "6 2 0" {
				t.Errorf("after two and a half seconds: %s", got)
			}
			in.put(queueOf("b"), 4) // more room is used at once
			time.Sleep(time.Second)
			if got := ran(); got != "6 6 0" {
				t.Errorf("with more room: %s", got)
			}
			// What comes while nothing is ready, and while the queue is away.
			enqueue(t, q, "a", 1, func(v *broker.Invocation) { v.ID = "late" })
			time.Sleep(1500 * time.Millisecond)
			if got := ran(); got != "7 6 0" {
				t.Errorf("one that came late: %s", got)
			}
			q.gone.Store(true)
			in.put(queueOf("c"), 6)
			time.Sleep(time.Minute)
			q.gone.Store(false)
			time.Sleep(longQueuePause + 1500*time.Millisecond)
			if got := ran(); got != "7 6 6" {
				t.Errorf("once the queue is back: %s", got)
			}
			in.remove(queueOf("a"))
			in.set(false)
			in.set(true)
			enqueue(t, q, "a", 1, func(v *broker.Invocation) { v.ID = "removed" })
			time.Sleep(time.Minute)
			if got := ran(); got != "7 6 6" {
				t.Errorf("of a job that was removed: %s", got)
			}
		}, in.Run)
		if most["a"] != 3 || most["b"] != 4 || most["c"] != 6 {
			t.Errorf("at once there were %v", most)
		}
	})
}

// office is a dispatcher with a worker that a test plays.
type office struct {
	t      *testing.T
	q      *away
	super  *Supervisor
	worker *worker
}

func newOffice(t *testing.T, concurrency int) *office {
	t.Helper()
	q := &away{Queue: model.New(model.Options{}).Queue()}
	s, err := New(Options{Program: "none", Ingress: os.Stdin, Queue: q, Name: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, q: q, super: s}
	m := manifest.Manifest{Queue: manifest.Queue{Concurrency: concurrency}}
	b, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	s.dispatcher.put(wire.Assignment{Job: "hello", ID: "a", Entitlement: broker.DefaultEntitlement, Version: 1, Manifest: b})
	o.hire()
	return o
}

// hire gives the dispatcher a new worker.
func (o *office) hire() {
	o.worker = &worker{super: o.super, store: &discreet{Store: &memory{}}, process: &process{kill: func() {}, done: make(chan struct{})}, orders: make(chan wire.Order, 16), first: make(chan struct{}), running: map[string]wire.Report{}}
	o.super.dispatcher.employ(o.worker)
}

// die ends the worker.
func (o *office) die() {
	o.super.dispatcher.employ(nil)
	close(o.worker.process.done)
}

// order waits for an order of a kind.
func (o *office) order(kind string) wire.Order {
	o.t.Helper()
	got := <-o.worker.orders
	if got.Kind != kind || kind == wire.OrderInvoke && got.Job != "hello" {
		o.t.Fatalf("ordered %+v, want %s", got, kind)
	}
	return got
}

// begin fetches what was ordered.
func (o *office) begin(id string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	o.worker.handler().ServeHTTP(rec, httptest.NewRequest("GET", wire.PathWork+id, nil))
	return rec
}

// end tells what came of it.
func (o *office) end(id, outcome, body, after string) int {
	r := httptest.NewRequest("POST", wire.PathWork+id, strings.NewReader(body))
	r.Header.Set(wire.HeaderOutcome, outcome)
	r.Header.Set(wire.HeaderRetryAfter, after)
	rec := httptest.NewRecorder()
	o.worker.handler().ServeHTTP(rec, r)
	synctest.Wait()
	return rec.Code
}

func (o *office) status(id broker.InvocationID) broker.Status {
	o.t.Helper()
	synctest.Wait()
	st, err := o.q.Status(o.t.Context(), queueOf("a"), id)
	if err != nil {
		o.t.Fatal(err)
	}
	return st
}

func (o *office) during(f func()) { o.t.Helper(); during(o.t, f, o.super.dispatcher.Run) }

func answered(t *testing.T) string {
	t.Helper()
	b, err := envelope.Response{Status: 200, Body: []byte("answer")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestADispatcherStoresWhatItsWorkerSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		done := answered(t)
		enqueue(t, o.q, "a", 1)
		o.during(func() {
			first := o.order(wire.OrderInvoke)
			if rec := o.begin(first.ID); rec.Code != 200 || rec.Header().Get(wire.HeaderInvocation) != "a-0" || rec.Header().Get(wire.HeaderAttempt) != "1" || !strings.HasSuffix(rec.Body.String(), "\nbody") {
				t.Errorf("the work is %d %v %q", rec.Code, rec.Header(), rec.Body)
			}
			if rec := o.begin(first.ID); rec.Code != http.StatusGone {
				t.Errorf("fetched again: %d", rec.Code)
			}
			time.Sleep(5 * leaseTTL) // a long one keeps its lease
			o.end(first.ID, wire.OutcomeFailed, "it broke", "7")
			if st := o.status("a-0"); st.State != broker.StateWaiting || st.Attempts != 1 || st.Reason != "it broke" || time.Until(st.Due) != 7*time.Second {
				t.Errorf("after a failure: %+v, due in %s", st, time.Until(st.Due))
			}
			if code := o.end(first.ID, wire.OutcomeDone, done, ""); code != http.StatusGone {
				t.Errorf("told again: %d", code)
			}

			second := o.order(wire.OrderInvoke)
			o.end(second.ID, wire.OutcomeUnstarted, "it starts", "")
			if st := o.status("a-0"); st.State != broker.StateWaiting || st.Attempts != 1 {
				t.Errorf("after one that was none: %+v", st)
			}
			third := o.order(wire.OrderInvoke)
			o.begin(third.ID)
			o.end(third.ID, wire.OutcomeDone, "not what an answer is", "")
			if st := o.status("a-0"); st.State != broker.StateWaiting || st.Attempts != 2 || !strings.Contains(st.Reason, "understood") {
				t.Errorf("after nonsense: %+v", st)
			}
			last := o.order(wire.OrderInvoke)
			o.begin(last.ID)
			o.q.gone.Store(true) // it is stored once that can be
			o.end(last.ID, wire.OutcomeDone, done, "")
			time.Sleep(time.Second)
			o.q.gone.Store(false)
			time.Sleep(time.Second)
			if st := o.status("a-0"); st.State != broker.StateDone || st.Attempts != 3 {
				t.Errorf("done: %+v", st)
			}
			if r, err := o.q.Result(t.Context(), queueOf("a"), "a-0"); err != nil || string(r.Payload) != done {
				t.Errorf("the result is %q, %v", r.Payload, err)
			}

			enqueue(t, o.q, "a", 1, func(v *broker.Invocation) { v.ID = "hopeless" })
			id := o.order(wire.OrderInvoke).ID
			o.end(id, wire.OutcomeHopeless, "never", "")
			if st := o.status("hopeless"); st.State != broker.StateDead || st.Reason != "never" {
				t.Errorf("without hope: %+v", st)
			}
			late, _ := envelope.Request{Method: "GET", Target: "/", Deadline: time.Now().Add(-time.Second)}.Encode()
			enqueue(t, o.q, "a", 1, func(v *broker.Invocation) { v.ID, v.Payload = "late", late })
			enqueue(t, o.q, "a", 1, func(v *broker.Invocation) { v.ID, v.Payload = "nonsense", []byte("x") })
			if st, st2 := o.status("late"), o.status("nonsense"); st.State != broker.StateDead || st2.State != broker.StateDead || !strings.Contains(st.Reason, "deadline") {
				t.Errorf("too late: %+v; no request: %+v", st, st2)
			}
		})
	})
}

func TestWhatADeadWorkerHadIsRunByTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 2)
		enqueue(t, o.q, "a", 2)
		o.during(func() {
			begun, waiting := o.order(wire.OrderInvoke), o.order(wire.OrderInvoke)
			which := broker.InvocationID(o.begin(begun.ID).Header().Get(wire.HeaderInvocation))
			other := broker.InvocationID("a-0")
			if which == other {
				other = "a-1"
			}
			o.die()
			if st := o.status(which); st.State != broker.StateWaiting || st.Attempts != 1 || !strings.Contains(st.Reason, "died") {
				t.Errorf("what had begun: %+v", st)
			}
			if st := o.status(other); st.State != broker.StateWaiting || st.Attempts != 0 {
				t.Errorf("what had not: %+v", st)
			}
			old := o.worker
			o.hire()
			for range 2 {
				id := o.order(wire.OrderInvoke).ID
				// The one before has no business with it.
				rec := httptest.NewRecorder()
				old.handler().ServeHTTP(rec, httptest.NewRequest("GET", wire.PathWork+id, nil))
				if rec.Code != http.StatusGone {
					t.Errorf("another worker's work: %d", rec.Code)
				}
				o.begin(id)
				o.end(id, wire.OutcomeDone, answered(t), "")
			}
			if a, b := o.status("a-0"), o.status("a-1"); a.State != broker.StateDone || b.State != broker.StateDone {
				t.Errorf("they ended as %+v and %+v", a, b)
			}
			if code := o.end(waiting.ID, wire.OutcomeDone, answered(t), ""); code != http.StatusGone {
				t.Errorf("what the first was ordered: %d", code)
			}
		})
	})
}

func TestALostLeaseEndsItsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		enqueue(t, o.q, "a", 1)
		o.during(func() {
			run := o.order(wire.OrderInvoke)
			o.begin(run.ID)
			if err := o.q.Purge(t.Context(), queueOf("a")); err != nil {
				t.Fatal(err)
			}
			if c := o.order(wire.OrderCancel); c.ID != run.ID {
				t.Errorf("cancelled %s, not %s", c.ID, run.ID)
			}
			if _, err := o.q.Status(t.Context(), queueOf("a"), "a-0"); !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("it is back: %v", err)
			}
			enqueue(t, o.q, "a", 1) // and there is room for others
			o.order(wire.OrderInvoke)
		})
	})
}

func TestADrainGivesBackWhatHasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 2)
		enqueue(t, o.q, "a", 3)
		o.during(func() {
			begun := o.order(wire.OrderInvoke)
			o.order(wire.OrderInvoke)
			which := broker.InvocationID(o.begin(begun.ID).Header().Get(wire.HeaderInvocation))
			o.super.dispatcher.drain()
			synctest.Wait()
			n, err := o.q.Counts(t.Context(), queueOf("a"))
			if err != nil || n[0].Ready != 2 || n[0].Leased != 1 { // for others, at once
				t.Errorf("the queue has %+v, %v", n, err)
			}
			o.end(begun.ID, wire.OutcomeDone, answered(t), "")
			if st := o.status(which); st.State != broker.StateDone {
				t.Errorf("what had begun: %+v", st)
			}
			time.Sleep(time.Minute)
			if len(o.worker.orders) != 0 {
				t.Errorf("more was ordered: %+v", <-o.worker.orders)
			}
		})
	})
}

func TestWhatRunsWhenTheDispatcherEndsIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		enqueue(t, o.q, "a", 1)
		o.during(func() {
			o.begin(o.order(wire.OrderInvoke).ID)
		})
		if st := o.status("a-0"); st.State != broker.StateWaiting || st.Attempts != 1 || !strings.Contains(st.Reason, "stopped") {
			t.Errorf("it is %+v", st)
		}
	})
}

func TestAJobThatIsRemovedOrMadeAnewIsNotServedFromTheOldQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		o.during(func() {
			o.super.dispatcher.put(wire.Assignment{Job: "hello", ID: "b", Entitlement: broker.DefaultEntitlement, Version: 1, Manifest: []byte("{}")})
			enqueue(t, o.q, "a", 1)
			enqueue(t, o.q, "b", 1)
			rec := o.begin(o.order(wire.OrderInvoke).ID)
			if rec.Header().Get(wire.HeaderInvocation) != "b-0" {
				t.Errorf("ordered %s", rec.Header().Get(wire.HeaderInvocation))
			}
			o.super.dispatcher.retain(map[string]bool{"other": true})
			enqueue(t, o.q, "b", 2)
			time.Sleep(time.Minute)
			if len(o.worker.orders) != 0 {
				t.Errorf("of a job that is gone: %+v", <-o.worker.orders)
			}
		})
	})
}
