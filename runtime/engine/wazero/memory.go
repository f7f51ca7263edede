package wazero

import (
	"reflect"

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
func (l *linear) Allocate(initial, _ uint64) experimental.LinearMemory {
	if own, ok := l.memory.(*ownMemory); ok {
		own.buf = make([]byte, 0, min(initial, own.max))
		return l
	}
	return &foreign{linear: l}
}

// Reallocate answers nil past the bound, which the guest sees as a memory.grow of -1.
func (l *linear) Reallocate(size uint64) []byte {
	from := uint64(len(l.memory.Bytes()))
	if err := l.memory.Grow(size); err != nil {
		l.door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: from, To: size, Err: err})
		return nil
	}
	if from != 0 && !l.quiet {
		l.door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: from, To: size})
	}
	return l.memory.Bytes()
}

// Free is called by the engine when the instance is closed.
func (l *linear) Free() {
	if own, ok := l.memory.(*ownMemory); ok {
		own.buf = nil
	}
}

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

// foreign is linear over memory that is there already: the instance begins with all of it.
type foreign struct {
	*linear
	begun bool
}

// Reallocate is asked for the module's minimum first.
func (f *foreign) Reallocate(size uint64) []byte {
	if f.begun {
		return f.linear.Reallocate(size)
	}
	f.begun = true
	if size > uint64(len(f.memory.Bytes())) {
		if f.short = f.memory.Grow(size); f.short != nil {
			return make([]byte, size) // wazero panics on nil here; InstantiateOn reports it
		}
	}
	return f.memory.Bytes()
}

// ownMemory is memory of the Go heap, bounded for its instance alone.
type ownMemory struct {
	max uint64 // bytes
	buf []byte
}

func (m *ownMemory) Bytes() []byte { return m.buf }

func (m *ownMemory) Grow(size uint64) error {
	switch {
	case size > m.max:
		return &engine.LimitError{Limit: "memory", Used: size, Max: m.max}
	case size <= uint64(cap(m.buf)):
		m.buf = m.buf[:size]
	default:
		// Grown by a quarter more, so that a guest that grows page by page does not copy its memory each time.
		buf := make([]byte, size, min(m.max, size+size/4))
		copy(buf, m.buf)
		m.buf = buf
	}
	return nil
}
