package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/ids"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
)

// dispatcher has queued invocations run by the worker, and tells others of their end.
//
// It leases what a job has slots for, orders the worker to run it, extends the lease meanwhile, and stores what came of it. A worker
// that dies gives back what it ran.
type dispatcher struct {
	super  *Supervisor
	queue  broker.Queue
	clock  clock.Clock
	log    *slog.Logger
	runs   *intake
	calls  *intake
	keeper *keeper

	mu       sync.Mutex
	jobs     map[string]broker.Job // by name
	names    map[broker.Job]served
	work     map[string]*errand // by what the worker knows them by
	worker   *worker            // nil while none takes work
	stopping bool
}

// served is a job of the queue as the worker has it.
type served struct {
	name    string
	version uint64
}

// errand is an invocation that is with the worker.
type errand struct {
	lease  broker.Lease
	job    string
	worker *worker
	done   chan ending   // has one in it when the worker is done
	back   chan struct{} // closed when it is to be given back, as the worker has not begun it

	mu      sync.Mutex
	payload []byte // nil once the worker has it
	begun   bool
}

// ending is what came of an attempt.
type ending struct {
	outcome string // one of wire's outcomes
	result  []byte // of wire.OutcomeDone
	reason  string // of the others
	delay   time.Duration
}

func newDispatcher(s *Supervisor, q broker.Queue) *dispatcher {
	d := &dispatcher{super: s, queue: q, clock: s.opts.Clock, log: s.opts.Log, keeper: newKeeper(q, s.opts.Clock),
		jobs: map[string]broker.Job{}, names: map[broker.Job]served{}, work: map[string]*errand{}}
	d.runs = newIntake(q, broker.LaneRun, s.opts.Name, d.clock, d.log, d.run)
	d.calls = newIntake(q, broker.LaneCallback, s.opts.Name, d.clock, d.log, d.call)
	d.calls.set(true)
	return d
}

// Run works until ctx ends. What runs is given back then.
func (d *dispatcher) Run(ctx context.Context) {
	// Leases are kept until all is given back.
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var keep, wg sync.WaitGroup
	keep.Go(func() { d.keeper.Run(keeping) })
	wg.Go(func() { d.runs.Run(ctx) })
	wg.Go(func() { d.calls.Run(ctx) })
	wg.Wait()
	stop()
	keep.Wait()
}

// callsAtOnce bounds how many callbacks of one job are delivered at once.
const callsAtOnce = 4

// put has a job's queue worked on.
func (d *dispatcher) put(a wire.Assignment) {
	m, err := manifest.ParseJSON(a.Manifest)
	if err != nil || a.ID == "" {
		return // it cannot be served either, which is said elsewhere
	}
	m.Fill(a.Job)
	room := min(m.Queue.Concurrency, m.Limits.Concurrency)
	if m.Isolation == "task" {
		room = 1 // one sandbox that keeps its state serves one request at a time
	}
	q := broker.Job{Entitlement: a.Entitlement, Name: a.ID}
	d.mu.Lock()
	old, had := d.jobs[a.Job]
	d.jobs[a.Job] = q
	if had && old != q {
		delete(d.names, old)
	}
	d.names[q] = served{a.Job, a.Version}
	d.mu.Unlock()
	if had && old != q {
		d.runs.remove(old)
		d.calls.remove(old)
	}
	d.runs.put(q, room)
	d.calls.put(q, callsAtOnce)
}

// remove ends the work on a job's queue.
func (d *dispatcher) remove(job string) {
	d.mu.Lock()
	q, had := d.jobs[job]
	delete(d.jobs, job)
	delete(d.names, q)
	d.mu.Unlock()
	if had {
		d.runs.remove(q)
		d.calls.remove(q)
	}
}

// retain ends the work on the queues of all jobs but some.
func (d *dispatcher) retain(jobs map[string]bool) {
	d.mu.Lock()
	var gone []string
	for job := range d.jobs {
		if !jobs[job] {
			gone = append(gone, job)
		}
	}
	d.mu.Unlock()
	for _, job := range gone {
		d.remove(job)
	}
}

// employ has w run invocations from now on; nil: nobody does.
func (d *dispatcher) employ(w *worker) {
	d.mu.Lock()
	d.worker = w
	open := w != nil && !d.stopping
	d.mu.Unlock()
	d.runs.set(open)
}

