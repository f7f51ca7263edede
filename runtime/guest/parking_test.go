package guest

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// runs is how many runs of commands there are, waiting or not.
func runs() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:goruntime.Stack(buf, true)]), "guest.(*parking).start.func")
}

// noRuns fails the test if a run of a command is left. Goroutines that have closed their last channel may take a moment to go.
func noRuns(t *testing.T) {
	t.Helper()
	for range 1000 {
		if runs() == 0 {
			return
		}
		goruntime.Gosched()
	}
	t.Errorf("%d runs of commands are left", runs())
}

func TestCommandsWaitWhereTheyFirstNeedTheirRequest(t *testing.T) {
	compile := scripts(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := policy.Grant(policy.Capabilities{Files: []policy.File{{Guest: "/d", Source: dir, Access: "rw"}}, KV: []string{"b"}, Secrets: []string{"s"}})
	if err != nil {
		t.Fatal(err)
	}
	const all = 1<<29 - 1 // rights
	open := func(oflags int64) func(*script) {
		return func(s *script) { s.call("path_open", 3, 0, s.place("f"), 1, oflags, all, all, 0, 0) }
	}
	subscription := func(kind byte, fd byte) string {
		return strings.Repeat("\x00", 8) + string([]byte{kind}) + strings.Repeat("\x00", 7) + string([]byte{fd}) + strings.Repeat("\x00", 31)
	}
	for name, c := range map[string]struct {
		act         func(*script)
		environment bool // waits when the request comes in the environment
		stdin       bool // waits when it comes on the standard input
	}{
		"the environment":           {func(s *script) { s.call("environ_get", 8, 64) }, true, false},
		"the environment's size":    {func(s *script) { s.call("environ_sizes_get", 0, 4) }, true, false},
		"reading the input":         {func(s *script) { s.call("fd_read", 0, s.vectors(512, 8), 1, 0) }, true, true},
		"the input, renumbered":     {func(s *script) { s.call("fd_renumber", 0, 2).call("fd_read", 2, s.vectors(512, 8), 1, 0) }, true, true},
		"waiting for the input":     {func(s *script) { s.call("poll_oneoff", s.place(subscription(1, 0)), 512, 1, 0) }, true, true},
		"writing the output":        {func(s *script) { s.print(1, "x") }, true, true},
		"creating a file":           {open(1), true, true},
		"truncating a file":         {open(8), true, true},
		"writing a file":            {func(s *script) { open(0)(s); s.print(4, "x") }, true, true},
		"making a directory":        {func(s *script) { s.call("path_create_directory", 3, s.place("n"), 1) }, true, true},
		"removing a file":           {func(s *script) { s.call("path_unlink_file", 3, s.place("g"), 1) }, true, true},
		"a key":                     {func(s *script) { s.call("kv_get", s.place("b"), 1, s.place("k"), 1, 0) }, true, true},
		"a secret":                  {func(s *script) { s.call("secret_get", s.place("s"), 1, 0) }, true, true},
		"a metric":                  {func(s *script) { s.call("metric", 0, s.place("m"), 1, s.place("1"), 1) }, true, true},
		"arguments":                 {func(s *script) { s.call("args_sizes_get", 0, 4).call("args_get", 8, 64) }, false, false},
		"time and randomness":       {func(s *script) { s.call("clock_time_get", 0, 0, 0).call("random_get", 0, 8) }, false, false},
		"a look at the input":       {func(s *script) { s.call("fd_fdstat_get", 0, 512).call("fd_filestat_get", 0, 512) }, false, false},
		"setting the input's flags": {func(s *script) { s.call("fd_fdstat_set_flags", 0, 4) }, false, false},
		"reading what is no input": {func(s *script) {
			s.call("fd_read", 9, s.vectors(512, 8), 1, 0).call("fd_read", 2, s.vectors(512, 8), 1, 0)
		}, false, false},
		"a read that is refused":   {func(s *script) { s.call("fd_read", 0, 1<<20, 1, 0) }, false, false},
		"sleeping":                 {func(s *script) { s.call("poll_oneoff", s.place(subscription(0, 1)), 512, 1, 0) }, false, false},
		"the errors as the output": {func(s *script) { s.call("fd_renumber", 2, 1).print(1, "x\n") }, false, false},
		"reading a file":           {func(s *script) { open(0)(s); s.call("fd_read", 4, s.vectors(512, 8), 1, 0) }, false, false},
		"a setting":                {func(s *script) { s.call("config_get", s.place("c"), 1, 512, 8, 0) }, false, false},
		"logging":                  {func(s *script) { s.call("log", 1, s.place("l"), 1) }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript().call("fd_renumber", 2, 2).print(2, "before\n")
			c.act(s)
			s.call("log", 1, s.place("after"), 5).call("metric", 0, s.place("m"), 1, s.place("1"), 1)
			m := compile(s)
			for _, way := range []struct {
				request Request
				waits   bool
			}{{RequestEnvironment, c.environment}, {RequestStdin, c.stdin}} {
				w := newWorld()
				sb, err := start(t, Options{Module: m, Grants: g, Source: HostPaths, Services: w, Request: way.request})
				if err != nil {
					t.Fatal(err)
				}
				text := w.text()
				if !strings.Contains(text, "before") || strings.Contains(text, "after") == way.waits {
					t.Errorf("request: %s: waited %t, want %t: log %q", way.request, !strings.Contains(text, "after"), way.waits, text)
				}
				if _, err := get(t, sb, "/"); err != nil || !strings.Contains(w.text(), "after") {
					t.Errorf("request: %s: %v, log %q", way.request, err, w.text())
				}
			}
		})
	}
	noRuns(t)
}

