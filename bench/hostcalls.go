package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	extism "github.com/extism/go-sdk"

	"github.com/ripstop-vm/ripstop/bench/internal/timing"
	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// hostCalls compares a guest's host calls behind the door with the engine's bare ones, which BenchmarkHostCall of package trace has side by
// side, and with those of peers.
var hostCalls = comparison{
	name: "hostcalls", about: "a host call nobody watches, traced, judged; against wazero's bare one, wasmtime-go's and Extism's",
	prepare: func(ctx context.Context, b *bench) error {
		if err := os.WriteFile(b.guest("caller"), caller(), 0o644); err != nil {
			return err
		}
		if err := b.without("wasmtime-go", b.buildWasmtime(ctx)); err != nil {
			return err
		}
		return b.testBinary(ctx, "runtime/trace")
	},
	measure: measureHostCalls,
}

// caller is a guest whose run calls an imported function 1,000 times.
func caller() []byte {
	i32, i64 := byte(w.I32), byte(w.I64)
	return (&w.Module{
		Imports: []w.Import{{Module: "extism:host/user", Name: "f", Type: w.Type{Params: []byte{i32, i64}, Results: []byte{i32}}}}, Memory: []uint32{1},
		Funcs: []w.Func{{Export: "run", Type: w.Type{Results: []byte{i32}}, Locals: []byte{i32}, Body: w.Cat(
			w.I32Const(1000), w.LocalSet(0),
			w.Loop(w.I32Const(3), w.I64Const(7), w.Call(0), []byte{w.Drop}, w.LocalGet(0), w.I32Const(1), []byte{w.I32Sub, 0x22, 0, 0x0d, 0}), // local.tee 0, br_if 0
			w.I32Const(0))}},
	}).Bytes()
}

func measureHostCalls(ctx context.Context, b *bench) ([]Figure, error) {
	turn := b.time / 20
	sides := []side{{"ripstop", func(ctx context.Context) (values, error) {
		return b.testBench(ctx, "runtime/trace", "HostCall", turn.String())
	}}}
	peer, err := b.startWasmtime(ctx)
	if err == nil {
		defer peer.stop()
		sides = append(sides, side{"wasmtime-go", func(context.Context) (values, error) {
			v, err := peer.measure("host call", b.guest("caller"), turn)
			return values{"call": v}, err
		}})
	} else if err := b.without("wasmtime-go", err); err != nil {
		return nil, err
	}
	f := extism.NewHostFunctionWithStack("f", func(_ context.Context, _ *extism.CurrentPlugin, stack []uint64) { stack[0] = 0 },
		[]extism.ValueType{extism.ValueTypeI32, extism.ValueTypeI64}, []extism.ValueType{extism.ValueTypeI32})
	compiled, err := b.newExtism(ctx, caller(), f)
	if err != nil {
		return nil, err
	}
	defer compiled.Close(ctx)
	plugin, err := compiled.Instance(ctx, extism.PluginInstanceConfig{})
	if err != nil {
		return nil, err
	}
	sides = append(sides, side{"Extism", func(ctx context.Context) (values, error) {
		v, err := extismCalls(ctx, plugin, turn)
		return values{"call": v}, err
	}})

	r, err := b.interleave(ctx, 2*b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var figs []Figure
	for _, c := range []struct {
		kind, name string
		target     target
	}{
		{"unwatched", "nobody watches", atMostTimes(1.2)}, {"traced", "traced to a ring", atMostTimes(3)}, {"judged", "judged by a compiled condition", atMostTimes(3)},
		{"evaluated", "judged by an interpreted CEL condition", target{}},
	} {
		metric := "HostCall/" + c.kind + " "
		r.by["wazero, bare"] = r.by["ripstop"]
		f := r.figure(line{name: "host call, " + c.name, unit: "ns", of: "ripstop", metric: metric + "least-ns", against: "wazero, bare", againstMetric: metric + "bare-ns"})
		// The ratio is of turns next to each other, and steadier than that of the two medians.
		f.Ratio = r.by["ripstop"][metric+"x-bare"].median()
		f.Target, f.Met = c.target.String(f.Unit), c.target.met(f)
		allocs := r.by["ripstop"][metric+"allocs/op"].median()
		f.Note = fmt.Sprintf("%.0f allocations", allocs)
		if allocs > 0 && f.Met != nil {
			*f.Met = false
		}
		figs = append(figs, f)
	}
	for _, name := range []string{"wasmtime-go", "Extism"} {
		figs = append(figs, r.figures(line{name: "host call, nobody watches", unit: "ns", of: "ripstop", metric: "HostCall/unwatched least-ns", against: name, againstMetric: "call"})...)
	}
	return figs, nil
}

// extismCalls measures a host call of a plugin, of 1,000 in one call.
func extismCalls(ctx context.Context, p *extism.Plugin, d time.Duration) (float64, error) {
	ns, err := timing.Median(d, 1, nil, func() error {
		code, _, err := p.CallWithContext(ctx, "run", nil)
		if err == nil && code != 0 {
			err = errors.New("the plugin failed")
		}
		return err
	})
	return ns / 1000, err
}
