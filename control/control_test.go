package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// stand is a runner that runs nothing: it answers what its fields say and counts.
type stand struct {
	mu        sync.Mutex
	checkErr  error
	prepErr   error
	applyErr  error
	preparing func(wire.Assignment) // runs inside Prepare
	done      []bool
	applied   []uint64
}

func (r *stand) Check(_ context.Context, _, _ string, module io.Reader, size int64) (string, error) {
	n, err := io.Copy(io.Discard, module)
	if err != nil || n != size {
		return "", fmt.Errorf("read %d bytes of %d: %w", n, size, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return "command", r.checkErr
}

func (r *stand) Prepare(_ context.Context, a wire.Assignment) (func(bool), error) {
	r.mu.Lock()
	f, err := r.preparing, r.prepErr
	r.mu.Unlock()
	if f != nil {
		f(a)
	}
	if err != nil {
		return nil, err
	}
	return func(committed bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.done = append(r.done, committed)
	}, nil
}

func (r *stand) Applied(_ context.Context, revision uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = append(r.applied, revision)
	return r.applyErr
}

// world is a store over an embedded broker.
type world struct {
	*Store
	t      *testing.T
	dir    string
	broker *embedded.Store
	runner *stand
	clock  *clock.Manual
}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), runner: &stand{}, clock: clock.NewManual(epoch)}
	w.open(change...)
	t.Cleanup(func() { _ = w.broker.Close() })
	return w
}

