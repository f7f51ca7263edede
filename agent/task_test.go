package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// tinyAgent is an agent without a control process, and the code of a tiny task that makes so many pages of 4 KiB its own.
func tinyAgent(t testing.TB, opts Options, pages uint32) (*Agent, *runtime.Module) {
	t.Helper()
	opts.Link = new(Link)
	a, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	code, err := a.engines.first.Compile(t.Context(), wasmtest.Task(wasmtest.TaskResponse(200, "Content-Type", "text/plain", "hello"), pages))
	if err != nil {
		t.Fatal(err)
	}
	return a, code
}

// serveTiny has a serve the code as a job.
func serveTiny(t testing.TB, a *Agent, code *runtime.Module, name string, concurrency int) *task {
	t.Helper()
	m := &manifest.Manifest{Limits: manifest.Limits{Concurrency: concurrency}}
	m.Fill(name)
	task, err := a.newTask(wire.Assignment{Job: name, Version: 1}, m, &loadedModule{agent: a, users: 1}, code)
	if err != nil {
		t.Fatal(err)
	}
	first, err := task.make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	task.discard(first) // the image was taken of it
	a.mu.Lock()
	j := a.jobLocked(name)
	a.installLocked(j, task)
	a.mu.Unlock()
	j.running.reported.Store(true) // there is nobody to tell
	return task
}

// discard is a client that looks at the status only.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

func ask(a *Agent, job string) error {
	w := &discard{header: http.Header{}}
	_, err := a.Serve(job, guest.ServeInfo{Invocation: "i"}, w, httptest.NewRequest("GET", "/", nil))
	if err == nil && w.status != http.StatusOK {
		err = fmt.Errorf("status %d", w.status)
	}
	return err
}

// hold takes n sandboxes of t at once, serves with each, and puts them back.
func hold(tb testing.TB, t *task, n int) {
	tb.Helper()
	var all []made
	for range n {
		m, _, err := t.take(context.Background(), new(guest.Turn))
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := m.sandbox.Serve(context.Background(), &discard{header: http.Header{}}, httptest.NewRequest("GET", "/", nil), guest.ServeInfo{}); err != nil {
			tb.Fatal(err)
		}
		all = append(all, m)
	}
	for _, m := range all {
		t.back(context.Background(), m, true)
	}
	t.agent.background.Wait()
}

func TestSandboxesWaitForAsManyInvocationsAsThereWereAndLeaveWhenThereAreNone(t *testing.T) {
	a, code := tinyAgent(t, Options{}, 1)
	task := serveTiny(t, a, code, "tiny", 16)
	hold(t, task, 8)
	if n := task.pool.ready.Load(); n < 8 || n > 9 {
		t.Errorf("%d wait after 8 were in use at once", n)
	}
	now := a.opts.Clock.Now()
	for i := range 200 {
		task.shrink(now.Add(time.Duration(i)*200*time.Millisecond), time.Hour)
	}
	if n := task.pool.ready.Load(); n != 1 {
		t.Errorf("%d wait a while after", n)
	}
	task.shrink(now.Add(3*time.Hour), time.Hour)
	if n := task.pool.ready.Load(); n != 0 || a.ahead.count.Load() != 0 || a.ahead.bytes.Load() != 0 {
		t.Errorf("an idle task has %d waiting; %d with %d bytes are booked", n, a.ahead.count.Load(), a.ahead.bytes.Load())
	}
	if err := ask(a, "tiny"); err != nil {
		t.Error(err)
	}
}

// starts is a recorder that counts sandboxes that were made.
type starts struct {
	nobody
	n *atomic.Int64
}

func (s starts) Job(string) JobRecorder { return s }

func (s starts) Start(time.Duration) { s.n.Add(1) }

