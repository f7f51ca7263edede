package redis

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func partsOf(s *script, g group, count, work int) *call {
	return &call{script: s, group: g, identity: "i", now: "", parts: parts{count: count, work: work}}
}

func TestCallsAreJoinedWithTheirLikes(t *testing.T) {
	a, b := group{tag: "a"}, group{tag: "b"}
	one := func(s *script, g group) *call { return partsOf(s, g, 1, 1) }
	alone := &call{script: statusScript, group: a, identity: "i", now: ""}
	other := one(enqueueScript, a)
	other.now = int64(7)
	batch := []*call{
		one(enqueueScript, a), alone, one(enqueueScript, b), one(enqueueScript, a), one(completeScript, a), other,
		partsOf(extendScript, a, maxWork-1, maxWork-1), one(extendScript, a), one(extendScript, a),
	}
	var got [][]int
	for _, calls := range join(batch) {
		var places []int
		for _, c := range calls {
			places = append(places, slices.Index(batch, c))
		}
		got = append(got, places)
	}
	// The last would be about more than one call may be.
	if want := "[[0 3] [1] [2] [4] [5] [6 7] [8]]"; fmt.Sprint(got) != want {
		t.Errorf("they are joined as %v, want %s", got, want)
	}
}

func TestEachCallGetsItsShareOfAReply(t *testing.T) {
	g := group{tag: "a"}
	calls := []*call{partsOf(extendScript, g, 2, 2), partsOf(extendScript, g, 1, 1)}
	share(calls, []any{"ok", "x", "y", "z"}, nil)
	if got := fmt.Sprint(calls[0].reply, calls[1].reply); got != "[ok x y] [ok z]" {
		t.Errorf("they get %s", got)
	}
	share(calls, []any{"ok", "x", "y"}, nil)
	if _, err := (&link{}).read(calls[1]); err == nil {
		t.Error("a share that is missing is no error")
	}
	share(calls, []any{"identity", "other"}, nil)
	if got := fmt.Sprint(calls[0].reply, calls[1].reply); got != "[identity other] [identity other]" {
		t.Errorf("what is for all is given as %s", got)
	}
}

// together has calls of one job that go as one script.
func (q *Queue) together(t *testing.T, s *script, j broker.Job, list ...[]any) []*call {
	t.Helper()
	var batch []*call
	for _, args := range list {
		batch = append(batch, &call{
			script: s, group: q.link.keys.queue(j), keys: keysOf, identity: *q.link.identity.Load(), now: "",
			args: []any{q.bell.channel, j.String()}, parts: parts{args: args, count: 1, work: 1},
		})
	}
	if n := len(join(batch)); n != 1 {
		t.Fatalf("they are %d scripts", n)
	}
	return batch
}

// send sends calls and waits for their end.
func (q *Queue) send(batch []*call) {
	(&lane{link: q.link, client: q.link.single}).pipeline(batch, true, false)
}

// joined sends calls of one job as one script, and answers what each is told.
func (q *Queue) joined(t *testing.T, s *script, list ...[]any) []reply {
	t.Helper()
	batch := q.together(t, s, testJob, list...)
	q.send(batch)
	var answers []reply
	for _, c := range batch {
		rep, err := q.link.read(c)
		if c.err != nil || err != nil {
			t.Fatal(c.err, err)
		}
		answers = append(answers, rep[1:])
	}
	return answers
}

func TestCallsThatShareAScriptAreAnsweredEachForItself(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, redistest.Start(t).URL(), Options{})
	q := s.Queue()
	v := &broker.Invocation{MaxAttempts: 5, ResultTTL: time.Hour}
	first, next, more, firstMore := terms(3, v, 0, false), terms(0, v, 0, false), terms(0, v, 0, true), terms(4, v, 0, true)
	got := q.joined(t, enqueueScript,
		[]any{first, "a", "1", more, "b", "2", "", "key", ""},
		[]any{first, "c", "3", next, "d", "4"}, // two more are over its limit
		[]any{first, "a", "5", next, "c", "6"}, // one was enqueued above, the other was not
		[]any{firstMore, "e", "7", "", "key", ""},
		[]any{firstMore, "f", "8", "line", "", ""},
	)
	if want := "[[0] [[full 2 2]] [[ok 1 0]] [[ok b]] [0]]"; fmt.Sprint(got) != want {
		t.Errorf("enqueued, they are answered %v, want %s", got, want)
	}
	ls, err := q.Lease(t.Context(), broker.Want{Worker: "w", Jobs: []broker.Job{testJob}, Max: 10, TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var leased []string
	for _, l := range ls {
		leased = append(leased, fmt.Sprintf("%s %s %q %q %d", l.ID, l.Payload, l.Order, l.Invocation.Key, l.MaxAttempts))
	}
	if want := `[a 1 "" "" 5 b 2 "" "key" 5 c 6 "" "" 5 f 8 "line" "" 5]`; fmt.Sprint(leased) != want {
		t.Errorf("leased are %v, want %s", leased, want)
	}
	complete := func(l broker.Lease, token string) []any {
		return []any{string(l.ID), "run", token, "done", "result of " + string(l.ID), ""}
	}
	got = q.joined(t, completeScript, complete(ls[0], ls[0].Token), complete(ls[1], "another"), complete(ls[0], ls[0].Token), complete(ls[2], ls[2].Token))
	if want := "[[[ok]] [[lost]] [[lost]] [[ok]]]"; fmt.Sprint(got) != want {
		t.Errorf("completed, they are answered %v, want %s", got, want)
	}
	counts, err := q.Counts(t.Context(), testJob)
	if err != nil || counts[0].Leased != 2 || counts[0].Waiting != 0 {
		t.Errorf("the counts are %+v, %v", counts, err)
	}
	if r, err := q.Result(t.Context(), testJob, "c"); err != nil || string(r.Payload) != "result of c" {
		t.Errorf("the result is %q, %v", r.Payload, err)
	}
}
