package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/agent"
	"github.com/ripstop-vm/ripstop/agent/supervisor"
	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/gateway"
	"github.com/ripstop-vm/ripstop/gateway/reactor"
	"github.com/ripstop-vm/ripstop/internal/telemetry"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// workerConfig is what `ripstop serve` tells its worker, as JSON in workerVariable. No credential is in it.
type workerConfig struct {
	CodeDirs  map[runtime.Engine]string `json:"codeDirs,omitempty"` // may be read
	Volumes   map[string]string         `json:"volumes,omitempty"`
	ReadOnly  []string                  `json:"readOnly,omitempty"` // names of volumes in which nothing may be changed
	LogFormat string                    `json:"logFormat,omitempty"`
	LogLevel  string                    `json:"logLevel,omitempty"`
	Spans     bool                      `json:"spans,omitempty"` // spans are wanted
	Drain     time.Duration             `json:"drain,omitempty"`
}

const workerVariable = "RIPSTOP_WORKER"

// maxConnections bounds the open connections of ingress; more wait in the kernel's backlog.
const maxConnections = 8192

func newWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "worker",
		Short:  "Run guests for a server (started by `ripstop serve`, not by hand)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config := os.Getenv(workerVariable)
			if config == "" {
				return usageError(cmd, errors.New("a worker is started by `ripstop serve`"))
			}
			var c workerConfig
			if err := json.Unmarshal([]byte(config), &c); err != nil {
				return fmt.Errorf("read %s: %w", workerVariable, err)
			}
			return runWorker(cmd.Context(), c)
		},
	}
}

// runWorker serves guests until the control process asks to end, is gone, or ctx ends.
func runWorker(ctx context.Context, c workerConfig) error {
	log, err := newLogger(os.Stderr, c.LogFormat, c.LogLevel)
	if err != nil {
		return err
	}
	log = log.With("process", "worker")
	slog.SetDefault(log)
	shared, spoiled, ends, err := processors(log)
	if err != nil {
		return err
	}
	apart := spoiled
	if !ends {
		apart = nil // a connection's goroutine may run its guest
	}
	conn, err := inheritedConn(supervisor.LinkFD)
	if err != nil {
		return err
	}
	listener, err := inheritedListener(supervisor.IngressFD)
	if err != nil {
		return err
	}
	link, err := agent.NewLink(ctx, conn)
	if err != nil {
		return err
	}
	defer link.Close()

	tel, err := telemetry.New(telemetry.Options{Process: "worker", Spans: spansOver(link, c.Spans)})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	program, err := programDigest()
	if err != nil {
		return err
	}
	var handler *gateway.Handler
	a, err := agent.Open(ctx, agent.Options{
		Processor: shared, Apart: apart,
		Link: link, CodeDirs: c.CodeDirs, Program: program, Volumes: c.Volumes, ReadOnly: c.ReadOnly, Log: log, Recorder: recorder{tel.Tasks()}, Tracer: tel.Tracer(),
		Routes: func(jobs map[string][]manifest.Route) { handler.SetRoutes(routesOf(jobs, log)) },
	})
	if err != nil {
		return err
	}
	handler = gateway.New(gateway.Options{Agent: a, Recorder: tel.Ingress(), Tracer: tel.Tracer(), Log: log})
	server := reactor.New(reactor.Options{
		HTTP: gateway.NewServer(handler, log), Runners: shared.Tokens(), Connections: maxConnections, Spoiled: spoiled, Spoils: shared.Least(), Log: log,
	})
	confine(log, c)
	running := make(chan error, 1)
	go func() { running <- a.Run(ctx) }()
	metrics := make(chan struct{})
	go func() { defer close(metrics); sendMetrics(ctx, link, tel) }()
	collecting := make(chan struct{})
	go func() { defer close(collecting); paceCollector(ctx) }()
	serving := make(chan error, 1)
	go func() {
		// Until the routes are known every request would be a 404: they wait in the backlog instead.
		select {
		case <-a.Synced():
		case <-ctx.Done():
			serving <- nil
			return
		}
		serving <- server.Serve(listener)
	}()

	var failed error
	cut := false // guests still run, whose sandboxes nobody can close
	select {
	case failed = <-running:
		running <- failed
		if failed == nil {
			failed = errors.New("the link to the control process ended")
		}
	case failed = <-serving:
		serving <- failed
	case <-a.Draining():
	case <-ctx.Done():
	}
	if failed == nil || errors.Is(failed, http.ErrServerClosed) {
		failed = nil
		drain, end := context.WithTimeout(context.WithoutCancel(ctx), max(c.Drain, time.Second))
		if err := server.Shutdown(drain); err != nil {
			log.Warn("invocations were cut off", "error", err)
			cut = true
		}
		a.Wait(drain)
		end()
	}
	_ = server.Close() // its listener may be closed already
	cancel()
	<-running
	<-metrics
	<-collecting
	flush, end := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer end()
	closed := a.Close()
	if cut {
		closed = nil
	}
	return errors.Join(failed, tel.Shutdown(flush), closed)
}