func TestACommandThatDoesNotGetToItsRequestIsAFailedStart(t *testing.T) {
	compile := scripts(t)
	over := errors.New("the start limit passed")
	for name, c := range map[string]struct {
		script *script
		is     func(error) bool
	}{
		"one that returns": {newScript().print(2, "nothing to do\n"), isA[*BadResponseError]},
		"one that exits":   {newScript().call("proc_exit", 0), isA[*BadResponseError]},
		"one that fails":   {newScript().call("proc_exit", 3), isA[*runtime.ExitError]},
		"one that traps":   {newScript().do([]byte{wasmtest.Unreachable}), isA[*runtime.Trap]},
		"one that calls without end": {newScript().do([]byte{0x03, 0x40}).call("random_get", 0, 8).do(wasmtest.Br(0), []byte{wasmtest.End}),
			isA[*runtime.LimitError]},
		"one that loops": {newScript().do(wasmtest.Loop(wasmtest.Br(0))), func(err error) bool { return errors.Is(err, over) }},
		"one that sleeps": {newScript().call("poll_oneoff", newScript().place(""), 512, 1, 0).do(wasmtest.Loop(wasmtest.Br(0))),
			func(err error) bool { return errors.Is(err, over) }},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(Options{Module: compile(c.script), HostCalls: 1000})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, over)
			defer cancel()
			s, err := p.NewSandbox(ctx)
			if s != nil || !c.is(err) {
				t.Errorf("%T %v", err, err)
			}
		})
	}
	noRuns(t)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func TestAStartThatIsCancelledLeavesNothing(t *testing.T) {
	m := scripts(t)(newScript().echo())
	p, err := New(Options{Module: m})
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if s, err := p.NewSandbox(ctx); err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("%T %v", err, err)
		}
	}
	noRuns(t)
}

func TestAParkedCommandServesOnceAndThenCannot(t *testing.T) {
	s, err := start(t, Options{Module: scripts(t)(newScript().echo())})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	res, err := s.Serve(t.Context(), rec, httptest.NewRequest("POST", "/", strings.NewReader("body")), ServeInfo{})
	if err != nil || rec.Body.String() != "body" || res.Reusable {
		t.Errorf("%v %q %+v", err, rec.Body, res)
	}
	if _, err := get(t, s, "/"); !errors.Is(err, ErrUsed) {
		t.Errorf("served twice: %v", err)
	}
	if err := s.Return(); !errors.Is(err, ErrNoImage) {
		t.Errorf("returned: %v", err)
	}
	noRuns(t)
}

func TestADeadlineBeginsAtHandOver(t *testing.T) {
	compile := scripts(t)
	for name, s := range map[string]*script{
		"reading": newScript().do([]byte{0x03, 0x40}).echo().do(wasmtest.Br(0), []byte{wasmtest.End}),
		"looping": newScript().echo().do(wasmtest.Loop(wasmtest.Br(0))),
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(Options{Module: compile(s)})
			if err != nil {
				t.Fatal(err)
			}
			starting, started := context.WithCancel(t.Context())
			sb, err := p.NewSandbox(starting)
			if err != nil {
				t.Fatal(err)
			}
			defer sb.Close()
			started() // the start's context is over, and has nothing to do with the request's
			over := errors.New("the deadline passed")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, over)
			defer cancel()
			body, feed := io.Pipe()
			go func() { _, _ = io.WriteString(feed, "first") }()
			_, err = sb.Serve(ctx, httptest.NewRecorder(), httptest.NewRequest("POST", "/", body), ServeInfo{})
			if !errors.Is(err, over) {
				t.Errorf("%T %v", err, err)
			}
		})
	}
	noRuns(t)
}

