package wazero

import (
	"reflect"
	"slices"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// linear is what wazero knows as the memory of one instance.
type linear struct {
	door   *hostcall.Door
	memory engine.Memory
	// short says that the memory was smaller than the module's minimum and did not grow to it.
	short error
	quiet bool // growth is not the guest's
}

// Bytes implements hostcall.Memory.
func (l *linear) Bytes() []byte { return l.memory.Bytes() }

// Allocate is called by the engine once per instance.
func (l *linear) Allocate(_, _ uint64) experimental.LinearMemory {
	return &whole{linear: l}
}

// Reallocate answers nil past the bound, which the guest sees as a memory.grow of -1. The bytes have no capacity beyond: once the instance is closed, a
// guest that still runs grows within it without asking, and would have what was not opened yet, or is another's by then.
func (l *linear) Reallocate(size uint64) []byte {
	from := uint64(len(l.memory.Bytes()))
	if err := l.memory.Grow(size); err != nil {
		l.door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: from, To: size, Err: err})
		return nil
	}
	if from != 0 && !l.quiet {
		l.door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: from, To: size})
	}
	return slices.Clip(l.memory.Bytes())
}

// Free is called by the engine when the instance is closed. The memory is somebody else's.
func (l *linear) Free() {}

// shorten makes mem, which wazero holds for l, as long as l is. wazero cannot shorten a memory, but it takes whatever Reallocate
// answers: its view is made a page shorter than l, and then grown by a page. It is false if this wazero has no such view.
func shorten(mem api.Memory, l *linear) bool {
	want := l.Bytes()
	v := reflect.ValueOf(mem)
	if v.Kind() != reflect.Pointer || v.IsNil() || len(want) == 0 || v.Elem().Kind() != reflect.Struct {
		return false
	}
	buffer := v.Elem().FieldByName("Buffer")
	if !buffer.IsValid() || !buffer.CanSet() || buffer.Type() != reflect.TypeOf(want) {
		return false
	}
	buffer.SetBytes(want[:len(want)-engine.PageSize])
	l.quiet = true
	_, ok := mem.Grow(1)
	l.quiet = false
	return ok && uint64(mem.Size()) == uint64(len(want))
}

// whole is linear with which an instance begins, with all of it.
type whole struct {
	*linear
	begun bool
}

// Reallocate is asked for the module's minimum first.
func (f *whole) Reallocate(size uint64) []byte {
	if f.begun {
		return f.linear.Reallocate(size)
	}
	f.begun = true
	if size > uint64(len(f.memory.Bytes())) {
		if f.short = f.memory.Grow(size); f.short != nil {
			return make([]byte, size) // wazero panics on nil here; InstantiateOn reports it
		}
	}
	return slices.Clip(f.memory.Bytes())
}
