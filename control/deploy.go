package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/ids"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// state is a job as a change found it. The zero state is no job.
type state struct {
	job     Job
	version Version // the current one
}

func (c state) exists() bool { return c.job.Revision != 0 }

func checkName(job string) error {
	if err := manifest.CheckName(job); err != nil {
		return refuse(http.StatusBadRequest, "name-invalid", "Invalid name", "a job's name is a DNS label: %v", err)
	}
	return nil
}

// load reads a job and its current version; no job is no error.
func (s *Store) load(ctx context.Context, name string) (state, error) {
	// A rollback or deploy in between may prune the version that was current: then there is another one to read.
	for range 10 {
		r, err := s.records.Get(ctx, jobKey(name))
		if errors.Is(err, broker.ErrNotFound) {
			return state{}, nil
		}
		if err != nil {
			return state{}, err
		}
		job, err := decode[Job](r)
		if err != nil {
			return state{}, err
		}
		job.Revision = r.Revision
		v, err := s.version(ctx, name, job.Current)
		if errors.Is(err, broker.ErrNotFound) {
			continue
		}
		return state{job, v}, err
	}
	return state{}, fmt.Errorf("job %s: its current version is missing: %w", name, broker.ErrCorrupt)
}

// hold keeps other changes of a job away until unlock is called, and reads it; no job is no error.
func (s *Store) hold(ctx context.Context, job string) (now state, unlock func(), err error) {
	if unlock, err = s.jobs.lock(ctx, job); err != nil {
		return state{}, nil, err
	}
	if now, err = s.load(ctx, job); err != nil {
		unlock()
		return state{}, nil, err
	}
	return now, unlock, nil
}

func (s *Store) version(ctx context.Context, job string, n uint64) (Version, error) {
	r, err := s.records.Get(ctx, versionKey(job, n))
	if err != nil {
		return Version{}, err
	}
	return decode[Version](r)
}

// errTooLarge ends an upload over the bound.
var errTooLarge = errors.New("the module is too large")

// bounded reads at most left bytes, and fails if there are more.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	// One more byte than is left tells a module of exactly the bound from a larger one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, errTooLarge
	}
	return n, err
}

// uploadsBehind is how many uploads at once have a thread each. A client may take its time, and Go does not survive ten thousand threads.
const uploadsBehind = 64

// upload stores a module's bytes. Reading, hashing and writing megabytes, again and again, is nothing that requests should wait for: it is behind them.
func (s *Store) upload(ctx context.Context, module io.Reader) (blob broker.Blob, err error) {
	put := func() (err error) {
		blob, err = s.blobs.Put(ctx, processor.Courteous(&bounded{module, s.opts.MaxModule}))
		return err
	}
	select {
	case s.behind <- struct{}{}:
		err = func() error {
			defer func() { <-s.behind }()
			return processor.Behind(put)
		}()
	default:
		err = put()
	}
	switch {
	case errors.Is(err, errTooLarge):
		return blob, refuse(http.StatusRequestEntityTooLarge, "module-too-large", "Module too large",
			"the module has more than %d bytes, which is the most this server takes; strip its debug sections, or raise the server's limit", s.opts.MaxModule)
	case err == nil && blob.Size == 0:
		return blob, refuse(http.StatusBadRequest, "module-empty", "Empty module", "the request has no body; send the bytes of a .wasm file")
	}
	return blob, storage(err)
}

// check validates stored bytes and has them compiled for the engine that m names.
func (s *Store) check(ctx context.Context, m *manifest.Manifest, blob broker.Blob) (kind string, err error) {
	r, err := s.blobs.Open(ctx, blob.Digest)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return s.runner.Check(ctx, m.Engine, string(blob.Digest), r, blob.Size)
}

