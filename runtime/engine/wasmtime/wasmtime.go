//go:build wasmtime && cgo

package wasmtime

// #cgo noescape rs_call
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"unsafe"

	_ "github.com/bytecodealliance/wasmtime-go/v44" // its libraries, and the flags to link them

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	format "github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

var (
	_ engine.Engine = (*Engine)(nil)
	_ engine.Loader = (*Engine)(nil)
)

// Options configures an Engine. The zero value compiles and keeps no code.
type Options struct {
	// CodeDir is where the code of modules that are compiled is left, for Load; empty for nowhere. Compile reads nothing there.
	CodeDir string
	// Endless leaves out the check for an ended context at loop heads and function entries (wasmtime's epochs). Guests then run
	// until they return.
	Endless bool
	// Metered offers what translated modules import, and is Endless: their ticks see deadlines.
	Metered bool
}

// Engine is one engine of wasmtime and the host functions of a table, ready to be linked.
type Engine struct {
	engine *C.wasm_engine_t
	linker *C.wasmtime_linker_t
	dir    string // of code
	epochs bool

	open   sync.RWMutex // held, for reading, by whoever uses engine; before mu
	closed bool

	mu   sync.Mutex
	live map[interface{ Close() error }]struct{} // modules and instances; nil once closed
}

var errClosed = errors.New("closed")

// tickNumber is the meter's among the numbers of host functions.
const tickNumber = -1

// Open makes an engine that serves imports from t.
func Open(t *hostcall.Table, opts Options) (*Engine, error) {
	e := &Engine{dir: opts.CodeDir, epochs: !opts.Endless && !opts.Metered, live: map[interface{ Close() error }]struct{}{}}
	e.engine = C.rs_engine_new(C.bool(e.epochs))
	if e.engine == nil {
		return nil, errors.New("wasmtime refuses its configuration")
	}
	e.linker = C.wasmtime_linker_new(e.engine)
	for n, f := range t.Funcs() {
		if err := e.define(f.Module, f.Name, f.Params, f.Results, n); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	if opts.Metered {
		i64 := hostcall.I64
		if err := e.define(translate.MeterModule, translate.TickName, []hostcall.ValueType{i64, i64}, []hostcall.ValueType{i64}, tickNumber); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	return e, nil
}

func (e *Engine) define(module, name string, params, results []hostcall.ValueType, number int) error {
	in, out := kinds(params), kinds(results)
	m, n := []byte(module), []byte(name)
	err := C.rs_define(e.linker, chars(m), C.size_t(len(m)), chars(n), C.size_t(len(n)),
		bytes(in), C.size_t(len(in)), bytes(out), C.size_t(len(out)), C.int(number))
	if err != nil {
		return fmt.Errorf("offer host function %s.%s: %w", module, name, failed(err))
	}
	return nil
}

func chars(b []byte) *C.char         { return (*C.char)(unsafe.Pointer(unsafe.SliceData(b))) }
func bytes(b []byte) *C.uint8_t      { return (*C.uint8_t)(unsafe.SliceData(b)) }
func kind(t hostcall.ValueType) byte { return byte(hostcall.I32 - t) } // i32, i64, f32, f64 are 0 to 3

func kinds(ts []hostcall.ValueType) []byte {
	out := make([]byte, len(ts))
	for i, t := range ts {
		out[i] = kind(t)
	}
	return out
}

// failed takes an error of wasmtime's, which it frees.
func failed(err *C.wasmtime_error_t) error {
	var text C.wasm_name_t
	C.wasmtime_error_message(err, &text)
	defer C.wasm_byte_vec_delete(&text)
	defer C.wasmtime_error_delete(err)
	return fmt.Errorf("%.2000s", C.GoStringN(text.data, C.int(min(text.size, 2000))))
}

// Compile implements engine.Engine. It goes on after ctx ends.
func (e *Engine) Compile(ctx context.Context, wasm []byte) (engine.Module, error) {
	wasm = e.prepare(wasm)
	return e.module(ctx, wasm, func(m *module) error {
		if err := C.wasmtime_module_new(e.engine, bytes(wasm), C.size_t(len(wasm)), &m.code); err != nil {
			return failed(err)
		}
		if e.dir == "" {
			return nil
		}
		return leave(m.code, wasm, e.dir)
	})
}

// prepare makes of a module what is compiled of it.
func (e *Engine) prepare(wasm []byte) []byte {
	wasm = format.LowerTables(wasm, engine.MaxTable)
	if e.epochs {
		wasm = format.LoopOften(wasm) // wasmtime looks at the epoch at loop heads and function entries only
	}
	return wasm
}

// module makes a module of prepared bytes, whose code get sets.
func (e *Engine) module(ctx context.Context, wasm []byte, get func(*module) error) (engine.Module, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	e.open.RLock()
	defer e.open.RUnlock()
	if e.closed {
		return nil, fmt.Errorf("engine: %w", errClosed)
	}
	m := &module{engine: e}
	err := get(m)
	if m.code != nil {
		e.add(m)
	}
	if err == nil {
		const any = math.MaxInt32 // bounds are the caller's matter
		m.info, err = format.Parse(wasm, format.Bounds{FunctionBytes: any, Size: any})
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (e *Engine) add(c interface{ Close() error }) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live[c] = struct{}{}
}

func (e *Engine) remove(c interface{ Close() error }) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.live, c)
}

// Close implements engine.Engine. It waits for what is being compiled.
func (e *Engine) Close() error {
	e.open.Lock()
	defer e.open.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.mu.Lock()
	live := e.live
	e.live = nil
	e.mu.Unlock()
	var err error
	for c := range live {
		err = errors.Join(err, c.Close())
	}
	C.wasmtime_linker_delete(e.linker)
	C.wasm_engine_delete(e.engine) // what calls under way need of it, their instances hold
	return err
}

type module struct {
	engine *Engine
	info   *format.Module

	mu     sync.Mutex
	code   *C.wasmtime_module_t
	linked *C.wasmtime_instance_pre_t // made once, by the first instantiation
}

// link resolves the imports. The engine has to be open.
func (m *module) link() (*C.wasmtime_instance_pre_t, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.code == nil {
		return nil, fmt.Errorf("module: %w", errClosed)
	}
	if m.linked == nil {
		if err := C.wasmtime_linker_instantiate_pre(m.engine.linker, m.code, &m.linked); err != nil {
			return nil, failed(err)
		}
	}
	return m.linked, nil
}

// Close implements engine.Module.
func (m *module) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.code == nil {
		return nil
	}
	m.engine.remove(m)
	if m.linked != nil {
		C.wasmtime_instance_pre_delete(m.linked)
	}
	C.wasmtime_module_delete(m.code)
	m.code, m.linked = nil, nil
	return nil
}
