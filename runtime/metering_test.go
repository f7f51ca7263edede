package runtime_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// metered opens runtimes that meter their guests: one that compiles and one that interprets.
func metered(t *testing.T, libraries []*hostcall.Library, f func(t *testing.T, rt *runtime.Runtime)) {
	for name, interpret := range map[string]bool{"compiled": false, "interpreted": true} {
		t.Run(name, func(t *testing.T) {
			rt, err := runtime.Open(context.Background(), onTestEngine(runtime.Options{Libraries: libraries, Interpret: interpret, Meter: true}))
			if err != nil {
				t.Fatal(err)
			}
			defer rt.Close()
			f(t, rt)
		})
	}
}

func meteredSandbox(t *testing.T, rt *runtime.Runtime, m wasmtest.Module, opts runtime.SandboxOptions) (*runtime.Sandbox, error) {
	t.Helper()
	code, err := rt.Compile(context.Background(), m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	opts.MemoryPages = 16
	s, err := code.NewSandbox(context.Background(), opts)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

var endless = wasmtest.Loop(wasmtest.Br(0))

func TestFuelIsABoundOfEachCall(t *testing.T) {
	count := wasmtest.Func{Export: "count", Type: wasmtest.Type{Params: []byte{wasmtest.I32}},
		Body: wasmtest.Loop(wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0, 0x0d, 0})}
	used := map[string]uint64{}
	metered(t, nil, func(t *testing.T, rt *runtime.Runtime) {
		ctx := context.Background()
		s, err := meteredSandbox(t, rt, wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Body: endless}, count}}, runtime.SandboxOptions{Fuel: 100_000})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err = s.Call(ctx, "f")
			var limit *runtime.LimitError
			if !errors.As(err, &limit) || limit.Limit != "fuel" || limit.Max != 100_000 || limit.Used <= limit.Max || limit.Used > limit.Max+5000 {
				t.Errorf("an endless loop: %v", err)
			}
			if s.Fuel() != limit.Used {
				t.Errorf("used %d, the error says %d", s.Fuel(), limit.Used)
			}
		}
		if _, err := s.Call(ctx, "count", 1000); err != nil {
			t.Error(err)
		}
		used[t.Name()] = s.Fuel()
	})
	for _, n := range used {
		if n < 1000 || n != used["TestFuelIsABoundOfEachCall/compiled"] {
			t.Errorf("1,000 turns took %v", used)
		}
	}
}

func TestMeteredGuestsEndAtDeadlinesAndTicks(t *testing.T) {
	stop := errors.New("stop")
	metered(t, nil, func(t *testing.T, rt *runtime.Runtime) {
		ctx, cancel := context.WithCancelCause(context.Background())
		ticks := 0
		s, err := meteredSandbox(t, rt, wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Body: endless}}}, runtime.SandboxOptions{Tick: func(context.Context) error {
			if ticks++; ticks == 5 {
				cancel(stop)
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // during a call, and before one
			if _, err := s.Call(ctx, "f"); !errors.Is(err, stop) || ticks != 5 {
				t.Errorf("after %d ticks: %v", ticks, err)
			}
		}
		ticks = -1 << 30
		other := errors.New("other")
		s, err = meteredSandbox(t, rt, wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Body: endless}}}, runtime.SandboxOptions{Tick: func(context.Context) error { return other }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Call(context.Background(), "f"); !errors.Is(err, other) {
			t.Error(err)
		}
	})
}

func TestTheStackOfAMeteredGuestIsBounded(t *testing.T) {
	metered(t, nil, func(t *testing.T, rt *runtime.Runtime) {
		s, err := meteredSandbox(t, rt, wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Body: wasmtest.Call(0)}}}, runtime.SandboxOptions{Depth: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err = s.Call(context.Background(), "f")
			var trap *runtime.Trap
			if !errors.As(err, &trap) || trap.Reason != "stack overflow" || s.Fuel() > 20_000 {
				t.Errorf("it took %d fuel: %v", s.Fuel(), err)
			}
		}
	})
}

