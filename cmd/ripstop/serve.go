package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/agent"
	"github.com/ripstop-vm/ripstop/agent/codecache"
	"github.com/ripstop-vm/ripstop/agent/supervisor"
	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/api"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/telemetry"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// serveOptions are the flags of `ripstop serve`.
type serveOptions struct {
	data, api, ingress  string
	volumes             []string
	maxUpload           string
	logFormat, logLevel string
	drain               time.Duration
	compileTime         time.Duration
	ingressURL          string
	hosts               []string
	broker              brokerFlags
}

func newServeCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Start the server: an API that takes .wasm files, and the URLs at which they answer",
		Long: "Start the server. It keeps everything under the data directory, takes deploys on the API's address and answers\n" +
			"requests on the ingress address. Guests run in a process of their own, without any credential.",
		Example: "  ripstop serve\n  ripstop serve --data /var/lib/ripstop --ingress :8080 --volume shared=/srv/shared:ro",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", dataDirHelp)
	f.StringVar(&o.api, "api", defaultAPIAddress, "address of the API")
	f.StringVar(&o.ingress, "ingress", defaultIngressAddress, "address at which jobs answer")
	f.StringVar(&o.ingressURL, "ingress-url", "", "URL that clients reach ingress at, if it is not its address")
	o.broker.add(cmd)
	f.StringArrayVar(&o.volumes, "volume", nil, "NAME=DIR[:ro]: a directory that manifests may grant as source NAME (repeatable)")
	f.StringVar(&o.maxUpload, "max-upload", "64MiB", "largest module taken")
	f.StringArrayVar(&o.hosts, "host", nil, "a name that API clients may use for this server, besides its address (repeatable)")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	completeWith(cmd, "log-format", "text", "json")
	completeWith(cmd, "log-level", "debug", "info", "warn", "error")
	f.DurationVar(&o.compileTime, "compile-time", time.Minute, "processor time that a module may take to compile, in whole seconds; 0 means one minute")
	f.DurationVar(&o.drain, "drain", 10*time.Second, "how long invocations may take to finish when the server stops")
	return cmd
}

// parseVolumes reads --volume flags: name → absolute directory, and the names of those that are read-only.
func parseVolumes(flags []string) (volumes map[string]string, readOnly []string, err error) {
	volumes = map[string]string{}
	for _, v := range flags {
		name, dir, ok := strings.Cut(v, "=")
		dir, ro := strings.CutSuffix(dir, ":ro")
		if !ok || name == "" || dir == "" || strings.Contains(name, "/") {
			return nil, nil, fmt.Errorf("volume %q is not NAME=DIR", v)
		}
		if _, taken := volumes[name]; taken {
			return nil, nil, fmt.Errorf("volume %q is given twice", name)
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, nil, fmt.Errorf("volume %q: %w", v, err)
		}
		info, err := os.Stat(abs)
		if err != nil {
			return nil, nil, fmt.Errorf("volume %s: %w", name, err)
		}
		if !info.IsDir() {
			return nil, nil, fmt.Errorf("volume %s: %s is no directory", name, abs)
		}
		volumes[name] = abs
		if ro {
			readOnly = append(readOnly, name)
		}
	}
	return volumes, readOnly, nil
}

