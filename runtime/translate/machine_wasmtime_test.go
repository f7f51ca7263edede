//go:build wasmtime && cgo

package translate_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	wt "github.com/bytecodealliance/wasmtime-go/v44"
	"github.com/tetratelabs/wazero/api"

	"github.com/ripstop-vm/ripstop/runtime/translate"
)

func otherVariants() (all []variant) {
	for _, translated := range []bool{false, true} {
		all = append(all, variant{"wasmtime", translated, func(t testing.TB, features api.CoreFeatures, depth int64) machine {
			return newWasmtime(t, features, translated, depth)
		}})
	}
	return all
}

// wasmtimeMachine is wasmtime by its own Go package, which links modules as ours does not need to. That has no v128 in calls: functions
// with one are called through what reachable adds.
type wasmtimeMachine struct {
	t          testing.TB
	translated bool
	options    translate.Options
	engine     *wt.Engine
	store      *wt.Store
	linker     *wt.Linker
	most       int64
	live       []*wasmtimeInstance
	stopped    string
	halves     bool // the last call was of a function that was added
}

type wasmtimeInstance struct {
	m           *wasmtimeMachine
	in          *wt.Instance
	meter       translate.Meter
	fuel, depth *wt.Global
}

func newWasmtime(t testing.TB, features api.CoreFeatures, translated bool, depth int64) *wasmtimeMachine {
	second := features&api.CoreFeatureBulkMemoryOperations != 0
	c := wt.NewConfig()
	c.SetWasmTailCall(features&^api.CoreFeaturesV2 != 0)
	c.SetWasmSIMD(second)
	c.SetWasmBulkMemory(second)
	c.SetWasmReferenceTypes(second)
	c.SetWasmMultiValue(second)
	c.SetWasmThreads(false)
	c.SetWasmRelaxedSIMD(false)
	c.SetWasmMultiMemory(false)
	c.SetWasmMemory64(false)
	c.SetWasmFunctionReferences(false)
	c.SetWasmGC(false)
	c.SetNativeUnwindInfo(false)
	c.SetParallelCompilation(false)
	m := &wasmtimeMachine{t: t, translated: translated, options: translate.Options{Depth: depth, TableElements: 1 << 20}, engine: wt.NewEngineWithConfig(c), most: 1 << 40}
	m.store, m.linker = wt.NewStore(m.engine), wt.NewLinker(m.engine)
	m.linker.AllowShadowing(true)
	if err := m.linker.FuncWrap("env", "mix", func(n int32) int32 { return int32(mix(uint32(n))) }); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *wasmtimeMachine) close() {
	m.linker.Close()
	m.store.Close()
	m.engine.Close()
}

func (m *wasmtimeMachine) budget(fuel int64) { m.most = fuel }

func (m *wasmtimeMachine) used() (n int64) {
	if m.halves {
		return -1
	}
	for _, in := range m.live {
		n += in.meter.Used(in.fuel.Get(m.store).I64())
	}
	return n
}

func (m *wasmtimeMachine) start(wasm []byte, name string) (running, error) {
	code, err := wt.NewModule(m.engine, wasm)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	code.Close()
	wasm = reachable(m.t, wasm)
	var res *translate.Result
	if m.translated {
		if res, err = translate.Translate(wasm, m.options); err != nil {
			m.t.Fatalf("wasmtime: a valid module cannot be translated: %v", err)
		}
		wasm = res.Wasm
	}
	if code, err = wt.NewModule(m.engine, wasm); err != nil {
		m.t.Fatalf("wasmtime: a module that was made of a valid one is invalid: %v", err)
	}
	defer code.Close()
	in := &wasmtimeInstance{m: m}
	if m.translated {
		i64 := wt.NewValType(wt.KindI64)
		typ := wt.NewFuncType([]*wt.ValType{i64, i64}, []*wt.ValType{i64})
		// Each instance has its own.
		tick := wt.NewFunc(m.store, typ, func(_ *wt.Caller, args []wt.Val) ([]wt.Val, *wt.Trap) {
			if args[1].I64() < 0 {
				m.stopped = "stack overflow"
				return nil, wt.NewTrap(m.stopped)
			}
			grant, ok := in.meter.Tick(args[0].I64())
			if !ok {
				m.stopped = "out of fuel"
				return nil, wt.NewTrap(m.stopped)
			}
			return []wt.Val{wt.ValI64(grant)}, nil
		})
		if err := m.linker.Define(m.store, translate.MeterModule, translate.TickName, tick); err != nil {
			m.t.Fatal(err)
		}
	}
	if in.in, err = m.linker.Instantiate(m.store, code); err != nil {
		return nil, err
	}
	if m.translated {
		in.fuel, in.depth = in.in.GetExport(m.store, translate.FuelExport).Global(), in.in.GetExport(m.store, translate.DepthExport).Global()
		m.live = append(m.live, in)
		for _, e := range res.Image {
			copy(in.bytes()[e.Offset:], e.Bytes)
		}
		if res.Start {
			if _, err := in.call(translate.StartExport); err != nil {
				return nil, err // others may still call it through a table
			}
		}
	}
	if name != "" {
		if err := m.linker.DefineInstance(m.store, name, in.in); err != nil {
			m.t.Fatal(err)
		}
	}
	return in, nil
}