// TestADeepStackIsNoticed: recursion past 256 KiB goes on, and marks the sandbox, also within a call from a host call.
func TestADeepStackIsNoticed(t *testing.T) {
	var s *runtime.Sandbox
	again := func(c *hostcall.Call) {
		if _, err := s.Call(c.Context(), "f", 1000, 0); err != nil {
			c.Stop(err)
		}
	}
	library := &hostcall.Library{Name: "host", Funcs: []hostcall.Func{{Module: "host", Name: "again", Call: again}}}
	// Each frame has 64 bytes, 8 for each of 40 locals and 2 parameters, and some for operands: 1,000 of them are more than 256 KiB.
	down := wasmtest.Cat(wasmtest.LocalGet(1), []byte{0x04, 0x40}, wasmtest.Call(0), []byte{wasmtest.End},
		wasmtest.LocalGet(0), []byte{0x04, 0x40}, wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.I32Const(0), wasmtest.Call(1), []byte{wasmtest.End})
	m := wasmtest.Module{Imports: []wasmtest.Import{{Module: "host", Name: "again"}}, Funcs: []wasmtest.Func{{Export: "f",
		Type: wasmtest.Type{Params: []byte{wasmtest.I32, wasmtest.I32}}, Locals: wasmtest.Repeat(40, wasmtest.I32), Body: down}}}
	metered(t, []*hostcall.Library{library}, func(t *testing.T, rt *runtime.Runtime) {
		for _, c := range []struct {
			frames, again uint64
			deep          bool
		}{{100, 0, false}, {1000, 0, true}, {1, 1, true}, {500, 1, true}} {
			var err error
			if s, err = meteredSandbox(t, rt, m, runtime.SandboxOptions{}); err != nil {
				t.Fatal(err)
			}
			for range 3 { // what was held back is held back again in the next call
				if _, err = s.Call(context.Background(), "f", c.frames, c.again); err != nil {
					t.Fatalf("%+v: %v", c, err)
				}
			}
			if s.Deep() != c.deep {
				t.Errorf("%+v: deep is %t", c, s.Deep())
			}
		}
		im, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		fresh, err := s.Module().NewSandbox(context.Background(), runtime.SandboxOptions{MemoryPages: 16, Image: im})
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		for _, frames := range []uint64{100, 1000} {
			if _, err := fresh.Call(context.Background(), "f", frames, 0); err != nil {
				t.Fatal(err)
			}
			err := fresh.Return()
			var discard *image.DiscardError
			if deep := errors.As(err, &discard) && discard.Reason == image.Stack; deep != (frames == 1000) || !deep && err != nil {
				t.Errorf("return after %d frames: %v", frames, err)
			}
		}
		if s, err = meteredSandbox(t, rt, m, runtime.SandboxOptions{Depth: 300 << 10}); err != nil {
			t.Fatal(err)
		}
		var trap *runtime.Trap
		if _, err = s.Call(context.Background(), "f", 1000, 0); !errors.As(err, &trap) || trap.Reason != "stack overflow" || !s.Deep() {
			t.Errorf("past the bound: %v, deep is %t", err, s.Deep())
		}
	})
}

