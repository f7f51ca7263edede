package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ripstop-vm/ripstop/internal/lazyctx"
	"github.com/ripstop-vm/ripstop/internal/loop"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// holdStarting is how long a request waits for a job whose first task is starting.
const holdStarting = 5 * time.Second

// running says whether the control process knows that a job is in its guests. Invocations only count; the looks of one goroutine find out
// whether there were none for a while.
type running struct {
	count    atomic.Int64
	reported atomic.Bool
	resting  atomic.Bool // count was 0 at the last look, and nothing began since
}

// begin notes an invocation, and whether the control process has to be told.
func (r *running) begin() (tell bool) {
	r.count.Add(1)
	if r.resting.Load() {
		r.resting.Store(false)
	}
	return !r.reported.Load() && !r.reported.Swap(true)
}

func (r *running) endOne() { r.count.Add(-1) }

// rest reports whether the job left its guests for good: it was idle at the last look and is now. Telling of every
// invocation would double the work of short ones. One goroutine calls it.
func (r *running) rest() bool {
	if !r.reported.Load() || r.count.Load() > 0 {
		return false
	}
	if !r.resting.Swap(true) {
		return false
	}
	r.reported.Store(false)
	if r.count.Load() > 0 { // one began meanwhile, and may have taken the job for reported
		r.reported.Store(true)
		return false
	}
	r.resting.Store(false)
	return true
}