// words are wasmtime's codes as wazero calls them.
var words = map[wt.TrapCode]string{
	wt.StackOverflow: "stack overflow", wt.MemoryOutOfBounds: "out of bounds memory access", wt.TableOutOfBounds: "invalid table access",
	wt.IndirectCallToNull: "invalid table access", wt.BadSignature: "indirect call type mismatch", wt.IntegerOverflow: "integer overflow",
	wt.IntegerDivisionByZero: "integer divide by zero", wt.BadConversionToInteger: "invalid conversion to integer",
	wt.UnreachableCodeReached: "unreachable",
}

func (m *wasmtimeMachine) outcome(err error) string {
	var trap *wt.Trap
	switch {
	case err == nil:
		return "ok"
	case m.stopped != "":
		return m.stopped
	case errors.Is(err, errInvalid):
		return "invalid"
	case errors.As(err, &trap) && trap.Code() != nil:
		if w, ok := words[*trap.Code()]; ok {
			return w
		}
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return "error: " + line
}

func (in *wasmtimeInstance) left() int64 { return in.depth.Get(in.m.store).I64() }

func (in *wasmtimeInstance) bytes() []byte {
	return in.in.GetExport(in.m.store, memoryName).Memory().UnsafeData(in.m.store)
}

func (in *wasmtimeInstance) get(global string) uint64 {
	return bits(in.in.GetExport(in.m.store, global).Global().Get(in.m.store))
}

func (in *wasmtimeInstance) set(global string, n uint64) {
	g := in.in.GetExport(in.m.store, global).Global()
	if err := g.Set(in.m.store, valueOf(g.Type(in.m.store).Content().Kind(), n)); err != nil {
		in.m.t.Fatal(err)
	}
}

// function is an exported function, or what stands for it.
func (in *wasmtimeInstance) function(name string) (f *wt.Func, halves bool) {
	if f = in.in.GetFunc(in.m.store, plainName(name)); f != nil {
		return f, true
	}
	return in.in.GetFunc(in.m.store, name), false
}

func (in *wasmtimeInstance) results(name string) (types []byte) {
	f := in.in.GetFunc(in.m.store, name)
	for _, r := range f.Type(in.m.store).Results() {
		t, ok := map[wt.ValKind]byte{wt.KindI32: i32, wt.KindI64: i64, wt.KindF32: f32, wt.KindF64: f64, wt.KindFuncref: funcRef, wt.KindExternref: 0x6f}[r.Kind()]
		if !ok {
			t = v128 // the package has no name for it
		}
		types = append(types, t)
	}
	return types
}

func (in *wasmtimeInstance) call(name string, params ...uint64) ([]uint64, error) {
	m := in.m
	m.stopped = ""
	for _, other := range m.live {
		must(m.t, other.fuel.Set(m.store, wt.ValI64(other.meter.Begin(m.most))))
		must(m.t, other.depth.Set(m.store, wt.ValI64(m.options.Depth)))
	}
	f, halves := in.function(name)
	m.halves = halves
	var args []any
	for i, p := range f.Type(m.store).Params() {
		args = append(args, valueOf(p.Kind(), params[i]))
	}
	got, err := f.Call(m.store, args...)
	if err != nil {
		return nil, err
	}
	switch got := got.(type) {
	case []wt.Val:
		var out []uint64
		for _, v := range got {
			out = append(out, bits(v))
		}
		return out, nil
	case nil:
		if len(f.Type(m.store).Results()) == 0 {
			return nil, nil
		}
		return []uint64{0}, nil // a null reference
	default:
		return []uint64{rawBits(got)}, nil
	}
}

func must(t testing.TB, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func valueOf(k wt.ValKind, n uint64) wt.Val {
	switch k {
	case wt.KindI32:
		return wt.ValI32(int32(n))
	case wt.KindI64:
		return wt.ValI64(int64(n))
	case wt.KindF32:
		return wt.ValF32(math.Float32frombits(uint32(n)))
	case wt.KindF64:
		return wt.ValF64(math.Float64frombits(n))
	case wt.KindFuncref:
		return wt.ValFuncref(nil)
	}
	if n == 0 {
		return wt.ValExternref(nil)
	}
	return wt.ValExternref(n)
}

func bits(v wt.Val) uint64 { return rawBits(v.Get()) }

func rawBits(v any) uint64 {
	switch v := v.(type) {
	case int32:
		return uint64(uint32(v))
	case int64:
		return uint64(v)
	case float32:
		return uint64(math.Float32bits(v))
	case float64:
		return math.Float64bits(v)
	case *wt.Func:
		if v != nil {
			return 1
		}
	case uint64:
		return v
	}
	return 0
}
