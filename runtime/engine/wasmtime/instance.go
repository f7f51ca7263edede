//go:build wasmtime && cgo

package wasmtime

// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"runtime/cgo"
	"strings"
	"sync"
	"unsafe"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	format "github.com/ripstop-vm/ripstop/runtime/module"
)

// instance is an instance of wasmtime's. Its C side is freed by Close, or by the call that is under way then.
type instance struct {
	module *module
	door   *hostcall.Door
	memory engine.Memory
	short  error // why memory could not be as long as the module needs
	tick   engine.Tick
	handle cgo.Handle
	pin    goruntime.Pinner // of memory

	mu      sync.Mutex
	c       *C.rs_instance // nil once freed
	current *call          // the innermost; only the goroutine that calls changes it
	stopped bool           // the C side's flag
	closed  bool
}

// call is one call into the guest under way.
type call struct {
	ctx   context.Context
	outer *call
	ended error // why the host ended the guest, if it did
	over  bool
}

// unwind is what the door panics with to end the guest; it never leaves the Go frames of the host call.
type unwind struct{}

var (
	errUnmetered = errors.New("a translated module runs without a meter")
	errEnded     = errors.New("ended by the host") // the door knows why
)

func (m *module) Instantiate(ctx context.Context, d *hostcall.Door, mem engine.Memory) (engine.Instance, error) {
	i := &instance{module: m, door: d, memory: mem}
	pre, err := i.make()
	if err != nil {
		return nil, errors.Join(err, i.Close())
	}
	d.Attach(mem, unwind{})
	mark := d.Enter(ctx)
	c, err := i.enter(ctx)
	if err == nil {
		done := i.watch(c)
		f := C.rs_instantiate(i.c, pre)
		done()
		err = i.over(c, &f)
	}
	if err = d.Leave(mark, err); err != nil {
		if i.short != nil {
			err = i.short
		}
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

// make makes the C side, without an instance in it yet.
func (i *instance) make() (*C.wasmtime_instance_pre_t, error) {
	e := i.module.engine
	e.open.RLock()
	defer e.open.RUnlock()
	if e.closed {
		return nil, fmt.Errorf("engine: %w", errClosed)
	}
	pre, err := i.module.link()
	if err != nil {
		return nil, err
	}
	i.handle = cgo.NewHandle(i)
	if i.c = C.rs_instance_new(e.engine, C.uintptr_t(i.handle), C.bool(e.epochs)); i.c == nil {
		return nil, errors.New("no memory for an instance")
	}
	e.add(i)
	return pre, nil
}

// enter begins a call, which ends with ctx, if the engine looks for that.
func (i *instance) enter(ctx context.Context) (*call, error) {
	epochs := i.module.engine.epochs
	if epochs && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c := &call{ctx: ctx}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, fmt.Errorf("instance: %w", errClosed)
	}
	c.outer, i.current = i.current, c
	return c, nil
}

// watch has the guest end when the call's context does. The function that it answers has to be called in any case.
func (i *instance) watch(c *call) (done func() bool) {
	if !i.module.engine.epochs || c.ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(c.ctx, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		if !c.over && !i.closed {
			i.stopLocked()
		}
	})
}

func (i *instance) stopLocked() {
	i.stopped = true
	C.rs_stop(i.c, i.module.engine.engine)
}

// leave ends a call. Whoever ends the outermost one of a closed instance frees it.
func (i *instance) leave(c *call) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	c.over = true
	i.current = c.outer
	if i.closed {
		if i.current == nil {
			return i.freeLocked()
		}
		return nil
	}
	if i.stopped && !i.current.done() {
		i.stopped = false
		C.rs_proceed(i.c)
	}
	return nil
}

// done reports that the call, or one around it, has to end.
func (c *call) done() bool {
	for ; c != nil; c = c.outer {
		if c.ctx.Err() != nil {
			return true
		}
	}
	return false
}

func (i *instance) Meter(t engine.Tick) { i.tick = t }

func (i *instance) Memory() hostcall.Memory { return i.memory }

func (i *instance) Ended() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.closed
}

func (i *instance) Shorten() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, e := range i.module.info.Exports {
		if e.Kind == format.ExternMemory && i.c != nil {
			i.look(i.c)
			name := []byte(e.Name)
			return bool(C.rs_refresh_memory(i.c, chars(name), C.size_t(len(name))))
		}
	}
	return false
}

// Close implements engine.Instance. A call under way is ended, if the engine can end calls, and frees the instance.
func (i *instance) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	if i.current == nil {
		return i.freeLocked()
	}
	i.stopLocked()
	return nil
}

func (i *instance) freeLocked() error {
	if i.c != nil {
		C.rs_instance_free(i.c)
		i.c = nil
	}
	if i.handle != 0 {
		i.handle.Delete()
		i.handle = 0
	}
	i.module.engine.remove(i)
	i.pin.Unpin()
	return nil
}

// look tells the C side where memory is. It must not be memory of Go's that could be freed meanwhile.
func (i *instance) look(c *C.rs_instance) {
	b := i.memory.Bytes()
	i.pin.Unpin()
	c.base, c.size = nil, C.size_t(len(b))
	if len(b) > 0 {
		i.pin.Pin(&b[0])
		c.base = (*C.uint8_t)(&b[0])
	}
}

// over leaves a call and answers what came of it.
func (i *instance) over(c *call, f *C.rs_failure) error {
	err := i.failure(c, f)
	if e := i.leave(c); e != nil {
		return errors.Join(err, e)
	}
	return err
}

