package control

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/ids"
)

// Bounds of what guests can cause to be written: a job's share leaves room for others, and all of them together cost
// a disk at most a few commits a second.
const (
	deniedWindow = time.Minute
	deniedPerJob = 20  // entries of a job in a window, and the first of each function
	deniedInAll  = 200 // entries of all jobs in a window
	deniedJobs   = 4096
	// deniedFunctions is how many functions of a job are told apart in a window: about as many as there are that a guest can call.
	deniedFunctions = 64
	maxFunction     = 128  // bytes by which a function is known
	maxDetail       = 1024 // bytes of an entry's detail; what is longer is cut
)

// limiter decides which of the host calls of one kind, denied or observed, are written down, and counts the others.
type limiter struct {
	mu    sync.Mutex
	began time.Time // of the window
	all   int
	jobs  map[string]*share
}

type share struct {
	written   int
	functions map[string]bool // that were written in the window; the bound of all jobs' entries bounds them all together
	omitted   uint64
}

// omit counts n more; a worker may say any number.
func (s *share) omit(n uint64) {
	if s.omitted += n; s.omitted < n {
		s.omitted = math.MaxUint64
	}
}

func newLimiter() *limiter { return &limiter{jobs: make(map[string]*share)} }

func (l *limiter) windowLocked(now time.Time) {
	if d := now.Sub(l.began); d >= 0 && d < deniedWindow {
		return
	}
	l.began, l.all = now, 0
	for job, s := range l.jobs {
		if s.written, s.functions = 0, nil; s.omitted == 0 {
			delete(l.jobs, job)
		}
	}
}

func (l *limiter) shareLocked(job string) *share {
	s := l.jobs[job]
	if s == nil {
		if len(l.jobs) >= deniedJobs {
			job = ""
			s = l.jobs[job]
		}
		if s == nil {
			s = &share{}
			l.jobs[job] = s
		}
	}
	return s
}

// allow reports whether an entry of a job is written, and how many were left out before it, with those that whoever made the entry left out.
// The first of a function in a window does not need the job's share.
func (l *limiter) allow(job, function string, before uint64, now time.Time) (ok bool, omitted uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.windowLocked(now)
	s := l.shareLocked(job)
	s.omit(before)
	function = function[:min(len(function), maxFunction)]
	first := !s.functions[function] && len(s.functions) < deniedFunctions
	if s.written >= deniedPerJob && !first || l.all >= deniedInAll {
		s.omit(1)
		return false, 0
	}
	if first {
		if s.functions == nil {
			s.functions = make(map[string]bool)
		}
		s.functions[strings.Clone(function)] = true
	}
	s.written++
	l.all++
	omitted, s.omitted = s.omitted, 0
	return true, omitted
}

// omit counts n entries of a job that nobody will make.
func (l *limiter) omit(job string, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shareLocked(job).omit(n)
}

// drain answers what was left out in earlier windows, by job.
func (l *limiter) drain(now time.Time) map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := now.Sub(l.began); d >= 0 && d < deniedWindow {
		return nil
	}
	out := make(map[string]uint64)
	for job, s := range l.jobs {
		if s.omitted > 0 && len(out) < deniedInAll {
			out[job], s.omitted = s.omitted, 0
		}
	}
	l.windowLocked(now)
	return out
}

// entry completes an audit entry.
func (s *Store) entry(e AuditEntry) AuditEntry {
	e.Schema = schema
	if e.ID == "" {
		e.ID = ids.New()
	}
	if e.Time.IsZero() {
		e.Time = s.opts.Clock.Now()
	}
	e.Time = e.Time.UTC()
	for _, f := range []*string{&e.Kind, &e.By, &e.Job, &e.Invocation, &e.Detail} {
		if len(*f) > maxDetail {
			*f = strings.ToValidUTF8((*f)[:maxDetail], "") + "…"
		}
	}
	return e
}