// Deploy makes a new version of a job current, and the job if there is none. A nil module keeps the current one, a nil m
// the current manifest (or the default). It returns once the workers serve it. Before the commit, an error leaves
// nothing behind; if only the workers have not confirmed in time, the job and version come with ErrUnconfirmed.
func (s *Store) Deploy(ctx context.Context, by, job string, module io.Reader, m *manifest.Manifest) (Job, Version, error) {
	if err := checkName(job); err != nil {
		return Job{}, Version{}, err
	}
	var blob broker.Blob
	if module != nil {
		// Before the lock: a slow upload must not keep others from deploying the job.
		var err error
		if blob, err = s.upload(ctx, module); err != nil {
			return Job{}, Version{}, err
		}
	}
	now, unlock, err := s.hold(ctx, job)
	if err != nil {
		return Job{}, Version{}, err
	}
	defer unlock()
	if m == nil {
		m = effective(now.version.Manifest) // of a new job: the zero manifest
	}
	next := Version{Schema: schema, Job: job, Number: now.job.Latest + 1, Created: s.opts.Clock.Now().UTC(), By: by}
	switch {
	case module != nil:
		if next.Kind, err = s.check(ctx, m, blob); err != nil {
			return Job{}, Version{}, err
		}
		next.Module, next.Size = string(blob.Digest), blob.Size
	case now.exists():
		next.Module, next.Size, next.Kind = now.version.Module, now.version.Size, now.version.Kind
	default:
		return Job{}, Version{}, unknownJob(job)
	}
	if next.Manifest, err = s.settle(m, job, next.Kind); err != nil {
		return Job{}, Version{}, err
	}
	return s.release(ctx, by, AuditDeploy, now, next, true)
}

// settle answers a copy of a manifest with everything filled in and checked.
func (s *Store) settle(m *manifest.Manifest, job, kind string) (manifest.Manifest, error) {
	invalid := func(format string, args ...any) (manifest.Manifest, error) {
		return manifest.Manifest{}, refuse(http.StatusUnprocessableEntity, "manifest-invalid", "Invalid manifest", format, args...)
	}
	b, err := m.JSON()
	if err != nil {
		return invalid("%w", err)
	}
	own, err := manifest.ParseJSON(b)
	if err != nil {
		return invalid("%w", err)
	}
	if own.Name != "" && own.Name != job {
		return invalid("the manifest is of job %s, but was sent to job %s", strconv.Quote(own.Name), strconv.Quote(job))
	}
	if own.Kind != "" && own.Kind != kind {
		return invalid("the manifest says that the module is a %s, but it is a %s; leave out kind, or deploy another module", own.Kind, kind)
	}
	own.Fill(job)
	// What holds for one kind only holds for a module of that kind, also if the manifest leaves out which it is.
	whole := *own
	whole.Kind = kind
	if err := whole.Validate(s.opts.Table); err != nil {
		return invalid("%w", err)
	}
	return *own, nil
}

// effective is the manifest of a version that is kept, as it works. Programs before this one took more queue.concurrency than limits.concurrency, which
// never was more than that: it is refused to who writes it now, but nobody should have to rewrite a manifest to roll back.
func effective(m manifest.Manifest) *manifest.Manifest {
	if most := m.Limits.Concurrency; most > 0 {
		m.Queue.Concurrency = min(m.Queue.Concurrency, most)
	}
	return &m
}

// Rollback makes an earlier version current: number to, or with 0 the one before the current one.
func (s *Store) Rollback(ctx context.Context, by, job string, to uint64) (Job, Version, error) {
	if err := checkName(job); err != nil {
		return Job{}, Version{}, err
	}
	now, unlock, err := s.hold(ctx, job)
	if err != nil {
		return Job{}, Version{}, err
	}
	defer unlock()
	if !now.exists() {
		return Job{}, Version{}, unknownJob(job)
	}
	kept, err := s.Versions(ctx, job)
	if err != nil {
		return Job{}, Version{}, err
	}
	var next *Version
	for i := range kept { // the newest first
		if kept[i].Number == to || to == 0 && kept[i].Number < now.job.Current {
			next = &kept[i]
			break
		}
	}
	switch {
	case next == nil && to == 0:
		return Job{}, Version{}, refuse(http.StatusConflict, "version-none", "No earlier version", "version %d of job %s is the earliest that is kept", now.job.Current, job)
	case next == nil:
		return Job{}, Version{}, refuse(http.StatusNotFound, "version-unknown", "Unknown version", "job %s has no version %d; those kept are %s", job, to, numbers(kept))
	case next.Number == now.job.Current:
		return Job{}, Version{}, refuse(http.StatusConflict, "version-current", "Version is current", "version %d of job %s is the current one already", to, job)
	}
	// The version was checked when it was deployed, maybe by an older program that allowed more.
	if _, err := s.settle(effective(next.Manifest), job, next.Kind); err != nil {
		return Job{}, Version{}, err
	}
	return s.release(ctx, by, AuditRollback, now, *next, false)
}