// processors has guests run on as many Ps as there are cores, or as the process may use of them. GOMAXPROCS is one more, which keeps Go's scheduler
// looking after the network; and that twice and one more while there are long runs: a guest that lost its turn goes on up to its next tick, which takes
// a while where the kernel runs others first. What the environment says stays, as far as guests can run at all. Guests that compute for long do so behind requests;
// where the priority of threads cannot be lowered, they leave one core to others instead. spoiled reports whether the calling thread was lowered, and has to end
// with its goroutine if that has left its guest; ends says that such threads do not become what they were. Both mean nothing where none is lowered.
func processors(log *slog.Logger) (shared *processor.Processor, spoiled func() bool, ends bool, err error) {
	procs := goruntime.GOMAXPROCS(0)
	tokens, most := procs, 0
	if os.Getenv("GOMAXPROCS") == "" {
		procs, most = tokens+1, 2*tokens+1
	} else {
		if procs < 2 {
			log.Warn("guests cannot run with GOMAXPROCS=1: it is 2")
		}
		procs = max(procs, 2)
		tokens = max(procs/2, 1)
	}
	threads, err := processor.OpenThreads()
	if err != nil {
		log.Info("guests that compute for long run on one core fewer", "reason", err)
		goruntime.GOMAXPROCS(max(procs, most))
		shared, err = processor.New(processor.Options{Tokens: tokens, Longs: max(tokens-1, 1)})
		return shared, nil, false, err
	}
	goruntime.GOMAXPROCS(procs)
	var lowered sync.Once // it is said once: a failure repeats itself
	shared, err = processor.New(processor.Options{
		Tokens: tokens, Procs: most, Undone: threads.Raises(),
		OnLong: func() bool {
			err := threads.Lower()
			if err != nil {
				lowered.Do(func() { log.Warn("a guest that computes delays requests", "error", err) })
			}
			return err == nil
		},
		OnLongEnd: func() { threads.Raise() },
		Yield:     processor.Yield,
		Computed:  processor.Computed,
	})
	return shared, threads.Lowered, !threads.Raises(), err
}

// taken is run once the wall stands. Only tests set it: it stands for a worker that a guest has taken over.
var taken func(workerConfig)

// confine puts the operating system's wall around this process: from here on it reads compiled code, reaches the volumes that the operator
// offers, and what it holds open. All that it needs besides is open by now.
func confine(log *slog.Logger, c workerConfig) {
	opts := wall.Options{Write: coverageDirs()}
	for name, dir := range c.Volumes {
		if slices.Contains(c.ReadOnly, name) {
			opts.Read = append(opts.Read, dir)
		} else {
			opts.Write = append(opts.Write, dir)
		}
	}
	for _, dir := range c.CodeDirs {
		opts.Read = append(opts.Read, dir)
	}
	wall.Log(log, wall.Enter(opts))
	if taken != nil {
		taken(c)
	}
}

// coverageDirs is where a program built to measure its tests' coverage writes as it ends.
func coverageDirs() []string {
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		return []string{dir}
	}
	return nil
}

// routesOf makes the table of what jobs ask for. A route that two ask for, which the store does not let happen, goes to
// neither of them twice.
func routesOf(jobs map[string][]manifest.Route, log *slog.Logger) *gateway.Routes {
	var list []gateway.Route
	for job, routes := range jobs {
		for _, r := range routes {
			list = append(list, gateway.Route{Host: r.Host, Path: r.Path, Job: job})
		}
	}
	t, refused := gateway.Fit(list)
	for _, err := range refused {
		log.Error("a route is left out", "error", err)
	}
	return t
}

// sendMetrics hands what was measured to the control process, now and then, until ctx ends.
func sendMetrics(ctx context.Context, link *agent.Link, tel *telemetry.Telemetry) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b, err := tel.Gather()
		if err == nil {
			err = link.Post(ctx, agent.PathMetrics, b)
		}
		if err != nil && ctx.Err() == nil {
			slog.Warn("send metrics", "error", err)
		}
	}
}

func spansOver(link *agent.Link, wanted bool) func(context.Context, []byte) error {
	if !wanted {
		return nil
	}
	return func(ctx context.Context, b []byte) error { return link.Post(ctx, supervisor.PathTraces, b) }
}

func inheritedConn(fd uintptr) (net.Conn, error) {
	f := os.NewFile(fd, "link")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("take over the link: %w", err)
	}
	return c, nil
}

func inheritedListener(fd uintptr) (net.Listener, error) {
	f := os.NewFile(fd, "ingress")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the ingress listener: %w", err)
	}
	return l, nil
}

// recorder has a worker's instruments take note of what its tasks do.
type recorder struct{ *telemetry.Tasks }

func (r recorder) Job(name string) agent.JobRecorder { return r.Tasks.Job(name) }
