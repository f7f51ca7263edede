package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/cron"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
)

const (
	// onTime is how late a firing may be and not be missed: a change of the control process, or a store that is away for a moment.
	onTime = time.Minute
	// scheduledTTL is the least time for which the result of a scheduled invocation is kept, as its ID is then, too: a control process that
	// was replaced after it had enqueued one, and before that was written down, must find it.
	scheduledTTL = time.Hour
	// scheduleRetry is the wait before a firing that failed is tried again; scheduleLook bounds all waits, for clocks that are set.
	scheduleRetry = 5 * time.Second
	scheduleLook  = time.Minute
	// showNext is how many firings to come are shown.
	showNext = 3
	// countMissed bounds how many firings of one absence are counted: years of minutes are many.
	countMissed = 1000
)

// scheduled is the record of what was fired for a job. It is made and changed with the job's versions, and each firing moves it on.
type scheduled struct {
	Schema    int              `json:"schema"`
	Job       string           `json:"job"`
	Schedules map[string]fired `json:"schedules"` // by name
}

// fired is how far a schedule has come.
type fired struct {
	Last       time.Time           `json:"last"`                 // firings up to then have been enqueued, or left out
	At         time.Time           `json:"at,omitzero"`          // the last one that was enqueued
	Invocation broker.InvocationID `json:"invocation,omitempty"` // of that one
	LeftOut    LeftOut             `json:"left_out,omitzero"`
}

// LeftOut says which firings of a schedule were not enqueued, since the schedule is there. The zero value: none.
type LeftOut struct {
	Count  int       `json:"count"`  // of one absence, no more than countMissed
	Last   time.Time `json:"last"`   // the last of them
	Reason string    `json:"reason"` // why that one was
}

// The reasons of LeftOut.
const (
	LeftOutMissed  = "missed"  // nobody was there for it, or the queue was full
	LeftOutOverlap = "overlap" // the invocation of the firing before had not ended
)

// missed counts the firings of c after from and before at, when nobody looked.
func (f *fired) missed(c *cron.Schedule, from, at time.Time) {
	n := 0
	for t := c.Next(from); n < countMissed && !t.IsZero() && t.Before(at); t = c.Next(t) {
		n++
	}
	if n > 0 {
		last, _ := latest(c, from, at.Add(-time.Second))
		f.LeftOut = LeftOut{f.LeftOut.Count + n, last, LeftOutMissed}
	}
}

// planSchedules moves the record of a job's schedules to those of its next version: what is in both goes on, what is new begins now.
func (s *Store) planSchedules(ctx context.Context, c *broker.Commit, job Job, next Version) error {
	doc, revision, err := s.scheduledOf(ctx, job.ID)
	if err != nil || revision == 0 && len(next.Manifest.Schedule) == 0 {
		return err
	}
	if len(next.Manifest.Schedule) == 0 {
		c.Writes = append(c.Writes, remove(scheduleKey(job.ID))) // a firing in between changes no more than that
		return nil
	}
	c.Conditions = append(c.Conditions, broker.Condition{Key: scheduleKey(job.ID), Revision: revision})
	doc = scheduled{schema, job.Name, keep(doc, next.Manifest.Schedule, job.Updated)}
	w, err := put(scheduleKey(job.ID), doc)
	c.Writes = append(c.Writes, w)
	return err
}

// keep answers how far each of some schedules has come; those that are not in doc begin at since.
func keep(doc scheduled, list []manifest.Schedule, since time.Time) map[string]fired {
	out := make(map[string]fired, len(list))
	for _, m := range list {
		f, ok := doc.Schedules[m.Name]
		if !ok {
			f.Last = since
		}
		out[m.Name] = f
	}
	return out
}

// scheduledOf reads the record of a job's schedules; the revision is 0 if there is none.
func (s *Store) scheduledOf(ctx context.Context, id string) (doc scheduled, revision uint64, err error) {
	r, err := s.records.Get(ctx, scheduleKey(id))
	if errors.Is(err, broker.ErrNotFound) {
		return scheduled{}, 0, nil
	}
	if err != nil {
		return scheduled{}, 0, err
	}
	doc, err = decode[scheduled](r)
	return doc, r.Revision, err
}

