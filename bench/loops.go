package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/ripstop-vm/ripstop/bench/internal/timing"
	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
)

// turns of a loop that one call makes.
const turns = 100_000

// loops compares what bounding a guest costs in loops: our metering, and the ways that wazero and wasmtime have.
var loops = comparison{
	name: "loops", about: "loops of a metered guest, against the same unmetered; beside wazero with deadlines, wasmtime with fuel and epochs",
	prepare: func(ctx context.Context, b *bench) error {
		for _, name := range loopNames {
			if err := os.WriteFile(b.guest("loop "+name), wasmtest.LoopModule(name), 0o644); err != nil {
				return err
			}
		}
		return b.without("wasmtime-go", b.buildWasmtime(ctx))
	},
	measure: measureLoops,
}

var loopNames = []string{"one block", "branchy"}

func measureLoops(ctx context.Context, b *bench) ([]Figure, error) {
	turn := b.time / 40
	var closers []func()
	defer func() {
		for _, c := range closers {
			c()
		}
	}()
	// each makes a side that measures all loops, given how to make one of them ready to be called.
	each := func(name string, open func(wasm []byte) (call func() error, err error)) (side, error) {
		ready := map[string]func() (float64, error){}
		for _, l := range loopNames {
			call, err := open(wasmtest.LoopModule(l))
			if err != nil {
				return side{}, fmt.Errorf("%s: %w", name, err)
			}
			ready[l] = func() (float64, error) { return timing.Median(turn, 1, nil, call) }
		}
		return side{name, func(context.Context) (values, error) { return all(ready) }}, nil
	}
	rt, err := runtime.Open(ctx, runtime.Options{Meter: true})
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	ours, err := each("ripstop", func(wasm []byte) (func() error, error) {
		m, err := rt.Compile(ctx, wasm)
		if err != nil {
			return nil, err
		}
		s, err := m.NewSandbox(ctx, runtime.SandboxOptions{})
		if err != nil {
			return nil, err
		}
		closers = append(closers, func() { _ = s.Close() })
		f, err := s.Function("f")
		stack := make([]uint64, 1)
		return func() error {
			stack[0] = turns
			return f.Call(ctx, stack)
		}, err
	})
	if err != nil {
		return nil, err
	}
	sides := []side{ours}
	for name, ends := range map[string]bool{"wazero, unmetered": false, "wazero, closing on a done context": true} {
		r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(ends))
		closers = append(closers, func() { _ = r.Close(ctx) })
		s, err := each(name, func(wasm []byte) (func() error, error) {
			code, err := r.CompileModule(ctx, wasm)
			if err != nil {
				return nil, err
			}
			m, err := r.InstantiateModule(ctx, code, wazero.NewModuleConfig().WithName(""))
			if err != nil {
				return nil, err
			}
			f, stack := m.ExportedFunction("f"), make([]uint64, 1)
			return func() error {
				ctx := ctx
				if ends {
					c, cancel := context.WithTimeout(ctx, time.Minute)
					defer cancel()
					ctx = c
				}
				stack[0] = turns
				return f.CallWithStack(ctx, stack)
			}, nil
		})
		if err != nil {
			return nil, err
		}
		sides = append(sides, s)
	}
	wasmtimes := []string{"loop", "loop with fuel", "loop with epoch checks"}
	peer, err := b.startWasmtime(ctx)
	if err == nil {
		closers = append(closers, peer.stop)
		for _, what := range wasmtimes {
			ready := map[string]func() (float64, error){}
			for _, l := range loopNames {
				ready[l] = func() (float64, error) { return peer.measure(what, b.guest("loop "+l), turn) }
			}
			sides = append(sides, side{"wasmtime-go, " + what, func(context.Context) (values, error) { return all(ready) }})
		}
	} else if err := b.without("wasmtime-go", err); err != nil {
		return nil, err
	}

	r, err := b.interleave(ctx, 5*b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var lines []line
	most := map[string]float64{"one block": 1.6, "branchy": 2.2}
	for _, name := range loopNames {
		add := func(what, of, against string, t target) {
			lines = append(lines, line{name: "loop of " + name + ", " + what, unit: "ns a turn", of: of, metric: name, against: against, divide: turns, target: t})
		}
		add("metered", "ripstop", "wazero, unmetered", atMostTimes(most[name]))
		add("wazero closing on a done context", "wazero, closing on a done context", "wazero, unmetered", target{})
		if r.missing["wasmtime-go"] == nil {
			for _, what := range wasmtimes[1:] {
				add("wasmtime "+what[len("loop "):], "wasmtime-go, "+what, "wasmtime-go, loop", target{})
			}
		}
	}
	return r.figures(lines...), nil
}