func (w *world) open(change ...func(*Options)) {
	w.t.Helper()
	b, err := embedded.Open(w.dir, embedded.Options{Clock: w.clock})
	if err != nil {
		w.t.Fatal(err)
	}
	w.broker = b
	opts := Options{DataDir: w.dir, Clock: w.clock}
	for _, f := range change {
		f(&opts)
	}
	if w.Store, err = New(b.Records(), b.Blobs(), b.Buckets(), b.Queue(), w.runner, opts); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deploy(job, module string, m *manifest.Manifest) (Job, Version) {
	w.t.Helper()
	j, v, err := w.Deploy(w.t.Context(), "ann", job, strings.NewReader(module), m)
	if err != nil {
		w.t.Fatalf("deploy %s: %v", job, err)
	}
	return j, v
}

// wantProblem checks that an error has a problem with a status and code, and that its detail has each text in it.
func wantProblem(t *testing.T, err error, status int, code string, texts ...string) {
	t.Helper()
	var p *wire.Problem
	if !errors.As(err, &p) {
		t.Fatalf("error is %v, want a problem", err)
	}
	if p.Status != status || p.Code != code {
		t.Errorf("problem is %d %s (%s), want %d %s", p.Status, p.Code, p.Detail, status, code)
	}
	for _, text := range texts {
		if !strings.Contains(p.Detail, text) {
			t.Errorf("detail %q has no %q", p.Detail, text)
		}
	}
}

func TestADeployBecomesTheCurrentVersion(t *testing.T) {
	w := newWorld(t)
	j, v := w.deploy("hello", "module one", nil)
	if j.Name != "hello" || j.Current != 1 || j.Latest != 1 || j.Entitlement != "default" || j.ID == "" {
		t.Errorf("job is %+v", j)
	}
	if v.Number != 1 || v.Kind != "command" || v.Size != 10 || v.By != "ann" || !v.Created.Equal(epoch) {
		t.Errorf("version is %+v", v)
	}
	if r := v.Manifest.Routes; len(r) != 1 || r[0].Path != "/hello/" || v.Manifest.Limits.Memory == 0 {
		t.Errorf("the manifest was not filled in: %+v", v.Manifest)
	}
	if len(w.runner.done) != 1 || !w.runner.done[0] || len(w.runner.applied) != 1 || w.runner.applied[0] != j.Revision {
		t.Errorf("the runner saw done %v, applied %v; the job is at %d", w.runner.done, w.runner.applied, j.Revision)
	}
	gotJob, gotVersion, err := w.Job(t.Context(), "hello")
	if err != nil || gotJob != j || gotVersion.Module != v.Module {
		t.Errorf("Job answers %+v, %+v, %v", gotJob, gotVersion, err)
	}
	r, n, err := w.Module(t.Context(), v.Module)
	if err != nil || n != 10 {
		t.Fatalf("Module answers %d bytes, %v", n, err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); string(b) != "module one" || err != nil {
		t.Errorf("the module is %q, %v", b, err)
	}
}

func TestADeployKeepsWhatIsLeftOut(t *testing.T) {
	w := newWorld(t)
	_, first := w.deploy("hello", "one", &manifest.Manifest{Config: map[string]string{"greeting": "hi"}})
	_, second := w.deploy("hello", "two", nil)
	if second.Manifest.Config["greeting"] != "hi" || second.Module == first.Module {
		t.Errorf("a deploy without a manifest made %+v", second)
	}
	_, third, err := w.Deploy(t.Context(), "ann", "hello", nil, &manifest.Manifest{})
	if err != nil || third.Module != second.Module || len(third.Manifest.Config) != 0 || third.Kind != "command" {
		t.Errorf("a deploy without a module made %+v, %v", third, err)
	}
	_, _, err = w.Deploy(t.Context(), "ann", "other", nil, &manifest.Manifest{})
	wantProblem(t, err, 404, "job-unknown", "other")
}

func TestARefusedDeployLeavesNothing(t *testing.T) {
	refusal := &wire.Problem{Code: "module-invalid", Status: 422, Detail: "no module"}
	for name, c := range map[string]struct {
		job      string
		module   io.Reader
		manifest *manifest.Manifest
		checkErr error
		prepErr  error
		status   int
		code     string
	}{
		"a name that is no DNS label":     {job: "No_Label", module: strings.NewReader("x"), status: 400, code: "name-invalid"},
		"an empty module":                 {job: "a", module: strings.NewReader(""), status: 400, code: "module-empty"},
		"a module over the bound":         {job: "a", module: strings.NewReader(strings.Repeat("x", 1001)), status: 413, code: "module-too-large"},
		"a module that the check refuses": {job: "a", module: strings.NewReader("x"), checkErr: refusal, status: 422, code: "module-invalid"},
		"a version that does not start":   {job: "a", module: strings.NewReader("x"), prepErr: refusal, status: 422, code: "module-invalid"},
		"a manifest of another job":       {job: "a", module: strings.NewReader("x"), manifest: &manifest.Manifest{Name: "b"}, status: 422, code: "manifest-invalid"},
		"a manifest of another kind":      {job: "a", module: strings.NewReader("x"), manifest: &manifest.Manifest{Kind: "task"}, status: 422, code: "manifest-invalid"},
		"a command that keeps a sandbox":  {job: "a", module: strings.NewReader("x"), manifest: &manifest.Manifest{Isolation: "task"}, status: 422, code: "manifest-invalid"},
		"a manifest with a bad value":     {job: "a", module: strings.NewReader("x"), manifest: &manifest.Manifest{Isolation: "none"}, status: 422, code: "manifest-invalid"},
		"a route that is taken":           {job: "a", module: strings.NewReader("x"), manifest: &manifest.Manifest{Routes: []manifest.Route{{Path: "/taken/"}}}, status: 409, code: "route-taken"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.MaxModule = 1000 })
			w.deploy("taken", "y", nil)
			before, at, _ := w.broker.Records().List(t.Context(), broker.Range{})
			w.runner.mu.Lock()
			w.runner.checkErr, w.runner.prepErr = c.checkErr, c.prepErr
			w.runner.mu.Unlock()
			_, _, err := w.Deploy(t.Context(), "ann", c.job, c.module, c.manifest)
			wantProblem(t, err, c.status, c.code)
			if after, now, _ := w.broker.Records().List(t.Context(), broker.Range{}); now != at || len(after) != len(before) {
				t.Errorf("the records went from %s to %s", at, now)
			}
			w.clock.Advance(2 * time.Hour)
			if _, err := w.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := countBlobs(t, w); n != 1 {
				t.Errorf("%d blobs are left, want the other job's", n)
			}
		})
	}
}

