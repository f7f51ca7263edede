package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/processor"
	"github.com/ripstop-vm/ripstop/runtime/trace"
	"github.com/ripstop-vm/ripstop/runtime/virtual"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// Exit codes of `ripstop run` when the guest did not end by itself. They are those that shells and coreutils use:
// timeout(1), "cannot execute", and 128 plus SIGABRT.
const (
	exitDeadline = 124
	exitStopped  = 126
	exitTrap     = 134
)

// errDeadline is the cause a guest is ended for when --timeout is over.
var errDeadline = errors.New("deadline over")

// errTask reports a module that needs a server around it.
var errTask = errors.New("the module is a task: it serves requests, so deploy it (ripstop deploy)")

// runOptions is the command line of `ripstop run`.
type runOptions struct {
	dirs, env   []string
	policy      string
	trace       string
	traceFormat string
	engine      string
	timeout     time.Duration
	cpu         time.Duration
	fuel        uint64
	memory      string
	invoke      string
	seed        uint64
	seeded      bool
}

func newRunCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] MODULE.wasm [ARGS...]",
		Short: "Run one module here, without a server",
		Long: `Run one WASI module here, without a server. Standard input, output and error are the guest's. Everything after the
module's name goes to the guest. Nothing is granted unless named: no files, no environment, no network.

If a --dir covers the working directory, the guest gets PWD, the working directory as the guest sees it, unless --env
names PWD. Go's and wasi-libc's programs start there, so that ` + "`go test -exec`" + ` works:

  GOOS=wasip1 GOARCH=wasm go test -exec "ripstop run --dir /::/" ./...

Compiled code is kept in the user's cache directory, so that a second run starts at once.

Exit codes: the guest's own (255 for those above 255); 134 after a trap, with the backtrace on standard error; 124 when
--timeout, --cpu or --fuel is over; 126 when policy stopped the guest; 130 after Ctrl-C; 2 if the command line, the module or the policy
is wrong; 1 if ripstop itself failed. A guest may use any of these codes for itself (Go's programs panic with 2): what ripstop says
on standard error begins with "ripstop: ", and it says something for each of its own but 130. Ctrl-C ends the process by its signal;
where a shell has it ignored, as in a script's background jobs, end it with SIGTERM.

With --timeout a guest's tight loops run slower, as it is watched. With --fuel or --cpu the module is translated first, so that it counts
its instructions: about one fuel for each, the same each time; tight loops take about 1.5 times as long, with or without --timeout.
--cpu is of the time in which the guest runs, and not of that in which it waits for input or a clock.`,
		Example: "  ripstop run hello.wasm\n" +
			"  ripstop run --dir ./data::/data:ro --env LANG=C --trace cat.wasm /data/a.txt\n" +
			"  ripstop run --timeout 2s --memory 64MiB --policy policy.yaml job.wasm\n" +
			"  ripstop run --cpu 500ms job.wasm < input.txt\n" +
			"  ripstop run --invoke add math.wasm 1 2",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.seeded = cmd.Flags().Changed("seed")
			return run(cmd, &o, args[0], args[1:])
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringArrayVar(&o.dirs, "dir", nil, "grant a directory or file, `HOST::GUEST[:ro]`; may be repeated")
	f.StringArrayVar(&o.env, "env", nil, "grant an environment variable, `NAME=VALUE`; may be repeated")
	f.StringVar(&o.policy, "policy", "", "YAML `file` with capabilities and policy rules, as in a manifest; sources of files are relative to it")
	f.StringVar(&o.trace, "trace", "", "write every host call to standard error, or with --trace=`FILE` to a file")
	f.Lookup("trace").NoOptDefVal = traceToStderr
	f.StringVar(&o.traceFormat, "trace-format", "text", "how traces are written: text or json")
	f.StringVar(&o.engine, "engine", string(runtime.Wazero), "what executes the guest: wazero, or wasmtime if this program was built with it")
	completeWith(cmd, "trace-format", "text", "json")
	completeWith(cmd, "engine", runtime.Engines()...)
	f.DurationVar(&o.timeout, "timeout", 0, "end the guest after this time, as in 2s or 1m30s (default: never)")
	f.DurationVar(&o.cpu, "cpu", 0, "end the guest after this time at the processor, as in 500ms (default: never)")
	f.Uint64Var(&o.fuel, "fuel", 0, "end the guest after this many instructions, more or less; see above (default: never)")
	f.StringVar(&o.memory, "memory", "", "bound of the guest's memory, as in 64MiB (default 256MiB)")
	f.StringVar(&o.invoke, "invoke", "", "call this exported function with ARGS as its numbers, and print its results")
	f.Uint64Var(&o.seed, "seed", 0, "make the guest's randomness repeatable; never for keys")
	return cmd
}

