package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	extism "github.com/extism/go-sdk"
	"github.com/tetratelabs/wazero"

	"github.com/ripstop-vm/ripstop/bench/internal/timing"
	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// freshSandboxes compares a sandbox that returns to its image with what others do for a fresh one: a new instance.
var freshSandboxes = comparison{
	name: "fresh", about: "a fresh sandbox for each request, tiny and Go; against new instances on wazero, wasmtime-go, Extism, and of a module initialised by Wizer",
	prepare: func(ctx context.Context, b *bench) error {
		if err := b.buildGuest(ctx, "bench/guests/warm", true); err != nil {
			return err
		}
		if err := os.WriteFile(b.guest("tiny"), tinyCounter(), 0o644); err != nil {
			return err
		}
		if err := b.without("wasmtime-go", b.buildWasmtime(ctx)); err != nil {
			return err
		}
		return b.without("Wizer on wazero", b.wizen(ctx))
	},
	measure: measureFresh,
}

// tinyCounter is a guest of one page that counts its calls.
func tinyCounter() []byte {
	return (&w.Module{Memory: []uint32{1}, Data: []w.Data{{Offset: 1024, Bytes: []byte("a counter")}}, Funcs: []w.Func{
		{Export: "run", Type: w.Type{Results: []byte{w.I32}}, Body: w.Cat(
			w.I32Const(0), w.I32Const(0), w.Load(2048), w.I32Const(1), []byte{w.I32Add}, w.Store(2048),
			w.I32Const(0), w.Load(2048))}}}).Bytes()
}

// wizen has Wizer initialise the Go guest.
func (b *bench) wizen(ctx context.Context) error {
	program, err := b.npm(ctx, "@bytecodealliance/wizer", "@bytecodealliance/wizer-*/wizer")
	if err != nil {
		return err
	}
	_, err = output(ctx, b.cache, nil, program, "--allow-wasi", "--wasm-bulk-memory", "true", "--init-func", "_initialize", "-o", b.guest("wizened"), b.guest("warm"))
	return err
}

