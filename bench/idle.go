package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// idleTasks are as many as should fit into 1 GiB.
const idleTasks = 10_000

// idle measures what tasks cost that do nothing.
var idle = comparison{
	name: "idle", about: "resident memory of idle tiny tasks (-tasks of them)",
	prepare: func(ctx context.Context, b *bench) error { return b.buildServer(ctx) },
	measure: measureIdle,
}

func measureIdle(ctx context.Context, b *bench) ([]Figure, error) {
	s, err := b.serve(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	wasm := tinyTask()
	if _, err := s.deploy(ctx, "first", "", wasm); err != nil { // the code and its image are shared
		return nil, err
	}
	if err := settle(ctx, time.Second); err != nil {
		return nil, err
	}
	before, err := s.resident()
	if err != nil {
		return nil, err
	}
	began, told := time.Now(), time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for n := range b.tasks {
		g.Go(func() error {
			_, err := s.deploy(gctx, fmt.Sprintf("task-%d", n), "", wasm)
			return err
		})
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			b.say("  %d of %d tasks", n, b.tasks)
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	deploys := float64(b.tasks) / time.Since(began).Seconds()
	// Each has to answer, and what that takes may go again.
	for n := range b.tasks {
		url := fmt.Sprintf("%s/task-%d/", s.ingress, n)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s answers %s", url, resp.Status)
		}
	}
	b.say("  all tasks answer; waiting for them to be idle")
	if err := settle(ctx, 70*time.Second); err != nil { // a job unused for a minute keeps no sandbox ahead
		return nil, err
	}
	after, err := s.resident()
	if err != nil {
		return nil, err
	}
	each := (after - before) / float64(b.tasks)
	note := fmt.Sprintf("%d tasks, each a job of its own, used once and then idle for 70 s; all of the server's processes", b.tasks)
	if b.tasks < idleTasks {
		// Part of it does not grow with the tasks: 167 KiB each with 1,000, be it after 70 s or 150 s, and 45 KiB with 10,000.
		note += fmt.Sprintf("; extrapolated from %.0f KiB a task and %.0f MiB without any, which is too high: -tasks %d, the default, measures it", each/1024, before/(1<<20), idleTasks)
	}
	one := &results{b.missing, map[string]map[string]samples{"ripstop": {"total": {before + each*idleTasks}, "each": {each}, "deploys": {deploys}}}}
	return one.figures(
		line{name: fmt.Sprintf("memory of %d idle tiny tasks", idleTasks), unit: "MiB", of: "ripstop", metric: "total", divide: 1 << 20, target: atMost(1024), note: note},
		line{name: "memory of an idle tiny task", unit: "KiB", of: "ripstop", metric: "each", divide: 1 << 10},
		line{name: "deploys of new jobs with a known module", unit: "1/s", of: "ripstop", metric: "deploys", note: "8 at once; each answer is durable and the job serves"},
	), nil
}