// run runs one module and answers how it ended as an exitError.
func run(cmd *cobra.Command, o *runOptions, file string, args []string) error {
	usage := func(err error) error { return usageError(cmd, err) }
	pages, err := memoryPages(o.memory)
	if err != nil {
		return usage(err)
	}
	if o.timeout < 0 {
		return usage(fmt.Errorf("--timeout %s: a duration is not negative", o.timeout))
	}
	if o.cpu < 0 {
		return usage(fmt.Errorf("--cpu %s: a duration is not negative", o.cpu))
	}
	wasm, err := readModule(file)
	if err != nil {
		return exitError{exitUsage, o.fileAfterTrace(file, args, err)}
	}
	ctx := cmd.Context()
	// Without a deadline the guest runs at full speed: the engine's check for one costs a tight loop 30 times its time.
	// Nothing in this process could then end a guest in a loop (even the collector would wait for it), so signals go back
	// to the system, which ends the process.
	// A metered guest looks up at its ticks.
	metered := o.fuel != 0 || o.cpu != 0
	endless := o.timeout == 0 && !metered
	cache := ""
	if runtime.Engine(o.engine) == runtime.Wazero {
		cache = codeCache() // the other one reads no code that nobody has authenticated
	}
	rt, err := runtime.Open(ctx, runtime.Options{Libraries: []*hostcall.Library{wasi.Library()}, Engine: runtime.Engine(o.engine), CacheDir: cache, Endless: endless, Meter: metered})
	if errors.Is(err, runtime.ErrNoEngine) {
		return usage(err)
	}
	if err != nil {
		return fmt.Errorf("open runtime: %w", err)
	}
	defer rt.Close()
	grants, rules, err := o.grants(rt)
	if err != nil {
		return usage(err)
	}
	m, err := rt.Compile(ctx, wasm)
	if err != nil {
		if info, bad := module.Parse(wasm, module.Bounds{}); bad == nil {
			if kind, bad := guest.KindOf(info); bad == nil && kind == guest.Task {
				err = errTask // its imports need a server
			}
		} else {
			err = o.fileAfterTrace(file, args, err)
		}
		return exitError{exitUsage, fmt.Errorf("%s: %w", file, err)}
	}
	entry, err := chooseEntry(m.Info(), o.invoke, args)
	if err != nil {
		return exitError{exitUsage, fmt.Errorf("%s: %w", file, err)}
	}
	opts, err := o.wasiOptions(cmd, grants)
	if err != nil {
		return usage(err)
	}
	opts.Args = append([]string{filepath.Base(file)}, args...)
	system, err := wasi.New(opts)
	if err != nil {
		return exitError{exitUsage, err}
	}
	defer system.Close()

	tracer, closeTrace, err := o.openTrace(cmd)
	if err != nil {
		return usage(err)
	}
	defer closeTrace()
	sandbox := runtime.SandboxOptions{MemoryPages: pages, Fuel: o.fuel, Bind: []hostcall.Binding{{Library: wasi.Library(), State: system}}}
	if tracer != nil {
		sandbox.Interposers = append(sandbox.Interposers, tracer)
	}
	if rules != nil {
		sandbox.Interposers = append(sandbox.Interposers, rules)
	}
	world := virtual.Options{Offset: grants.Clock.Offset, Frozen: grants.Clock.Frozen, Seed: grants.Random.Seed}
	if world.Active() {
		sandbox.Interposers = append(sandbox.Interposers, virtual.New(world))
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, errDeadline)
		defer cancel()
	}
	if endless {
		signal.Reset(os.Interrupt, syscall.SIGTERM)
	}
	if o.cpu > 0 {
		turn, err := takeTurn(ctx, o.cpu)
		if err != nil {
			return err
		}
		defer turn.Leave()
		sandbox.Run = turn
	}
	s, err := m.NewSandbox(ctx, sandbox)
	if err != nil {
		return ending(ctx, file, o, err)
	}
	defer s.Close()
	results, err := entry.call(ctx, s)
	if err != nil {
		return ending(ctx, file, o, err)
	}
	for _, r := range results {
		fmt.Fprintln(cmd.OutOrStdout(), r)
	}
	return nil
}