func measureFresh(ctx context.Context, b *bench) (_ []Figure, err error) {
	turn := b.time / 20 // short turns in many rounds, as the machine's noise has longer waves
	var closers []func()
	defer func() {
		for _, c := range closers {
			c()
		}
	}()
	tiny := tinyCounter()
	guest, err := readFile(b.guest("warm"))
	if err != nil {
		return nil, err
	}
	var sides []side
	ours, closeOurs, err := b.ownFresh(ctx, tiny, guest, turn)
	if err != nil {
		return nil, err
	}
	closers = append(closers, closeOurs)
	sides = append(sides, side{"ripstop", ours})

	plain := func(wasm []byte) (*plainWazero, error) {
		p, err := b.newPlainWazero(ctx, wasm)
		if err == nil {
			closers = append(closers, func() { p.close(ctx) })
		}
		return p, err
	}
	plainTiny, err := plain(tiny)
	if err != nil {
		return nil, err
	}
	plainGo, err := plain(guest)
	if err != nil {
		return nil, err
	}
	sides = append(sides, side{"wazero", func(ctx context.Context) (values, error) {
		return all(map[string]func() (float64, error){
			"tiny":    func() (float64, error) { return plainTiny.fresh(ctx, turn, 20, true) },
			"go":      func() (float64, error) { return plainGo.fresh(ctx, turn, 1, false) },
			"go call": func() (float64, error) { return plainGo.fresh(ctx, turn, 1, true) },
		})
	}})
	if b.missing["Wizer on wazero"] == nil {
		wizened, err := readFile(b.guest("wizened"))
		if err != nil {
			return nil, err
		}
		p, err := plain(wizened)
		if err != nil {
			return nil, err
		}
		sides = append(sides, side{"Wizer on wazero", func(ctx context.Context) (values, error) {
			return all(map[string]func() (float64, error){
				"go":      func() (float64, error) { return p.fresh(ctx, turn, 1, false) },
				"go call": func() (float64, error) { return p.fresh(ctx, turn, 1, true) },
			})
		}})
	}
	switch peer, err := b.startWasmtime(ctx); {
	case err == nil:
		closers = append(closers, peer.stop)
		sides = append(sides, side{"wasmtime-go", func(context.Context) (values, error) {
			return all(map[string]func() (float64, error){
				"tiny":    func() (float64, error) { return peer.measure("instantiate and call", b.guest("tiny"), turn) },
				"go":      func() (float64, error) { return peer.measure("instantiate", b.guest("warm"), turn) },
				"go call": func() (float64, error) { return peer.measure("instantiate and call", b.guest("warm"), turn) },
			})
		}})
	default:
		if err := b.without("wasmtime-go", err); err != nil {
			return nil, err
		}
	}
	extismTiny, err := b.newExtism(ctx, tiny)
	if err != nil {
		return nil, err
	}
	extismGo, err := b.newExtism(ctx, guest)
	if err != nil {
		return nil, err
	}
	closers = append(closers, func() { _, _ = extismTiny.Close(ctx), extismGo.Close(ctx) })
	sides = append(sides, side{"Extism", func(ctx context.Context) (values, error) {
		return all(map[string]func() (float64, error){
			"tiny":    func() (float64, error) { return freshPlugin(ctx, extismTiny, turn) },
			"go call": func() (float64, error) { return freshPlugin(ctx, extismGo, turn) },
		})
	}})

	r, err := b.interleave(ctx, 4*b.rounds, sides...)
	if err != nil {
		return nil, err
	}
	size := fmt.Sprintf("a Go guest of %.1f MB", float64(len(guest))/1e6)
	lines := []line{
		{name: "return to image, Go guest", unit: "µs", of: "ripstop", metric: "go return", divide: 1e3, target: atMost(40), note: size},
		{name: "return to image, Go guest", unit: "µs", of: "ripstop", metric: "go return", against: "wazero", againstMetric: "go", divide: 1e3, target: atMostTimes(1. / 100), note: "a new instance, initialised"},
		{name: "return to image, Go guest", unit: "µs", of: "ripstop", metric: "go return", against: "wasmtime-go", againstMetric: "go", divide: 1e3, target: atMostTimes(1. / 15), note: "a new instance, initialised"},
		{name: "return to image, Go guest", unit: "µs", of: "ripstop", metric: "go return", against: "Wizer on wazero", againstMetric: "go", divide: 1e3, note: "a new instance"},
	}
	for _, peer := range []string{"wazero", "wasmtime-go", "Extism", "Wizer on wazero"} {
		lines = append(lines, line{name: "call and return, Go guest", unit: "µs", of: "ripstop", metric: "go call and return", against: peer, againstMetric: "go call", divide: 1e3, note: "a new instance and a call"})
	}
	lines = append(lines, line{name: "call and return, tiny guest", unit: "µs", of: "ripstop", metric: "tiny", divide: 1e3, target: atMost(3)})
	for _, peer := range []string{"wazero", "wasmtime-go", "Extism"} {
		lines = append(lines, line{name: "call and return, tiny guest", unit: "µs", of: "ripstop", metric: "tiny", against: peer, divide: 1e3, note: "a new instance and a call"})
	}
	return r.figures(lines...), nil
}

// all measures several things one after another.
func all(ms map[string]func() (float64, error)) (values, error) {
	vs := values{}
	for name, m := range ms {
		goruntime.GC() // nobody pays for the garbage of the one before
		v, err := m()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		vs[name] = v
	}
	return vs, nil
}

