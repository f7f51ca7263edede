package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

var i32 = byte(wasmtest.I32)

// library is two host functions: note(n) keeps n, and exit(n).
func library() (*hostcall.Library, *[]uint32) {
	var noted []uint32
	arg := []hostcall.Arg{{Name: "n"}}
	params := []hostcall.ValueType{hostcall.I32}
	return &hostcall.Library{Name: "test", Funcs: []hostcall.Func{
		{Module: "test", Name: "note", Params: params, Args: arg, Call: func(c *hostcall.Call) { noted = append(noted, c.Uint32(0)) }},
		{Module: "test", Name: "exit", Params: params, Args: arg, Call: func(c *hostcall.Call) { c.Stop(&hostcall.ExitError{Code: c.Uint32(0)}) }},
		{Module: "test", Name: "panic", Params: params, Args: arg, Call: func(*hostcall.Call) { panic("a defect") }},
	}}, &noted
}

const (
	noteFunc = iota
	exitFunc
	panicFunc
	firstFunc
)

// build makes a module whose functions can call note, exit and panic.
func build(m wasmtest.Module) []byte {
	t := wasmtest.Type{Params: []byte{i32}}
	m.Imports = []wasmtest.Import{{Module: "test", Name: "note", Type: t}, {Module: "test", Name: "exit", Type: t}, {Module: "test", Name: "panic", Type: t}}
	return m.Bytes()
}