// commitAudited makes a change together with its audit entry.
func (s *Store) commitAudited(ctx context.Context, e AuditEntry, conditions []broker.Condition, writes ...broker.Write) error {
	e = s.entry(e)
	w, err := put(auditPrefix+e.ID, e)
	if err != nil {
		return err
	}
	if _, err := s.records.Commit(ctx, broker.Commit{Conditions: conditions, Writes: append(writes, w)}); err != nil {
		return storage(err)
	}
	s.audited(ctx, 1)
	return nil
}

// audited counts n new entries, and deletes the oldest once there are too many.
func (s *Store) audited(ctx context.Context, n int) {
	// A twentieth more than is kept may gather, so that not every entry costs a second commit.
	slack := s.opts.KeepAudit/20 + 1
	s.mu.Lock()
	s.entries += n
	excess := 0
	if s.entries > s.opts.KeepAudit+slack {
		excess = min(s.entries-s.opts.KeepAudit, broker.MaxCommitItems/2)
		s.entries -= excess
	}
	s.mu.Unlock()
	if excess == 0 {
		return
	}
	if err := s.prune(context.WithoutCancel(ctx), excess); err != nil {
		s.opts.Log.Error("pruning the audit log failed", "err", err)
	}
}

func (s *Store) prune(ctx context.Context, n int) error {
	oldest, _, err := s.records.List(ctx, broker.Range{Prefix: auditPrefix, Limit: n})
	if err != nil {
		return err
	}
	var c broker.Commit
	for _, r := range oldest {
		c.Writes = append(c.Writes, remove(r.Key))
	}
	_, err = s.records.Commit(ctx, c)
	return err
}

// Audit adds an entry to the log. Entries of AuditDenied and AuditObserved are bounded in rate, per job and over all; what is left out is
// counted, in the next entry of the job or in one of its own. One of these without a Detail is not written: its Omitted is counted.
func (s *Store) Audit(ctx context.Context, e AuditEntry) error {
	if e.Kind == "" {
		return fmt.Errorf("audit: an entry without a kind: %w", broker.ErrInvalid)
	}
	if l := s.sampled[e.Kind]; l != nil {
		if e.Detail == "" && e.Omitted > 0 {
			l.omit(e.Job, e.Omitted)
			return nil
		}
		ok, omitted := l.allow(e.Job, e.Function, e.Omitted, s.opts.Clock.Now())
		if !ok {
			return nil
		}
		e.Omitted = omitted
	}
	if err := s.commitAudited(ctx, e, nil); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// writeOmitted writes down what was left out when no later entry has said so.
func (s *Store) writeOmitted(ctx context.Context) error {
	var c broker.Commit
	for kind, l := range s.sampled {
		for job, n := range l.drain(s.opts.Clock.Now()) {
			e := s.entry(AuditEntry{Kind: kind, Job: job, Omitted: n})
			w, err := put(auditPrefix+e.ID, e)
			if err != nil {
				return err
			}
			c.Writes = append(c.Writes, w)
		}
	}
	if len(c.Writes) == 0 {
		return nil
	}
	if _, err := s.records.Commit(ctx, c); err != nil {
		return err
	}
	s.audited(ctx, len(c.Writes))
	return nil
}

// AuditLog answers entries, the newest first.
func (s *Store) AuditLog(ctx context.Context, f AuditFilter) ([]AuditEntry, error) {
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	records, _, err := s.records.List(ctx, broker.Range{Prefix: auditPrefix})
	if err != nil {
		return nil, err
	}
	var entries []AuditEntry
	for _, r := range slices.Backward(records) {
		e, err := decode[AuditEntry](r)
		if err != nil {
			return nil, err
		}
		if f.Job != "" && e.Job != f.Job || f.Kind != "" && e.Kind != f.Kind || f.By != "" && e.By != f.By ||
			!f.Since.IsZero() && e.Time.Before(f.Since) || !f.Until.IsZero() && !e.Time.Before(f.Until) {
			continue
		}
		if entries = append(entries, e); len(entries) == f.Limit {
			break
		}
	}
	return entries, nil
}
