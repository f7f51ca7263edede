package main

import (
	"context"
	"fmt"
	"os"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// What a job meets beside an endless loop.
const (
	steadyRate = 300 // requests a second to the other job
	spinners   = 8   // clients that ask for the endless loop, again and again
	patience   = 2 * time.Second
)

// hostile compares how long other requests take beside endless loops.
var hostile = comparison{
	name: "hostile", about: "another job's p99 beside endless loops, and the worst garbage collection pause; in workerd and in a plain wazero host, too",
	prepare: func(ctx context.Context, b *bench) error {
		if err := b.buildServer(ctx); err != nil {
			return err
		}
		if err := os.WriteFile(b.guest("tiny"), tinyCounter(), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(b.guest("endless"), endlessRun(), 0o644); err != nil {
			return err
		}
		_, err := b.findWorkerd(ctx)
		return b.without("workerd", err)
	},
	measure: measureHostile,
}

// endlessRun is a guest whose run never ends.
func endlessRun() []byte {
	return (&w.Module{Memory: []uint32{1}, Funcs: []w.Func{
		{Export: "run", Type: w.Type{Results: []byte{w.I32}}, Body: w.Cat(w.Loop(w.Br(0)), w.I32Const(0))}}}).Bytes()
}

func measureHostile(ctx context.Context, b *bench) ([]Figure, error) {
	s, err := b.serve(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	good, err := s.deploy(ctx, "tiny", "", tinyTask())
	if err != nil {
		return nil, err
	}
	// Its invocations end after a second, and are asked for again.
	bad, err := s.deploy(ctx, "endless", "limits: {time: 1s}", endlessTask())
	if err != nil {
		return nil, err
	}
	sides := []side{{"ripstop", func(ctx context.Context) (values, error) { return b.beside(ctx, good, bad) }}}
	// In the others the loop may never end, so that each round has a process of its own, which is killed.
	add := func(name string, start func(context.Context) (*process, string, error)) {
		sides = append(sides, side{name, func(ctx context.Context) (values, error) {
			p, url, err := start(ctx)
			if err != nil {
				return nil, err
			}
			defer p.kill()
			return b.beside(ctx, url, url+"spin")
		}})
	}
	if b.missing["workerd"] == nil {
		add("workerd", b.startWorkerd)
	}
	add("plain wazero host", func(ctx context.Context) (*process, string, error) {
		return b.startPlainHost(ctx, "-guest", b.guest("tiny"), "-endless", b.guest("endless"))
	})
	r, err := b.interleave(ctx, b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	if err := settle(ctx, metricsEvery); err != nil {
		return nil, err
	}
	pause, err := s.pause(ctx)
	if err != nil {
		return nil, err
	}
	r.by["ripstop"]["pause"] = samples{pause}
	note := fmt.Sprintf("tiny job at %d requests/s; %d clients ask for the loop", steadyRate, spinners)
	var lines []line
	for _, side := range []string{"ripstop", "workerd", "plain wazero host"} {
		t := target{}
		if side == "ripstop" {
			t = atMostTimes(2)
		}
		failed := r.by[side]["failed"].median()
		lines = append(lines, line{name: "p99 beside endless loops, " + side, unit: "ms", of: side, metric: "p99", against: "the same, quiet", target: t,
			note: fmt.Sprintf("%s; %.0f of %.0f requests failed or took over %s", note, failed, steadyRate*b.time.Seconds(), patience)})
		r.by["the same, quiet"] = map[string]samples{}
	}
	var figs []Figure
	for _, l := range lines {
		r.by["the same, quiet"]["p99"] = r.by[l.of]["quiet"]
		figs = append(figs, r.figures(l)...)
	}
	return append(figs, r.figures(line{name: "worst garbage collection pause beside endless loops", unit: "ms", of: "ripstop", metric: "pause", target: atMost(10),
		note: "of the worker's last 256 collections"})...), nil
}

// metricsEvery is a little more than the time between two reports of a worker's metrics.
const metricsEvery = 6 * time.Second

// beside measures requests to good alone, and then while others ask for bad. It answers "quiet" and "p99" (ms), and how many failed.
func (b *bench) beside(ctx context.Context, good, bad string) (values, error) {
	steady := loadOptions{url: good, connections: 16, rate: steadyRate, time: b.time, timeout: patience, tolerant: true}
	warm := steady
	warm.time = 300 * time.Millisecond
	if _, err := b.load(ctx, warm); err != nil {
		return nil, err
	}
	quiet, err := b.load(ctx, steady)
	if err != nil {
		return nil, err
	}
	if quiet["failed"] > 0 {
		return nil, fmt.Errorf("%.0f requests to %s failed while all was quiet", quiet["failed"], good)
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.load(ctx, loadOptions{url: bad, connections: spinners, time: b.time + 500*time.Millisecond, timeout: patience, tolerant: true})
		done <- err
	}()
	if err := settle(ctx, 250*time.Millisecond); err != nil {
		return nil, err
	}
	loud, err := b.load(ctx, steady)
	if e := <-done; err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	return values{"quiet": quiet["p99"], "p99": loud["p99"], "failed": loud["failed"]}, nil
}
