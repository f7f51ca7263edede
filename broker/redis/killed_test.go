package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// stallAt is a script that never ends, once it has come to its step'th command, before that is run.
func (s *script) stallAt(step int) *script {
	first, rest, _ := strings.Cut(s.code().source, "\n")
	rest = strings.NewReplacer("redis.call(", "stalling(", "redis.pcall(", "stalling(").Replace(rest)
	stalls := s.code()
	stalls.source = first + fmt.Sprintf(`
local left = %d
local function stalling(...)
	left = left - 1
	while left == 0 do end
	return redis.call(...)
end
`, step) + rest
	return &script{s.name, func() code { return stalls }}
}

// killedAtEachStep sends what calls answers as one script, again and again, and has the server killed before each of the script's commands. prepare runs
// before, and check after the server was started again. The last time the script comes to its end.
func killedAtEachStep(t *testing.T, s *script, prepare func(*Queue, broker.Job) (calls [][]any), check func(*Queue, broker.Job)) {
	t.Parallel()
	server := redistest.Start(t, "appendonly yes", "appendfsync always", "busy-reply-threshold 1")
	q := mustOpen(t, server.URL(), Options{}).Queue()
	for step := 1; ; step++ {
		job := testJob
		job.Name = fmt.Sprintf("killed-%d", step)
		batch := q.together(t, s.stallAt(step), job, prepare(q, job)...)
		done := make(chan struct{})
		go func() { q.send(batch); close(done) }()
		stalled := false
		redistest.Until(t, "the script stalls or ends", func() bool {
			select {
			case <-done:
				return true
			default:
			}
			_, err := server.Do("PING")
			stalled = err != nil && strings.Contains(err.Error(), "BUSY")
			return stalled
		})
		if !stalled {
			for _, c := range batch {
				if _, err := q.link.read(c); c.err != nil || err != nil {
					t.Errorf("one that came to its end answers %v, %v", c.err, err)
				}
			}
			if step < 10 {
				t.Errorf("the script ended after %d commands", step-1)
			}
			t.Logf("the server was killed before each of %d commands", step-1)
			return
		}
		server.Kill()
		<-done
		for i, c := range batch {
			if c.err == nil {
				t.Errorf("killed before command %d, call %d is acknowledged: %v", step, i, c.reply)
			}
		}
		server.Restart()
		if check(q, job); t.Failed() {
			t.Fatalf("after the server was killed before command %d", step)
		}
	}
}

// each is three invocations: one as it comes, one with all that an invocation can have, and one that is delayed.
func each(prefix string) []broker.Invocation {
	return []broker.Invocation{
		{ID: broker.InvocationID(prefix + "0"), Payload: []byte("plain")},
		{
			ID: broker.InvocationID(prefix + "1"), Payload: []byte("full"), Order: "line of " + prefix, Key: "key of " + prefix,
			Callback: &broker.Callback{Document: []byte("document"), MaxAttempts: 3},
		},
		{ID: broker.InvocationID(prefix + "2"), Payload: []byte("late"), Delay: time.Millisecond},
	}
}

func enqueueAll(t *testing.T, q *Queue, j broker.Job, vs []broker.Invocation) {
	t.Helper()
	receipts, err := q.Enqueue(t.Context(), broker.Batch{Job: j, Invocations: vs})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range receipts {
		if r.Known || r.ID != vs[i].ID {
			t.Errorf("%s is enqueued as %+v", vs[i].ID, r)
		}
	}
}

// leaseAll leases until it has n.
func leaseAll(t *testing.T, q *Queue, j broker.Job, n int) (ls []broker.Lease) {
	t.Helper()
	for len(ls) < n {
		want := broker.Want{Worker: "w", Jobs: []broker.Job{j}, Max: n - len(ls), TTL: time.Hour}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := q.Wait(ctx, want)
		cancel()
		if err != nil {
			t.Fatalf("of %d invocations %d can be leased: %v", n, len(ls), err)
		}
		more, err := q.Lease(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, more...)
	}
	return ls
}

