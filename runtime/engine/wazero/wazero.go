// Package wazero runs modules on github.com/tetratelabs/wazero.
package wazero

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	format "github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

var (
	_ engine.Engine = (*Engine)(nil)
	_ engine.Loader = (*Engine)(nil)
)

// Options configures an Engine. The zero value compiles and keeps no cache.
type Options struct {
	Interpret bool   // interpret instead of compiling: slow, and cheap to validate with
	CacheDir  string // where compiled code is kept between runs; empty for nowhere
	// Endless leaves out the engine's own way to end a guest whose context is done. Guests then run until they return,
	// and calls cost a tenth. It is the one switch for deadlines by the engine's means.
	Endless bool
	// Metered offers what translated modules import, and is Endless: their ticks see deadlines.
	Metered bool
}

// Engine is one wazero runtime and the host functions of a table in it.
type Engine struct {
	runtime wazero.Runtime
	cache   wazero.CompilationCache
	dir     string // of the cache
	endless bool
	random  *rand.Rand // wazero seeds a generator per instance without one; no guest sees it

	seed  maphash.Seed
	turns [16]sync.Mutex // to compile, by a hash of the module
}

// unwind is what ends a guest from within a host call: wazero returns it as it is, without building a backtrace.
var unwind = sys.NewExitError(0)

// Open makes an engine that serves imports from t.
func Open(ctx context.Context, t *hostcall.Table, opts Options) (*Engine, error) {
	opts.Endless = opts.Endless || opts.Metered
	cfg := wazero.NewRuntimeConfigCompiler()
	if opts.Interpret {
		cfg = wazero.NewRuntimeConfigInterpreter()
	}
	cfg = cfg.WithCloseOnContextDone(!opts.Endless).WithDebugInfoEnabled(false)
	e := &Engine{endless: opts.Endless, random: rand.New(rand.NewSource(1)), dir: opts.CacheDir, seed: maphash.MakeSeed()}
	if opts.CacheDir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(opts.CacheDir)
		if err != nil {
			return nil, fmt.Errorf("open code cache %s: %w", opts.CacheDir, err)
		}
		e.cache = cache
		cfg = cfg.WithCompilationCache(cache)
	}
	e.runtime = wazero.NewRuntimeWithConfig(ctx, cfg)
	builders := map[string]wazero.HostModuleBuilder{}
	for n, f := range t.Funcs() {
		b := builders[f.Module]
		if b == nil {
			b = e.runtime.NewHostModuleBuilder(f.Module)
			builders[f.Module] = b
		}
		b.NewFunctionBuilder().WithGoFunction(trampoline(n), types(f.Params), types(f.Results)).Export(f.Name)
	}
	if opts.Metered {
		i64 := api.ValueTypeI64
		b := e.runtime.NewHostModuleBuilder(translate.MeterModule)
		b.NewFunctionBuilder().WithGoFunction(api.GoFunc(tick), []api.ValueType{i64, i64}, []api.ValueType{i64}).Export(translate.TickName)
		builders[translate.MeterModule] = b
	}
	for name, b := range builders {
		if _, err := b.Instantiate(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("offer host module %s: %w", name, err), e.Close())
		}
	}
	return e, nil
}

// trampoline is a host function's number as something that wazero can call.
type trampoline int

func (n trampoline) Call(ctx context.Context, stack []uint64) {
	ctx.(*doorContext).door.Dispatch(int(n), stack)
}

// doorContext is the context that guests run under: it leads a host call back to its sandbox.
type doorContext struct {
	context.Context
	door  *hostcall.Door
	tick  engine.Tick // nil while the instance is made: nothing runs then
	ended error       // why a tick ended the guest
}

// tick is what translated guests call.
func tick(ctx context.Context, stack []uint64) {
	c := ctx.(*doorContext)
	if c.tick == nil {
		c.ended = errUnmetered
		panic(unwind)
	}
	fuel, err := c.tick(c.Context, int64(stack[0]), int64(stack[1]))
	if err != nil {
		c.ended = err
		panic(unwind)
	}
	stack[0] = uint64(fuel)
}

var errUnmetered = errors.New("a translated module runs without a meter")

func types(ts []hostcall.ValueType) []api.ValueType {
	out := make([]api.ValueType, len(ts))
	for i, t := range ts {
		out[i] = api.ValueType(t)
	}
	return out
}

// Compile implements engine.Engine.
func (e *Engine) Compile(ctx context.Context, wasm []byte) (engine.Module, error) {
	wasm = format.PlainNames(wasm)                   // wazero allocates as many names as a section claims to have
	wasm = format.LowerTables(wasm, engine.MaxTable) // wazero allocates whatever table.grow asks for
	if !e.endless {
		wasm = format.LoopOften(wasm) // wazero looks for a done context at loop heads only
	}
	c, err := e.compile(ctx, wasm)
	if err != nil {
		return nil, err
	}
	return &module{engine: e, code: c}, nil
}