func countBlobs(t *testing.T, w *world) int {
	t.Helper()
	n := 0
	for _, err := range w.broker.Blobs().List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func TestAModuleOfExactlyTheBoundIsTaken(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxModule = 1000 })
	if _, v := w.deploy("a", strings.Repeat("x", 1000), nil); v.Size != 1000 {
		t.Errorf("the module has %d bytes", v.Size)
	}
}

func TestARouteHasOneOwnerWhoIsNamed(t *testing.T) {
	w := newWorld(t)
	route := func(host, path string) *manifest.Manifest {
		return &manifest.Manifest{Routes: []manifest.Route{{Host: host, Path: path}}}
	}
	w.deploy("first", "x", route("", "/shop/"))
	_, _, err := w.Deploy(t.Context(), "ann", "second", strings.NewReader("x"), route("", "/shop/"))
	wantProblem(t, err, 409, "route-taken", "/shop/", "first")
	if !errors.Is(err, ErrConflict) {
		t.Errorf("%v is no ErrConflict", err)
	}
	w.deploy("second", "x", route("shop.example", "/shop/")) // on a host of its own
	w.deploy("first", "x", route("", "/moved/"))
	w.deploy("third", "x", route("", "/shop/")) // free since first moved
	_, _, err = w.Rollback(t.Context(), "ann", "first", 0)
	wantProblem(t, err, 409, "route-taken", "third")
	if err := w.Remove(t.Context(), "ann", "third"); err != nil {
		t.Fatal(err)
	}
	if j, _, err := w.Rollback(t.Context(), "ann", "first", 0); err != nil || j.Current != 1 {
		t.Errorf("Rollback answers %+v, %v", j, err)
	}
}

func TestConcurrentDeploysOfARouteGiveItToOne(t *testing.T) {
	w := newWorld(t)
	m := &manifest.Manifest{Routes: []manifest.Route{{Path: "/one/"}}}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, _, errs[i] = w.Deploy(t.Context(), "ann", fmt.Sprintf("job-%d", i), strings.NewReader("x"), m)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		wantProblem(t, err, 409, "route-taken", "/one/", "job-")
	}
	if won != 1 {
		t.Errorf("%d deploys got the route", won)
	}
}