func open(t *testing.T, opts runtime.Options) *runtime.Runtime {
	t.Helper()
	rt, err := runtime.Open(context.Background(), onTestEngine(opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	return rt
}

func compile(t *testing.T, rt *runtime.Runtime, wasm []byte) *runtime.Module {
	t.Helper()
	m, err := rt.Compile(context.Background(), wasm)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sandbox(t *testing.T, m *runtime.Module, opts runtime.SandboxOptions) *runtime.Sandbox {
	t.Helper()
	s, err := m.NewSandbox(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// engines runs check compiled and interpreted.
func engines(t *testing.T, check func(t *testing.T, interpret bool)) {
	for _, interpret := range []bool{false, true} {
		t.Run(fmt.Sprintf("interpret=%t", interpret), func(t *testing.T) { check(t, interpret) })
	}
}

type observer struct{ events []string }

func (*observer) Watches(*hostcall.Func) bool            { return false }
func (*observer) Before(*hostcall.Call) hostcall.Verdict { return hostcall.Proceed }
func (*observer) After(*hostcall.Call)                   {}
func (o *observer) Event(e hostcall.Event) {
	switch e.Kind {
	case hostcall.EventGrow:
		o.events = append(o.events, fmt.Sprintf("grow %d→%d %t", e.From>>16, e.To>>16, e.Err == nil))
	case hostcall.EventStart:
		o.events = append(o.events, "start "+e.Name)
	case hostcall.EventEnd:
		o.events = append(o.events, fmt.Sprintf("end %s %v", e.Name, e.Err))
	}
}

func TestMemoryGrowsToItsBoundAndNoFurther(t *testing.T) {
	engines(t, func(t *testing.T, interpret bool) {
		rt := open(t, runtime.Options{Interpret: interpret})
		grow := wasmtest.Func{Export: "grow", Type: wasmtest.Type{Params: []byte{i32}, Results: []byte{i32}}, Body: wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.MemoryGrow())}
		poke := wasmtest.Func{Export: "poke", Type: wasmtest.Type{Params: []byte{i32}}, Body: wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.I32Const(7), wasmtest.Store(0))}
		m := compile(t, rt, (&wasmtest.Module{Memory: []uint32{1}, Funcs: []wasmtest.Func{grow, poke}}).Bytes())
		var o observer
		s := sandbox(t, m, runtime.SandboxOptions{MemoryPages: 4, Interposers: []hostcall.Interposer{&o}})
		for _, step := range []struct{ pages, want uint32 }{{1, 1}, {0, 2}, {3, ^uint32(0)}, {2, 2}, {1, ^uint32(0)}, {65535, ^uint32(0)}} {
			res, err := s.Call(context.Background(), "grow", uint64(step.pages))
			if err != nil || uint32(res[0]) != step.want {
				t.Errorf("grow by %d: %v, %v; want %d", step.pages, res, err, int32(step.want))
			}
		}
		if _, err := s.Call(context.Background(), "poke", 4<<16-4); err != nil || s.Memory().Bytes()[4<<16-4] != 7 {
			t.Errorf("the last word of the memory: %v", err)
		}
		var trap *runtime.Trap
		if _, err := s.Call(context.Background(), "poke", 4<<16-3); !errors.As(err, &trap) || !strings.Contains(trap.Reason, "out of bounds") {
			t.Errorf("past the memory: %v", err)
		}
		o.events = slices.DeleteFunc(o.events, func(e string) bool { return !strings.HasPrefix(e, "grow") })
		if !slices.Contains(o.events, "grow 1→2 true") || !slices.Contains(o.events, "grow 2→5 false") {
			t.Errorf("events %q", o.events)
		}
	})
}

func TestAFailureForLackOfMemorySaysSo(t *testing.T) {
	engines(t, func(t *testing.T, interpret bool) {
		grow := func(pages int32) []byte {
			return wasmtest.Cat(wasmtest.I32Const(pages), wasmtest.MemoryGrow(), []byte{wasmtest.Drop})
		}
		m := compile(t, open(t, runtime.Options{Interpret: interpret}), (&wasmtest.Module{Memory: []uint32{1}, Funcs: []wasmtest.Func{
			{Export: "greedy", Body: wasmtest.Cat(grow(100), []byte{wasmtest.Unreachable})},
			{Export: "modest", Body: wasmtest.Cat(grow(1), []byte{wasmtest.Unreachable})},
			{Export: "lucky", Body: grow(100)},
			{Export: "broken", Body: []byte{wasmtest.Unreachable}},
		}}).Bytes())
		s := sandbox(t, m, runtime.SandboxOptions{MemoryPages: 32})
		for _, c := range []struct {
			call      string
			exhausted bool
		}{{"modest", false}, {"greedy", true}, {"broken", false}, {"lucky", false}, {"broken", false}, {"greedy", true}} {
			_, err := s.Call(context.Background(), c.call)
			var trap *runtime.Trap
			if errors.As(err, &trap) != (c.call != "lucky") {
				t.Errorf("%s: %v", c.call, err)
			}
			var why *runtime.ExhaustedError
			if errors.As(err, &why) != c.exhausted || errors.As(err, new(*runtime.LimitError)) {
				t.Errorf("%s: %v", c.call, err)
			}
			if why != nil && !strings.Contains(why.Error(), "; the memory limit of 2 MiB kept it from growing to 6.375 MiB before that") {
				t.Error(why)
			}
		}
	})
}

func TestAModuleThatNeedsMoreMemoryThanAllowedIsRefused(t *testing.T) {
	m := compile(t, open(t, runtime.Options{}), (&wasmtest.Module{Memory: []uint32{5}}).Bytes())
	var limit *runtime.LimitError
	if _, err := m.NewSandbox(context.Background(), runtime.SandboxOptions{MemoryPages: 4}); !errors.As(err, &limit) || limit.Limit != "memory" {
		t.Errorf("error %v", err)
	}
}

func TestADeadlineEndsAGuestInALoop(t *testing.T) {
	engines(t, func(t *testing.T, interpret bool) {
		recursive := wasmtest.Func{Name: "twice", Export: "tree", Type: wasmtest.Type{Params: []byte{i32}}, Body: wasmtest.Cat( // 2^n calls
			wasmtest.LocalGet(0), []byte{wasmtest.I32Eqz, 0x04, 0x40, wasmtest.Return, wasmtest.End},
			wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.Call(0),
			wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.Call(0))}
		loop := wasmtest.Func{Export: "loop", Body: wasmtest.Loop(wasmtest.Br(0))}
		m := compile(t, open(t, runtime.Options{Interpret: interpret}), (&wasmtest.Module{Funcs: []wasmtest.Func{recursive, loop}}).Bytes())
		over := errors.New("over")
		for name, params := range map[string][]uint64{"loop": nil, "tree": {60}} {
			s := sandbox(t, m, runtime.SandboxOptions{})
			ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, over)
			if _, err := s.Call(ctx, name, params...); !errors.Is(err, over) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	})
}

func TestAStartFunctionIsBounded(t *testing.T) {
	start := uint32(0)
	m := compile(t, open(t, runtime.Options{}), (&wasmtest.Module{Funcs: []wasmtest.Func{{Body: wasmtest.Loop(wasmtest.Br(0))}}, Start: &start}).Bytes())
	if _, err := m.NewSandbox(context.Background(), runtime.SandboxOptions{StartTimeout: 20 * time.Millisecond}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestAStartFunctionCallsTheHost(t *testing.T) {
	engines(t, func(t *testing.T, interpret bool) {
		lib, noted := library()
		start := uint32(firstFunc)
		rt := open(t, runtime.Options{Interpret: interpret, Libraries: []*hostcall.Library{lib}})
		sandbox(t, compile(t, rt, build(wasmtest.Module{Start: &start, Funcs: []wasmtest.Func{{Body: wasmtest.Cat(wasmtest.I32Const(5), wasmtest.Call(noteFunc))}}})), runtime.SandboxOptions{})
		if !slices.Equal(*noted, []uint32{5}) {
			t.Errorf("noted %v", *noted)
		}
		_, err := compile(t, rt, build(wasmtest.Module{Start: &start, Funcs: []wasmtest.Func{{Body: wasmtest.Cat(wasmtest.I32Const(6), wasmtest.Call(exitFunc))}}})).
			NewSandbox(context.Background(), runtime.SandboxOptions{})
		var exit *runtime.ExitError
		if !errors.As(err, &exit) || exit.Code != 6 {
			t.Errorf("exit in start: %v", err)
		}
	})
}

func TestHowAGuestEndsIsTold(t *testing.T) {
	engines(t, func(t *testing.T, interpret bool) {
		lib, noted := library()
		rt := open(t, runtime.Options{Interpret: interpret, Libraries: []*hostcall.Library{lib}})
		export := func(name string, body ...[]byte) wasmtest.Func {
			return wasmtest.Func{Name: "main." + name, Export: name, Body: wasmtest.Cat(body...)}
		}
		div := wasmtest.Cat(wasmtest.I32Const(1), wasmtest.I32Const(0), []byte{wasmtest.I32DivS, wasmtest.Drop})
		m := compile(t, rt, build(wasmtest.Module{Table: []uint32{1}, Funcs: []wasmtest.Func{
			export("fine", wasmtest.I32Const(1), wasmtest.Call(noteFunc)),
			export("divide", div),
			export("outer", wasmtest.Call(firstFunc+1)),
			export("exits", wasmtest.I32Const(3), wasmtest.Call(exitFunc), []byte{wasmtest.Unreachable}),
			export("defect", wasmtest.I32Const(3), wasmtest.Call(panicFunc)),
			export("deep", wasmtest.Call(firstFunc+5)),
			export("indirect", wasmtest.I32Const(0), []byte{0x11, 1, 0}),
		}}))
		for name, want := range map[string]string{
			"fine":     "",
			"divide":   "trap: integer divide by zero\n   0  main.divide",
			"outer":    "trap: integer divide by zero\n   0  main.divide\n   1  main.outer",
			"exits":    "guest exited with code 3",
			"deep":     "trap: stack overflow",
			"indirect": "trap: invalid table access\n   0  main.indirect",
		} {
			s := sandbox(t, m, runtime.SandboxOptions{})
			_, err := s.Call(context.Background(), name)
			got := ""
			var trap *runtime.Trap
			if errors.As(err, &trap) {
				got = trap.Backtrace()
			} else if err != nil {
				got = err.Error()
			}
			if got != want && !(name == "deep" && strings.HasPrefix(got, want)) {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
			// The sandbox can still be entered.
			if _, err := s.Call(context.Background(), "fine"); err != nil {
				t.Errorf("after %s: %v", name, err)
			}
		}
		s := sandbox(t, m, runtime.SandboxOptions{})
		if _, err := s.Call(context.Background(), "defect"); !errors.Is(err, hostcall.ErrHost) {
			t.Errorf("a panic in the host: %v", err)
		}
		if len(*noted) != 7 {
			t.Errorf("noted %v", *noted)
		}
	})
}

func TestEventsTellOfEachEntry(t *testing.T) {
	lib, _ := library()
	m := compile(t, open(t, runtime.Options{Libraries: []*hostcall.Library{lib}}), build(wasmtest.Module{Funcs: []wasmtest.Func{
		{Export: "run", Body: wasmtest.Cat(wasmtest.I32Const(3), wasmtest.Call(exitFunc))}}}))
	var o observer
	s := sandbox(t, m, runtime.SandboxOptions{Interposers: []hostcall.Interposer{&o}})
	_, _ = s.Call(context.Background(), "run")
	if got := strings.Join(o.events, ", "); got != "start run, end run guest exited with code 3" {
		t.Errorf("events: %s", got)
	}
}

func TestCallsAreChecked(t *testing.T) {
	m := compile(t, open(t, runtime.Options{}), (&wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Type: wasmtest.Type{Params: []byte{i32}}}}}).Bytes())
	s := sandbox(t, m, runtime.SandboxOptions{})
	if _, err := s.Call(context.Background(), "g"); !errors.Is(err, runtime.ErrNoExport) {
		t.Errorf("no such export: %v", err)
	}
	if _, err := s.Call(context.Background(), "f"); err == nil || !strings.Contains(err.Error(), "0 parameters given, 1 wanted") {
		t.Errorf("too few parameters: %v", err)
	}
}

func TestWhatCannotRunIsRefusedAtCompilation(t *testing.T) {
	rt := open(t, runtime.Options{Libraries: []*hostcall.Library{wasi.Library()}})
	for name, c := range map[string]struct {
		wasm  []byte
		check string
	}{
		"text":              {[]byte("(module)"), "header"},
		"an unknown import": {(&wasmtest.Module{Imports: []wasmtest.Import{{Module: "env", Name: "f"}}}).Bytes(), "imports"},
		"wrong types":       {(&wasmtest.Module{Funcs: []wasmtest.Func{{Body: []byte{wasmtest.Drop}}}}).Bytes(), "validation"},
	} {
		var e *module.Error
		if _, err := rt.Compile(context.Background(), c.wasm); !errors.As(err, &e) || e.Check != c.check {
			t.Errorf("%s: %v, want the check %q", name, err, c.check)
		}
	}
}

func TestASandboxIsClosedTwiceAndFromAnywhere(t *testing.T) {
	m := compile(t, open(t, runtime.Options{}), (&wasmtest.Module{Memory: []uint32{1}, Funcs: []wasmtest.Func{{Export: "loop", Body: wasmtest.Loop(wasmtest.Br(0))}}}).Bytes())
	s, err := m.NewSandbox(context.Background(), runtime.SandboxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		// Closing ends a guest that runs.
		if _, err := s.Call(context.Background(), "loop"); err == nil {
			t.Error("an endless loop returned")
		}
	})
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func TestATableDoesNotGrowTheHost(t *testing.T) {
	engines(t, func(t *testing.T, interpret bool) {
		grow := wasmtest.Func{Export: "grow", Type: wasmtest.Type{Params: []byte{i32}, Results: []byte{i32}},
			Body: wasmtest.Cat([]byte{0xd0, wasmtest.FuncRef}, wasmtest.LocalGet(0), []byte{0xfc, 0x0f, 0})} // ref.null, table.grow 0
		m := compile(t, open(t, runtime.Options{Interpret: interpret}), (&wasmtest.Module{Table: []uint32{1}, Funcs: []wasmtest.Func{grow}}).Bytes())
		s := sandbox(t, m, runtime.SandboxOptions{})
		for _, step := range []struct{ n, want uint32 }{{1000, 1}, {1 << 20, ^uint32(0)}, {1<<32 - 2000, ^uint32(0)}, {1, 1001}} {
			if res, err := s.Call(context.Background(), "grow", uint64(step.n)); err != nil || uint32(res[0]) != step.want {
				t.Errorf("grow by %d: %v, %v; want %d", step.n, res, err, int32(step.want))
			}
		}
	})
}

// TestADeadlineEndsWhatRunsLongWithoutALoop has guests whose code goes straight on for hours.
func TestADeadlineEndsWhatRunsLongWithoutALoop(t *testing.T) {
	i64 := byte(wasmtest.I64)
	times := func(n int, b ...[]byte) []byte { return wasmtest.Repeat(n, wasmtest.Cat(b...)...) }
	const pages = 1024
	for name, m := range map[string]wasmtest.Module{
		"whole memories filled": {Memory: []uint32{pages}, Funcs: []wasmtest.Func{{Export: "run", Body: times(2000,
			wasmtest.I32Const(0), wasmtest.I32Const(1), wasmtest.I32Const(pages<<16), []byte{0xfc, 11, 0})}}},
		"whole memories copied": {Memory: []uint32{pages}, Funcs: []wasmtest.Func{{Export: "run", Locals: []byte{i32}, Body: times(2000,
			wasmtest.LocalGet(0), wasmtest.I32Const(1), wasmtest.I32Const(pages<<16-1), []byte{0xfc, 10, 0, 0})}}},
		"calls of a long function": {Funcs: []wasmtest.Func{
			{Export: "run", Body: times(20_000, wasmtest.I64Const(-1), wasmtest.Call(1), []byte{wasmtest.Drop})},
			{Type: wasmtest.Type{Params: []byte{i64}, Results: []byte{i64}}, Body: wasmtest.Cat(wasmtest.LocalGet(0), times(50_000, wasmtest.I64Const(3), []byte{0x80}))}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sandbox(t, compile(t, open(t, runtime.Options{}), m.Bytes()), runtime.SandboxOptions{})
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			ended := make(chan error, 1)
			go func() { _, err := s.Call(ctx, "run"); ended <- err }()
			select {
			case err := <-ended:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("ended with %v", err)
				}
			case <-time.After(10 * time.Second): // as ample as slow machines need; it would take minutes
				t.Fatal("it runs long past its deadline")
			}
		})
	}
}

func TestHostCallsOfTheStartFunctionAreBounded(t *testing.T) {
	lib, noted := library()
	start := uint32(firstFunc)
	m := compile(t, open(t, runtime.Options{Libraries: []*hostcall.Library{lib}}), build(wasmtest.Module{Start: &start, Funcs: []wasmtest.Func{
		{Body: wasmtest.Loop(wasmtest.I32Const(1), wasmtest.Call(noteFunc), wasmtest.Br(0))}}}))
	var limit *runtime.LimitError
	if _, err := m.NewSandbox(context.Background(), runtime.SandboxOptions{HostCalls: 100, StartTimeout: 10 * time.Second}); !errors.As(err, &limit) || limit.Limit != "host calls" || limit.Max != 100 {
		t.Errorf("it ended with %v", err)
	}
	if len(*noted) != 100 {
		t.Errorf("%d host calls were served, 100 are allowed", len(*noted))
	}
}

func TestWhatATrapTellsIsBounded(t *testing.T) {
	engines(t, func(t *testing.T, interpret bool) {
		names := strings.Repeat("long\n\t\x1b[31m", 10_000)
		m := compile(t, open(t, runtime.Options{Interpret: interpret}), (&wasmtest.Module{Funcs: []wasmtest.Func{
			{Export: "run", Name: names, Body: wasmtest.Call(1)}, {Name: strings.Repeat("é", 100_000), Body: []byte{wasmtest.Unreachable}}}}).Bytes())
		s := sandbox(t, m, runtime.SandboxOptions{})
		var trap *runtime.Trap
		if _, err := s.Call(context.Background(), "run"); !errors.As(err, &trap) {
			t.Fatalf("it ended with %v", err)
		}
		if len(trap.Frames) > 30 || len(trap.Backtrace()) > 30*300 || len(trap.Error()) > 600 || !utf8.ValidString(trap.Backtrace()) {
			t.Errorf("%d frames, %d bytes", len(trap.Frames), len(trap.Backtrace()))
		}
	})
}