// enter finds the job's task and makes the caller one of its users.
func (a *Agent) enter(ctx context.Context, name string) (*task, *job, error) {
	hold := time.Duration(0)
	for {
		a.mu.RLock()
		j := a.jobs[name]
		var t *task
		var failure *wire.Problem
		if j != nil {
			t, failure = j.task, j.failure
		}
		draining := a.draining
		if !draining && t != nil {
			a.inflight.Add(1)
		}
		a.mu.RUnlock()
		switch {
		case draining:
			return nil, nil, &wire.Problem{Code: "draining", Status: http.StatusServiceUnavailable, Title: "Shutting down", Detail: "the server is shutting down"}
		case j == nil:
			return nil, nil, &wire.Problem{Code: "no-route", Status: http.StatusNotFound, Title: "Not found", Detail: "no job answers at this host and path"}
		case t != nil:
			if t.enter() {
				return t, j, nil
			}
			a.inflight.Done() // retired since we looked: the job has another task, or none
			continue
		case failure != nil:
			return nil, nil, &wire.Problem{Code: "not-running", Status: http.StatusServiceUnavailable, Title: "The job is not running", Detail: "the job's current version could not be started; its log says why"}
		}
		if hold > 0 {
			return nil, nil, &wire.Problem{Code: "starting", Status: http.StatusServiceUnavailable, Title: "The job is starting", Detail: "the job's first task is not ready yet; try again"}
		}
		hold = holdStarting
		loop.Leave(ctx)
		timer := a.opts.Clock.NewTimer(hold)
		select {
		case <-j.ready:
		case <-timer.C():
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
	}
}

// lingering is how much longer than an invocation its client's connection may take: the error page has to get out.
const lingering = 5 * time.Second

// shortLimit is up to where the deadlines of an ingress server do for an invocation without a body; they are longer than it by lingering and more.
const shortLimit = time.Minute

// errDeadline is the cause of an invocation's context past its deadline.
var errDeadline = fmt.Errorf("the invocation's deadline passed: %w", context.DeadlineExceeded)

// Serve has a task of the job answer r on w. sent says that a status went out. An error is a *wire.Problem to answer
// with, a context's cause if the client left, or a defect of ours.
func (a *Agent) Serve(name string, info guest.ServeInfo, w http.ResponseWriter, r *http.Request) (sent bool, err error) {
	return a.serve(name, info, w, r, false)
}

// serve is Serve. A queued request waits for its slot in the same line, but for as long as it takes: its time begins then.
func (a *Agent) serve(name string, info guest.ServeInfo, w http.ResponseWriter, r *http.Request, queued bool) (sent bool, err error) {
	began := a.opts.Clock.Now()
	t, j, err := a.enter(r.Context(), name)
	if err != nil {
		a.opts.Recorder.Job(name).Invocation("rejected", false, 0)
		return false, err
	}
	defer a.inflight.Done()
	defer t.leave()
	if max := int64(t.limits.Request); r.ContentLength > max {
		t.recorder.Invocation("rejected", false, 0)
		return false, tooLarge(max)
	}
	if !queued { // whoever sends these is no queue
		delete(r.Header, wire.HeaderAttempt)
		delete(r.Header, wire.HeaderInvocation)
		delete(r.Header, wire.HeaderSchedule)
		delete(r.Header, wire.HeaderScheduled)
	} else {
		if err := t.slots.take(r.Context(), true); err != nil {
			return false, err
		}
		defer t.slots.give()
		began = a.opts.Clock.Now()
	}

	limit := time.Duration(t.limits.Time)
	info.Deadline = began.Add(limit)
	timed := new(lazyctx.Context)
	timed.Begin(r.Context(), a.opts.Clock, info.Deadline, errDeadline)
	defer timed.Cancel(nil)
	var ctx context.Context = timed
	var span trace.Span
	if a.opts.Tracer != nil {
		ctx, span = a.opts.Tracer.Start(ctx, "invoke "+name, trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(
			attribute.String("faas.invocation_id", info.Invocation), attribute.String("ripstop.job", name), attribute.Int64("ripstop.version", int64(t.assigned.Version))))
		defer span.End()
		if span.SpanContext().IsValid() {
			propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Header))
		}
	}

	// A client that neither sends nor reads must not hold a slot past the deadline: reads and writes that may wait end with the
	// invocation (package guest), and these are for what is under way without one. A writer that is no connection has no such deadlines, and
	// needs none.
	if r.ContentLength != 0 || limit > shortLimit {
		conn := http.NewResponseController(w)
		_ = conn.SetReadDeadline(info.Deadline.Add(lingering))
		_ = conn.SetWriteDeadline(info.Deadline.Add(lingering))
	}

	if !queued {
		err = t.slots.take(ctx, false)
	}
	if err != nil {
		t.recorder.Invocation("rejected", false, 0)
		if errors.Is(err, errQueueFull) {
			return false, &wire.Problem{Code: "queue-full", Status: http.StatusTooManyRequests, Title: "Too many requests",
				Detail: fmt.Sprintf("%d invocations run and %d wait, which is as many as the job allows", t.limits.Concurrency, max(t.limits.Queue, 0))}
		}
		return false, failureOf(r.Context(), err)
	}
	if !queued {
		defer t.slots.give()
	}
	t.recorder.Inflight(1)
	defer t.recorder.Inflight(-1)
	if j.running.begin() {
		loop.Leave(ctx) // who is told may be busy
		a.reports.flush(ctx, wire.Report{Kind: wire.ReportRunning, Job: name, Version: t.assigned.Version, Invocation: info.Invocation})
	}
	defer j.running.endOne()

	var result guest.Result
	cold := false
	a.run(ctx, func() {
		var turn guest.Turn
		if turn, err = t.program.Turn(ctx, r); err != nil {
			return
		}
		defer turn.End() // mostly the sandbox's by then
		var m made
		if m, cold, err = t.take(ctx, &turn); err != nil {
			err = fmt.Errorf("start a sandbox: %w", err)
			return
		}
		served := false
		defer func() {
			if !served {
				t.lose(m)
			}
		}()
		result, err = m.sandbox.ServeInTurn(ctx, w, r, info, &turn)
		t.recorder.CPU(result.CPU)
		served = true
		t.back(ctx, m, err == nil && result.Reusable)
	})
	if result.LogDropped > 0 {
		a.system(name, t.assigned.Version, info.Invocation, "warn", fmt.Sprintf("%d bytes of log were dropped: the limit is %d", result.LogDropped, int64(t.limits.Log)))
	}
	outcome := "ok"
	answer := err
	if err != nil {
		if span != nil {
			span.SetStatus(codes.Error, "")
		}
		outcome, answer = t.judge(r.Context(), err, info.Invocation)
	}
	t.recorder.Invocation(outcome, cold, a.opts.Clock.Now().Sub(began))
	return result.HeadSent, answer
}

