package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Queue = (*Queue)(nil)

var (
	enqueueScript  = load("queue_enqueue")
	leaseScript    = load("queue_lease")
	peekScript     = load("queue_peek")
	extendScript   = load("queue_extend")
	completeScript = load("queue_complete")
	releaseScript  = load("queue_release")
	settleScript   = load("queue_settle")
	statusScript   = load("queue_status")
	countsScript   = load("queue_counts")
	unfinishedList = load("queue_list")
	cancelScript   = load("queue_cancel")
	lettersScript  = load("queue_letters")
	requeueScript  = load("queue_requeue")
	discardScript  = load("queue_discard")
	purgeScript    = load("queue_purge")
)

// Queue keeps each job's invocations under a hash tag of its own; lua/queue.lua says how.
type Queue struct {
	link *link
	bell *bell
	turn atomic.Uint64 // of the job that a call of Lease begins with
}

func newQueue(l *link) *Queue { return &Queue{link: l, bell: newBell(l)} }

var queueKeys = []string{
	"meta", "items", "payloads", "results", "documents", "keys", "ready", "delayed", "leased", "calls", "calling", "expires", "letters", "orders",
}

func keysOf(g group) []string {
	keys := make([]string, len(queueKeys))
	for i, name := range queueKeys {
		keys[i] = g.key(name)
	}
	return keys
}

// run runs a script of a job's queue.
func (q *Queue) run(ctx context.Context, s *script, j broker.Job, args ...any) (reply, error) {
	rep, err := q.link.do(ctx, &call{script: s, group: q.link.keys.queue(j), keys: keysOf, args: args, size: size(args)})
	return rep, cmp.Or(err, q.newer(j, rep))
}

// runParts runs a script that does several things, perhaps together with what others ask of it at the same time. So args have to be the
// same in each call of the script for the job. The reply has an element for each part, after the first.
func (q *Queue) runParts(ctx context.Context, s *script, j broker.Job, p parts, args ...any) (reply, error) {
	return q.link.do(ctx, &call{script: s, group: q.link.keys.queue(j), keys: keysOf, args: args, parts: p, size: size(args) + size(p.args)})
}

// newer says that a reply is about a document of a newer program.
func (q *Queue) newer(j broker.Job, rep reply) error {
	if rep.text(0) != "newer" {
		return nil
	}
	return fmt.Errorf("%s: queue of %s: %w: a document's schema is %d, this program's is %d; use a newer version of ripstop",
		q.link.target, j, broker.ErrNewer, rep.number(1), broker.QueueSchema)
}

// Enqueue implements broker.Queue.
func (q *Queue) Enqueue(ctx context.Context, b broker.Batch) ([]broker.Receipt, error) {
	if err := cmp.Or(context.Cause(ctx), b.Check()); err != nil {
		return nil, fmt.Errorf("enqueue: %w", err)
	}
	b = b.Filled()
	if len(b.Invocations) == 0 {
		return []broker.Receipt{}, nil
	}
	args := make([]any, 0, 3*len(b.Invocations))
	limit := b.Limit
	for i := range b.Invocations {
		args = appendInvocation(args, limit, &b.Invocations[i])
		limit = 0
	}
	rep, err := q.enqueue(ctx, b.Job, parts{args, 1, len(b.Invocations)})
	switch {
	case err != nil:
		return nil, fmt.Errorf("enqueue: %w", err)
	case rep.text(0) == "full":
		return nil, fmt.Errorf("enqueue: %d invocations of %s are unfinished, %d more are over the limit of %d: %w", rep.number(1), b.Job, rep.number(2), b.Limit, broker.ErrQueueFull)
	}
	receipts := make([]broker.Receipt, len(b.Invocations))
	for i := range receipts {
		receipts[i].ID = b.Invocations[i].ID
		if len(rep) == 0 { // all are new
			continue
		}
		if known, ok := rep[1+i].(int64); ok { // an ID may be a number, too
			receipts[i].Known = known == 1
		} else {
			receipts[i] = broker.Receipt{ID: broker.InvocationID(rep.text(1 + i)), Known: true}
		}
	}
	return receipts, nil
}