// drain gives back what the worker has not begun, and leases no more.
func (d *dispatcher) drain() {
	d.mu.Lock()
	d.stopping = true
	waiting := make([]*errand, 0, len(d.work))
	for _, e := range d.work {
		waiting = append(waiting, e)
	}
	d.mu.Unlock()
	d.runs.set(false)
	d.calls.set(false)
	for _, e := range waiting {
		e.giveBack()
	}
}

// giveBack ends an errand that the worker has not begun.
func (e *errand) giveBack() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun && e.back != nil {
		e.payload = nil
		close(e.back)
		e.back = nil
	}
}

// begin hands over what is to be run, once.
func (e *errand) begin() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.payload
	if p != nil {
		e.payload, e.begun = nil, true
	}
	return p
}

// served finds the job that a queue is of.
func (d *dispatcher) served(q broker.Job) (served, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.names[q]
	return s, ok
}

// notBegun is how an attempt ends that was none.
func notBegun(reason string) ending { return ending{outcome: wire.OutcomeUnstarted, reason: reason} }

// run has the worker run a leased invocation, and stores what came of it.
func (d *dispatcher) run(ctx context.Context, l broker.Lease) {
	payload := l.Payload
	l.Payload = nil // it is kept once, by the errand: the keeper reads the lease at any time
	h := d.keeper.hold(l)
	defer d.keeper.drop(h)
	if end, ok := d.attempt(ctx, h, payload); ok {
		d.settle(ctx, h, end)
	}
}

// attempt is one attempt of an invocation; false if the lease was lost.
func (d *dispatcher) attempt(ctx context.Context, h *held, payload []byte) (ending, bool) {
	l := h.lease
	r, err := envelope.DecodeRequest(payload)
	switch {
	case err != nil:
		return ending{outcome: wire.OutcomeHopeless, reason: err.Error()}, true
	case !r.Deadline.IsZero() && !d.clock.Now().Before(r.Deadline):
		return ending{outcome: wire.OutcomeHopeless, reason: "its deadline passed before an attempt could begin"}, true
	}
	back := make(chan struct{})
	e := &errand{lease: l, payload: payload, done: make(chan ending, 1), back: back}
	id := ids.New()
	d.mu.Lock()
	e.worker = d.worker
	e.job = d.names[l.Job].name
	if d.stopping || e.worker == nil || e.job == "" {
		d.mu.Unlock()
		return notBegun("the worker is not there"), true
	}
	d.work[id] = e
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.work, id)
		d.mu.Unlock()
	}()
	w := e.worker
	select {
	case w.orders <- wire.Order{Kind: wire.OrderInvoke, ID: id, Job: e.job}:
	case <-w.process.done:
		return notBegun("the worker is gone"), true
	case <-back:
		return notBegun("the server is stopping"), true
	case <-ctx.Done():
		return notBegun("the server is stopping"), true
	}
	select {
	case end := <-e.done:
		return end, true
	case <-back:
		return notBegun("the server is stopping"), true
	case <-h.lost:
		select {
		case w.orders <- wire.Order{Kind: wire.OrderCancel, ID: id}:
		case <-w.process.done:
		case <-ctx.Done():
		}
		return ending{}, false
	case <-w.process.done:
	case <-ctx.Done():
	}
	select {
	case end := <-e.done: // it came at the same time
		return end, true
	default:
	}
	e.giveBack()
	e.mu.Lock()
	begun := e.begun
	e.mu.Unlock()
	if !begun {
		return notBegun("the worker is gone"), true
	}
	if ctx.Err() != nil {
		return ending{outcome: wire.OutcomeFailed, reason: "the server stopped while it ran"}, true
	}
	return ending{outcome: wire.OutcomeFailed, reason: "the worker process died while it ran"}, true
}

// How results are stored.
const (
	settleTime  = 5 * time.Second        // for the last try when the server stops
	settlePause = 100 * time.Millisecond // between tries
	retryLater  = time.Second            // before what was not begun is offered again
)