// takeTurn gives the only guest of this process its turn at the processor, of most time. The caller has it leave.
func takeTurn(ctx context.Context, most time.Duration) (*processor.Run, error) {
	goruntime.GOMAXPROCS(max(goruntime.GOMAXPROCS(0), 2)) // what is left over polls the network (package processor)
	p, err := processor.New(processor.Options{})
	if err != nil {
		return nil, err
	}
	r := p.Job("run", processor.MinWeight).Run()
	r.Bound(most)
	return r, r.Enter(ctx)
}

// traceToStderr is --trace without a file.
const traceToStderr = "-"

// fileAfterTrace adds to an error about the module's file what else may be wrong: a trace's file is part of its flag, and what
// follows the flag is the module.
func (o *runOptions) fileAfterTrace(file string, args []string, err error) error {
	if o.trace != traceToStderr || len(args) == 0 {
		return err
	}
	return fmt.Errorf("%w; if %s is where the trace should go, write --trace=%s", err, file, file)
}

// openTrace makes the tracer that the flags ask for; nil for none. done is called once the guest has ended.
func (o *runOptions) openTrace(cmd *cobra.Command) (t *trace.Tracer, done func(), err error) {
	format := trace.Format(o.traceFormat)
	if format != trace.Text && format != trace.JSON {
		return nil, nil, fmt.Errorf("--trace-format %s: text or json is wanted", o.traceFormat)
	}
	switch o.trace {
	case "":
		return nil, func() {}, nil
	case traceToStderr:
		return trace.New(trace.NewWriter(cmd.ErrOrStderr(), format), trace.Options{}), func() {}, nil
	}
	file, err := os.Create(o.trace)
	if err != nil {
		return nil, nil, err
	}
	w := trace.NewWriter(file, format)
	return trace.New(w, trace.Options{}), func() {
		if err := errors.Join(w.Err(), file.Close()); err != nil {
			printError(cmd.ErrOrStderr(), fmt.Errorf("write trace: %w", err))
		}
	}, nil
}

// ending turns how a guest ended into an exit code. A guest that left with code 0 is no error.
func ending(ctx context.Context, file string, o *runOptions, err error) error {
	var (
		exit  *runtime.ExitError
		trap  *runtime.Trap
		stop  *runtime.StopError
		limit *runtime.LimitError
	)
	switch {
	case errors.As(err, &exit) && exit.Code == 0:
		return nil
	case errors.As(err, &exit):
		// Codes have 8 bits outside; one above must not wrap to 0, which would be success.
		code := int(min(exit.Code, 255))
		if lack, ok := errors.AsType[*runtime.ExhaustedError](err); ok {
			return exitError{code, fmt.Errorf("%s ended itself with code %d; %s (--memory)", filepath.Base(file), exit.Code, lack.Why())}
		}
		return exitError{code, nil}
	case errors.As(err, &trap):
		if lack, ok := errors.AsType[*runtime.ExhaustedError](err); ok {
			return exitError{exitTrap, fmt.Errorf("%s: %s\n%s (--memory)", filepath.Base(file), trap.Backtrace(), lack.Why())}
		}
		return exitError{exitTrap, fmt.Errorf("%s: %s", filepath.Base(file), trap.Backtrace())}
	case errors.As(err, &stop):
		return exitError{exitStopped, err}
	case errors.As(err, &limit) && limit.Limit == "memory":
		return exitError{exitUsage, fmt.Errorf("%s needs at least %d MiB of memory from its start, %d MiB are allowed: raise --memory",
			filepath.Base(file), (limit.Used+1<<20-1)>>20, limit.Max>>20)}
	case errors.As(err, &limit) && limit.Limit == "fuel":
		return exitError{exitDeadline, fmt.Errorf("%s was ended: its fuel of %d is used up (--fuel)", filepath.Base(file), limit.Max)}
	case errors.As(err, &limit) && limit.Limit == "cpu":
		return exitError{exitDeadline, fmt.Errorf("%s was ended after %s at the processor (--cpu)", filepath.Base(file), o.cpu)}
	case errors.Is(err, errDeadline):
		return exitError{exitDeadline, fmt.Errorf("%s was ended after %s (--timeout)", filepath.Base(file), o.timeout)}
	case ctx.Err() != nil:
		return exitError{exitInterrupted, nil}
	}
	return err
}

