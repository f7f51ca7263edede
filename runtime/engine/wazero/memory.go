package wazero

import (
	"github.com/tetratelabs/wazero/experimental"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// linear is the memory of one instance, bounded for that instance alone.
type linear struct {
	door *hostcall.Door
	max  uint64 // bytes
	buf  []byte
}

// Bytes implements hostcall.Memory.
func (l *linear) Bytes() []byte { return l.buf }

// Allocate is called by the engine once per instance.
func (l *linear) Allocate(initial, _ uint64) experimental.LinearMemory {
	l.buf = make([]byte, 0, min(initial, l.max))
	return l
}

// Reallocate answers nil past the bound, which the guest sees as a memory.grow of -1.
func (l *linear) Reallocate(size uint64) []byte {
	from := uint64(len(l.buf))
	if size > l.max {
		l.door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: from, To: size, Err: &engine.LimitError{Limit: "memory", Used: size, Max: l.max}})
		return nil
	}
	if size <= uint64(cap(l.buf)) {
		l.buf = l.buf[:size]
	} else {
		// Grown by a quarter more, so that a guest that grows page by page does not copy its memory each time.
		buf := make([]byte, size, min(l.max, size+size/4))
		copy(buf, l.buf)
		l.buf = buf
	}
	if from != 0 {
		l.door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: from, To: size})
	}
	return l.buf
}

// Free is called by the engine when the instance is closed.
func (l *linear) Free() { l.buf = nil }