// latest is the last firing after from and up to now, and the first one after both; each is zero if there is none. Where none is due it asks c once: some
// expressions take it long.
func latest(c *cron.Schedule, from, now time.Time) (at, next time.Time) {
	if from.After(now) { // the clock was set back
		from = now
	}
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	if next = c.Next(from); !due(next) {
		return time.Time{}, next
	}
	low, high := from, now
	for high.Sub(low) > time.Second { // two firings are a minute apart
		if mid := low.Add(high.Sub(low) / 2); due(c.Next(mid)) {
			low = mid
		} else {
			high = mid
		}
	}
	return c.Next(low), c.Next(now)
}

// scheduleSpace makes IDs of invocations from what fires them.
var scheduleSpace = uuid.MustParse("5f0d2f4e-6f0e-4d5b-9d5e-0c6c1c2f7b1a")

// firingID is the ID of what a firing enqueues: the same in each control process, so that the queue keeps one.
func firingID(job, schedule string, at time.Time) broker.InvocationID {
	return broker.InvocationID(uuid.NewSHA1(scheduleSpace, fmt.Appendf(nil, "%s/%s/%d", job, schedule, at.Unix())).String())
}

// fire enqueues what a job's schedules have due, and answers when to look again; zero if they never fire again. It may be called by several control
// processes at once: what each enqueues has the same ID.
func (s *Store) fire(ctx context.Context, job string) (next time.Time, err error) {
	current, q, err := s.queueOf(ctx, job)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	list := current.version.Manifest.Schedule
	doc, revision, err := s.scheduledOf(ctx, current.job.ID)
	if err != nil || len(list) == 0 {
		return time.Time{}, err
	}
	now := s.opts.Clock.Now()
	doc = scheduled{schema, job, keep(doc, list, current.job.Updated)}
	changed := false
	var failures []error
	for _, m := range list {
		c, err := cron.Parse(m.Cron, m.Zone)
		if err != nil {
			return time.Time{}, fmt.Errorf("schedule %s: %w", m.Name, err) // the manifest was checked
		}
		f := doc.Schedules[m.Name]
		at, after := latest(c, f.Last, now)
		if !at.IsZero() {
			f.missed(c, f.Last, at)
			if err := s.fireOne(ctx, current, q, m, &f, at, now); err != nil {
				failures = append(failures, fmt.Errorf("schedule %s of job %s at %s: %w", m.Name, job, at.Format(time.RFC3339), err))
			} else {
				f.Last = at
				doc.Schedules[m.Name], changed = f, true
			}
		}
		if !after.IsZero() && (next.IsZero() || after.Before(next)) {
			next = after
		}
	}
	if changed {
		w, err := put(scheduleKey(current.job.ID), doc)
		if err != nil {
			return next, err
		}
		// A job that was changed meanwhile may not have these schedules.
		_, err = s.records.Commit(ctx, broker.Commit{Writes: []broker.Write{w}, Conditions: []broker.Condition{
			{Key: scheduleKey(current.job.ID), Revision: revision}, {Key: jobKey(job), Revision: current.job.Revision}}})
		failures = append(failures, err)
	}
	return next, errors.Join(failures...)
}