// readModule reads a file of at most the size that a module may have.
func readModule(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory; a .wasm file is wanted", file)
	}
	if info.Size() > maxModule {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are allowed", file, info.Size(), maxModule)
	}
	return os.ReadFile(file)
}

// maxModule is the largest file that is read at all; package module has the bound with the advice.
const maxModule = 1 << 30

func memoryPages(size string) (uint32, error) {
	if size == "" {
		return 0, nil
	}
	n, err := manifest.ParseSize(size)
	if err != nil {
		return 0, fmt.Errorf("--memory %s: %w", size, err)
	}
	if n < 64*manifest.KiB || n > 4096*manifest.MiB {
		return 0, fmt.Errorf("--memory %s: from 64KiB to 4GiB are possible", size)
	}
	return uint32(n / (64 * manifest.KiB)), nil
}

// codeCache is where compiled code is kept between runs; empty if there is no place for it that only the user can write.
func codeCache() string {
	base, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	dir := filepath.Join(base, "ripstop", "code")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ""
	}
	// Code from here is run unchecked: nobody else may have put it there.
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() || info.Mode().Perm()&0o077 != 0 && os.Chmod(dir, 0o700) != nil {
		return ""
	}
	return dir
}

// grants puts together what the policy file and the flags grant, and compiles the rules; nil if there are none.
func (o *runOptions) grants(rt *runtime.Runtime) (*policy.Grants, *policy.Policy, error) {
	var caps policy.Capabilities
	var rules *policy.Policy
	if o.policy != "" {
		text, err := os.ReadFile(o.policy)
		if err != nil {
			return nil, nil, err
		}
		c, rs, err := manifest.ParsePolicy(text, rt.Table())
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", o.policy, err)
		}
		caps = c
		for i, f := range caps.Files {
			if !filepath.IsAbs(f.Source) {
				caps.Files[i].Source = filepath.Join(filepath.Dir(o.policy), f.Source)
			}
		}
		if len(rs) > 0 {
			if rules, err = policy.Compile(rs, rt.Table()); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", o.policy, err)
			}
		}
	}
	for _, d := range o.dirs {
		f, err := parseDir(d)
		if err != nil {
			return nil, nil, err
		}
		caps.Files = append(caps.Files, f)
	}
	if caps.Env == nil {
		caps.Env = map[string]string{}
	}
	if pwd, ok := guestDir(caps.Files); ok {
		if _, named := caps.Env["PWD"]; !named {
			caps.Env["PWD"] = pwd
		}
	}
	for _, e := range o.env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, nil, fmt.Errorf("--env %s: NAME=VALUE is wanted", e)
		}
		caps.Env[name] = value
	}
	if o.seeded {
		caps.Random.Seed = &o.seed
	}
	g, err := policy.Grant(caps)
	return g, rules, err
}

// parseDir reads HOST::GUEST[:ro].
func parseDir(s string) (policy.File, error) {
	host, in, ok := strings.Cut(s, "::")
	access := "rw"
	if rest, ro := strings.CutSuffix(in, ":ro"); ro {
		in, access = rest, "ro"
	}
	if !ok || host == "" || !path.IsAbs(in) {
		return policy.File{}, fmt.Errorf("--dir %s: HOST::GUEST or HOST::GUEST:ro is wanted, and GUEST begins with /", s)
	}
	host, err := filepath.Abs(host)
	if err != nil {
		return policy.File{}, fmt.Errorf("--dir %s: %w", s, err)
	}
	return policy.File{Source: host, Guest: path.Clean(in), Access: access}, nil
}

// guestDir is the working directory as the guest sees it; false if no grant covers it.
func guestDir(files []policy.File) (string, bool) {
	wd, err := os.Getwd()
	if err != nil {
		return "", false
	}
	best, found := "", false
	for _, f := range files {
		source, err := filepath.Abs(f.Source)
		if err != nil {
			continue
		}
		rel, err := filepath.Rel(source, wd)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		if p := path.Join(f.Guest, filepath.ToSlash(rel)); !found || len(p) < len(best) {
			best, found = p, true
		}
	}
	return best, found
}

