package main

import (
	"context"
	"fmt"
)

// modestRate is requests a second that every server here answers with ease, so that latency is not a queue's length.
const modestRate = 500

// endpoints compares deployed jobs with a server that answers the same bytes without a guest, and with workerd.
var endpoints = comparison{
	name: "endpoints", about: "requests/s and latency of jobs, against bare echo and workerd",
	prepare: func(ctx context.Context, b *bench) error {
		if err := b.buildServer(ctx); err != nil {
			return err
		}
		if err := b.buildGuest(ctx, "examples/hello", true); err != nil {
			return err
		}
		_, err := b.findWorkerd(ctx)
		return b.without("workerd", err)
	},
	measure: measureEndpoints,
}

func measureEndpoints(ctx context.Context, b *bench) ([]Figure, error) {
	goGuest, err := readFile(b.guest("hello"))
	if err != nil {
		return nil, err
	}
	s, err := b.serve(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var sides []side
	add := func(name, url string) { sides = append(sides, b.loaded(name, url, modestRate)) }
	for _, j := range []struct {
		name, job, isolation string
		wasm                 []byte
	}{
		{"tiny task", "tiny", "request", tinyTask()}, {"Go task", "go", "request", goGuest},
		{"tiny task, isolation: task", "tiny-kept", "task", tinyTask()}, {"Go task, isolation: task", "go-kept", "task", goGuest},
	} {
		url, err := s.deploy(ctx, j.job, "isolation: "+j.isolation, j.wasm)
		if err != nil {
			return nil, err
		}
		add(j.name, url)
	}
	echo, url, err := b.startEcho(ctx)
	if err != nil {
		return nil, err
	}
	defer echo.stop()
	add("bare echo", url)
	switch workerd, url, err := b.startWorkerd(ctx); {
	case err == nil:
		defer workerd.stop()
		add("workerd", url)
	default:
		if err := b.without("workerd", err); err != nil {
			return nil, err
		}
	}
	r, err := b.interleave(ctx, 2*b.rounds-1, sides...) // what is least steady on a shared machine is measured oftener
	if err != nil {
		return nil, err
	}
	var lines []line
	for _, job := range []string{"tiny task", "Go task", "tiny task, isolation: task", "Go task, isolation: task"} {
		toEcho, toWorkerd, what := atLeastTimes(0.8), atLeastTimes(2.5), job+", fresh sandbox each request"
		if job != "tiny task" && job != "Go task" {
			toEcho, toWorkerd, what = target{}, target{}, job
		}
		note := fmt.Sprintf("%d connections, %s", connections, generator())
		lines = append(lines,
			line{name: "requests, " + what, unit: "1/s", of: job, metric: "rate", against: "bare echo", target: toEcho, note: note},
			line{name: "requests, " + what, unit: "1/s", of: job, metric: "rate", against: "workerd", target: toWorkerd, note: note})
	}
	for _, job := range []string{"tiny task", "Go task"} {
		for _, p := range []string{"p50", "p99"} {
			for _, peer := range []string{"bare echo", "workerd"} {
				lines = append(lines, line{name: p + ", " + job + ", fresh sandbox each request", unit: "ms", of: job, metric: p, against: peer,
					note: fmt.Sprintf("at %d requests/s", modestRate)})
			}
		}
	}
	return r.figures(lines...), nil
}