// fireOne enqueues what m has due at at, unless it is to be left out.
func (s *Store) fireOne(ctx context.Context, current state, q broker.Job, m manifest.Schedule, f *fired, at, now time.Time) error {
	leaveOut := func(reason string) error {
		s.opts.Log.Info("a schedule's firing is left out", "job", current.job.Name, "schedule", m.Name, "at", at, "reason", reason)
		f.LeftOut = LeftOut{f.LeftOut.Count + 1, at, reason}
		return nil
	}
	if m.Missed == manifest.MissedSkip && now.Sub(at) > onTime {
		return leaveOut(LeftOutMissed)
	}
	id := firingID(current.job.ID, m.Name, at)
	if m.Overlap == manifest.OverlapSkip && f.Invocation != "" && f.Invocation != id {
		switch st, err := s.queue.Status(ctx, q, f.Invocation); {
		case err == nil && (st.State == broker.StateWaiting || st.State == broker.StateLeased):
			return leaveOut(LeftOutOverlap)
		case err != nil && !errors.Is(err, broker.ErrNotFound): // what is forgotten has ended
			return err
		}
	}
	v := NewInvocation{ID: id, Key: ours + m.Name + "/" + at.UTC().Format(time.RFC3339), Request: envelope.Request{Method: m.Method, Target: m.Path, Body: []byte(m.Body), Header: http.Header{}}}
	for name, value := range m.Headers {
		v.Request.Header.Set(name, value)
	}
	v.Request.Header.Set(wire.HeaderSchedule, m.Name)
	v.Request.Header.Set(wire.HeaderScheduled, at.UTC().Format(time.RFC3339))
	if m.Overlap == manifest.OverlapWait {
		v.Order = ours + m.Name
	}
	if ttl := time.Duration(current.version.Manifest.Queue.TTL); ttl < scheduledTTL {
		v.ResultTTL = scheduledTTL
	}
	if _, err := s.enqueue(ctx, current, q, v); err != nil {
		return err
	}
	f.At, f.Invocation = at, id
	return nil
}

// RunSchedules enqueues what the schedules of all jobs have due, until ctx ends. Several control processes may run it at once.
func (s *Store) RunSchedules(ctx context.Context) {
	changes := s.WatchAssignments(ctx, 0)
	due := map[string]time.Time{} // by job: when to look
	failing := map[string]bool{}
	look := func(a wire.Assignment) {
		delete(due, a.Job)
		if m, err := manifest.ParseJSON(a.Manifest); err == nil && len(m.Schedule) > 0 {
			due[a.Job] = time.Time{}
		}
	}
	for {
		now := s.opts.Clock.Now()
		wait := scheduleLook
		for job, at := range due {
			if !at.After(now) {
				next, err := s.fire(ctx, job)
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
					// A conflict is a change that was made meanwhile, or another control process that was faster.
					if !errors.Is(err, broker.ErrConflict) && !failing[job] {
						s.opts.Log.Warn("a schedule's firing failed; it is tried again", "job", job, "error", err)
						failing[job] = true
					}
					at = now.Add(scheduleRetry)
				case next.IsZero():
					delete(due, job)
					delete(failing, job)
					continue
				default:
					at = next
					delete(failing, job)
				}
				due[job] = at
			}
			wait = min(wait, at.Sub(now))
		}
		t := s.opts.Clock.NewTimer(max(wait, time.Millisecond))
		select {
		case <-t.C():
		case c, ok := <-changes:
			t.Stop()
			switch {
			case !ok:
				return
			case c.Reset:
				clear(due)
				for _, a := range c.All {
					look(a)
				}
			case c.Assignment != nil:
				look(*c.Assignment)
			case c.Job != "":
				delete(due, c.Job)
			}
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// ScheduleStatus is how a schedule of a job is.
type ScheduleStatus struct {
	manifest.Schedule
	Next       []time.Time         // the firings to come; fewer than three if there are no more
	Last       time.Time           // the last firing that was enqueued; zero if none was since the schedule is there
	Invocation broker.InvocationID // of that one
	LeftOut    LeftOut
}

// Schedules answers a job's schedules, in the order of its manifest.
func (s *Store) Schedules(ctx context.Context, job string) ([]ScheduleStatus, error) {
	now, _, err := s.queueOf(ctx, job)
	if err != nil || len(now.version.Manifest.Schedule) == 0 {
		return nil, err
	}
	doc, _, err := s.scheduledOf(ctx, now.job.ID)
	if err != nil {
		return nil, err
	}
	var list []ScheduleStatus
	for _, m := range now.version.Manifest.Schedule {
		c, err := cron.Parse(m.Cron, m.Zone)
		if err != nil {
			return nil, fmt.Errorf("schedule %s of job %s: %w", m.Name, job, err)
		}
		f := doc.Schedules[m.Name]
		st := ScheduleStatus{Schedule: m, Last: f.At, Invocation: f.Invocation, LeftOut: f.LeftOut}
		for at := c.Next(s.opts.Clock.Now()); !at.IsZero() && len(st.Next) < showNext; at = c.Next(at) {
			st.Next = append(st.Next, at)
		}
		list = append(list, st)
	}
	return list, nil
}
