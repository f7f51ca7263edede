package enginetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wazero"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

// RunMetered runs the suite of translated guests. open answers an engine that offers what they import (package translate); it
// ends the engine with the test. What guests do, and the fuel it takes, is compared with wazero's interpreter.
func RunMetered(t *testing.T, open func(*testing.T, *hostcall.Table) engine.Engine) {
	for name, check := range metered {
		t.Run(name, func(t *testing.T) { check(t, newWorld(t, open)) })
	}
	reference := newWorld(t, func(t *testing.T, table *hostcall.Table) engine.Engine {
		e, err := wazero.Open(context.Background(), table, wazero.Options{Interpret: true, Metered: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		return e
	})
	for name, g := range meteredGuests() {
		t.Run("the same fuel for "+name, func(t *testing.T) {
			want := reference.play(t, g)
			w := newWorld(t, open)
			for range 2 {
				if got := w.play(t, g); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
		})
	}
}

var metered = map[string]func(*testing.T, *world){
	"without a meter a tick ends the guest":                     unmetered,
	"a tick's error ends the guest":                             tickEnds,
	"a tick gives fuel and sees the call's context":             tickGives,
	"a tick that panics is a defect of the host":                tickPanics,
	"the meter's globals are what the host sets before calls":   meterGlobals,
	"a tick within an inner call ends that call":                tickInside,
	"ticks come to an end of a guest that no context would end": tickBounds,
}

// loop counts its parameter down and calls nobody.
func loop() wasmtest.Func {
	return fn("loop", types(i32), types(i32), wasmtest.Loop(
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0, 0x0d, 0}), // local.tee 0, br_if 0
		wasmtest.LocalGet(0))
}

// translated makes an instance of the translation of a module, and applies its image and its start function.
func (w *world) translated(t *testing.T, m wasmtest.Module, h *host, tick engine.Tick) engine.Instance {
	t.Helper()
	res, err := translate.Translate(build(m), translate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	code, err := w.e.Compile(context.Background(), res.Wasm)
	if err != nil {
		t.Fatal(err)
	}
	i, err := code.Instantiate(context.Background(), w.door(h), engine.NewMemory(maxPages))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	if tick != nil {
		i.Meter(tick)
	}
	for _, e := range res.Image {
		copy(i.Memory().Bytes()[e.Offset:], e.Bytes)
	}
	if res.Start {
		if err := i.Function(translate.StartExport).Call(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

func unmetered(t *testing.T, w *world) {
	i := w.translated(t, module(loop()), &host{}, nil)
	var trap *engine.Trap
	if _, err := invoke(t, i, "loop", 1<<30); err == nil || errors.As(err, &trap) || errors.Is(err, hostcall.ErrHost) {
		t.Errorf("error %v", err)
	}
}

func tickEnds(t *testing.T, w *world) {
	ticks := 0
	i := w.translated(t, module(loop()), &host{}, func(context.Context, int64, int64) (int64, error) {
		if ticks++; ticks == 5 {
			return 0, errOver
		}
		return 1000, nil
	})
	if _, err := invoke(t, i, "loop", 1<<30); !errors.Is(err, errOver) || ticks != 5 {
		t.Errorf("%d ticks, %v", ticks, err)
	}
}

func tickGives(t *testing.T, w *world) {
	var seen []int64
	ctx := context.WithValue(context.Background(), key{}, "mine")
	i := w.translated(t, module(loop()), &host{}, func(c context.Context, fuel, depth int64) (int64, error) {
		if c.Value(key{}) != "mine" || fuel >= 0 || depth != 1<<20 {
			t.Errorf("a tick with context %v, fuel %d and depth %d", c, fuel, depth)
		}
		seen = append(seen, fuel)
		return 1 << 40, nil
	})
	i.Global(translate.FuelExport).Set(100)
	i.Global(translate.DepthExport).Set(1 << 20)
	stack := []uint64{1000}
	if err := i.Function("loop").Call(ctx, stack); err != nil || stack[0] != 0 || len(seen) != 1 {
		t.Errorf("%v, %v, %d ticks", stack, err, len(seen))
	}
	if left := int64(i.Global(translate.FuelExport).Get()); left <= 0 || left >= 1<<40 {
		t.Errorf("%d fuel is left", left)
	}
}

func tickPanics(t *testing.T, w *world) {
	i := w.translated(t, module(loop()), &host{}, func(context.Context, int64, int64) (int64, error) { panic("a defect") })
	if _, err := invoke(t, i, "loop", 1<<30); err == nil {
		t.Error("the guest went on")
	}
}

func meterGlobals(t *testing.T, w *world) {
	i := w.translated(t, module(loop()), &host{}, nil)
	fuel := i.Global(translate.FuelExport)
	if i.Global(translate.DepthExport) == nil || i.Global(translate.DirtyExport) == nil {
		t.Fatal("a global is missing")
	}
	var took []uint64
	for range 2 {
		fuel.Set(1 << 20)
		must(t, i, "loop", 10)
		took = append(took, 1<<20-fuel.Get())
	}
	if took[0] == 0 || took[0] != took[1] {
		t.Errorf("the same call took %d fuel", took)
	}
}

func tickInside(t *testing.T, w *world) {
	h := &host{}
	ticks := 0
	i := w.translated(t, module(loop(), fn("f", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.Call(call))), h, func(context.Context, int64, int64) (int64, error) {
		ticks++
		return 0, errOver
	})
	h.onCall = func(c *hostcall.Call) {
		i.Global(translate.FuelExport).Set(0)
		if _, err := invoke(t, i, "loop", 1<<30); !errors.Is(err, errOver) {
			t.Errorf("the inner call: %v", err)
		}
		i.Global(translate.FuelExport).Set(1 << 20)
		c.SetResult(0, 6)
	}
	i.Global(translate.FuelExport).Set(1 << 20)
	i.Global(translate.DepthExport).Set(1 << 20)
	if got := must(t, i, "f", 0); got != 6 || ticks != 1 {
		t.Errorf("got %d after %d ticks", got, ticks)
	}
}

func tickBounds(t *testing.T, w *world) {
	m := module(fn("f", nil, nil, wasmtest.Loop(wasmtest.Br(0))))
	for range 3 { // an instance that was ended so can go on
		var meter translate.Meter
		i := w.translated(t, m, &host{}, func(_ context.Context, fuel, _ int64) (int64, error) {
			grant, ok := meter.Tick(fuel)
			if !ok {
				return 0, errOver
			}
			return grant, nil
		})
		for range 2 {
			i.Global(translate.FuelExport).Set(uint64(meter.Begin(1_000_000)))
			if _, err := invoke(t, i, "f"); !errors.Is(err, errOver) {
				t.Errorf("error %v", err)
			}
			if used := meter.Used(int64(i.Global(translate.FuelExport).Get())); used < 1_000_000 || used > 1_010_000 {
				t.Errorf("%d fuel was used", used)
			}
		}
	}
}

// meteredGuest is a module and calls of it. Each has a million fuel and a stack of 64 KiB.
type meteredGuest struct {
	module wasmtest.Module
	calls  []meteredCall
}

type meteredCall struct {
	name  string
	param uint64
}

func meteredGuests() map[string]meteredGuest {
	c := wasmtest.I32Const
	get := wasmtest.LocalGet
	minus := []byte{wasmtest.I32Sub}
	fill := func(op ...byte) wasmtest.Func {
		return fn("f", types(i32), nil, c(16), c(7), get(0), append([]byte{0xfc}, op...))
	}
	one := func(param uint64, f ...wasmtest.Func) meteredGuest {
		m := module(f...)
		m.Memory, m.Table = []uint32{2}, []uint32{10}
		return meteredGuest{m, []meteredCall{{f[0].Name, param}, {f[0].Name, 3}}}
	}
	withStart := one(1000, loop(), wasmtest.Func{Body: wasmtest.Cat(c(8), wasmtest.Load(0), wasmtest.Call(note))})
	start := uint32(first + 1)
	withStart.module.Start, withStart.module.Data = &start, []wasmtest.Data{{Offset: 8, Bytes: []byte{42}}}
	down := func(body ...[]byte) wasmtest.Func { // f(n): if n != 0 { body; f(n-1); f(n-1) }
		return fn("f", types(i32), nil, get(0), []byte{wasmtest.I32Eqz, 0x04, 0x40, wasmtest.Return, wasmtest.End}, wasmtest.Cat(body...),
			get(0), c(1), minus, wasmtest.Call(first), get(0), c(1), minus, wasmtest.Call(first))
	}
	return map[string]meteredGuest{
		"a loop":                      one(10_000, loop()),
		"a loop that is too long":     one(1<<31, loop()),
		"a tree of calls":             one(12, down()),
		"a tree that is too large":    one(40, down()),
		"recursion":                   one(1<<30, fn("f", types(i32), nil, get(0), c(1), minus, wasmtest.Call(first), get(0), wasmtest.Call(note))),
		"filling memory":              one(100_000, fill(0x0b, 0)),
		"filling too much":            one(200_000, fill(0x0b, 0)),
		"copying memory":              one(100_000, fill(0x0a, 0, 0)),
		"growing memory":              one(3, fn("f", types(i32), types(i32), get(0), wasmtest.MemoryGrow())),
		"growing memory too much":     one(30, fn("f", types(i32), types(i32), get(0), wasmtest.MemoryGrow())),
		"growing a table":             one(1000, fn("f", types(i32), types(i32), []byte{0xd0, wasmtest.FuncRef}, get(0), []byte{0xfc, 0x0f, 0})),
		"a trap":                      one(1, fn("f", types(i32), types(i32), c(1), c(0), []byte{wasmtest.I32DivS})),
		"a trap in memory":            one(1<<17, fn("f", types(i32), types(i32), get(0), wasmtest.Load(0))),
		"host calls":                  one(9, down(get(0), wasmtest.Call(note))),
		"an exit":                     one(9, fn("f", types(i32), nil, get(0), wasmtest.Call(exit))),
		"a start function, and data":  withStart,
		"calls through a null table":  one(0, fn("f", types(i32), nil, c(5), get(0), []byte{0x11, 0, 0})),
		"a trap deep within the tree": one(6, down(get(0), c(2), minus, []byte{wasmtest.I32Eqz, 0x04, 0x40, wasmtest.Unreachable, wasmtest.End})),
	}
}

// play runs a guest and answers all that came of it, as text.
func (w *world) play(t *testing.T, g meteredGuest) string {
	h := &host{}
	var meter translate.Meter
	ticks := sha256.New()
	tick := func(_ context.Context, fuel, depth int64) (int64, error) {
		fmt.Fprintln(ticks, fuel, depth)
		if depth < 0 {
			return 0, &engine.Trap{Reason: "stack overflow"}
		}
		grant, ok := meter.Tick(fuel)
		if !ok {
			return 0, errOver
		}
		return grant, nil
	}
	i := w.translated(t, g.module, h, tick)
	fuel, depth := i.Global(translate.FuelExport), i.Global(translate.DepthExport)
	out := ""
	for _, c := range g.calls {
		fuel.Set(uint64(meter.Begin(1_000_000)))
		depth.Set(64 << 10)
		stack := []uint64{c.param}
		err := i.Function(c.name).Call(context.Background(), stack)
		out += fmt.Sprintf("%s(%d): %s, %d fuel, %d depth", c.name, c.param, outcome(err), meter.Used(int64(fuel.Get())), int64(depth.Get()))
		if err == nil {
			out += fmt.Sprintf(", result %d", uint32(stack[0]))
		}
		out += "; "
	}
	return fmt.Sprintf("%sdirty %d, noted %x, memory %x, ticks %x", out, i.Global(translate.DirtyExport).Get(), sha256.Sum256(fmt.Append(nil, h.noted)),
		sha256.Sum256(i.Memory().Bytes()), ticks.Sum(nil))
}

// outcome is an error as engines have to agree on it.
func outcome(err error) string {
	var trap *engine.Trap
	if errors.As(err, &trap) {
		return trap.Backtrace()
	}
	return fmt.Sprint(err)
}