// settle stores what came of an attempt. It tries while the lease lasts: what is not stored is run again.
func (d *dispatcher) settle(ctx context.Context, h *held, end ending) {
	for {
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
		err := d.store(one, h.lease, end)
		cancel()
		switch {
		case err == nil:
			d.tell(h.lease, end)
			return
		case errors.Is(err, broker.ErrLeaseLost):
			return // somebody else has it, it has ended, or its job was removed
		case errors.Is(err, broker.ErrTooLarge), errors.Is(err, broker.ErrInvalid):
			end = ending{outcome: wire.OutcomeHopeless, reason: err.Error()}
		}
		d.log.Warn("the end of an attempt could not be stored", "invocation", h.lease.ID, "error", err)
		t := d.clock.NewTimer(settlePause)
		select {
		case <-t.C():
		case <-h.lost:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (d *dispatcher) store(ctx context.Context, l broker.Lease, end ending) error {
	switch end.outcome {
	case wire.OutcomeDone:
		return d.queue.Complete(ctx, l, broker.Result{Outcome: broker.OutcomeDone, Payload: end.result})
	case wire.OutcomeHopeless:
		return d.queue.Complete(ctx, l, broker.Result{Outcome: broker.OutcomeDead, Reason: broker.CutReason(end.reason)})
	case wire.OutcomeUnstarted:
		r := broker.Return{Reason: broker.CutReason(end.reason), Unstarted: true}
		if d.here() {
			r.Delay = retryLater
		}
		return d.queue.Release(ctx, l, r)
	}
	delay := max(l.Backoff.Delay(l.Attempt, rand.Float64()), min(end.delay, broker.MaxDelay))
	return d.queue.Release(ctx, l, broker.Return{Delay: delay, Reason: broker.CutReason(end.reason)})
}

// here reports whether this server goes on: what it gives back as it stops is for others at once.
func (d *dispatcher) here() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.stopping
}

// tell writes into the job's log that an invocation was given up.
func (d *dispatcher) tell(l broker.Lease, end ending) {
	dead := end.outcome == wire.OutcomeHopeless || end.outcome == wire.OutcomeFailed && l.Attempt >= l.MaxAttempts
	s, ok := d.served(l.Job)
	if !dead || !ok {
		return
	}
	d.super.hub.Log(wire.Report{Kind: wire.ReportLog, Time: d.clock.Now(), Job: s.name, Version: s.version, Invocation: string(l.ID), Stream: "system", Level: "error",
		Text: fmt.Sprintf("given up after attempt %d of %d, and kept as a dead letter: %s", l.Attempt, l.MaxAttempts, end.reason)})
}

// errandOf finds what this worker was ordered to run.
func (w *worker) errandOf(id string) *errand {
	d := w.super.dispatcher
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.work[id]; e != nil && e.worker == w {
		return e
	}
	return nil
}

// serveWork hands an invocation to the worker, which begins its attempt.
func (w *worker) serveWork(rw http.ResponseWriter, r *http.Request) {
	e := w.errandOf(r.PathValue("id"))
	var payload []byte
	if e != nil {
		payload = e.begin()
	}
	if payload == nil {
		http.Error(rw, "it is not to be run any more", http.StatusGone)
		return
	}
	h := rw.Header()
	h.Set(wire.HeaderInvocation, string(e.lease.ID))
	h.Set(wire.HeaderAttempt, strconv.Itoa(e.lease.Attempt))
	_, _ = rw.Write(payload) // a worker that is gone runs nothing, which is seen elsewhere
}

// takeWork takes what came of an attempt. What cannot be is the worker's fault, and counts as a failure.
func (w *worker) takeWork(rw http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, broker.MaxResult))
	e := w.errandOf(r.PathValue("id"))
	if e == nil {
		http.Error(rw, "nobody waits for it", http.StatusGone)
		return
	}
	end := ending{outcome: wire.OutcomeFailed, reason: "its worker said nothing that can be understood"}
	seconds, _ := strconv.ParseUint(r.Header.Get(wire.HeaderRetryAfter), 10, 31) // 0 if it says none
	switch outcome := r.Header.Get(wire.HeaderOutcome); {
	case err != nil:
	case outcome == wire.OutcomeDone:
		if _, err := envelope.DecodeResponse(b); err == nil {
			end = ending{outcome: outcome, result: b}
		}
	case outcome == wire.OutcomeFailed, outcome == wire.OutcomeHopeless, outcome == wire.OutcomeUnstarted:
		end = ending{outcome: outcome, reason: w.store.redact(e.job, string(b)), delay: time.Duration(seconds) * time.Second}
	}
	select {
	case e.done <- end:
	default: // it has ended before
	}
	rw.WriteHeader(http.StatusNoContent)
}