// run calls f, which runs a guest: in a goroutine of its own if its thread may have to end with that, and the caller's is not a loop's, which sees
// to that itself. f's panic is the caller's.
func (a *Agent) run(ctx context.Context, f func()) {
	if a.opts.Apart == nil || loop.In(ctx) {
		f()
		return
	}
	a.apart.run(f)
}

func tooLarge(max int64) *wire.Problem {
	return &wire.Problem{Code: "request-too-large", Status: http.StatusRequestEntityTooLarge, Title: "Request too large", Detail: fmt.Sprintf("the job takes request bodies of up to %d bytes", max)}
}

func badGateway(code, detail string) *wire.Problem {
	return &wire.Problem{Code: code, Status: http.StatusBadGateway, Title: "The job failed", Detail: detail + "; its log has more under the invocation's id"}
}

var deadlineProblem = &wire.Problem{Code: "deadline", Status: http.StatusGatewayTimeout, Title: "Deadline passed", Detail: "the job did not answer within its time limit"}

// failureOf is a wait that ended early: the client left, or the deadline passed.
func failureOf(client context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return deadlineProblem
	}
	if client.Err() != nil {
		return context.Canceled
	}
	return err
}

// lack is what the lack of memory has to do with a failure, after sep; empty if it has nothing to do with it.
func lack(err error, sep string) string {
	if e, ok := errors.AsType[*runtime.ExhaustedError](err); ok {
		return sep + e.Why()
	}
	return ""
}

// judge tells how an invocation failed: what the client is told, and what the job's log says.
func (t *task) judge(client context.Context, err error, invocation string) (outcome string, answer error) {
	log := func(text string) { t.agent.system(t.assigned.Job, t.assigned.Version, invocation, "error", text) }
	var (
		trap  *runtime.Trap
		limit *runtime.LimitError
		exit  *runtime.ExitError
		stop  *runtime.StopError
		bad   *guest.BadResponseError
		point *hostcall.BadPointerError
	)
	switch {
	case errors.Is(err, hostcall.ErrHost):
		t.agent.opts.Log.Error("host function panicked", "job", t.assigned.Job, "version", t.assigned.Version, "invocation", invocation, "error", err)
		log("the server failed while it served a host call; this is not the job's fault")
		return "fault", err
	case errors.Is(err, guest.ErrClientGone):
		return "cancelled", context.Canceled
	case errors.Is(err, errStart):
		log("a sandbox did not start within " + t.limits.Start.String())
		return "timeout", &wire.Problem{Code: "start-timeout", Status: http.StatusGatewayTimeout, Title: "Deadline passed", Detail: "the job did not start within its limit"}
	case errors.Is(err, context.DeadlineExceeded):
		log("ended at its deadline of " + t.limits.Time.String())
		// Also when the client's context is done by now: a body that is given up ends it.
		return "timeout", deadlineProblem
	case client.Err() != nil && errors.Is(err, context.Canceled):
		return "cancelled", context.Canceled
	case errors.As(err, &limit):
		log(limit.Error())
		if limit.Limit == "request" {
			return "error", tooLarge(int64(limit.Max))
		}
		if limit.Limit == "request header" {
			return "error", &wire.Problem{Code: "header-too-large", Status: http.StatusRequestHeaderFieldsTooLarge, Title: "Request header too large",
				Detail: fmt.Sprintf("the job takes request headers of up to %d bytes", limit.Max)}
		}
		return "error", badGateway("limit", "the job ran into its "+limit.Limit+" limit")
	case errors.As(err, &trap):
		log(trap.Backtrace() + lack(err, "\n"))
		return "error", badGateway("trap", "the job trapped"+lack(err, "; "))
	case errors.As(err, &stop):
		log(stop.Error())
		return "error", badGateway("stopped", "the job was stopped by its policy")
	case errors.As(err, &exit):
		log(exit.Error() + lack(err, "; "))
		return "error", badGateway("exit", "the job ended without an answer"+lack(err, "; "))
	case errors.As(err, &bad):
		log(bad.Error())
		return "error", badGateway("bad-response", "the job gave no valid answer")
	case errors.As(err, &point):
		log(point.Error())
		return "error", badGateway("bad-pointer", "the job called a host function wrongly")
	}
	log(err.Error())
	return "error", badGateway("failed", "the job failed")
}