// compile turns a panic of the compiler, whose input is anybody's, into a refusal of the module. The same module is compiled by one at a time: of code
// that it finds in its cache, wazero tells others before it is whole. That may be two jobs' modules, which differed in what an image has of them.
func (e *Engine) compile(ctx context.Context, wasm []byte) (c wazero.CompiledModule, err error) {
	turn := &e.turns[maphash.Bytes(e.seed, wasm)%uint64(len(e.turns))]
	turn.Lock()
	defer turn.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the compiler failed: %.200s", fmt.Sprint(p))
		}
	}()
	return e.runtime.CompileModule(ctx, wasm)
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	err := e.runtime.Close(context.Background())
	if e.cache != nil {
		err = errors.Join(err, e.cache.Close(context.Background()))
	}
	return err
}

type module struct {
	engine *Engine
	code   wazero.CompiledModule
}

func (m *module) Close() error { return m.code.Close(context.Background()) }

func (m *module) Instantiate(ctx context.Context, d *hostcall.Door, mem engine.Memory) (engine.Instance, error) {
	lin := &linear{door: d, memory: mem}
	d.Attach(lin, unwind)
	mark := d.Enter(ctx)
	run := &doorContext{Context: experimental.WithMemoryAllocator(ctx, lin), door: d}
	cfg := wazero.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(m.engine.random)
	mod, err := m.engine.runtime.InstantiateModule(run, m.code, cfg)
	if err = d.Leave(mark, failure(ctx, err)); err != nil {
		return nil, err
	}
	inst := &instance{door: d, module: mod, memory: lin}
	if lin.short != nil {
		return nil, errors.Join(lin.short, inst.Close())
	}
	return inst, nil
}

type instance struct {
	door   *hostcall.Door
	module api.Module
	memory *linear
	tick   engine.Tick
	closed atomic.Bool
}

func (i *instance) Meter(t engine.Tick) { i.tick = t }

func (i *instance) Memory() hostcall.Memory { return i.memory }

func (i *instance) Ended() bool { return i.module.IsClosed() }

func (i *instance) Shorten() bool { return shorten(i.module.Memory(), i.memory) }

func (i *instance) Global(name string) engine.Global {
	g, ok := i.module.ExportedGlobal(name).(api.MutableGlobal)
	if !ok {
		return nil
	}
	switch g.Type() {
	case api.ValueTypeI32, api.ValueTypeI64, api.ValueTypeF32, api.ValueTypeF64:
		return g
	}
	return nil
}

func (i *instance) Close() error {
	if i.closed.Swap(true) {
		return nil
	}
	return i.module.Close(context.Background())
}

func (i *instance) Function(name string) engine.Function {
	f := i.module.ExportedFunction(name)
	if f == nil {
		return nil
	}
	return &function{i, f}
}

type function struct {
	instance *instance
	fn       api.Function
}

func (f *function) Call(ctx context.Context, stack []uint64) error {
	d := f.instance.door
	mark := d.Enter(ctx)
	run := &doorContext{Context: ctx, door: d, tick: f.instance.tick}
	err := f.fn.CallWithStack(run, stack)
	switch {
	case err == nil:
		return d.Leave(mark, nil)
	case run.ended != nil:
		return d.Leave(mark, run.ended)
	}
	return d.Leave(mark, failure(ctx, err))
}

// failure turns wazero's error into ours. It has no types for traps, only text: "wasm error: REASON\nwasm stack
// trace:\n\tFRAME\n\tFRAME…", and its frames are "module.function(types) results".
func failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	text := err.Error()
	_, after, ok := strings.Cut(text, "wasm error: ")
	if !ok {
		if strings.Contains(text, "stack overflow") {
			return &engine.Trap{Reason: "stack overflow"}
		}
		return err
	}
	reason, trace, _ := strings.Cut(after, "\nwasm stack trace:\n\t")
	t := engine.NewTrap(reason)
	for line := range strings.SplitSeq(trace, "\n\t") {
		if name := frameName(line); name != "" && !t.Add(name) {
			break // a name with line ends in it looks like several frames
		}
	}
	return t
}

// frameName takes the function's name out of "module.name(types) results"; names may contain parentheses and dots.
func frameName(line string) string {
	if line == "" || strings.HasPrefix(line, "... maybe") {
		return ""
	}
	if i := strings.LastIndex(line, "("); i > 0 {
		// results of more than one value are in parentheses, too
		if j := strings.LastIndex(line[:i], "("); j > 0 && strings.HasSuffix(line[:i], ") ") {
			i = j
		}
		line = line[:i]
	}
	return strings.TrimPrefix(line, ".")
}