// enqueue answers what the script says of a batch; nothing if all of it was new.
func (q *Queue) enqueue(ctx context.Context, j broker.Job, batch parts) (reply, error) {
	for {
		rep, err := q.runParts(ctx, enqueueScript, j, batch, q.bell.channel, j.String())
		if err != nil {
			return nil, err
		}
		if rep[1] == int64(0) {
			return nil, nil
		}
		rep = rep.part(1)
		if rep.text(0) != "settle" {
			return rep, q.newer(j, rep)
		}
		if err := q.settle(ctx, j, broker.InvocationID(rep.text(1))); err != nil {
			return nil, err
		}
	}
}

// appendInvocation appends what queue_enqueue.lua takes of an invocation, the first one of a batch if there is a limit.
func appendInvocation(args []any, limit int, v *broker.Invocation) []any {
	attempts, document := 0, ""
	if v.Callback != nil {
		attempts, document = v.Callback.MaxAttempts, string(v.Callback.Document)
	}
	more := v.Order != "" || v.Key != "" || attempts > 0
	args = append(args, terms(limit, v, attempts, more), string(v.ID), string(v.Payload))
	if more {
		args = append(args, v.Order, v.Key, document)
	}
	return args
}

// terms writes what queue_enqueue.lua calls the terms of an invocation.
func terms(limit int, v *broker.Invocation, calls int, more bool) string {
	b := make([]byte, 0, 64)
	for _, n := range [...]int64{int64(limit), int64(v.Priority), v.Delay.Microseconds(), int64(calls)} {
		b = append(strconv.AppendInt(b, n, 10), ' ')
	}
	if more {
		b = append(b, "+ "...)
	} else {
		b = append(b, "- "...)
	}
	for _, n := range [...]uint64{uint64(v.MaxAttempts), uint64(v.ResultTTL), uint64(v.Backoff.First), uint64(v.Backoff.Max)} {
		b = appendPacked(b, n)
	}
	return string(b)
}

// appendPacked appends a number in the shortest form that MessagePack has.
func appendPacked(b []byte, n uint64) []byte {
	switch {
	case n < 1<<7:
		return append(b, byte(n))
	case n < 1<<8:
		return append(b, 0xcc, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), n)
}

// Lease implements broker.Queue. All jobs but one are asked first, together, which of them have something.
func (q *Queue) Lease(ctx context.Context, w broker.Want) ([]broker.Lease, error) {
	if err := cmp.Or(context.Cause(ctx), w.Check()); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	jobs := slices.Clone(w.Jobs)
	if n := uint64(len(jobs)); n > 1 {
		first := q.turn.Add(1) % n
		jobs = slices.Concat(jobs[first:], jobs[:first])
		ready, _, err := q.peek(ctx, w.Lane, jobs)
		if err != nil {
			return nil, fmt.Errorf("lease: %w", err)
		}
		jobs = ready
	}
	var ls []broker.Lease
	room := broker.MaxBatchBytes
	for _, j := range jobs {
		if len(ls) == w.Max {
			break
		}
		more, full, err := q.leaseOf(ctx, j, w, w.Max-len(ls), room, len(ls) == 0)
		if err != nil {
			return nil, fmt.Errorf("lease: %w", err)
		}
		for _, l := range more {
			room -= len(l.Payload)
		}
		ls = append(ls, more...)
		if full {
			break
		}
	}
	return ls, nil
}

// leaseOf leases from one job. full says that the bound in bytes was met.
func (q *Queue) leaseOf(ctx context.Context, j broker.Job, w broker.Want, n, room int, first bool) (ls []broker.Lease, full bool, err error) {
	whatever := 0
	if first {
		whatever = 1
	}
	rep, err := q.run(ctx, leaseScript, j, w.Worker, string(w.Lane), n, w.TTL.Microseconds(), rand.Text(), room, whatever)
	if err != nil {
		return nil, false, err
	}
	until := rep.time(2)
	for i := 3; i+4 <= len(rep); i += 4 {
		v := broker.Invocation{ID: broker.InvocationID(rep.text(i)), Payload: []byte(rep.text(i + 1))}
		l := broker.Lease{Job: j, Lane: w.Lane, Token: rep.text(i + 2), Until: until, TTL: w.TTL}
		if w.Lane == broker.LaneCallback {
			v.Payload = nil
		}
		text, more := strings.CutSuffix(rep.text(i+3), "+")
		var n [8]uint64
		for k := range n {
			var number string
			number, text, _ = strings.Cut(text, " ")
			n[k], _ = parseUint(number)
		}
		v.Priority, v.MaxAttempts = int(n[0]), int(n[1])
		v.Backoff, v.ResultTTL = broker.Backoff{First: time.Duration(n[2]), Max: time.Duration(n[3])}, time.Duration(n[4])
		l.Attempt, l.Enqueued = int(n[6]), fromMicros(n[7])
		if more {
			v.Order, v.Key = rep.text(i+4), rep.text(i+5)
			if n[5] > 0 {
				v.Callback = &broker.Callback{Document: []byte(rep.text(i + 6)), MaxAttempts: int(n[5])}
			}
			i += 3
		}
		l.Invocation = v
		ls = append(ls, l)
	}
	return ls, rep.number(1) == 1, nil
}