func wantCounts(t *testing.T, q *Queue, j broker.Job, want broker.Counts) {
	t.Helper()
	counts, err := q.Counts(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	got := counts[0]
	got.Ready, got.Oldest = 0, time.Time{}
	if got != want {
		t.Errorf("the counts are %+v, want %+v", got, want)
	}
}

func TestAServerThatIsKilledWhileManyAreEnqueuedHasNoneOfThemAndAllOfBefore(t *testing.T) {
	prepare := func(q *Queue, j broker.Job) (calls [][]any) {
		enqueueAll(t, q, j, each("kept"))
		for _, v := range each("lost") {
			v.MaxAttempts, v.ResultTTL = 5, time.Hour
			calls = append(calls, appendInvocation(nil, 1000, &v))
		}
		return calls
	}
	killedAtEachStep(t, enqueueScript, prepare, func(q *Queue, j broker.Job) {
		wantCounts(t, q, j, broker.Counts{Waiting: 3})
		enqueueAll(t, q, j, each("lost")) // their IDs and keys are free
		var got []string
		for _, l := range leaseAll(t, q, j, 6) {
			got = append(got, fmt.Sprintf("%s %s %s %s", l.ID, l.Payload, l.Order, l.Invocation.Key))
		}
		slices.Sort(got)
		want := "kept0 plain  ,kept1 full line of kept key of kept,kept2 late  ,lost0 plain  ,lost1 full line of lost key of lost,lost2 late  "
		if text := strings.Join(got, ","); text != want {
			t.Errorf("there are %s, want %s", text, want)
		}
	})
}

func TestAServerThatIsKilledWhileManyAreCompletedHasThemLeasedAsBefore(t *testing.T) {
	var ls []broker.Lease
	prepare := func(q *Queue, j broker.Job) (calls [][]any) {
		enqueueAll(t, q, j, each("kept"))
		enqueueAll(t, q, j, []broker.Invocation{{ID: "next", Order: "line of kept"}}) // may be leased once the one of the same order has ended
		ls = leaseAll(t, q, j, 3)
		for _, l := range ls {
			calls = append(calls, []any{string(l.ID), "run", l.Token, "done", "result of " + string(l.ID), ""})
		}
		return calls
	}
	killedAtEachStep(t, completeScript, prepare, func(q *Queue, j broker.Job) {
		wantCounts(t, q, j, broker.Counts{Waiting: 1, Leased: 3})
		for _, l := range ls {
			if s, err := q.Status(t.Context(), j, l.ID); err != nil || s.State != broker.StateLeased {
				t.Errorf("%s is %+v, %v", l.ID, s, err)
			}
			if err := q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte("later")}); err != nil {
				t.Errorf("complete %s: %v", l.ID, err)
			}
			if r, err := q.Result(t.Context(), j, l.ID); err != nil || string(r.Payload) != "later" {
				t.Errorf("the result of %s is %q, %v", l.ID, r.Payload, err)
			}
		}
		if next := leaseAll(t, q, j, 1); next[0].ID != "next" {
			t.Errorf("then %s can be leased", next[0].ID)
		}
		wantCounts(t, q, j, broker.Counts{Leased: 1, Callbacks: 1})
	})
}

// Those who enqueue and complete at the same moment share scripts. Whatever was acknowledged by the time the server was killed is there.
func TestWhatGroupsAcknowledgedIsThereAfterTheServerWasKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendonly yes", "appendfsync always")
	q := mustOpen(t, server.URL(), Options{}).Queue()
	for round := range 5 {
		job := testJob
		job.Name = fmt.Sprintf("round-%d", round)
		var mu sync.Mutex
		var wg sync.WaitGroup
		var killed sync.Once
		enqueued, completed := map[broker.InvocationID]bool{}, map[broker.InvocationID]bool{}
		note := func(m map[broker.InvocationID]bool, id broker.InvocationID) {
			mu.Lock()
			defer mu.Unlock()
			if m[id] = true; len(enqueued) > 300 && len(completed) > 50 {
				killed.Do(func() { wg.Go(server.Kill) })
			}
		}
		for w := range 32 {
			wg.Go(func() {
				for i := 0; ; i++ {
					v := broker.Invocation{ID: broker.InvocationID(fmt.Sprintf("%d-%d", w, i)), Payload: []byte("p")}
					if _, err := q.Enqueue(context.Background(), broker.Batch{Job: job, Limit: broker.MaxQueueLength, Invocations: []broker.Invocation{v}}); err != nil {
						return
					}
					note(enqueued, v.ID)
					ls, err := q.Lease(context.Background(), broker.Want{Worker: "w", Jobs: []broker.Job{job}, Max: 1, TTL: time.Hour})
					if err != nil {
						return
					}
					for _, l := range ls {
						if err := q.Complete(context.Background(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte("result of " + l.ID)}); err != nil {
							return
						}
						note(completed, l.ID)
					}
				}
			})
		}
		wg.Wait()
		server.Restart()
		for id := range enqueued {
			s, err := q.Status(t.Context(), job, id)
			if err != nil || completed[id] && s.State != broker.StateDone {
				t.Errorf("in round %d, %s is %s, %v; completed: %t", round, id, s.State, err, completed[id])
			}
		}
		for id := range completed {
			if r, err := q.Result(t.Context(), job, id); err != nil || string(r.Payload) != "result of "+string(id) {
				t.Errorf("in round %d, the result of %s is %q, %v", round, id, r.Payload, err)
			}
		}
		t.Logf("round %d: %d were enqueued and %d completed", round, len(enqueued), len(completed))
	}
}