// TestTheStartFunctionIsMetered: it finds its data, and a loop in it ends.
func TestTheStartFunctionIsMetered(t *testing.T) {
	metered(t, nil, func(t *testing.T, rt *runtime.Runtime) {
		m := wasmtest.Module{Memory: []uint32{1}, Start: new(uint32), Data: []wasmtest.Data{{Offset: 8, Bytes: []byte{5}}},
			Funcs: []wasmtest.Func{{Body: wasmtest.Cat(wasmtest.I32Const(0), wasmtest.I32Const(0), wasmtest.Load(8), wasmtest.Store(0))}}}
		s, err := meteredSandbox(t, rt, m, runtime.SandboxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Memory().Bytes()[0]; got != 5 {
			t.Errorf("the start function found %d", got)
		}
		im, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		s.Memory().Bytes()[0] = 9
		again, err := s.Module().NewSandbox(context.Background(), runtime.SandboxOptions{MemoryPages: 16, Image: im})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if got := again.Memory().Bytes()[0]; got != 5 {
			t.Errorf("a sandbox that began as the image found %d", got)
		}
		m.Funcs[0].Body = endless
		var limit *runtime.LimitError
		if _, err = meteredSandbox(t, rt, m, runtime.SandboxOptions{Fuel: 50_000}); !errors.As(err, &limit) || limit.Limit != "fuel" {
			t.Errorf("an endless start function: %v", err)
		}
	})
}

// TestCopyingDataIsBoundedLikeAGuest: a sandbox whose data takes too long to copy is not made, and everybody hears why.
func TestCopyingDataIsBoundedLikeAGuest(t *testing.T) {
	m := wasmtest.Module{Memory: []uint32{16}}
	for i := range 1000 {
		m.Data = append(m.Data, wasmtest.Data{Offset: uint32(i * 1000), Bytes: []byte{1}})
	}
	p, err := processor.New(processor.Options{Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	metered(t, nil, func(t *testing.T, rt *runtime.Runtime) {
		code, err := rt.Compile(context.Background(), m.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		over, ended := context.WithCancelCause(context.Background())
		reason := errors.New("that is enough")
		ended(reason)
		if _, err := code.NewSandbox(over, runtime.SandboxOptions{MemoryPages: 16}); !errors.Is(err, reason) {
			t.Errorf("after the deadline: %v", err)
		}
		r := p.Job("job", 1).Run()
		enter := func(most time.Duration) {
			t.Helper()
			r.Bound(most)
			if err := r.Enter(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		enter(0)
		if _, err := code.NewSandbox(over, runtime.SandboxOptions{MemoryPages: 16, Run: r}); !errors.Is(err, reason) {
			t.Errorf("after the deadline, by turns: %v", err)
		}
		r.Leave()
		enter(1)
		var limit *runtime.LimitError
		if _, err := code.NewSandbox(context.Background(), runtime.SandboxOptions{MemoryPages: 16, Run: r}); !errors.As(err, &limit) || limit.Limit != "cpu" {
			t.Errorf("without time: %v", err)
		}
		r.Leave()
		enter(0)
		s, err := code.NewSandbox(context.Background(), runtime.SandboxOptions{MemoryPages: 16, Run: r})
		r.Leave()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestAGuestThatIsCalledFromAHostCallGoesOnWithItsFuel: calls into the guest from a host call have no fuel of their own, and give
// the stack back.
func TestAGuestThatIsCalledFromAHostCallGoesOnWithItsFuel(t *testing.T) {
	var s *runtime.Sandbox
	var inner error
	library := &hostcall.Library{Name: "host", Funcs: []hostcall.Func{{Module: "host", Name: "again", Call: func(c *hostcall.Call) {
		_, inner = s.Call(c.Context(), "deep")
	}}}}
	metered(t, []*hostcall.Library{library}, func(t *testing.T, rt *runtime.Runtime) {
		var err error
		s, err = meteredSandbox(t, rt, wasmtest.Module{Imports: []wasmtest.Import{{Module: "host", Name: "again"}}, Funcs: []wasmtest.Func{
			{Export: "f", Body: wasmtest.Loop(wasmtest.Call(0), wasmtest.Br(0))},
			{Export: "deep", Body: wasmtest.Call(2)}, // recursion without end
		}}, runtime.SandboxOptions{Fuel: 100_000, Depth: 32 << 10})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Call(context.Background(), "f")
		var limit *runtime.LimitError
		if !errors.As(err, &limit) || limit.Limit != "fuel" {
			t.Errorf("the outer call: %v", err)
		}
		var trap *runtime.Trap
		if !errors.As(inner, &trap) && !errors.As(inner, &limit) {
			t.Errorf("the last inner call: %v", inner)
		}
	})
}

func TestAModuleThatTranslationWouldMendIsRefused(t *testing.T) {
	metered(t, nil, func(t *testing.T, rt *runtime.Runtime) {
		m := wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Body: wasmtest.Cat(wasmtest.I64Const(1<<40), []byte{0x24, 0})}}}
		_, err := rt.Compile(context.Background(), m.Bytes())
		var e *module.Error
		if !errors.As(err, &e) || e.Check != "validation" {
			t.Errorf("a module that sets a global it does not have: %v", err)
		}
	})
}