// statusWidth is how many elements a status is in a reply.
const statusWidth = 26

// rest is what a reply has of an invocation besides its status.
type rest struct {
	ttl, first, longest time.Duration
	calls               int // attempts of its callback; 0: it has none
	outcome             broker.Outcome
	why                 string
	letter              bool
}

// states are as they are packed.
var states = map[string]broker.State{"w": broker.StateWaiting, "l": broker.StateLeased, "d": broker.StateDone, "x": broker.StateDead}

// readStatus reads a status.
func readStatus(r reply) (broker.Status, rest) {
	callbacks := map[string]broker.CallbackState{"p": broker.CallbackPending, "d": broker.CallbackDone, "x": broker.CallbackDead}
	s := broker.Status{
		ID: broker.InvocationID(r.text(0)), State: states[r.text(1)], Attempts: int(r.number(2)), MaxAttempts: int(r.number(3)), Priority: int(r.number(4)),
		Order: r.text(5), Key: r.text(6), Enqueued: r.time(7), Worker: r.text(9), Until: r.time(10), Reason: r.text(11),
		Finished: r.time(12), Callback: callbacks[r.text(13)], CallbackAttempts: int(r.number(14)), CallbackReason: r.text(15),
		Expires: r.time(16), PayloadBytes: int(r.number(17)), ResultBytes: int(r.number(18)),
	}
	if s.State == broker.StateWaiting {
		s.Due = r.time(8)
	}
	return s, rest{
		ttl: time.Duration(r.number(19)), first: time.Duration(r.number(20)), longest: time.Duration(r.number(21)), calls: int(r.number(22)),
		outcome: broker.Outcome(r.text(23)), why: r.text(24), letter: r.number(25) == 1,
	}
}

// invocation is the invocation as it was enqueued.
func (m rest) invocation(s broker.Status, payload, document string) broker.Invocation {
	v := broker.Invocation{
		ID: s.ID, Payload: []byte(payload), Priority: s.Priority, Order: s.Order, Key: s.Key, MaxAttempts: s.MaxAttempts,
		Backoff: broker.Backoff{First: m.first, Max: m.longest}, ResultTTL: m.ttl,
	}
	if m.calls > 0 {
		v.Callback = &broker.Callback{Document: []byte(document), MaxAttempts: m.calls}
	}
	return v
}

// peek asks which of the jobs may have something, and when some other may have at the latest; 0: not by itself.
func (q *Queue) peek(ctx context.Context, lane broker.Lane, jobs []broker.Job) (ready []broker.Job, next time.Duration, err error) {
	replies := make([]reply, len(jobs))
	errs := together(len(jobs), func(i int) (err error) {
		replies[i], err = q.run(ctx, peekScript, jobs[i], string(lane))
		return err
	})
	if err := errors.Join(errs...); err != nil {
		return nil, 0, err
	}
	for i, rep := range replies {
		if rep.number(1) == 1 {
			ready = append(ready, jobs[i])
		}
		if d := micros(rep.number(2)); d > 0 && (next == 0 || d < next) {
			next = d
		}
	}
	return ready, next, nil
}

// longestWait is after what time Wait asks again, whatever happens: a message that something is ready may get lost.
const longestWait = time.Second

// Wait implements broker.Queue. It is told by the server when something is enqueued, and asks again once a second.
func (q *Queue) Wait(ctx context.Context, w broker.Want) error {
	if err := w.Check(); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	w.Lane = cmp.Or(w.Lane, broker.LaneRun)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		rung := q.bell.listen()
		ready, next, err := q.peek(ctx, w.Lane, w.Jobs)
		switch {
		case context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case len(ready) > 0:
			return nil
		}
		limit := longestWait
		if next > 0 {
			limit = min(limit, next)
		}
		pause(ctx, rung, limit)
	}
}