// failure turns wasmtime's into ours; nil if there is none.
func (i *instance) failure(c *call, f *C.rs_failure) error {
	if !f.failed {
		return nil
	}
	defer C.rs_failure_free(f)
	if c.ended != nil {
		return c.ended
	}
	if f.code < 0 && f.interrupted {
		for at := c; at != nil; at = at.outer {
			if at.ctx.Err() != nil {
				return context.Cause(at.ctx)
			}
		}
		return fmt.Errorf("instance: %w", errClosed)
	}
	var r C.rs_report
	C.rs_failure_report(f, &r)
	reason := strings.TrimRight(C.GoString(&r.message[0]), "\x00")
	if f.code < 0 {
		return errors.New(reason)
	}
	if words, ok := reasons[f.code]; ok {
		reason = words
	}
	t := engine.NewTrap(reason)
	for n := range int(r.frames) {
		name := fmt.Sprintf("$%d", uint32(r.index[n]))
		if r.named[n] != 0 {
			name = C.GoString(&r.name[n][0])
		}
		t.Add(name)
	}
	return t
}

// reasons are the words for trap codes (wasmtime/trap.h). Where wazero has one for two, so have we: a guest's failure is called the
// same on both.
var reasons = map[C.int]string{
	0: "stack overflow",
	1: "out of bounds memory access",
	3: "invalid table access",
	4: "invalid table access",
	5: "indirect call type mismatch",
	6: "integer overflow",
	7: "integer divide by zero",
	8: "invalid conversion to integer",
	9: "unreachable",
}

// function is an exported function.
type function struct {
	instance        *instance
	f               C.wasmtime_func_t
	params, results int
	need            int         // elements of the stack
	words           []C.uint8_t // the size of each parameter and result, in 32-bit words
	references      []int       // where in the stack parameters are that only null can be given to
}

func (i *instance) Function(name string) engine.Function {
	for _, e := range i.module.info.Exports {
		if e.Kind != format.ExternFunc || e.Name != name {
			continue
		}
		f := &function{instance: i, params: len(e.Type.Params), results: len(e.Type.Results)}
		f.layout(e.Type)
		i.mu.Lock()
		defer i.mu.Unlock()
		b := []byte(name)
		if i.c != nil && !bool(C.rs_function(i.c, chars(b), C.size_t(len(b)), &f.f)) {
			return nil
		}
		return f // calls of a closed instance say so
	}
	return nil
}

// layout finds where in the stack values are.
func (f *function) layout(t format.FuncType) {
	const v128, externref, funcref = 0x7b, 0x6f, 0x70
	for n, ts := range [][]hostcall.ValueType{t.Params, t.Results} {
		at := 0
		for _, typ := range ts {
			size := 2
			switch typ {
			case hostcall.I32, hostcall.F32, externref:
				size = 1
			case v128:
				size = 4
			}
			if n == 0 && (typ == externref || typ == funcref) {
				f.references = append(f.references, at)
			}
			f.words = append(f.words, C.uint8_t(size))
			at += (size + 1) / 2
		}
		f.need = max(f.need, at)
	}
}

// Call implements engine.Function.
func (f *function) Call(ctx context.Context, stack []uint64) error {
	i := f.instance
	if len(stack) < f.need {
		return fmt.Errorf("a stack of %d values, %d needed", len(stack), f.need)
	}
	for _, n := range f.references {
		if stack[n] != 0 {
			return errors.New("a reference as parameter can only be null")
		}
	}
	d := i.door
	mark := d.Enter(ctx)
	c, err := i.enter(ctx)
	if err == nil {
		done := i.watch(c)
		r := C.rs_call(i.c, &f.f, (*C.uint64_t)(unsafe.SliceData(stack)), C.size_t(f.params), C.size_t(f.results), unsafe.SliceData(f.words))
		done()
		err = i.over(c, &r)
	}
	return d.Leave(mark, err)
}

// global is an exported global that holds a number.
type global struct {
	instance *instance
	g        C.wasmtime_global_t
	kind     C.wasm_valkind_t
}

func (i *instance) Global(name string) engine.Global {
	info := i.module.info
	first := 0 // the imported ones come before those defined here
	for _, im := range info.Imports {
		if im.Kind == format.ExternGlobal {
			first++
		}
	}
	for _, e := range info.Exports {
		at := int(e.Index) - first
		if e.Kind != format.ExternGlobal || e.Name != name || at < 0 {
			continue
		}
		t := info.GlobalTypes[at]
		if !t.Mutable || t.Type < hostcall.F64 {
			return nil
		}
		g := &global{instance: i, kind: C.wasm_valkind_t(kind(t.Type))}
		i.mu.Lock()
		defer i.mu.Unlock()
		b := []byte(name)
		if i.c == nil || !bool(C.rs_global(i.c, chars(b), C.size_t(len(b)), &g.g)) {
			return nil
		}
		return g
	}
	return nil
}

// Get is 0 once the instance is closed.
func (g *global) Get() uint64 {
	i := g.instance
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.c == nil {
		return 0
	}
	return uint64(C.rs_global_get(i.c, &g.g))
}

// Set does nothing once the instance is closed.
func (g *global) Set(bits uint64) {
	i := g.instance
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.c != nil {
		C.rs_global_set(i.c, &g.g, g.kind, C.uint64_t(bits))
	}
}
