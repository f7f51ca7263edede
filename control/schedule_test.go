package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/cron"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/manifest"
)

func scheduling(list ...manifest.Schedule) *manifest.Manifest {
	return &manifest.Manifest{Schedule: list}
}

// lease takes everything that waits for a job, and answers it by key.
func (w *world) lease(job string) map[string]broker.Lease {
	w.t.Helper()
	_, q, err := w.queueOf(w.t.Context(), job)
	if err != nil {
		w.t.Fatal(err)
	}
	ls, err := w.queue.Lease(w.t.Context(), broker.Want{Worker: "test", Jobs: []broker.Job{q}, Max: 1000, TTL: 10 * time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]broker.Lease{}
	for _, l := range ls {
		out[l.Key] = l
	}
	return out
}

func (w *world) complete(l broker.Lease) {
	w.t.Helper()
	b, err := envelope.Response{Status: 200}.Encode()
	if err == nil {
		err = w.queue.Complete(w.t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: b})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// to moves the clock to a moment and looks at a job's schedules. It answers when to look again.
func (w *world) to(at time.Time, job string) time.Time {
	w.t.Helper()
	w.clock.Advance(at.Sub(w.clock.Now()))
	next, err := w.fire(w.t.Context(), job)
	if err != nil {
		w.t.Fatalf("at %s: %v", at, err)
	}
	return next
}

func keysOf(ls map[string]broker.Lease) string {
	var list []string
	for key := range ls {
		list = append(list, key)
	}
	return strings.Join(list, " ")
}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestAScheduleEnqueuesItsRequest(t *testing.T) {
	w := newWorld(t)
	w.deploy("hello", "m", scheduling(manifest.Schedule{Name: "nightly", Cron: "30 3 * * *", Method: "PUT", Path: "/tidy?all=1", Headers: map[string]string{"x-a": "1"}, Body: "now"},
		manifest.Schedule{Cron: "0 4 * * *"}))
	if next := w.to(epoch.Add(time.Second), "hello"); !next.Equal(at("2026-01-02T03:30:00Z")) {
		t.Errorf("it looks again at %s", next)
	}
	if ls := w.lease("hello"); len(ls) != 0 {
		t.Errorf("before its time: %v", ls)
	}
	if next := w.to(at("2026-01-02T03:30:00Z"), "hello"); !next.Equal(at("2026-01-02T04:00:00Z")) {
		t.Errorf("it looks again at %s", next)
	}
	ls := w.lease("hello")
	l := ls["@nightly/2026-01-02T03:30:00Z"]
	r, err := envelope.DecodeRequest(l.Payload)
	if err != nil || len(ls) != 1 || r.Method != "PUT" || r.Target != "/tidy?all=1" || string(r.Body) != "now" || r.Header.Get("X-A") != "1" || r.Header.Get("Ripstop-Schedule") != "nightly" ||
		r.Header.Get("Ripstop-Scheduled") != "2026-01-02T03:30:00Z" {
		t.Errorf("%s: %+v %v", keysOf(ls), r, err)
	}
	w.to(at("2026-01-02T03:30:01Z"), "hello") // once
	if ls := w.lease("hello"); len(ls) != 0 {
		t.Errorf("a moment later: %v", ls)
	}
	list, err := w.Schedules(t.Context(), "hello")
	if err != nil || len(list) != 2 || list[0].Invocation != l.ID || !list[0].Last.Equal(at("2026-01-02T03:30:00Z")) || len(list[0].Next) != 3 || !list[0].Next[0].Equal(at("2026-01-03T03:30:00Z")) ||
		!list[1].Last.IsZero() || list[1].Name == "" || list[1].Method != "POST" || list[1].Path != "/" || list[1].Zone != "UTC" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestWhatWasMissedIsMadeUpForOnceOrLeftOut(t *testing.T) {
	for _, c := range []struct {
		missed, now, want string
	}{
		{manifest.MissedRunOnce, "2026-01-05T12:34:00Z", "@s/2026-01-05T12:00:00Z"},
		{manifest.MissedSkip, "2026-01-05T12:34:00Z", ""},
		{manifest.MissedSkip, "2026-01-05T12:01:00Z", "@s/2026-01-05T12:00:00Z"}, // in time
		{manifest.MissedSkip, "2026-01-05T12:01:01Z", ""},
	} {
		w := newWorld(t)
		w.deploy("hello", "m", scheduling(manifest.Schedule{Name: "s", Cron: "0 * * * *", Missed: c.missed}))
		w.to(at(c.now), "hello")
		if got := keysOf(w.lease("hello")); got != c.want {
			t.Errorf("%s at %s: %q, want %q", c.missed, c.now, got, c.want)
		}
		w.to(at("2026-01-05T13:00:00Z"), "hello")
		if got := keysOf(w.lease("hello")); c.want == "" && got != "@s/2026-01-05T13:00:00Z" {
			t.Errorf("%s at the next one: %q", c.missed, got)
		}
	}
	// Years of minutes are found at once.
	c, err := cron.Parse("* * * 1 *", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := latest(c, at("2020-06-01T00:00:00Z"), at("2026-12-24T00:00:00Z")); !got.Equal(at("2026-01-31T23:59:00Z")) {
		t.Errorf("the last minute of January was %s", got)
	}
	if got, next := latest(c, at("2026-06-01T00:00:00Z"), at("2026-12-24T00:00:00Z")); !got.IsZero() || !next.Equal(at("2027-01-01T00:00:00Z")) {
		t.Errorf("since June there was %s", got)
	}
}

func TestWhatWasLeftOutIsShown(t *testing.T) {
	w := newWorld(t)
	leftOut := func() LeftOut {
		t.Helper()
		list, err := w.Schedules(t.Context(), "hello")
		if err != nil {
			t.Fatal(err)
		}
		return list[0].LeftOut
	}
	hourly := manifest.Schedule{Name: "s", Cron: "0 * * * *"}
	w.deploy("hello", "m", scheduling(hourly))
	w.to(at("2026-01-02T04:00:00Z"), "hello")
	if got := leftOut(); got != (LeftOut{}) {
		t.Errorf("when nothing was: %+v", got)
	}
	// Of 05:00 to 08:00 the last would be made up for, but that of 04:00 has not ended.
	w.to(at("2026-01-02T08:30:00Z"), "hello")
	if got := leftOut(); got != (LeftOut{4, at("2026-01-02T08:00:00Z"), LeftOutOverlap}) {
		t.Errorf("after an overlap: %+v", got)
	}
	for _, l := range w.lease("hello") {
		w.complete(l)
	}
	w.to(at("2026-01-02T11:30:00Z"), "hello") // 11:00 is made up for
	if got := leftOut(); got != (LeftOut{6, at("2026-01-02T10:00:00Z"), LeftOutMissed}) {
		t.Errorf("after an absence: %+v", got)
	}
	for _, l := range w.lease("hello") {
		w.complete(l)
	}
	hourly.Missed = manifest.MissedSkip
	w.deploy("hello", "m", scheduling(hourly)) // history goes on with the name
	w.to(at("2026-01-02T12:30:00Z"), "hello")
	if got := leftOut(); got != (LeftOut{7, at("2026-01-02T12:00:00Z"), LeftOutMissed}) {
		t.Errorf("after one that was skipped: %+v", got)
	}
	w.to(at("2027-01-02T12:30:00Z"), "hello") // 8760 hours: the count has a bound, the last is right
	if got := leftOut(); got != (LeftOut{7 + countMissed + 1, at("2027-01-02T12:00:00Z"), LeftOutMissed}) {
		t.Errorf("after a year: %+v", got)
	}
	hourly.Missed = manifest.MissedRunOnce
	w.deploy("hello", "m", scheduling(hourly))
	w.to(at("2028-01-02T12:30:00Z"), "hello")
	if got := leftOut(); got != (LeftOut{8 + 2*countMissed, at("2028-01-02T11:00:00Z"), LeftOutMissed}) {
		t.Errorf("after another: %+v", got)
	}
}

func TestAFiringWhileTheOneBeforeHasNotEnded(t *testing.T) {
	for overlap, want := range map[string]string{"": "1 1", manifest.OverlapSkip: "1 1", manifest.OverlapWait: "2 1", manifest.OverlapAllow: "2 2"} {
		w := newWorld(t)
		w.deploy("hello", "m", scheduling(manifest.Schedule{Name: "s", Cron: "* * * * *", Overlap: overlap}))
		w.to(at("2026-01-02T03:05:00Z"), "hello")
		w.to(at("2026-01-02T03:06:00Z"), "hello")
		n, err := w.Queued(t.Context(), "hello")
		if got := fmt.Sprint(n.Waiting, n.Ready); err != nil || got != want {
			t.Errorf("%q: %s wait and are ready, want %s; %v", overlap, got, want, err)
		}
		for range n.Waiting {
			for _, l := range w.lease("hello") {
				w.complete(l)
			}
		}
		w.to(at("2026-01-02T03:07:00Z"), "hello")
		if ls := w.lease("hello"); ls["@s/2026-01-02T03:07:00Z"].ID == "" {
			t.Errorf("%q: once it has ended: %s", overlap, keysOf(ls))
		}
	}
}

func TestSchedulesFollowTheVersionsOfTheirJob(t *testing.T) {
	w := newWorld(t)
	nightly := manifest.Schedule{Name: "nightly", Cron: "30 3 * * *", Overlap: manifest.OverlapAllow}
	hourly := manifest.Schedule{Name: "hourly", Cron: "0 * * * *", Overlap: manifest.OverlapAllow}
	w.deploy("hello", "m", scheduling(nightly))
	w.to(at("2026-01-02T03:30:00Z"), "hello")
	w.lease("hello")

	// Another body under the same name goes on; what is new begins now.
	nightly.Body = "more"
	w.clock.Advance(24 * time.Hour) // 03:30:00 is due, and looked for later
	w.clock.Advance(10 * time.Minute)
	w.deploy("hello", "m", scheduling(nightly, hourly))
	w.to(at("2026-01-03T03:45:00Z"), "hello")
	ls := w.lease("hello")
	if r, err := envelope.DecodeRequest(ls["@nightly/2026-01-03T03:30:00Z"].Payload); err != nil || string(r.Body) != "more" || ls["@hourly/2026-01-03T03:00:00Z"].ID != "" {
		t.Errorf("after a deploy: %s %v", keysOf(ls), err)
	}

	// A version without schedules fires nothing, and a rollback to one with them makes up for nothing.
	w.deploy("hello", "m", scheduling())
	if next := w.to(at("2026-01-04T12:00:00Z"), "hello"); !next.IsZero() {
		t.Errorf("without schedules it looks again at %s", next)
	}
	if _, _, err := w.Rollback(t.Context(), "ann", "hello", 2); err != nil {
		t.Fatal(err)
	}
	w.to(at("2026-01-04T12:30:00Z"), "hello")
	for key := range w.lease("hello") {
		if !strings.Contains(key, "2026-01-0") || strings.Contains(key, "2026-01-04T0") || strings.Contains(key, "2026-01-04T12:00") {
			t.Errorf("after the rollback %s was enqueued", key)
		}
	}
	w.to(at("2026-01-04T13:00:00Z"), "hello")
	if ls := w.lease("hello"); ls["@hourly/2026-01-04T13:00:00Z"].ID == "" {
		t.Errorf("an hour after the rollback: %s", keysOf(ls))
	}

	// A removed job fires no more, and one of its name begins anew.
	job, _, err := w.Job(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(t.Context(), "ann", "hello"); err != nil {
		t.Fatal(err)
	}
	if next := w.to(at("2026-01-05T14:00:00Z"), "hello"); !next.IsZero() {
		t.Errorf("removed, it looks again at %s", next)
	}
	if _, revision, err := w.scheduledOf(t.Context(), job.ID); err != nil || revision != 0 {
		t.Errorf("its record is left: %v", err)
	}
	w.deploy("hello", "m", scheduling(hourly))
	w.to(at("2026-01-05T14:30:00Z"), "hello")
	if ls := w.lease("hello"); len(ls) != 0 {
		t.Errorf("a new job has %s", keysOf(ls))
	}
}

func TestAFullQueueIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	m := scheduling(manifest.Schedule{Name: "s", Cron: "0 * * * *", Overlap: manifest.OverlapAllow})
	m.Queue.Length = 1
	w.deploy("hello", "m", m)
	w.to(at("2026-01-02T04:00:00Z"), "hello")
	first := w.lease("hello")["@s/2026-01-02T04:00:00Z"]
	w.clock.Advance(at("2026-01-02T05:00:00Z").Sub(w.clock.Now()))
	if _, err := w.fire(t.Context(), "hello"); !errors.Is(err, broker.ErrQueueFull) {
		t.Errorf("with a full queue: %v", err)
	}
	first = w.lease("hello")[first.Key]
	w.complete(first)
	w.to(at("2026-01-02T05:00:05Z"), "hello")
	if ls := w.lease("hello"); ls["@s/2026-01-02T05:00:00Z"].ID == "" {
		t.Errorf("with room again: %s", keysOf(ls))
	}
}

// What a control process enqueued before it was killed, the next one finds.
func TestAFiringThatWasNotWrittenDownIsNotEnqueuedAgain(t *testing.T) {
	w := newWorld(t)
	m := scheduling(manifest.Schedule{Name: "s", Cron: "0 * * * *"})
	m.Queue.TTL = manifest.Duration(time.Second)
	w.deploy("hello", "m", m)
	records := w.records
	w.records = &deaf{Records: records}
	w.clock.Advance(at("2026-01-02T04:00:00Z").Sub(w.clock.Now()))
	if _, err := w.fire(t.Context(), "hello"); !errors.Is(err, broker.ErrUnavailable) {
		t.Fatalf("a commit that fails: %v", err)
	}
	l := w.lease("hello")["@s/2026-01-02T04:00:00Z"]
	w.complete(l)
	w.records = records
	w.to(at("2026-01-02T04:50:00Z"), "hello")
	if ls := w.lease("hello"); len(ls) != 0 {
		t.Errorf("it was enqueued again: %s", keysOf(ls))
	}
	if list, err := w.Schedules(t.Context(), "hello"); err != nil || list[0].Invocation != l.ID {
		t.Errorf("%+v %v", list, err)
	}
}

// deaf is records that take no commit.
type deaf struct{ broker.Records }

func (*deaf) Commit(context.Context, broker.Commit) (broker.Revision, error) {
	return broker.Revision{}, fmt.Errorf("commit: %w", broker.ErrUnavailable)
}

// Two control processes at once, and one in their place later, enqueue each firing once.
func TestSeveralControlProcessesFireOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := model.New(model.Options{})
		open := func() *Store {
			s, err := New(m.Records(), m.Blobs(), m.Buckets(), m.Queue(), &stand{}, Options{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		first, second := open(), open()
		if _, _, err := first.Deploy(t.Context(), "ann", "hello", strings.NewReader("m"), scheduling(
			manifest.Schedule{Name: "minutes", Cron: "*/10 * * * *", Overlap: manifest.OverlapAllow}, manifest.Schedule{Name: "daily", Cron: "30 2 * * *", Zone: "Europe/Vienna", Overlap: manifest.OverlapAllow})); err != nil {
			t.Fatal(err)
		}
		run := func(stores ...*Store) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for _, s := range stores {
				wg.Go(func() { s.RunSchedules(ctx) })
			}
			return func() { cancel(); wg.Wait() }
		}
		stop := run(first, second)
		time.Sleep(12*time.Hour + time.Minute) // from midnight on
		synctest.Wait()
		stop()
		time.Sleep(25 * time.Minute)
		stop = run(open(), second)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		stop()
		_, q, err := first.queueOf(t.Context(), "hello")
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for {
			ls, err := m.Queue().Lease(t.Context(), broker.Want{Worker: "test", Jobs: []broker.Job{q}, Max: 1000, TTL: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if len(ls) == 0 {
				break
			}
			for _, l := range ls {
				n[strings.Split(l.Key, "/")[0]]++
				n[l.Key]++
			}
		}
		// 72 in twelve hours, and one for the two that were missed after them.
		if n["@minutes"] != 73 || n["@minutes/2000-01-01T12:20:00Z"] != 1 || n["@daily"] != 1 || n["@daily/2000-01-01T01:30:00Z"] != 1 {
			t.Errorf("enqueued: %v", n)
		}
	})
}