// serve runs the server until ctx ends. What keeps it from starting is one line and exit code 2, and changed nothing.
func serve(ctx context.Context, o serveOptions, stdout, stderr io.Writer) error {
	refuse := func(err error) error { return exitError{exitUsage, err} }
	log, err := newLogger(stderr, o.logFormat, o.logLevel)
	if err != nil {
		return refuse(err)
	}
	volumes, readOnly, err := parseVolumes(o.volumes)
	if err != nil {
		return refuse(err)
	}
	maxUpload, err := manifest.ParseSize(o.maxUpload)
	if err != nil || maxUpload <= 0 {
		return refuse(fmt.Errorf("--max-upload %q is no size, such as 64MiB", o.maxUpload))
	}
	if o.drain < 0 {
		return refuse(fmt.Errorf("--drain %v is less than no time", o.drain))
	}
	if o.compileTime < 0 || o.compileTime > time.Hour || o.compileTime%time.Second != 0 {
		return refuse(fmt.Errorf("--compile-time %s is not up to 1h in whole seconds", o.compileTime))
	}
	brokers, err := o.broker.config()
	if err != nil {
		return refuse(err)
	}
	dir, err := dataDir(o.data)
	if err != nil {
		return refuse(err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return refuse(err)
	}
	for name, volume := range volumes {
		inside, err := beneath(dir, volume)
		if err == nil && inside {
			err = fmt.Errorf("%s holds the data directory, and guests must not reach its keys", volume)
		}
		if err != nil {
			return refuse(fmt.Errorf("volume %s: %w", name, err))
		}
	}

	// The ports first: a start that cannot work must not touch the data.
	apiListener, err := listen(ctx, "API", o.api)
	if err != nil {
		return refuse(err)
	}
	defer apiListener.Close()
	ingress, err := listen(ctx, "ingress", o.ingress)
	if err != nil {
		return refuse(err)
	}
	defer ingress.Close()
	ingressFile, err := ingress.File()
	if err != nil {
		return fmt.Errorf("hand over the ingress listener: %w", err)
	}
	defer ingressFile.Close()
	if o.ingressURL == "" {
		o.ingressURL = urlOf(ingress.Addr())
	}

	wall.Hide() // keys and secrets come into memory from here on; a worker says if this does not hold
	store, err := openBackend(ctx, brokers, dir, log)
	if err != nil {
		return refuse(err)
	}
	defer store.close(ctx)
	table, err := hostcall.NewTable(guest.Libraries()...)
	if err != nil {
		return err
	}
	tel, err := telemetry.New(telemetry.Options{Process: "server"})
	if err != nil {
		return err
	}
	remote := new(telemetry.Remote)
	var forwarder *telemetry.Forwarder
	if telemetry.SpansWanted() {
		forwarder = telemetry.NewForwarder(log)
	}
	program, err := programDigest()
	if err != nil {
		return err
	}
	code, err := openCode(ctx, dir, program)
	if err != nil {
		return refuse(err)
	}
	codeDirs := map[runtime.Engine]string{}
	for engine, cache := range code {
		codeDirs[engine] = cache.CodeDir()
	}
	env, err := workerEnv(workerConfig{CodeDirs: codeDirs, Volumes: volumes, ReadOnly: readOnly, LogFormat: o.logFormat, LogLevel: o.logLevel, Spans: forwarder != nil, Drain: o.drain})
	if err != nil {
		return err
	}
	options := supervisor.Options{Env: env, Ingress: ingressFile, Code: code, ProgramDigest: program, CompileTime: o.compileTime, Queue: store.queue, Log: log, Metrics: func(b []byte) {
		if err := remote.Set(b); err != nil {
			log.Warn("the worker's metrics were left out", "error", err)
		}
	}}
	if forwarder != nil {
		options.Spans = forwarder.Take
	}
	super, err := supervisor.New(options)
	if err != nil {
		return err
	}
	state, err := control.New(store.records, store.blobs, store.buckets, store.queue, super, control.Options{DataDir: dir, MaxModule: int64(maxUpload), Table: table, Log: log})
	if err != nil {
		return refuse(err)
	}
	if err := state.Bootstrap(ctx, dir); err != nil {
		return refuse(err)
	}
	front, err := api.New(api.Options{
		Broker:  &brokerFront{backend: store, state: state, began: clock.System.Now(), blobs: brokers.blobs()},
		Control: state, Hub: super.Hub(), Ready: super.Ready, Status: statusFrom(super), IngressURL: o.ingressURL, MaxUpload: int64(maxUpload), Hosts: o.hosts,
		Metrics:        promhttp.HandlerFor(prometheus.Gatherers{tel.Gatherer(), remote}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}),
		Table:          table,
		ManifestSchema: manifest.Schema(), Version: readBuildInfo().Version, Log: log,
	})
	if err != nil {
		return err
	}
	server := api.NewServer(front)

	// What runs ends in order: first the API, so that nothing changes any more, then the worker, then the store.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var wg sync.WaitGroup
	failed := make(chan error, 4)
	wg.Go(func() { _ = store.run(life) })
	wg.Go(func() { failed <- super.Run(life, state) })
	wg.Go(func() { state.RunSchedules(life) })
	wg.Go(func() {
		if err := state.Run(life); err != nil && life.Err() == nil {
			failed <- err
		}
	})
	if forwarder != nil {
		wg.Go(func() {
			if err := forwarder.Run(life); err != nil && life.Err() == nil {
				log.Warn("spans are not sent", "error", err)
			}
		})
	}
	wg.Go(func() {
		if err := server.Serve(apiListener); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	banner(stdout, apiListener.Addr(), o.ingressURL, dir)

	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
		log.Error("the server ends", "error", err)
	}
	log.Info("stopping", "drain", o.drain)
	_, _ = ingress.Close(), ingressFile.Close() // with the worker's copy, which goes as it drains, clients are refused and may go elsewhere
	drain, cancel := context.WithTimeout(life, o.drain+time.Second)
	defer cancel()
	if e := server.Shutdown(drain); e != nil {
		log.Warn("API requests were cut off", "error", e)
		_ = server.Close() // nothing more can be done for them
	}
	if e := super.Drain(drain); e != nil {
		log.Warn("invocations were cut off", "error", e)
	}
	end()
	wg.Wait()
	return errors.Join(err, tel.Shutdown(drain), store.close(drain))
}

// openCode opens the caches of compiled code in the data directory, one for each engine that this program has.
func openCode(ctx context.Context, data, program string) (map[runtime.Engine]*codecache.Cache, error) {
	caches := map[runtime.Engine]*codecache.Cache{}
	for _, engine := range runtime.Engines() {
		dir := filepath.Join(data, "cache")
		if engine != runtime.Wazero {
			dir += "-" + string(engine)
		}
		mark, err := markIn(ctx, engine, dir)
		if err != nil {
			return nil, fmt.Errorf("try engine %s: %w", engine, err)
		}
		if caches[engine], err = codecache.Open(codecache.Options{Dir: dir, KeyFile: filepath.Join(data, codeKeyFile), Program: program, Engine: mark}); err != nil {
			return nil, err
		}
	}
	return caches, nil
}

// markIn is the mark of an engine, for whose code dir is.
func markIn(ctx context.Context, engine runtime.Engine, dir string) (mark string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(dir, "mark-") // the cache removes what does not belong to it
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	return runtime.Mark(ctx, agent.RuntimeOptions(engine, ""), temp)
}

// statusFrom is how jobs are, as the supervisor of their worker knows it.
func statusFrom(super *supervisor.Supervisor) func(string, uint64) api.JobStatus {
	return func(job string, version uint64) api.JobStatus {
		state, reason := super.Status(job, version)
		return api.JobStatus{State: state, Reason: reason}
	}
}

func listen(ctx context.Context, what, address string) (*net.TCPListener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s address %s: %w; give another with --%s HOST:PORT", what, address, err, strings.ToLower(what))
	}
	return l.(*net.TCPListener), nil
}