// What is on its way between those in use and those that wait must not look like one too few, or one too many.
func TestSteadyUseMakesNoSandboxes(t *testing.T) {
	made := starts{n: new(atomic.Int64)}
	a, code := tinyAgent(t, Options{Recorder: made}, 1)
	task := serveTiny(t, a, code, "tiny", 16)
	const users = 8
	hold(t, task, users)
	before := made.n.Load()
	var all sync.WaitGroup
	for range users {
		all.Go(func() {
			for range 500 {
				if err := ask(a, "tiny"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	a.background.Wait()
	if n := made.n.Load() - before; n != 0 {
		t.Errorf("%d sandboxes were made for %d users beside the %d there were", n, users, before)
	}
	if alive, ready := task.pool.alive.Load(), task.pool.ready.Load(); alive != ready || ready != users+1 {
		t.Errorf("%d sandboxes are alive, of which %d wait", alive, ready)
	}
}

func TestPrivateMemoryOfWaitingSandboxesIsBounded(t *testing.T) {
	const pages = 32
	a, code := tinyAgent(t, Options{AheadBytes: 1 << 20}, pages)
	one, two := serveTiny(t, a, code, "one", 16), serveTiny(t, a, code, "two", 16)
	hold(t, one, 6)
	hold(t, two, 6)
	n, bytes := one.pool.ready.Load()+two.pool.ready.Load(), a.ahead.bytes.Load()
	// Each of 12 has written to 32 pages and some, which would take 1.8 MiB.
	if bytes > 1<<20 || bytes < 1<<19 || n >= 12 || n < 4 {
		t.Errorf("%d sandboxes wait with %d bytes", n, bytes)
	}
	for _, job := range []string{"one", "two"} {
		if err := ask(a, job); err != nil {
			t.Errorf("%s: %v", job, err)
		}
	}
}

// idleTask is what a tiny task that is idle may take of the worker's heap, in bytes.
const idleTask = 16 << 10

func TestIdleTasksTakeLittleAndAllAnswer(t *testing.T) {
	const tasks = 500
	a, code := tinyAgent(t, Options{}, 1)
	heap := func() uint64 {
		goruntime.GC()
		goruntime.GC()
		var m goruntime.MemStats
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	serveTiny(t, a, code, "first", 16)
	before := heap()
	all := make([]*task, tasks)
	for i := range all {
		all[i] = serveTiny(t, a, code, fmt.Sprintf("t%d", i), 16)
	}
	for round := range 2 {
		for i := range all {
			if err := ask(a, fmt.Sprintf("t%d", i)); err != nil {
				t.Fatalf("round %d, task %d: %v", round, i, err)
			}
		}
		a.background.Wait()
		for _, task := range all {
			task.shrink(a.opts.Clock.Now().Add(time.Hour), time.Minute) // it was used since the last look
			task.shrink(a.opts.Clock.Now().Add(2*time.Hour), time.Minute)
		}
		if a.ahead.count.Load() > 2 {
			t.Errorf("round %d: %d sandboxes wait", round, a.ahead.count.Load())
		}
		each := (int64(heap()) - int64(before)) / tasks
		t.Logf("round %d: %d bytes of heap for each idle task", round, each)
		if each > idleTask {
			t.Errorf("round %d: %d bytes of heap for each idle task, want at most %d", round, each, idleTask)
		}
	}
	goruntime.KeepAlive(all)
}

// BenchmarkServe is a request to a tiny task, in a sandbox that is as new, without a connection: from one goroutine, and from all processors.
func BenchmarkServe(b *testing.B) {
	a, code := tinyAgent(b, Options{}, 1)
	serveTiny(b, a, code, "tiny", 64)
	r := httptest.NewRequest("GET", "/", nil)
	serve := func(b *testing.B, w *discard) {
		clear(w.header)
		if _, err := a.Serve("tiny", guest.ServeInfo{Invocation: "i"}, w, r); err != nil || w.status != http.StatusOK {
			b.Error(w.status, err)
		}
	}
	b.Run("alone", func(b *testing.B) {
		w := &discard{header: http.Header{}}
		b.ReportAllocs()
		for b.Loop() {
			serve(b, w)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			w := &discard{header: http.Header{}}
			for pb.Next() {
				serve(b, w)
			}
		})
	})
}

func TestRequestsThatWaitForTheProcessorHoldNoSandbox(t *testing.T) {
	if old := goruntime.GOMAXPROCS(0); old < 2 {
		goruntime.GOMAXPROCS(2)
		t.Cleanup(func() { goruntime.GOMAXPROCS(old) })
	}
	p, err := processor.New(processor.Options{Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	a, code := tinyAgent(t, Options{Processor: p}, 1)
	tiny := serveTiny(t, a, code, "tiny", 64)
	holder := p.Job("holder", 1).Run()
	if err := holder.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	for range 20 {
		served.Go(func() {
			w := &discard{header: http.Header{}}
			if _, err := a.Serve("tiny", guest.ServeInfo{}, w, httptest.NewRequest("GET", "/", nil)); err != nil || w.status != http.StatusOK {
				t.Error(w.status, err)
			}
		})
	}
	for p.Job("tiny", 1).Usage().Waiting < 20 {
		goruntime.Gosched()
	}
	if n := tiny.pool.busy.Load(); n != 0 {
		t.Errorf("%d sandboxes are held by requests that wait", n)
	}
	holder.Leave()
	served.Wait()
}

// The mappings that images take are shared by all jobs. One that wants them all leaves half of them, and its next version gets no others.
func TestAJobTakesNoMoreOfTheMappingsThanItLeavesToOthers(t *testing.T) {
	a, code := tinyAgent(t, Options{}, 1)
	asImage := func(task *task) error {
		t.Helper()
		m, err := task.make(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer task.discard(m)
		return m.sandbox.Return()
	}
	greedy := serveTiny(t, a, code, "greedy", 16)
	kept, err := greedy.make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer greedy.discard(kept)
	space, err := a.engines.first.Space()
	if err != nil {
		t.Fatal(err)
	}
	memory := make([]byte, 200<<20)
	for _, places := range []int{200, 1} { // the job's other sandboxes: with so many places that have to be mapped, and what still fits beside them
		for i := range places {
			memory[i<<20] = 1
		}
		im, err := image.Take(image.Source{Memory: memory})
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		clear(memory)
		for {
			m, err := space.NewMemory(im, uint64(len(memory)), a.parts["greedy"])
			if errors.Is(err, image.ErrMappings) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
		}
	}
	if err := asImage(greedy); !errors.Is(err, guest.ErrNoImage) {
		t.Errorf("beyond its part, a sandbox returns to its image: %v", err)
	}
	if err := asImage(serveTiny(t, a, code, "greedy", 16)); !errors.Is(err, guest.ErrNoImage) {
		t.Errorf("so does one of another version: %v", err)
	}
	if err := asImage(serveTiny(t, a, code, "other", 16)); err != nil {
		t.Errorf("a sandbox of another job cannot return to its image: %v", err)
	}
	for range 2 {
		other, err := a.jobs["other"].task.make(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer a.jobs["other"].task.discard(other)
	}
	var why *image.DiscardError
	if err := kept.sandbox.Return(); !errors.As(err, &why) || why.Reason != image.Surplus {
		t.Errorf("now that another has some, the first has more than it leaves, and its sandbox returns with %v", err)
	}
	for _, job := range []string{"greedy", "other"} {
		if err := ask(a, job); err != nil {
			t.Errorf("%s: %v", job, err)
		}
	}
}
