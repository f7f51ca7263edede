package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// What is listed of those that have not ended, and what becomes of one that is cancelled.
var queueCancelCases = map[string]func(queueTest){
	"those that wait or are leased are listed in pages":        listedInPages,
	"what stays is listed though others move meanwhile":        listedWhileOthersMove,
	"what stays is listed though the last of a page moves on":  listedThoughTheLastMoves,
	"one that ended is not listed, and is again once requeued": listedWhileUnfinished,
	"a cancelled invocation ends, and does not start":          cancelled,
	"one that is leased or has ended is not cancelled":         notCancelled,
	"one whose lease ran out is cancelled, and its lease lost": cancelledAfterItsLease,
	"an order goes on after one that is cancelled":             orderGoesOn,
	"cancelling one behind another holds nobody up":            cancelledBehind,
	"a cancelled invocation's key is known until it expires":   cancelledKey,
}

func (t queueTest) cancel(id, reason string) {
	t.Helper()
	if err := t.q.Cancel(t.Context(), job, broker.InvocationID(id), reason); err != nil {
		t.Fatalf("cancel %s: %v", id, err)
	}
}

func (t queueTest) wantNotCancelled(id string, want error) {
	t.Helper()
	before, known := t.q.Status(t.Context(), job, broker.InvocationID(id))
	if err := t.q.Cancel(t.Context(), job, broker.InvocationID(id), "no"); !errors.Is(err, want) {
		t.Fatalf("cancelling %s answers %v, want %v", id, err, want)
	}
	if after, err := t.q.Status(t.Context(), job, broker.InvocationID(id)); known == nil && (err != nil || after != before) {
		t.Fatalf("cancelling made of it %+v, %v; it was %+v", after, err, before)
	}
}

// list answers all that is listed, in pages, and in order of the IDs.
func (t queueTest) list(limit int) string {
	t.Helper()
	return strings.Join(listed(t.Fatalf, t.q, job, limit), " ")
}

// listed answers all that a queue lists, in pages.
func listed(fail func(string, ...any), q broker.Queue, j broker.Job, limit int) (texts []string) {
	for from, pages := "", 0; ; pages++ {
		list, next, err := q.List(context.Background(), j, from, limit)
		if err != nil || len(list) > max(limit, 0) && len(list) > 100 || len(next) > broker.MaxListFrom || pages > 1000 {
			fail("page %d has %d, next %q, %v", pages, len(list), next, err)
		}
		for _, s := range list {
			texts = append(texts, fmt.Sprintf("%s:%s", s.ID, s.State))
		}
		if next == "" {
			slices.Sort(texts)
			return texts
		}
		from = next
	}
}

func listedInPages(t queueTest) {
	if got := t.list(0); got != "" {
		t.Errorf("an empty queue lists %q", got)
	}
	const n = 120
	for i := range n {
		v := invocation(fmt.Sprintf("%03d", i*7%n))
		v.Priority = i % 3
		switch i % 4 {
		case 1:
			v.Delay = time.Hour
		case 2:
			v.Order = "order"
		}
		t.enqueue(v)
	}
	ls := t.lease(want(10))
	state := map[string]broker.State{}
	for i, l := range ls {
		state[string(l.ID)] = broker.StateLeased
		if i%2 == 0 {
			t.complete(l)
			state[string(l.ID)] = broker.StateDone
		}
	}
	var all []string
	for i := range n {
		id := fmt.Sprintf("%03d", i)
		switch state[id] {
		case broker.StateDone:
		case broker.StateLeased:
			all = append(all, id+":leased")
		default:
			all = append(all, id+":waiting")
		}
	}
	for _, limit := range []int{0, 1, 9, 100, broker.MaxBatch} {
		if got, want := t.list(limit), strings.Join(all, " "); got != want {
			t.Errorf("in pages of %d there are\n%s, want\n%s", limit, got, want)
		}
	}
	for limit, most := range map[int]int{0: 100, -1: 100, 1: 1, broker.MaxBatch: n - 5, broker.MaxBatch + 1: n - 5} {
		list, next, err := t.q.List(t.Context(), job, "", limit)
		if err != nil || len(list) != most || (next == "") != (most == n-5) {
			t.Errorf("with a limit of %d there are %d, next %q, %v; want %d", limit, len(list), next, err, most)
		}
		for _, s := range list {
			if one := t.status(string(s.ID)); one != s {
				t.Errorf("it is listed as %+v and is %+v", s, one)
			}
		}
	}
	// Leased ones first, then what is ready in the order in which it is leased.
	list, _, err := t.q.List(t.Context(), job, "", broker.MaxBatch)
	if err != nil {
		t.Fatal(err)
	}
	var ready []string
	for i, s := range list {
		if (i < 5) != (s.State == broker.StateLeased) {
			t.Errorf("listed at %d is %+v", i, s)
		}
		if i >= 5 {
			ready = append(ready, string(s.ID))
		}
	}
	rest := t.counts().Ready
	t.leaseIDs(want(rest), strings.Join(ready[:rest], " "))
	if list, next, err := t.q.List(t.Context(), otherJob, "", 0); err != nil || len(list) != 0 || next != "" {
		t.Errorf("another job lists %+v, %q, %v", list, next, err)
	}
	for _, from := range []string{"x", "-1", "9.", "0.!", "1.0.0", "l..", strings.Repeat("1", broker.MaxListFrom+1)} {
		if list, next, err := t.q.List(t.Context(), job, from, 0); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("from %.20q it answers %+v, %q, %v", from, list, next, err)
		}
	}
	if err := t.q.Purge(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if got := t.list(0); got != "" {
		t.Errorf("after a purge it lists %q", got)
	}
}

