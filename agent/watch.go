package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/trace"
)

// following says whether someone follows a job's host calls.
type following struct{ on atomic.Bool }

// setFollow begins or ends the tracing of a job. Sandboxes made ahead without a tracer are thrown away, so that no call
// of a later invocation stays unseen.
func (a *Agent) setFollow(name string, on bool) {
	a.mu.Lock()
	j := a.jobLocked(name)
	if j.task == nil && j.wanted.Job == "" {
		delete(a.jobs, name) // nothing of that name is served
		a.mu.Unlock()
		return
	}
	t := j.task
	was := j.follow.on.Swap(on)
	a.mu.Unlock()
	if t != nil && was != on && !t.keep {
		t.empty()
		t.fill()
	}
}

// tracers gives a new sandbox its tracer: while someone follows, and always to one that keeps its state, as it cannot
// be thrown away for a new one.
func (t *task) tracers() []hostcall.Interposer {
	if !t.keep && !t.follow.on.Load() {
		return nil
	}
	f := &follower{task: t}
	f.tracer = trace.New(trace.NewFunc(f.send), trace.Options{})
	return []hostcall.Interposer{f}
}

// follower is a tracer that can be switched off, of one sandbox.
type follower struct {
	task       *task
	tracer     *trace.Tracer
	invocation string
}

func (f *follower) Watches(*hostcall.Func) bool { return true }

func (f *follower) Before(c *hostcall.Call) hostcall.Verdict {
	if !f.task.follow.on.Load() {
		return hostcall.Proceed
	}
	return f.tracer.Before(c)
}

func (f *follower) After(c *hostcall.Call) {
	if !f.task.follow.on.Load() {
		return
	}
	f.note(c.Context())
	f.tracer.After(c)
}

// Event implements hostcall.Observer.
func (f *follower) Event(e hostcall.Event) {
	if !f.task.follow.on.Load() {
		return
	}
	if e.Kind == hostcall.EventStart {
		f.note(e.Context) // a sandbox that served another one before names that no more
	}
	f.tracer.Event(e)
}

// note keeps which invocation what comes belongs to, if to any.
func (f *follower) note(ctx context.Context) {
	f.invocation = ""
	if info, ok := guest.InfoOf(ctx); ok {
		f.invocation = info.Invocation
	}
}

func (f *follower) send(r *trace.Record) {
	b, err := json.Marshal(r)
	if err != nil {
		return // a record holds nothing that does not encode
	}
	f.task.traced(wire.Report{Invocation: f.invocation, Trace: b})
}

// traced reports a record of a trace, and how many before it found no room.
func (t *task) traced(r wire.Report) {
	r.Kind, r.Job, r.Version, r.Omitted = wire.ReportTrace, t.assigned.Job, t.assigned.Version, t.untraced.Swap(0)
	if t.agent.reports.offer(r) {
		return
	}
	if len(r.Trace) > 0 {
		r.Omitted++
	}
	t.untraced.Add(r.Omitted)
}

// denied reports a call that a rule refused.
func (t *task) denied(c *hostcall.Call, rule string, observed bool) {
	level := "warn"
	if observed {
		rule, level = "would be refused: "+rule, "info"
	}
	t.audit(c, rule, level)
}

// audit reports a refused call, but no more of them than the job's share. What it leaves out is counted.
func (t *task) audit(c *hostcall.Call, why, level string) {
	ok, omitted := t.denials.take(c.Func, level, t.agent.opts.Clock.Now())
	if !ok {
		return
	}
	text := c.Func.String()
	for i := range c.Func.Args {
		a := &c.Func.Args[i]
		if a.Dir == hostcall.In && (a.Kind == hostcall.Path || a.Kind == hostcall.Text) {
			if a.Secret {
				text += fmt.Sprintf(" %s: %d bytes", a.Name, len(c.Text(i)))
			} else {
				text += " " + a.Name + ": " + quoted(c.Text(i))
			}
		}
	}
	id := ""
	if info, ok := guest.InfoOf(c.Context()); ok {
		id = info.Invocation
	}
	r := wire.Report{Kind: wire.ReportAudit, Job: t.assigned.Job, Version: t.assigned.Version, Invocation: id, Level: level, Text: text + ": " + why, Function: c.Func.String(), Omitted: omitted}
	if !t.agent.reports.offer(r) {
		t.denials.omit(level, omitted+1)
	}
}

// tellOmitted reports how much was left out of audits and traces, where none of them has said so since.
func (t *task) tellOmitted() {
	if t.untraced.Load() > 0 {
		t.traced(wire.Report{})
	}
	for _, level := range [...]string{"warn", "info"} {
		n := t.denials.omitted(level)
		if n > 0 && !t.agent.reports.offer(wire.Report{Kind: wire.ReportAudit, Job: t.assigned.Job, Version: t.assigned.Version, Level: level, Omitted: n}) {
			t.denials.omit(level, n)
		}
	}
}

// quoted is the begin of a guest's text as it is reported.
func quoted(text []byte) string {
	const most = 256
	if len(text) <= most {
		return strconv.Quote(string(text))
	}
	end := most
	for end > most-utf8.UTFMax && !utf8.RuneStart(text[end]) { // half a character would be no begin of a secret that has it whole
		end--
	}
	return strings.TrimSuffix(strconv.Quote(string(text[:end])), `"`) + wire.CutQuote
}

// refusals reports the calls that no capability covers. It watches only functions that reach outside.
type refusals struct{ task *task }

func (r *refusals) Watches(f *hostcall.Func) bool {
	if !f.Fails || !f.Class.Outside() {
		return false
	}
	for i := range f.Args {
		if a := &f.Args[i]; a.Dir == hostcall.In && (a.Kind == hostcall.Path || a.Kind == hostcall.Text) {
			return true
		}
	}
	return false
}

func (r *refusals) Before(*hostcall.Call) hostcall.Verdict { return hostcall.Proceed }

func (r *refusals) After(c *hostcall.Call) {
	if c.Errno() == hostcall.ENOTCAPABLE && c.Rule == "" {
		r.task.audit(c, "not granted", "warn")
	}
}