func numbers(vs []Version) string {
	text := ""
	for i := len(vs) - 1; i >= 0; i-- {
		if text != "" {
			text += ", "
		}
		text += strconv.FormatUint(vs[i].Number, 10)
	}
	return text
}

func assignment(j Job, v Version) (wire.Assignment, error) {
	m, err := v.Manifest.JSON()
	if err != nil {
		return wire.Assignment{}, err
	}
	return wire.Assignment{Schema: wire.Schema, Job: v.Job, ID: j.ID, Entitlement: entitlement, Version: v.Number, Module: v.Module, Manifest: json.RawMessage(m)}, nil
}

// release gets a version ready, makes it current in one commit, and waits until it is served. The job's lock is held.
func (s *Store) release(ctx context.Context, by, kind string, now state, next Version, fresh bool) (Job, Version, error) {
	plan := func() (Job, broker.Commit, error) { return s.planRelease(ctx, by, kind, now, next, fresh) }
	job, commit, err := plan() // refuses a taken route before a worker has any trouble with it
	if err != nil {
		return Job{}, Version{}, err
	}
	a, err := assignment(job, next)
	if err != nil {
		return Job{}, Version{}, err
	}
	done, err := s.runner.Prepare(ctx, a)
	if err != nil {
		return Job{}, Version{}, err
	}
	committed := false
	defer func() { done(committed) }()
	if _, err := s.blobs.Stat(ctx, broker.Digest(next.Module)); err != nil {
		return Job{}, Version{}, fmt.Errorf("version %d of job %s: its module: %w", next.Number, next.Job, err)
	}
	var at broker.Revision
	// A conflict over a route is settled by looking at the routes again: then it has an owner to name, or is free.
	for attempt := 0; ; attempt++ {
		at, err = s.records.Commit(ctx, commit)
		var c *broker.ConflictError
		if err == nil || !errors.As(err, &c) {
			break
		}
		if c.Key == jobKey(next.Job) || attempt == 3 {
			return Job{}, Version{}, refuse(http.StatusConflict, "job-changed", "Job has changed", "job %s was changed at the same time; look at it and try again", next.Job)
		}
		if job, commit, err = plan(); err != nil {
			return Job{}, Version{}, err
		}
	}
	if err != nil {
		return Job{}, Version{}, storage(fmt.Errorf("commit version %d of job %s: %w", next.Number, next.Job, err))
	}
	committed = true
	job.Revision = at.Number
	s.audited(ctx, 1)
	if err := s.runner.Applied(ctx, at.Number); err != nil {
		return job, next, fmt.Errorf("version %d of job %s is stored and current, but %w: %w", next.Number, next.Job, ErrUnconfirmed, err)
	}
	return job, next, nil
}

// planRelease makes the commit: the job, the version, its routes, what is pruned for it, and the audit entry.
func (s *Store) planRelease(ctx context.Context, by, kind string, now state, next Version, fresh bool) (Job, broker.Commit, error) {
	at := s.opts.Clock.Now().UTC()
	job := now.job
	if !now.exists() {
		job = Job{Schema: schema, ID: ids.New(), Name: next.Job, Entitlement: entitlement, Created: at}
	}
	job.Current, job.Latest, job.Updated = next.Number, max(job.Latest, next.Number), at
	c := broker.Commit{Conditions: []broker.Condition{{Key: jobKey(next.Job), Revision: now.job.Revision}}}
	if err := s.planRoutes(ctx, &c, now, next); err != nil {
		return Job{}, c, err
	}
	if err := s.planSchedules(ctx, &c, job, next); err != nil {
		return Job{}, c, err
	}
	docs := map[string]any{jobKey(next.Job): job}
	if fresh {
		docs[versionKey(next.Job, next.Number)] = next
		kept, err := s.Versions(ctx, next.Job)
		if err != nil {
			return Job{}, c, err
		}
		for i, v := range kept { // the newest first
			if i >= s.opts.KeepVersions {
				c.Writes = append(c.Writes, remove(versionKey(v.Job, v.Number)))
			}
		}
	}
	entry := s.entry(AuditEntry{Kind: kind, By: by, Job: next.Job, Version: next.Number, Detail: "module " + next.Module})
	docs[auditPrefix+entry.ID] = entry
	for key, doc := range docs {
		w, err := put(key, doc)
		if err != nil {
			return Job{}, c, err
		}
		if len(w.Value) > broker.MaxValue {
			return Job{}, c, refuse(http.StatusRequestEntityTooLarge, "manifest-too-large", "Manifest too large", "the manifest has %d bytes, of at most %d", len(w.Value), broker.MaxValue)
		}
		c.Writes = append(c.Writes, w)
	}
	return job, c, nil
}

