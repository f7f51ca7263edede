package translate_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// machine is an engine that links modules to each other, and translates them before or not. It has the functions of the
// specification's module "spectest" if that was started, and env.mix.
type machine interface {
	// start makes an instance, under a name that others can import it by, or none.
	start(wasm []byte, name string) (running, error)
	// budget bounds the fuel of the calls from now on.
	budget(fuel int64)
	// used is the fuel that the last call took, less than 0 if it is not known.
	used() int64
	// outcome is a failure as it can be compared: a trap's reason, or another error's class.
	outcome(error) string
	close()
}

// running is an instance of a machine. Values are raw bits, a v128 in two.
type running interface {
	call(name string, params ...uint64) ([]uint64, error)
	results(name string) []byte
	get(global string) uint64
	set(global string, bits uint64)
	bytes() []byte // its memory
	left() int64   // bytes of depth; only of a translated module
}

// variant is one way to run a module.
type variant struct {
	engine     string
	translated bool
	open       func(t testing.TB, features api.CoreFeatures, depth int64) machine
}

func (v variant) String() string {
	if v.translated {
		return v.engine + " and translated"
	}
	return v.engine
}

// variants are all ways, each engine's untranslated one first.
func variants() (all []variant) {
	for _, k := range kinds {
		engine := "wazero, compiled"
		if k.interpret {
			engine = "wazero, interpreted"
		}
		all = append(all, variant{engine, k.translate, func(t testing.TB, features api.CoreFeatures, depth int64) machine {
			w := newWorld(t, k, features)
			w.options.Depth = depth
			_, err := w.r.NewHostModuleBuilder("env").NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, stack []uint64) {
				stack[0] = uint64(mix(uint32(stack[0])))
			}), []api.ValueType{api.ValueTypeI32}, []api.ValueType{api.ValueTypeI32}).Export("mix").Instantiate(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return wazeroMachine{w}
		}})
	}
	return append(all, otherVariants()...)
}

// mix is what generated modules import.
func mix(n uint32) uint32 { return n*2654435761 + 1 }

type wazeroMachine struct{ w *world }

func (m wazeroMachine) budget(fuel int64)        { m.w.budget = fuel }
func (m wazeroMachine) used() int64              { return m.w.used() }
func (m wazeroMachine) outcome(err error) string { return m.w.outcome(err) }
func (m wazeroMachine) close()                   { m.w.close() }
func (m wazeroMachine) start(wasm []byte, name string) (running, error) {
	in, err := m.w.instantiate(wasm, name)
	if err != nil {
		return nil, err
	}
	return wazeroRunning{m.w, in}, nil
}

type wazeroRunning struct {
	w  *world
	in *instance
}

func (r wazeroRunning) call(name string, params ...uint64) ([]uint64, error) {
	return r.w.call(r.in, name, params...)
}
func (r wazeroRunning) results(name string) []byte {
	return r.in.ExportedFunction(name).Definition().ResultTypes()
}
func (r wazeroRunning) get(global string) uint64 { return r.in.ExportedGlobal(global).Get() }
func (r wazeroRunning) set(global string, bits uint64) {
	r.in.ExportedGlobal(global).(api.MutableGlobal).Set(bits)
}
func (r wazeroRunning) left() int64 { return int64(r.in.depth.Get()) }
func (r wazeroRunning) bytes() []byte {
	b, _ := r.in.Memory().Read(0, r.in.Memory().Size())
	return b
}

// shownResults is results as they are compared: without the bits of a NaN in values of the engine's own making, and without addresses.
func shownResults(types []byte, results []uint64, nan bool) string {
	var out strings.Builder
	i := 0
	for _, t := range types {
		if i >= len(results) {
			break
		}
		switch {
		case nan && t == f32 && math.IsNaN(float64(math.Float32frombits(uint32(results[i])))), nan && t == f64 && math.IsNaN(math.Float64frombits(results[i])):
			out.WriteString(" NaN")
		case t == funcRef: // an address of the engine's
			fmt.Fprint(&out, " function: ", results[i] != 0)
		case t == v128:
			fmt.Fprintf(&out, " %x:%x", results[i], results[i+1])
			i++
		case t == i32 || t == f32: // the upper half is the engine's
			fmt.Fprintf(&out, " %x", uint32(results[i]))
		default:
			fmt.Fprintf(&out, " %x", results[i])
		}
		i++
	}
	return out.String()
}