func TestACommandThatWaitedForTooLongIsStartedAnew(t *testing.T) {
	w, c := newWorld(), clock.NewManual(time.Unix(1e9, 0))
	m := scripts(t)(newScript().print(2, "started\n").echo())
	sb, err := start(t, Options{Module: m, Services: w, Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	if sb.MemoryBytes() != 1<<16 {
		t.Errorf("%d bytes of memory", sb.MemoryBytes())
	}
	c.Advance(maxParked - 1)
	if runs() != 1 {
		t.Fatal("it was given up early")
	}
	c.Advance(1)
	noRuns(t)
	rec := httptest.NewRecorder()
	if _, err := sb.Serve(t.Context(), rec, httptest.NewRequest("POST", "/", strings.NewReader("body")), ServeInfo{}); err != nil || rec.Body.String() != "body" {
		t.Errorf("%v %q", err, rec.Body)
	}
	if n := strings.Count(w.text(), "started"); n != 2 {
		t.Errorf("started %d times", n)
	}
	if _, err := get(t, sb, "/"); !errors.Is(err, ErrUsed) {
		t.Errorf("served twice: %v", err)
	}
	// One that expired and is not asked for is only closed.
	sb, err = start(t, Options{Module: m, Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(maxParked)
	if err := errors.Join(sb.Close(), sb.Close()); err != nil {
		t.Error(err)
	}
	noRuns(t)
}

// TestOneFateIsEnough has a parked sandbox served, expired and closed at once. Run it under the race detector.
func TestOneFateIsEnough(t *testing.T) {
	m := scripts(t)(newScript().echo())
	for i := range 300 {
		c := clock.NewManual(time.Unix(1e9, 0))
		p, err := New(Options{Module: m, Clock: c})
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.NewSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() { c.Advance(maxParked) })
		if i%2 == 0 {
			rec := httptest.NewRecorder()
			_, err := s.Serve(t.Context(), rec, httptest.NewRequest("POST", "/", strings.NewReader("body")), ServeInfo{})
			if err != nil || rec.Body.String() != "body" {
				t.Fatalf("%v %q", err, rec.Body)
			}
		}
		all.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
	}
	noRuns(t)
}

// tagging is a world whose log lines begin with the invocation's id.
type tagging struct{ *world }

func (w tagging) Log(ctx context.Context, l Line) {
	info, _ := InfoOf(ctx)
	l.Text = info.Invocation + ":" + l.Text
	w.world.Log(ctx, l)
}

// witness is an interposer that notes calls and the invocation they are for.
type witness struct {
	mu   sync.Mutex
	seen []string
}

func (w *witness) Watches(*hostcall.Func) bool { return true }
func (w *witness) Before(c *hostcall.Call) hostcall.Verdict {
	info, _ := InfoOf(c.Context())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, c.Func.Name+" "+info.Invocation)
	return hostcall.Proceed
}
func (w *witness) After(*hostcall.Call) {}

func TestLogsTracesAndPoliciesTellStartsFromInvocations(t *testing.T) {
	w, seen := tagging{newWorld()}, &witness{}
	s := newScript().call("args_sizes_get", 0, 4).print(2, "begun\nhalf a line").call("environ_sizes_get", 0, 4).print(2, ", and the rest\n").print(1, "\n")
	sb, err := start(t, Options{Module: scripts(t)(s), Services: w, Outermost: func() []hostcall.Interposer { return []hostcall.Interposer{seen} }})
	if err != nil {
		t.Fatal(err)
	}
	if want := "stderr info :begun\nstderr info :half a line\n"; w.text() != want {
		t.Errorf("log before the request %q, want %q", w.text(), want)
	}
	if got, want := strings.Join(seen.seen, ","), "args_sizes_get ,fd_write "; got != want {
		t.Errorf("seen before the request: %s, want %s", got, want)
	}
	if _, err := get(t, sb, "/"); err != nil {
		t.Fatal(err)
	}
	if want := "stderr info :begun\nstderr info :half a line\nstderr info i:, and the rest\n"; w.text() != want {
		t.Errorf("log %q, want %q", w.text(), want)
	}
	if got, want := strings.Join(seen.seen[2:], ","), "environ_sizes_get i,fd_write i,fd_write i"; got != want {
		t.Errorf("seen: %s, want %s", got, want)
	}
}

func TestAPolicyStopsAStartAsItDoesAnInvocation(t *testing.T) {
	compile := scripts(t)
	stop := policy.Rule{On: []string{"random_get"}, Do: "stop"}
	for name, c := range map[string]struct {
		script  *script
		atStart bool
	}{
		"before the request": {newScript().call("random_get", 0, 8).echo(), true},
		"after it":           {newScript().echo().call("random_get", 0, 8), false},
	} {
		m := compile(c.script)
		rules, err := policy.Compile([]policy.Rule{stop}, m.Runtime().Table())
		if err != nil {
			t.Fatal(err)
		}
		sb, err := start(t, Options{Module: m, Interposers: []hostcall.Interposer{rules.With(policy.Options{})}})
		if (err != nil) != c.atStart {
			t.Fatalf("%s: %v", name, err)
		}
		if err == nil {
			_, err = get(t, sb, "/")
		}
		if !isA[*runtime.StopError](err) {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
	noRuns(t)
}

// A run has a goroutine of its own, where a panic that nobody recovers would end all guests.
func TestAPanicBeforeARequestIsAnErrorOfOneRun(t *testing.T) {
	p := newParking(nil, new(sync.Mutex), false)
	if err := p.start(t.Context(), nil); !errors.Is(err, hostcall.ErrHost) || !strings.Contains(err.Error(), "nil pointer") { // there is no sandbox
		t.Errorf("it failed with %v", err)
	}
	noRuns(t)
}