// claim is the record of a route.
type claim struct {
	Schema int    `json:"schema"`
	Job    string `json:"job"`
}

// planRoutes claims the routes of the next version and gives up those of the current one that it has not.
func (s *Store) planRoutes(ctx context.Context, c *broker.Commit, now state, next Version) error {
	want := make(map[string]bool)
	for _, r := range next.Manifest.Routes {
		key := routeKey(r)
		if want[key] {
			continue
		}
		want[key] = true
		rec, err := s.records.Get(ctx, key)
		if errors.Is(err, broker.ErrNotFound) {
			c.Conditions = append(c.Conditions, broker.Condition{Key: key})
			w, err := put(key, claim{schema, next.Job})
			if err != nil {
				return err
			}
			c.Writes = append(c.Writes, w)
			continue
		}
		if err != nil {
			return err
		}
		owner, err := decode[claim](rec)
		if err != nil {
			return err
		}
		if owner.Job != next.Job {
			return refuse(http.StatusConflict, "route-taken", "Route is taken", "%s belongs to job %s; choose another route in the manifest, or remove that job", r.Host+r.Path, owner.Job)
		}
		c.Conditions = append(c.Conditions, broker.Condition{Key: key, Revision: rec.Revision})
	}
	if now.exists() {
		for _, r := range now.version.Manifest.Routes {
			if key := routeKey(r); !want[key] {
				want[key] = true
				c.Writes = append(c.Writes, remove(key))
			}
		}
	}
	return nil
}

// Remove deletes a job with its versions, routes, secrets and all that is queued for it, results included. Its buckets are swept
// later; a new job of the same name does not see them. ErrUnconfirmed means that the job is gone, but may be served until a worker hears of it.
func (s *Store) Remove(ctx context.Context, by, job string) error {
	if err := checkName(job); err != nil {
		return err
	}
	now, unlock, err := s.hold(ctx, job)
	if err != nil {
		return err
	}
	defer unlock()
	if !now.exists() {
		return unknownJob(job)
	}
	c := broker.Commit{Conditions: []broker.Condition{{Key: jobKey(job), Revision: now.job.Revision}}, Writes: []broker.Write{remove(jobKey(job))}}
	for _, prefix := range []string{versionsOf(job), secretsOf(job)} {
		list, _, err := s.records.List(ctx, broker.Range{Prefix: prefix})
		if err != nil {
			return err
		}
		for _, r := range list {
			c.Writes = append(c.Writes, remove(r.Key))
		}
	}
	if err := s.planRoutes(ctx, &c, now, Version{Job: job}); err != nil {
		return err
	}
	if err := s.planSchedules(ctx, &c, now.job, Version{Job: job}); err != nil {
		return err
	}
	entry := s.entry(AuditEntry{Kind: AuditRemove, By: by, Job: job, Version: now.job.Current})
	for key, doc := range map[string]any{auditPrefix + entry.ID: entry, purgesPrefix + now.job.ID: purge{schema, s.opts.Clock.Now().UTC()}} {
		w, err := put(key, doc)
		if err != nil {
			return err
		}
		c.Writes = append(c.Writes, w)
	}
	at, err := s.records.Commit(ctx, c)
	switch {
	case errors.Is(err, broker.ErrConflict):
		return refuse(http.StatusConflict, "job-changed", "Job has changed", "job %s was changed at the same time; look at it and try again", job)
	case err != nil:
		return storage(fmt.Errorf("remove job %s: %w", job, err))
	}
	s.audited(ctx, 1)
	if err := s.queue.Purge(ctx, JobQueue(now.job)); err != nil {
		s.opts.Log.Error("the queue of a removed job is left for the next sweep", "job", job, "err", err)
	}
	if err := s.runner.Applied(ctx, at.Number); err != nil {
		return fmt.Errorf("job %s is removed, but %w: %w", job, ErrUnconfirmed, err)
	}
	return nil
}
