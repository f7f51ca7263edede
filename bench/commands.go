package main

import (
	"context"
	"fmt"
)

// commands compares programs that know nothing of Ripstop, run anew for each request.
var commands = comparison{
	name: "commands", about: "requests/s and latency of unmodified commands in C and Go (CGI), against a plain wazero host that runs them",
	prepare: func(ctx context.Context, b *bench) error {
		if err := b.buildServer(ctx); err != nil {
			return err
		}
		if err := b.buildGuest(ctx, "examples/cgi", false); err != nil {
			return err
		}
		return b.without("C command", b.buildC(ctx, "guests/ccgi.c"))
	},
	measure: measureCommands,
}

func measureCommands(ctx context.Context, b *bench) ([]Figure, error) {
	s, err := b.serve(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	guests := map[string]string{"C command": "ccgi", "Go command": "cgi"}
	rate := map[string]float64{"C command": 200, "Go command": 20} // one every 50 ms: a Go program's start takes about 20 ms where it is not made ahead
	names := []string{"C command", "Go command"}
	var sides []side
	for _, name := range names {
		if b.missing[name] != nil {
			continue
		}
		wasm, err := readFile(b.guest(guests[name]))
		if err != nil {
			return nil, err
		}
		url, err := s.deploy(ctx, guests[name], "", wasm)
		if err != nil {
			return nil, err
		}
		plain, plainURL, err := b.startPlainHost(ctx, "-command", b.guest(guests[name]))
		if err != nil {
			return nil, err
		}
		defer plain.stop()
		for side, url := range map[string]string{name: url, name + ", plain wazero host": plainURL + "command"} {
			sides = append(sides, b.loaded(side, url, rate[name]))
		}
	}
	r, err := b.interleave(ctx, b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	var lines []line
	for _, name := range names {
		if b.missing[name] != nil {
			continue
		}
		peer := name + ", plain wazero host"
		lines = append(lines, line{name: "requests, " + name, unit: "1/s", of: name, metric: "rate", against: peer, note: fmt.Sprintf("%d connections, %s", connections, generator())},
			line{name: "p50, " + name, unit: "ms", of: name, metric: "p50", against: peer, note: fmt.Sprintf("at %.0f requests/s", rate[name])},
			line{name: "p99, " + name, unit: "ms", of: name, metric: "p99", against: peer, note: fmt.Sprintf("at %.0f requests/s", rate[name])})
	}
	return r.figures(lines...), nil
}