// plainName is the export that reachable adds for a function whose type has a v128.
func plainName(name string) string { return name + " in halves" }

const memoryName = "the memory"

// reachable adds exports to a valid module: its memory, and for each exported function with a v128 in its type one that calls it, with an
// i64 for each half. What the module means is unchanged.
func reachable(t testing.TB, wasm []byte) []byte {
	const any = math.MaxInt32
	b, err := module.Take(wasm, module.Bounds{FunctionBytes: any, Size: any})
	if err != nil {
		t.Fatalf("a valid module is refused: %v", err)
	}
	has := map[string]bool{}
	for _, e := range b.Info.Exports {
		has[e.Name] = true
	}
	var types, funcs, bodies, exports [][]byte
	if len(b.Info.Memories) > 0 && !has[memoryName] {
		exports = append(exports, module.Export{Name: memoryName, Kind: module.ExternMemory}.Append(nil))
	}
	halves := func(ts []hostcall.ValueType) (out []hostcall.ValueType, wide bool) {
		for _, v := range ts {
			if byte(v) == v128 {
				out, wide = append(out, hostcall.I64, hostcall.I64), true
			} else {
				out = append(out, v)
			}
		}
		return out, wide
	}
	for _, e := range b.Info.Exports {
		if e.Kind != module.ExternFunc || has[plainName(e.Name)] {
			continue
		}
		typ := b.Types[b.Functions[e.Index]]
		params, wide := halves(typ.Params)
		results, also := halves(typ.Results)
		if !wide && !also {
			continue
		}
		var code, locals []byte
		at := uint32(0)
		get := func(i uint32) { code = append(code, wasmtest.LocalGet(i)...) }
		for _, p := range typ.Params {
			get(at)
			at++
			if byte(p) == v128 {
				code = append(code, 0xfd, 0x12) // i64x2.splat
				get(at)
				code = append(code, 0xfd, 0x1e, 1) // i64x2.replace_lane
				at++
			}
		}
		code = append(code, wasmtest.Call(e.Index)...)
		for i := len(typ.Results) - 1; i >= 0; i-- {
			code = append(code, wasmtest.LocalSet(at+uint32(i))...)
		}
		locals = binary.AppendUvarint(locals, uint64(len(typ.Results)))
		for i, r := range typ.Results {
			locals = append(locals, 1, byte(r))
			get(at + uint32(i))
			if byte(r) == v128 {
				code = append(code, 0xfd, 0x1d, 0) // i64x2.extract_lane
				get(at + uint32(i))
				code = append(code, 0xfd, 0x1d, 1)
			}
		}
		exports = append(exports, module.Export{Name: plainName(e.Name), Kind: module.ExternFunc, Index: uint32(len(b.Functions) + len(funcs))}.Append(nil))
		funcs = append(funcs, binary.AppendUvarint(nil, uint64(len(b.Types)+len(types))))
		types = append(types, module.FuncType{Params: params, Results: results}.Append(nil))
		bodies = append(bodies, wasmtest.Sized(wasmtest.Cat(locals, code, []byte{wasmtest.End})))
	}
	for id, more := range map[module.SectionID][][]byte{module.SectionType: types, module.SectionFunction: funcs, module.SectionExport: exports, module.SectionCode: bodies} {
		if len(more) > 0 {
			p := b.Ensure(id)
			p.Set(append(p.Entries[:len(p.Entries):len(p.Entries)], more...))
		}
	}
	return b.Bytes()
}