func TestDeploysOfOneJobFollowEachOtherAndOthersDoNotWait(t *testing.T) {
	w := newWorld(t)
	inside, leave := make(chan struct{}, 10), make(chan struct{})
	w.runner.preparing = func(a wire.Assignment) {
		if a.Job == "slow" {
			inside <- struct{}{}
			<-leave
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, _, err := w.Deploy(t.Context(), "ann", "slow", strings.NewReader("x"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	<-inside
	w.deploy("quick", "x", nil) // while slow is being prepared
	select {
	case <-inside:
		t.Error("two deploys of one job are being prepared at once")
	default:
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Remove(ctx, "ann", "slow"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait for the job ended with %v", err)
	}
	close(leave)
	wg.Wait()
	if j, _, err := w.Job(t.Context(), "slow"); err != nil || j.Current != 3 {
		t.Errorf("the job is %+v, %v", j, err)
	}
}

// Programs before this one took manifests in which queue.concurrency is more than limits.concurrency, and kept them.
func TestAVersionThatAnOlderProgramTookIsGoneBackTo(t *testing.T) {
	w := newWorld(t)
	_, v := w.deploy("hello", "module 1", nil)
	v.Manifest.Queue.Concurrency = v.Manifest.Limits.Concurrency + 20
	refused := v.Manifest
	old, err := put(versionKey("hello", v.Number), v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{old}}); err != nil {
		t.Fatal(err)
	}
	if _, v := w.deploy("hello", "module 2", nil); v.Manifest.Queue.Concurrency != v.Manifest.Limits.Concurrency {
		t.Errorf("another module runs %d queued invocations at once, and %d in all", v.Manifest.Queue.Concurrency, v.Manifest.Limits.Concurrency)
	}
	if j, _, err := w.Rollback(t.Context(), "ann", "hello", 1); err != nil || j.Current != 1 {
		t.Errorf("Rollback answers %+v, %v", j, err)
	}
	_, _, err = w.Deploy(t.Context(), "ann", "hello", strings.NewReader("module 3"), &refused)
	wantProblem(t, err, 422, "manifest-invalid", "queue.concurrency")
}

func TestRollbackMakesAnEarlierVersionCurrent(t *testing.T) {
	w := newWorld(t)
	for i := range 4 {
		w.deploy("hello", fmt.Sprint("module ", i), nil)
	}
	for _, c := range []struct{ to, want uint64 }{{0, 3}, {0, 2}, {4, 4}, {1, 1}} {
		j, v, err := w.Rollback(t.Context(), "ann", "hello", c.to)
		if err != nil || j.Current != c.want || v.Number != c.want || j.Latest != 4 {
			t.Errorf("Rollback to %d answers %+v, %v", c.to, j, err)
		}
	}
	_, _, err := w.Rollback(t.Context(), "ann", "hello", 0)
	wantProblem(t, err, 409, "version-none", "1")
	_, _, err = w.Rollback(t.Context(), "ann", "hello", 1)
	wantProblem(t, err, 409, "version-current")
	_, _, err = w.Rollback(t.Context(), "ann", "hello", 9)
	wantProblem(t, err, 404, "version-unknown", "1, 2, 3, 4")
	_, _, err = w.Rollback(t.Context(), "ann", "nobody", 0)
	wantProblem(t, err, 404, "job-unknown")
	if _, v := w.deploy("hello", "module 5", nil); v.Number != 5 {
		t.Errorf("the next deploy is version %d", v.Number)
	}
}

func TestOldVersionsArePrunedWithTheirModules(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.KeepVersions = 3 })
	for i := range 6 {
		w.deploy("hello", fmt.Sprint("module ", i), nil)
	}
	vs, err := w.Versions(t.Context(), "hello")
	if err != nil || len(vs) != 4 || vs[0].Number != 6 || vs[3].Number != 3 {
		t.Fatalf("versions are %+v, %v", vs, err)
	}
	if n, err := w.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("%d blobs were swept within the grace period, %v", n, err)
	}
	w.clock.Advance(2 * time.Hour)
	if n, err := w.Sweep(t.Context()); n != 2 || err != nil {
		t.Errorf("%d blobs were swept, %v", n, err)
	}
	if _, _, err := w.Rollback(t.Context(), "ann", "hello", 3); err != nil {
		t.Error(err)
	}
}

func TestARemovedJobLeavesNothingToItsNameSake(t *testing.T) {
	w := newWorld(t)
	w.deploy("hello", "x", &manifest.Manifest{Capabilities: policy.Capabilities{KV: []string{"book"}}})
	if err := w.SetSecret(t.Context(), "ann", "hello", "KEY", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.KVPut(t.Context(), "hello", "book", "k", []byte("v"), nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(t.Context(), "ann", "hello"); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.Job(t.Context(), "hello")
	wantProblem(t, err, 404, "job-unknown", "hello")
	wantProblem(t, w.Remove(t.Context(), "ann", "hello"), 404, "job-unknown")
	if _, err := w.KVGet(t.Context(), "hello", "book", "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the bucket of a removed job answers %v", err)
	}
	w.deploy("hello", "x", nil)
	if names, err := w.Secrets(t.Context(), "hello"); len(names) != 0 || err != nil {
		t.Errorf("secrets are %v, %v", names, err)
	}
	if _, err := w.KVGet(t.Context(), "hello", "book", "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the new job sees the old one's data: %v", err)
	}
	if _, err := w.KVPut(t.Context(), "hello", "book", "k", []byte("new"), new(uint64)); err != nil {
		t.Error(err)
	}
	if _, err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names, err := w.broker.Buckets().Names(t.Context(), ""); len(names) != 1 || err != nil {
		t.Errorf("buckets after a sweep are %v, %v", names, err)
	}
}

func TestADeployThatNoWorkerConfirmsIsStoredAndSaysSo(t *testing.T) {
	w := newWorld(t)
	w.runner.applyErr = errors.New("no worker")
	j, v, err := w.Deploy(t.Context(), "ann", "hello", strings.NewReader("x"), nil)
	if !errors.Is(err, ErrUnconfirmed) || !strings.Contains(err.Error(), "stored and current") || j.Current != 1 || v.Number != 1 {
		t.Errorf("Deploy answers %+v, %+v, %v", j, v, err)
	}
	if err := w.Remove(t.Context(), "ann", "hello"); !errors.Is(err, ErrUnconfirmed) {
		t.Errorf("Remove answers %v", err)
	}
	if _, _, err := w.Job(t.Context(), "hello"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after it: %v", err)
	}
}

func TestAFailedCommitGivesThePreparedVersionUp(t *testing.T) {
	w := newWorld(t)
	w.runner.preparing = func(wire.Assignment) { _ = w.broker.Close() }
	if _, _, err := w.Deploy(t.Context(), "ann", "hello", strings.NewReader("x"), nil); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("Deploy answers %v", err)
	}
	if len(w.runner.done) != 1 || w.runner.done[0] {
		t.Errorf("the runner was told %v", w.runner.done)
	}
}

