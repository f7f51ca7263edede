// Command bench measures Ripstop beside what users would pick instead, in one run on one machine, prints a table and
// writes out/report.json. docs/benchmarks.md says how each figure is measured. A peer whose tools are missing is left out with
// a note that says what to install.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if run, ok := children[os.Getenv(childVariable)]; ok {
		finish(run(os.Args[1:]))
		return
	}
	var o options
	flag.StringVar(&o.root, "root", "..", "the project's root")
	only := flag.String("only", "", "measure only comparisons whose name matches this regular expression")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; each measures every side once, and the median counts")
	flag.DurationVar(&o.time, "time", 2*time.Second, "how long a throughput is measured, per round; smaller things take a part of it")
	flag.IntVar(&o.tasks, "tasks", idleTasks, "idle tasks that are deployed, which takes minutes; what as many take is extrapolated from fewer, and too high")
	list := flag.Bool("list", false, "list the comparisons and end")
	prepare := flag.Bool("prepare", false, "build and fetch what the comparisons need, and end")
	add := flag.Bool("add", false, "keep the report's figures of other comparisons")
	show := flag.Bool("show", false, "print the last report as a table in Markdown, and end")
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 || o.time <= 0 || o.tasks < 1 {
		finish(errors.New("arguments are flags only, and numbers are above 0; see -help"))
	}
	pattern, err := regexp.Compile(*only)
	finish(err)
	if *list {
		w := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', 0)
		for _, c := range comparisons {
			fmt.Fprintf(w, "%s\t%s\n", c.name, c.about)
		}
		finish(w.Flush())
		return
	}
	report := filepath.Join(o.root, "bench", "out", "report.json")
	if *show {
		figs, err := readReport(report)
		finish(err)
		finish(writeMarkdown(os.Stdout, figs))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	finish(run(ctx, o, pattern, *prepare, *add, report))
}

// finish ends the program with exit code 1 if there is an error.
func finish(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run prepares the comparisons that pattern matches, measures them, and writes what they found. What was measured before an error
// or an interrupt is still printed.
func run(ctx context.Context, o options, pattern *regexp.Regexp, prepareOnly, add bool, report string) (err error) {
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	var chosen []comparison
	for _, c := range comparisons {
		if pattern.MatchString(c.name) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no comparison is named like %q; see -list", pattern)
	}
	for _, c := range chosen {
		b.say("preparing %s", c.name)
		if err := c.prepare(ctx, b); err != nil {
			return fmt.Errorf("prepare %s: %w", c.name, err)
		}
	}
	if prepareOnly {
		return nil
	}
	var figs []Figure
	for _, c := range chosen {
		var more []Figure
		b.say("measuring %s", c.name)
		began := time.Now()
		if more, err = c.measure(ctx, b); err != nil {
			err = fmt.Errorf("measure %s: %w", c.name, err)
			break
		}
		b.say("%s took %s", c.name, time.Since(began).Round(time.Second))
		for i := range more {
			more[i].Comparison, more[i].Commit, more[i].Measured = c.name, b.commit, time.Now().UTC().Truncate(time.Second)
		}
		figs = append(figs, more...)
	}
	if e := writeTable(os.Stdout, figs); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if add {
		if figs, err = addTo(report, figs); err != nil {
			return err
		}
	}
	return writeReport(report, figs)
}
