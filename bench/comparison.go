package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// options are the flags.
type options struct {
	root   string
	rounds int
	time   time.Duration // of one throughput in one round
	tasks  int
}

// comparison measures some sides next to each other.
type comparison struct {
	name, about string
	prepare     func(context.Context, *bench) error // builds and fetches, so that nothing is compiled while something is measured
	measure     func(context.Context, *bench) ([]Figure, error)
}

var comparisons = []comparison{freshSandboxes, hostCalls, loops, endpoints, commands, hostile, idle, queues, watchers}

// bench is one run.
type bench struct {
	options
	cache   string // folder for what is built and fetched
	commit  string // of the project; "-dirty" if files have changed since
	missing map[string]error
}

func newBench(ctx context.Context, o options) (*bench, error) {
	var err error
	if o.root, err = filepath.Abs(o.root); err != nil {
		return nil, err
	}
	b := &bench{options: o, cache: filepath.Join(o.root, ".cache", "bench"), missing: map[string]error{}}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*")
	cmd.Dir = o.root
	if out, err := cmd.Output(); err == nil { // a copy without a history has no commit
		b.commit = strings.TrimSpace(string(out))
	}
	return b, nil
}

// say tells on stderr what goes on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05")+" "+format+"\n", args...)
}

// without notes that a peer is left out, and why. It answers an error that has another cause than something that is not installed.
func (b *bench) without(peer string, err error) error {
	var m missingError
	if !errors.As(err, &m) {
		return err
	}
	if b.missing[peer] == nil {
		b.missing[peer] = err
		b.say("%s is left out: %v", peer, err)
	}
	return nil
}

// missingError reports that a program that is not of this project is not there, and says what to do.
type missingError struct{ what, do string }

func (e missingError) Error() string { return e.what + "; " + e.do }

// values are what one measurement found, by metric.
type values map[string]float64

// side is one of those compared.
type side struct {
	name    string
	measure func(context.Context) (values, error)
}

// samples are a metric's values, one a round.
type samples []float64

func (s samples) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	c := slices.Sorted(slices.Values(s))
	return (c[(len(c)-1)/2] + c[len(c)/2]) / 2
}

// results are all samples of a comparison, by side and metric.
type results struct {
	missing map[string]error
	by      map[string]map[string]samples
}

// interleave measures every side once in each of so many rounds, so that a noisy moment hits all of them.
func (b *bench) interleave(ctx context.Context, rounds int, sides ...side) (*results, error) {
	r := &results{b.missing, map[string]map[string]samples{}}
	for n := range rounds {
		for _, s := range sides {
			began := time.Now()
			vs, err := s.measure(ctx)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			if r.by[s.name] == nil {
				r.by[s.name] = map[string]samples{}
			}
			for metric, v := range vs {
				r.by[s.name][metric] = append(r.by[s.name][metric], v)
			}
			if took := time.Since(began); took > time.Second {
				b.say("  round %d of %d: %s, %.1f s", n+1, rounds, s.name, took.Seconds())
			}
		}
	}
	return r, nil
}

// line asks for a figure: a metric of a side, and the same of another side.
type line struct {
	name, unit    string
	of, metric    string
	against       string // another side; empty: the value stands for itself
	againstMetric string // empty: metric
	divide        float64
	target        target
	note          string
}

// figure makes a figure of l.
func (r *results) figure(l line) Figure {
	if l.divide == 0 {
		l.divide = 1
	}
	if l.againstMetric == "" {
		l.againstMetric = l.metric
	}
	ours := r.by[l.of][l.metric]
	f := Figure{Name: l.name, Unit: l.unit, Against: l.against, Runs: len(ours), Note: l.note, Target: l.target.String(l.unit)}
	f.Value, f.Spread = ours.median()/l.divide, ours.spread(l.divide)
	if theirs := r.by[l.against][l.againstMetric]; len(theirs) > 0 {
		f.Other, f.OtherSpread = theirs.median()/l.divide, theirs.spread(l.divide)
		f.Ratio = f.Value / f.Other
	} else if err := r.missing[l.against]; err != nil {
		f.Note = strings.TrimPrefix(f.Note+"; left out: "+err.Error(), "; ")
	}
	f.Met = l.target.met(f)
	return f
}

func (r *results) figures(ls ...line) []Figure {
	var figs []Figure
	for _, l := range ls {
		if len(r.by[l.of][l.metric]) > 0 || r.missing[l.of] == nil {
			figs = append(figs, r.figure(l))
		}
	}
	return figs
}

func (s samples) spread(divide float64) []float64 {
	if len(s) < 2 {
		return nil
	}
	return []float64{slices.Min(s) / divide, slices.Max(s) / divide}
}
