package main

import (
	"context"
	"fmt"
)

// hostCalls compares a guest's host calls behind the door with the engine's bare ones. BenchmarkHostCall of package trace has all of
// them side by side.
var hostCalls = comparison{
	name: "hostcalls", about: "a host call nobody watches, traced, judged; against wazero's bare one",
	prepare: func(ctx context.Context, b *bench) error { return b.testBinary(ctx, "runtime/trace") },
	measure: func(ctx context.Context, b *bench) ([]Figure, error) {
		r, err := b.interleave(ctx, b.rounds, side{"ripstop", func(ctx context.Context) (values, error) {
			return b.testBench(ctx, "runtime/trace", "HostCall", "200ms")
		}})
		if err != nil {
			return nil, err
		}
		var figs []Figure
		for _, c := range []struct {
			kind, name string
			most       float64
		}{
			{"unwatched", "nobody watches", 1.2}, {"traced", "traced to a ring", 3}, {"allowed", "judged by a compiled rule", 3}, {"judged", "judged by a CEL rule", 3},
		} {
			r.by["wazero, bare"] = r.by["ripstop"]
			metric := "HostCall/" + c.kind
			f := r.figure(line{name: "host call, " + c.name, unit: "ns", of: "ripstop", metric: metric + " ns/op",
				against: "wazero, bare", againstMetric: "HostCall/bare ns/op", target: atMostTimes(c.most)})
			allocs := r.by["ripstop"][metric+" allocs/op"].median()
			f.Note = fmt.Sprintf("%.0f allocations", allocs)
			if allocs > 0 && f.Met != nil {
				*f.Met = false
			}
			figs = append(figs, f)
		}
		return figs, nil
	},
}