// Those that end between two pages were the last of theirs, so that the next page goes on after what is gone.
func listedWhileOthersMove(t queueTest) {
	const n = 60
	t.enqueueMany(n, func(i int, v *broker.Invocation) {
		if i%2 == 1 {
			v.Delay = time.Hour // all of them are due at one moment
		}
	})
	seen := map[broker.InvocationID]int{}
	gone := map[broker.InvocationID]bool{}
	for from, pages := "", 0; ; pages++ {
		list, next, err := t.q.List(t.Context(), job, from, 7)
		if err != nil || pages > 2*n {
			t.Fatalf("page %d: %v", pages, err)
		}
		for _, s := range list {
			seen[s.ID]++
		}
		if from = next; next == "" {
			break
		}
		if len(list) > 0 && pages%2 == 0 {
			last := list[len(list)-1].ID
			t.cancel(string(last), "x")
			gone[last] = true
		}
	}
	for i := range n {
		id := broker.InvocationID(fmt.Sprintf("%04d", i))
		if seen[id] == 0 && !gone[id] {
			t.Errorf("%s was not listed", id)
		}
	}
}

// The last one of a page is where the next one goes on. It goes behind the others between the two, and those stay.
func listedThoughTheLastMoves(t queueTest) {
	rest := func(state broker.State, first string, move func(), others ...string) {
		t.Helper()
		list, from, err := t.q.List(t.Context(), job, "", 1)
		if err != nil || len(list) != 1 || string(list[0].ID) != first || list[0].State != state || from == "" {
			t.Fatalf("the first one is %+v, next %q, %v; want %s", list, from, err, first)
		}
		move()
		seen := map[string]bool{}
		for from != "" {
			list, next, err := t.q.List(t.Context(), job, from, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range list {
				seen[string(s.ID)] = true
			}
			from = next
		}
		for _, id := range others {
			if !seen[id] {
				t.Errorf("%s was not listed after %s, which moved", id, first)
			}
		}
	}
	t.enqueue(invocation("a"), invocation("b"), invocation("c"))
	var leases []broker.Lease
	for _, id := range []string{"a", "b", "c"} {
		leases = append(leases, t.leaseOne(id, 1))
		t.c.Advance(time.Second)
	}
	rest(broker.StateLeased, "a", func() {
		if _, err := t.q.Extend(t.Context(), leases[0]); err != nil {
			t.Fatal(err)
		}
	}, "b", "c")
	for i, l := range leases {
		t.release(l, broker.Return{Delay: time.Duration(i+1) * time.Minute})
	}
	rest(broker.StateWaiting, "a", func() {
		t.c.Advance(time.Minute)
		t.release(t.leaseOne("a", 2), broker.Return{Delay: time.Hour})
	}, "b", "c")
}

func listedWhileUnfinished(t queueTest) {
	v := invocation("a")
	v.MaxAttempts = 2
	t.enqueue(v)
	t.release(t.leaseOne("a", 1), broker.Return{Reason: "x", Delay: time.Minute})
	if got := t.list(0); got != "a:waiting" {
		t.Errorf("given back, it is listed as %q", got)
	}
	t.c.Advance(time.Minute)
	t.fail(t.leaseOne("a", 2), "x")
	if got := t.list(0); got != "" {
		t.Errorf("a dead letter is listed as %q", got)
	}
	if err := t.q.Requeue(t.Context(), job, "a"); err != nil {
		t.Fatal(err)
	}
	if got := t.list(0); got != "a:waiting" {
		t.Errorf("requeued, it is listed as %q", got)
	}
	t.leaseOne("a", 1)
	t.c.Advance(10 * time.Second)
	t.leaseOne("a", 2)
	t.c.Advance(10 * time.Second) // its last lease runs out
	t.leaseIDs(want(1), "")
	if got := t.list(0); got != "" {
		t.Errorf("after its last lease it is listed as %q", got)
	}
}

func cancelled(t queueTest) {
	v := called("a")
	v.ResultTTL = time.Minute
	later := invocation("later")
	later.Delay = time.Hour
	t.enqueue(v, later, invocation("b"))
	t.cancel("a", strings.Repeat("x", broker.MaxReason)+"cut")
	t.cancel("later", "")
	t.leaseIDs(want(5), "b")
	if got := t.list(0); got != "b:leased" {
		t.Errorf("listed are %q", got)
	}
	s := t.status("a")
	if s.State != broker.StateDead || s.Attempts != 0 || len(s.Reason) != broker.MaxReason || s.Finished.IsZero() || s.Callback != broker.CallbackPending || s.PayloadBytes != 0 {
		t.Errorf("the status is %+v", s)
	}
	if r := t.wantResult("a", broker.OutcomeDead, ""); r.Reason != s.Reason {
		t.Errorf("the result is %+v", r)
	}
	if r := t.wantResult("later", broker.OutcomeDead, ""); r.Reason != "" || t.status("later").Expires.IsZero() {
		t.Errorf("the result is %+v", r)
	}
	if got := t.letters("", 0); got != "" {
		t.Errorf("the dead letters are %q", got)
	}
	if err := t.q.Requeue(t.Context(), job, "a"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("requeue answers %v", err)
	}
	if c := t.counts(); c.Waiting != 0 || c.Ready != 0 || c.Leased != 1 || c.Dead != 0 || c.Callbacks != 1 {
		t.Errorf("the counts are %+v", c)
	}
	t.wantNotCancelled("a", broker.ErrNotWaiting)
	call := t.leaseIDs(calls(5), "a")[0]
	if string(call.Callback.Document) != "tell a" {
		t.Errorf("the callback is %+v", call)
	}
	t.complete(call)
	t.c.Advance(58 * time.Second)
	t.wantResult("a", broker.OutcomeDead, "")
	t.c.Advance(2 * time.Second)
	t.wantForgotten("a")
	t.wantNotCancelled("a", broker.ErrNotFound)
	t.enqueue(v)
	t.c.Advance(2 * time.Hour)
	t.leaseIDs(want(5), "b a") // and not what waited for its delay
}

func notCancelled(t queueTest) {
	t.enqueue(invocation("leased"), invocation("done"), invocation("letter"))
	ls := t.leaseIDs(want(3), "leased done letter")
	t.complete(ls[1])
	t.fail(ls[2], "x")
	for _, id := range []string{"leased", "done", "letter"} {
		t.wantNotCancelled(id, broker.ErrNotWaiting)
	}
	t.wantNotCancelled("unknown", broker.ErrNotFound)
	t.wantNotCancelled("no/id", broker.ErrInvalid)
	t.complete(ls[0])
	t.wantResult("leased", broker.OutcomeDone, "result of leased")
	if got := t.letters("", 0); got != "letter:x" {
		t.Errorf("the dead letters are %q", got)
	}
}

func cancelledAfterItsLease(t queueTest) {
	t.enqueue(invocation("a"))
	l := t.leaseOne("a", 1)
	t.c.Advance(10 * time.Second)
	t.cancel("a", "stuck")
	t.wantLost(l)
	if r := t.wantResult("a", broker.OutcomeDead, ""); r.Reason != "stuck" {
		t.Errorf("the result is %+v", r)
	}
	t.leaseIDs(want(1), "")
	// At its last attempt, the end of the lease was that of the invocation.
	v := invocation("b")
	v.MaxAttempts = 1
	t.enqueue(v)
	t.leaseOne("b", 1)
	t.c.Advance(10 * time.Second)
	t.wantNotCancelled("b", broker.ErrNotWaiting)
	t.leaseIDs(want(1), "")
	if got := t.letters("", 0); !strings.HasPrefix(got, "b:") {
		t.Errorf("the dead letters are %q", got)
	}
}

func orderGoesOn(t queueTest) {
	first := inOrder("a1", "a")
	first.Delay = time.Hour
	t.enqueue(first, inOrder("a2", "a"), inOrder("a3", "a"))
	t.leaseIDs(want(5), "")
	t.c.Advance(20 * time.Second)
	t.cancel("a1", "x")
	if s := t.status("a2"); s.Due.Sub(s.Enqueued).Round(time.Second) != 20*time.Second {
		t.Errorf("the next one is %+v", s)
	}
	l := t.leaseOne("a2", 1)
	t.leaseIDs(want(5), "")
	t.cancel("a3", "x") // behind one that runs
	t.enqueue(inOrder("a4", "a"))
	t.complete(l)
	t.leaseIDs(want(5), "a4")
}

func cancelledBehind(t queueTest) {
	later := inOrder("b1", "b")
	later.Delay = time.Hour
	t.enqueue(inOrder("a1", "a"), inOrder("a2", "a"), inOrder("a3", "a"), later, inOrder("b2", "b"))
	before, delayed := t.status("a1"), t.status("b1")
	t.c.Advance(20 * time.Second)
	t.cancel("a2", "x")
	t.cancel("b2", "x")
	if after := t.status("a1"); after != before {
		t.Errorf("the first one is %+v, and was %+v", after, before)
	}
	if after := t.status("b1"); after != delayed {
		t.Errorf("one that waits for its delay is %+v, and was %+v", after, delayed)
	}
	if c := t.counts(); c.Waiting != 3 || c.Ready != 1 || !c.Oldest.Equal(before.Due) {
		t.Errorf("the counts are %+v", c)
	}
	t.complete(t.leaseIDs(want(5), "a1")[0])
	t.leaseIDs(want(5), "a3")
}

func cancelledKey(t queueTest) {
	v := invocation("a")
	v.Key, v.ResultTTL = "key", time.Minute
	t.enqueue(v)
	t.cancel("a", "x")
	again := invocation("b")
	again.Key = "key"
	receipts, err := t.q.Enqueue(t.Context(), broker.Batch{Job: job, Invocations: []broker.Invocation{again}})
	if err != nil || receipts[0] != (broker.Receipt{ID: "a", Known: true}) {
		t.Errorf("under the key, enqueue answers %+v, %v", receipts, err)
	}
	t.leaseIDs(want(5), "")
	t.c.Advance(time.Minute)
	t.enqueue(again)
}

// Some cancel, others lease and complete. Each invocation has the end that one of them gave it.
func contendedCancel(t queueTest) {
	const n = 120
	t.enqueueMany(n, func(i int, v *broker.Invocation) {
		if i%3 == 0 {
			v.Order = fmt.Sprint(i % 4)
		}
	})
	var wg sync.WaitGroup
	var ended atomic.Int32
	var ends sync.Map // by ID: whose end it was
	end := func(id broker.InvocationID, how string) {
		if other, twice := ends.LoadOrStore(string(id), how); twice {
			t.Errorf("%s was %s and %s", id, other, how)
		}
		ended.Add(1)
	}
	for range 3 {
		wg.Go(func() {
			for ended.Load() < n && !t.Failed() {
				w := want(3)
				w.TTL = time.Hour
				ls, err := t.q.Lease(t.Context(), w)
				if err != nil {
					t.Error(err)
					return
				}
				for _, l := range ls {
					if err := t.q.Complete(t.Context(), l, done(l)); err != nil {
						t.Errorf("complete %s: %v", l.ID, err)
						return
					}
					end(l.ID, "completed")
				}
			}
		})
	}
	for worker := range 3 {
		wg.Go(func() {
			for i := range n {
				id := broker.InvocationID(fmt.Sprintf("%04d", n-1-(i+worker)%n))
				switch err := t.q.Cancel(t.Context(), job, id, "cancelled"); {
				case err == nil:
					end(id, "cancelled")
				case !errors.Is(err, broker.ErrNotWaiting):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	count := map[any]int{}
	for i := range n {
		id := fmt.Sprintf("%04d", i)
		how, _ := ends.Load(id)
		count[how]++
		if how == "completed" {
			t.wantResult(id, broker.OutcomeDone, "result of "+id)
		} else if r := t.wantResult(id, broker.OutcomeDead, ""); r.Reason != "cancelled" {
			t.Errorf("%s is %+v", id, r)
		}
	}
	if c := t.counts(); c.Length() != 0 || t.list(0) != "" {
		t.Errorf("the counts are %+v; %d ends", c, ended.Load())
	}
	t.Logf("ends: %v", count)
}

// ShortPages enqueues n invocations, each the first of an order of its own, and answers how many pages of a list were cut short by the
// backend's own bound on what it looks at.
func ShortPages(t *testing.T, q broker.Queue, n int) (short int) {
	for i := 0; i < n; i += broker.MaxBatch {
		b := broker.Batch{Job: job}
		for k := i; k < min(i+broker.MaxBatch, n); k++ {
			b.Invocations = append(b.Invocations, inOrder(fmt.Sprintf("%06d", k), fmt.Sprint(k)))
		}
		if _, err := q.Enqueue(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	for from := ""; ; {
		list, next, err := q.List(t.Context(), job, from, broker.MaxBatch)
		if err != nil {
			t.Fatal(err)
		}
		if total += len(list); next == "" {
			break
		}
		if len(list) < broker.MaxBatch {
			short++
		}
		from = next
	}
	if total != n {
		t.Errorf("%d of %d were listed", total, n)
	}
	return short
}
