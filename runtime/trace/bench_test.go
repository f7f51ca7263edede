package trace_test

import (
	"context"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	ripwazero "github.com/ripstop-vm/ripstop/runtime/engine/wazero"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/trace"
)

// caller imports m.f (i32, i64) → i32 and exports run(n), which calls it n times, and its memory.
var caller = []byte{
	0, 'a', 's', 'm', 1, 0, 0, 0,
	1, 11, 2, 0x60, 2, 0x7f, 0x7e, 1, 0x7f, 0x60, 1, 0x7f, 0, // types
	2, 7, 1, 1, 'm', 1, 'f', 0, 0, // import
	3, 2, 1, 1, // functions
	5, 3, 1, 0, 1, // memory
	7, 16, 2, 3, 'r', 'u', 'n', 0, 1, 6, 'm', 'e', 'm', 'o', 'r', 'y', 2, 0, // exports
	10, 23, 1, 21, 0,
	0x03, 0x40, // loop
	0x41, 3, 0x42, 7, 0x10, 0, 0x1a, // f(3, 7), drop
	0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, // n = n-1; br_if
	0x0b, 0x0b,
}

func library() *hostcall.Library {
	return &hostcall.Library{Name: "bench", Funcs: []hostcall.Func{{
		Module: "m", Name: "f", Params: []hostcall.ValueType{hostcall.I32, hostcall.I64}, Results: []hostcall.ValueType{hostcall.I32}, Fails: true,
		Args: []hostcall.Arg{{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "offset", Kind: hostcall.Int, Param: 1}},
		Call: func(c *hostcall.Call) { c.Fail(hostcall.Success) },
	}}}
}

// bare is a guest whose import is wazero's own host function.
func bare(t testing.TB) func(n int) {
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	t.Cleanup(func() { _ = r.Close(ctx) })
	_, err := r.NewHostModuleBuilder("m").NewFunctionBuilder().WithGoModuleFunction(
		api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) { stack[0] = 0 }),
		[]api.ValueType{api.ValueTypeI32, api.ValueTypeI64}, []api.ValueType{api.ValueTypeI32}).Export("f").Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Instantiate(ctx, caller)
	if err != nil {
		t.Fatal(err)
	}
	return runner(t, m.ExportedFunction("run").CallWithStack)
}

// watched is the same guest behind the door.
func watched(t testing.TB, interposers func(*hostcall.Table) []hostcall.Interposer) func(n int) {
	ctx := context.Background()
	table, err := hostcall.NewTable(library())
	if err != nil {
		t.Fatal(err)
	}
	e, err := ripwazero.Open(ctx, table, ripwazero.Options{Endless: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	m, err := e.Compile(ctx, caller)
	if err != nil {
		t.Fatal(err)
	}
	d, err := hostcall.NewDoor(table, nil, interposers(table))
	if err != nil {
		t.Fatal(err)
	}
	i, err := m.Instantiate(ctx, d, engine.NewMemory(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	return runner(t, i.Function("run").Call)
}

func runner(t testing.TB, call func(context.Context, []uint64) error) func(n int) {
	ctx := context.Background()
	stack := make([]uint64, 1)
	return func(n int) {
		stack[0] = uint64(n)
		if err := call(ctx, stack); err != nil {
			t.Fatal(err)
		}
	}
}

func nobody(*hostcall.Table) []hostcall.Interposer { return nil }

func traced(*hostcall.Table) []hostcall.Interposer {
	return []hostcall.Interposer{trace.New(trace.NewRing(256), trace.Options{})}
}

func judged(rules ...policy.Rule) func(*hostcall.Table) []hostcall.Interposer {
	return func(table *hostcall.Table) []hostcall.Interposer {
		p, err := policy.Compile(rules, table)
		if err != nil {
			panic(err)
		}
		return []hostcall.Interposer{p}
	}
}

var scalar = judged(policy.Rule{On: policy.OneOrMany{"f"}, When: "call.fd > 100 || call.offset < 0", Do: "deny"})

// evaluated has a condition that is not compiled to code, since it calculates.
var evaluated = judged(policy.Rule{On: policy.OneOrMany{"f"}, When: "call.fd % 7 == 6", Do: "deny"})

// BenchmarkHostCall measures one host call from a guest's loop. The first is wazero's own; the others are ours, and
// report how many times as long they take in the same run.
func BenchmarkHostCall(b *testing.B) {
	reference := bare(b)
	for _, c := range []struct {
		name string
		run  func(n int)
	}{
		{"bare", reference},
		{"unwatched", watched(b, nobody)},
		{"allowed", watched(b, judged(policy.Rule{On: policy.OneOrMany{"f"}, Do: "allow"}))},
		{"judged", watched(b, scalar)},
		{"evaluated", watched(b, evaluated)},
		{"traced", watched(b, traced)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			c.run(b.N)
			b.StopTimer()
			// The best of short turns, so that what else the machine does falls on neither side.
			own, ref := time.Hour, time.Hour
			for range 100 {
				own, ref = min(own, timed(c.run)), min(ref, timed(reference))
			}
			b.ReportMetric(float64(own)/float64(ref), "x-bare")
			b.ReportMetric(float64(own)/1000, "least-ns")
			b.ReportMetric(float64(ref)/1000, "bare-ns")
		})
	}
}

func timed(run func(int)) time.Duration {
	began := clock.Elapsed()
	run(1000)
	return clock.Elapsed() - began
}

func TestWatchedHostCallsAllocateNothing(t *testing.T) {
	for name, interposers := range map[string]func(*hostcall.Table) []hostcall.Interposer{"nobody": nobody, "a tracer": traced, "a policy": scalar} {
		run := watched(t, interposers)
		// The call into the guest may allocate; a thousand host calls may not add to it.
		one := testing.AllocsPerRun(20, func() { run(1) })
		if many := testing.AllocsPerRun(20, func() { run(1000) }); many > one {
			t.Errorf("watched by %s: %v allocations for a thousand calls, %v for one", name, many, one)
		}
	}
}