// ownFresh prepares sandboxes of both guests that return to their images, as a server's do.
func (b *bench) ownFresh(ctx context.Context, tiny, guest []byte, turn time.Duration) (_ func(context.Context) (values, error), end func(), err error) {
	rt, err := runtime.Open(ctx, runtime.Options{Libraries: []*hostcall.Library{wasi.Library()}, Meter: true, CacheDir: filepath.Join(b.cache, "code")})
	if err != nil {
		return nil, nil, err
	}
	closers := []func() error{rt.Close}
	end = func() {
		for i := len(closers) - 1; i >= 0; i-- {
			_ = closers[i]() // the process ends soon
		}
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	open := func(wasm []byte) (*returning, error) {
		m, err := rt.Compile(ctx, wasm)
		if err != nil {
			return nil, err
		}
		r, err := newReturning(ctx, m)
		if err == nil {
			closers = append(closers, r.close)
		}
		return r, err
	}
	small, err := open(tiny)
	if err != nil {
		return nil, nil, err
	}
	large, err := open(guest)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (values, error) {
		run := func(r *returning) func() error { return func() error { return r.run(ctx) } }
		return all(map[string]func() (float64, error){
			"tiny": func() (float64, error) {
				return timing.Median(turn, 20, nil, func() error { return errors.Join(small.run(ctx), small.back()) })
			},
			"go return": func() (float64, error) { return timing.Median(turn, 1, run(large), large.back) },
			"go call and return": func() (float64, error) {
				return timing.Median(turn, 1, nil, func() error { return errors.Join(large.run(ctx), large.back()) })
			},
		})
	}, end, nil
}

// returning is a sandbox that began as an image.
type returning struct {
	sandbox *runtime.Sandbox
	system  *wasi.System
	mark    wasi.Mark
	fn      *runtime.Function
	close   func() error
}

// newReturning takes an image of the module's first sandbox, once it is initialised, and begins another one as it.
func newReturning(ctx context.Context, m *runtime.Module) (*returning, error) {
	bind := func() (*wasi.System, []hostcall.Binding, error) {
		sys, err := wasi.New(wasi.Options{})
		return sys, []hostcall.Binding{{Library: wasi.Library(), State: sys}}, err
	}
	sys, binding, err := bind()
	if err != nil {
		return nil, err
	}
	first, err := m.NewSandbox(ctx, runtime.SandboxOptions{Bind: binding})
	if err != nil {
		return nil, err
	}
	defer sys.Close()
	defer first.Close()
	if _, err := first.Call(ctx, "_initialize"); err != nil && !errors.Is(err, runtime.ErrNoExport) {
		return nil, err
	}
	im, err := first.Snapshot()
	if err != nil {
		return nil, err
	}
	r := &returning{}
	if r.system, binding, err = bind(); err != nil {
		return nil, err
	}
	if r.sandbox, err = m.NewSandbox(ctx, runtime.SandboxOptions{Image: im, Bind: binding}); err != nil {
		return nil, err
	}
	r.close = func() error { return errors.Join(r.sandbox.Close(), r.system.Close(), im.Close()) }
	if r.mark, err = r.system.Mark(); err == nil {
		r.fn, err = r.sandbox.Function("run")
	}
	return r, err
}

// run calls the guest, which has to be as new. What it writes is watched, as in the server.
func (r *returning) run(ctx context.Context) error {
	var stack [1]uint64
	r.sandbox.Watch()
	defer r.sandbox.Unwatch()
	if err := r.fn.Call(ctx, stack[:]); err != nil {
		return err
	}
	if stack[0] != 1 {
		return fmt.Errorf("the guest was called %d times", stack[0])
	}
	return nil
}

// back returns the sandbox to its image, with its host's side.
func (r *returning) back() error {
	if err := r.sandbox.Return(); err != nil {
		return err
	}
	return r.system.Rewind(r.mark)
}

// newExtism compiles a plugin.
func (b *bench) newExtism(ctx context.Context, wasm []byte, functions ...extism.HostFunction) (*extism.CompiledPlugin, error) {
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(b.cache, "wazero"))
	if err != nil {
		return nil, err
	}
	return extism.NewCompiledPlugin(ctx, extism.Manifest{Wasm: []extism.Wasm{extism.WasmData{Data: wasm}}},
		extism.PluginConfig{EnableWasi: true, RuntimeConfig: wazero.NewRuntimeConfig().WithCompilationCache(cache)}, functions)
}

// freshPlugin measures a new instance of a plugin, a call, and its end.
func freshPlugin(ctx context.Context, c *extism.CompiledPlugin, d time.Duration) (float64, error) {
	return timing.Median(d, 1, nil, func() error {
		p, err := c.Instance(ctx, extism.PluginInstanceConfig{})
		if err != nil {
			return err
		}
		n, _, err := p.CallWithContext(ctx, "run", nil)
		if err == nil && n != 1 {
			err = fmt.Errorf("run answered %d", n)
		}
		return errors.Join(err, p.CloseWithContext(ctx))
	})
}