// urlOf is how a client on this machine reaches an address.
func urlOf(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return "http://" + a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// workerEnv is the worker's whole environment: nothing of ours goes to it by itself.
func workerEnv(c workerConfig) ([]string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write the worker's configuration: %w", err)
	}
	env := []string{workerVariable + "=" + string(b)}
	for _, name := range []string{"GOMAXPROCS", "GOMEMLIMIT", "GOGC", "GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env, nil
}

// banner says where everything is, and commands that work as they stand, from another terminal with the same environment.
func banner(w io.Writer, address net.Addr, ingressURL, dir string) {
	at := urlOf(address)
	var here string // the flags without which the commands would look elsewhere
	if usual, err := dataDir(""); err != nil || usual != dir {
		here = " --data " + shellWord(dir)
	}
	fmt.Fprintf(w, "ripstop %s\n  API      %s\n  ingress  %s\n  data     %s\n\nDeploy in another terminal:\n  curl -fsS -T hello.wasm -H \"Authorization: Bearer $(ripstop token%s)\" %s/v1/jobs/hello/module\nor:\n",
		readBuildInfo().Version, at, ingressURL, dir, here, at)
	if at != "http://"+defaultAPIAddress {
		here = " --server " + at + here
	}
	fmt.Fprintf(w, "  ripstop deploy%s hello.wasm\n", here)
}

// shellWord writes s so that a POSIX shell takes it for one word.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%,", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