func (o *runOptions) wasiOptions(cmd *cobra.Command, g *policy.Grants) (wasi.Options, error) {
	opts := wasi.Options{Env: g.Environ(), Stdin: cmd.InOrStdin(), Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr(), MaxFiles: 4096}
	for _, f := range g.Files {
		opts.Preopens = append(opts.Preopens, wasi.Preopen{Guest: f.Guest, Host: f.Source, ReadOnly: f.Access == "ro", Except: f.Except})
	}
	return opts, nil
}

// entry is what to call in a module.
type entry struct {
	initialize bool // call _initialize first
	name       string
	typ        module.FuncType
	params     []uint64
}

// chooseEntry decides what to call: the function named by --invoke, or what a command starts with.
func chooseEntry(info *module.Module, invoke string, args []string) (*entry, error) {
	e := &entry{name: invoke}
	if invoke == "" {
		e.name = guest.CommandStart
	} else {
		init, ok := info.Export(guest.TaskInitialize)
		e.initialize = ok && init.Kind == module.ExternFunc && invoke != guest.TaskInitialize
	}
	x, ok := info.Export(e.name)
	switch {
	case ok && x.Kind == module.ExternFunc:
	case invoke == "":
		_, err := guest.KindOf(info)
		if err == nil {
			err = errTask
		}
		return nil, err
	default:
		return nil, fmt.Errorf("there is no exported function %s; there are: %s", invoke, functionNames(info))
	}
	e.typ = x.Type
	if invoke == "" {
		if len(x.Type.Params)+len(x.Type.Results) > 0 {
			return nil, fmt.Errorf("the function %s has parameters or results, so the module is no WASI command: call it with --invoke", e.name)
		}
		return e, nil
	}
	if len(x.Type.Params) > 0 && len(args) != len(x.Type.Params) {
		return nil, fmt.Errorf("%s takes %d numbers %s; %d arguments were given", invoke, len(x.Type.Params), x.Type, len(args))
	}
	for i, t := range x.Type.Params {
		v, err := parseNumber(t, args[i])
		if err != nil {
			return nil, fmt.Errorf("argument %d of %s: %w", i+1, invoke, err)
		}
		e.params = append(e.params, v)
	}
	return e, nil
}

func functionNames(info *module.Module) string {
	var names []string
	for _, x := range info.Exports {
		if x.Kind == module.ExternFunc && len(names) < 20 {
			names = append(names, x.Name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// call runs the guest and answers the results as text.
func (e *entry) call(ctx context.Context, s *runtime.Sandbox) ([]string, error) {
	if e.initialize {
		if _, err := s.Call(ctx, guest.TaskInitialize); err != nil {
			return nil, err
		}
	}
	raw, err := s.Call(ctx, e.name, e.params...)
	if err != nil {
		return nil, err
	}
	var out []string
	for i, t := range e.typ.Results {
		out = append(out, formatNumber(t, raw[i]))
	}
	return out, nil
}

func parseNumber(t hostcall.ValueType, s string) (uint64, error) {
	switch t {
	case hostcall.I32, hostcall.I64:
		bits := 32
		if t == hostcall.I64 {
			bits = 64
		}
		if v, err := strconv.ParseInt(s, 0, bits); err == nil {
			if bits == 32 {
				return uint64(uint32(v)), nil
			}
			return uint64(v), nil
		}
		v, err := strconv.ParseUint(s, 0, bits)
		if err != nil {
			return 0, fmt.Errorf("%q is no %s", s, t)
		}
		return v, nil
	case hostcall.F32:
		v, err := strconv.ParseFloat(s, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is no f32", s)
		}
		return uint64(math.Float32bits(float32(v))), nil
	case hostcall.F64:
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no f64", s)
		}
		return math.Float64bits(v), nil
	}
	return 0, errors.New("only numbers (i32, i64, f32, f64) can be given")
}

func formatNumber(t hostcall.ValueType, v uint64) string {
	switch t {
	case hostcall.I32:
		return strconv.FormatInt(int64(int32(v)), 10)
	case hostcall.I64:
		return strconv.FormatInt(int64(v), 10)
	case hostcall.F32:
		return strconv.FormatFloat(float64(math.Float32frombits(uint32(v))), 'g', -1, 32)
	case hostcall.F64:
		return strconv.FormatFloat(math.Float64frombits(v), 'g', -1, 64)
	}
	return fmt.Sprintf("0x%x", v)
}