// Extend implements broker.Queue.
func (q *Queue) Extend(ctx context.Context, ls ...broker.Lease) ([]broker.Lease, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckExtensions(ls)); err != nil {
		return nil, fmt.Errorf("extend: %w", err)
	}
	ls = slices.Clone(ls)
	var jobs []broker.Job
	of := map[broker.Job][]int{}
	for i, l := range ls {
		if of[l.Job] == nil {
			jobs = append(jobs, l.Job)
		}
		of[l.Job] = append(of[l.Job], i)
	}
	errs := make([]error, len(ls))
	_ = together(len(jobs), func(n int) error { // each lease has its own error
		q.extend(ctx, jobs[n], of[jobs[n]], ls, errs)
		return nil
	})
	var extended []broker.Lease
	for i, l := range ls {
		if errs[i] == nil {
			extended = append(extended, l)
		}
	}
	return extended, errors.Join(errs...)
}

// extend extends those leases of one job, and sets their errors.
func (q *Queue) extend(ctx context.Context, j broker.Job, which []int, ls []broker.Lease, errs []error) {
	args := make([]any, 0, 4*len(which))
	for _, i := range which {
		args = append(args, string(ls[i].ID), string(ls[i].Lane), ls[i].Token, ls[i].TTL.Microseconds())
	}
	rep, err := q.runParts(ctx, extendScript, j, parts{args, len(which), len(which)})
	for n, i := range which {
		part := rep.part(1 + n)
		switch err := cmp.Or(err, q.newer(j, part)); {
		case err != nil:
			errs[i] = fmt.Errorf("extend %s: %w", ls[i].ID, err)
		case part.text(0) == "lost":
			errs[i] = &broker.LostError{Name: string(ls[i].ID), Index: i}
		}
		ls[i].Until = part.time(1)
	}
}

// Complete implements broker.Queue.
func (q *Queue) Complete(ctx context.Context, l broker.Lease, r broker.Result) error {
	if err := cmp.Or(context.Cause(ctx), l.Check(), r.Check()); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	return q.end(ctx, "complete", completeScript, l, string(r.Outcome), string(r.Payload), broker.CutReason(r.Reason))
}

// Release implements broker.Queue.
func (q *Queue) Release(ctx context.Context, l broker.Lease, r broker.Return) error {
	if err := cmp.Or(context.Cause(ctx), l.Check(), r.Check()); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	unstarted := 0
	if r.Unstarted {
		unstarted = 1
	}
	return q.end(ctx, "release", releaseScript, l, r.Delay.Microseconds(), broker.CutReason(r.Reason), unstarted)
}

// end ends a lease.
func (q *Queue) end(ctx context.Context, doing string, s *script, l broker.Lease, args ...any) error {
	args = append([]any{string(l.ID), string(l.Lane), l.Token}, args...)
	rep, err := q.runParts(ctx, s, l.Job, parts{args, 1, 1}, q.bell.channel, l.Job.String())
	rep = rep.part(1)
	switch err := cmp.Or(err, q.newer(l.Job, rep)); {
	case err != nil:
		return fmt.Errorf("%s %s: %w", doing, l.ID, err)
	case rep.text(0) == "lost":
		return fmt.Errorf("%s: %w", doing, &broker.LostError{Name: string(l.ID)})
	}
	return nil
}

// look reads an invocation, after time has done its work on it.
func (q *Queue) look(ctx context.Context, j broker.Job, id broker.InvocationID, doing, what, name string) (reply, error) {
	if err := cmp.Or(context.Cause(ctx), j.Check(), id.Check()); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	for {
		rep, err := q.run(ctx, statusScript, j, string(id), what)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s %s: %w", doing, id, err)
		case rep.text(0) == "missing":
			return nil, fmt.Errorf("%s %s of %s: %w", name, id, j, broker.ErrNotFound)
		case rep.text(0) == "ok":
			return rep[1:], nil
		}
		if err := q.settle(ctx, j, id); err != nil {
			return nil, fmt.Errorf("%s %s: %w", doing, id, err)
		}
	}
}

func (q *Queue) settle(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	_, err := q.run(ctx, settleScript, j, string(id))
	return err
}

// Status implements broker.Queue.
func (q *Queue) Status(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Status, error) {
	rep, err := q.look(ctx, j, id, "status", "status", "invocation")
	if err != nil {
		return broker.Status{}, err
	}
	s, _ := readStatus(rep)
	return s, nil
}