func TestAssignmentsAreFollowed(t *testing.T) {
	w := newWorld(t)
	w.deploy("a", "1", nil)
	all, at, err := w.Assignments(t.Context())
	if err != nil || len(all) != 1 || all[0].Job != "a" || all[0].Version != 1 || !bytes.Contains(all[0].Manifest, []byte(`"/a/"`)) {
		t.Fatalf("Assignments answers %+v, %v", all, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes := w.WatchAssignments(ctx, at)
	j, _ := w.deploy("a", "2", nil)
	if c := <-changes; c.Revision != j.Revision || c.Job != "a" || c.Reset || c.Assignment == nil || c.Assignment.Version != 2 {
		t.Errorf("after a deploy the change is %+v", c)
	}
	if _, _, err := w.Rollback(ctx, "ann", "a", 1); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Assignment == nil || c.Assignment.Version != 1 {
		t.Errorf("after a rollback the change is %+v", c)
	}
	if err := w.Remove(ctx, "ann", "a"); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Assignment != nil || c.Job != "a" || c.Revision == 0 {
		t.Errorf("after a removal the change is %+v", c)
	}
	cancel()
	if c, ok := <-changes; ok {
		t.Errorf("after the end came %+v", c)
	}
	w.deploy("b", "1", nil)
	if c := <-w.WatchAssignments(t.Context(), 0); !c.Reset || len(c.All) != 1 || c.All[0].Job != "b" {
		t.Errorf("from the beginning comes %+v", c)
	}
	if c := <-w.WatchAssignments(t.Context(), 1<<40); !c.Reset {
		t.Errorf("from a revision that never was comes %+v", c)
	}
}

func TestAWatcherOfARevisionBeforeARestartIsReset(t *testing.T) {
	w := newWorld(t)
	w.deploy("a", "1", nil)
	_, at, _ := w.Assignments(t.Context())
	w.deploy("a", "2", nil)
	_ = w.broker.Close()
	w.open()
	if c := <-w.WatchAssignments(t.Context(), at); !c.Reset || len(c.All) != 1 || c.All[0].Version != 2 {
		t.Errorf("the change is %+v", c)
	}
}

func TestBucketsHaveAQuota(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Quota = 1000 })
	w.deploy("hello", "x", nil)
	if _, err := w.KVPut(t.Context(), "hello", "b", "k", make([]byte, 900), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.KVPut(t.Context(), "hello", "b", "k2", make([]byte, 100), nil); !errors.Is(err, broker.ErrQuota) {
		t.Errorf("over the quota: %v", err)
	}
	if list, err := w.KVList(t.Context(), "hello", "b", "", "", 0); err != nil || len(list) != 1 {
		t.Errorf("KVList answers %v, %v", list, err)
	}
	if err := w.KVDelete(t.Context(), "hello", "b", "k", nil); err != nil {
		t.Error(err)
	}
}

func TestFilesWithSecretsAreTheOwners(t *testing.T) {
	w := newWorld(t)
	if err := w.Bootstrap(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"token", "secret.key", "records.db", "buckets.db"} {
		info, err := os.Stat(filepath.Join(w.dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}