// Result implements broker.Queue.
func (q *Queue) Result(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Result, error) {
	rep, err := q.look(ctx, j, id, "result", "result", "result of invocation")
	if err != nil {
		return broker.Result{}, err
	}
	_, m := readStatus(rep)
	return broker.Result{Outcome: m.outcome, Payload: []byte(rep.text(statusWidth)), Reason: m.why}, nil
}

// Letter implements broker.Queue.
func (q *Queue) Letter(ctx context.Context, j broker.Job, id broker.InvocationID) (broker.Invocation, error) {
	rep, err := q.look(ctx, j, id, "letter", "letter", "dead letter")
	if err != nil {
		return broker.Invocation{}, err
	}
	s, m := readStatus(rep)
	return m.invocation(s, rep.text(statusWidth), rep.text(statusWidth+1)), nil
}

// Counts implements broker.Queue.
func (q *Queue) Counts(ctx context.Context, jobs ...broker.Job) ([]broker.Counts, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckJobs(jobs)); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	counts := make([]broker.Counts, len(jobs))
	errs := together(len(jobs), func(i int) error {
		r, err := q.run(ctx, countsScript, jobs[i])
		if err != nil {
			return err
		}
		counts[i] = broker.Counts{
			Waiting: int(r.number(1)), Ready: int(r.number(2)), Leased: int(r.number(3)), Dead: int(r.number(4)), Callbacks: int(r.number(5)), Oldest: r.time(6),
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("counts: %w", err)
	}
	return counts, nil
}

// Letters implements broker.Queue.
func (q *Queue) Letters(ctx context.Context, j broker.Job, after broker.InvocationID, limit int) ([]broker.Status, error) {
	if err := cmp.Or(context.Cause(ctx), j.Check()); err != nil {
		return nil, fmt.Errorf("letters: %w", err)
	}
	if limit <= 0 {
		limit = 100
	}
	rep, err := q.run(ctx, lettersScript, j, "("+string(after), strconv.Itoa(min(limit, broker.MaxBatch)))
	if err != nil {
		return nil, fmt.Errorf("letters: %w", err)
	}
	var list []broker.Status
	for i := 1; i+statusWidth <= len(rep); i += statusWidth {
		s, _ := readStatus(rep[i : i+statusWidth])
		list = append(list, s)
	}
	return list, nil
}

// Requeue implements broker.Queue.
func (q *Queue) Requeue(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return q.letter(ctx, "requeue", requeueScript, j, id, q.bell.channel, j.String())
}

// Discard implements broker.Queue.
func (q *Queue) Discard(ctx context.Context, j broker.Job, id broker.InvocationID) error {
	return q.letter(ctx, "discard", discardScript, j, id)
}

// letter does something to a dead letter.
func (q *Queue) letter(ctx context.Context, doing string, s *script, j broker.Job, id broker.InvocationID, args ...any) error {
	if err := cmp.Or(context.Cause(ctx), j.Check(), id.Check()); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := q.settle(ctx, j, id); err != nil {
		return fmt.Errorf("%s %s: %w", doing, id, err)
	}
	rep, err := q.run(ctx, s, j, append([]any{string(id)}, args...)...)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", doing, id, err)
	case rep.text(0) == "missing":
		return fmt.Errorf("%s: dead letter %s of %s: %w", doing, id, j, broker.ErrNotFound)
	}
	return nil
}

// Cancel implements broker.Queue.
func (q *Queue) Cancel(ctx context.Context, j broker.Job, id broker.InvocationID, reason string) error {
	if err := cmp.Or(context.Cause(ctx), j.Check(), id.Check()); err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	rep, err := q.run(ctx, cancelScript, j, string(id), broker.CutReason(reason), q.bell.channel, j.String())
	switch {
	case err != nil:
		return fmt.Errorf("cancel %s: %w", id, err)
	case rep.text(0) == "missing":
		return fmt.Errorf("cancel: invocation %s of %s: %w", id, j, broker.ErrNotFound)
	case rep.text(0) == "other":
		return fmt.Errorf("cancel: invocation %s of %s is %s: %w", id, j, states[rep.text(1)], broker.ErrNotWaiting)
	}
	return nil
}

// Purge implements broker.Queue.
func (q *Queue) Purge(ctx context.Context, j broker.Job) error {
	if err := cmp.Or(context.Cause(ctx), j.Check()); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	if _, err := q.run(ctx, purgeScript, j); err != nil {
		return fmt.Errorf("purge %s: %w", j, err)
	}
	return nil
}
