//go:build wasmtime && cgo

package wasmtime

// #include "shim.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"runtime/debug"
	"unsafe"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// No panic may pass the frames of C and of the guest, so each callback ends with guard.

func of(handle C.uintptr_t) *instance { return cgo.Handle(handle).Value().(*instance) }

//export ripstopHostCall
func ripstopHostCall(handle C.uintptr_t, number C.int, stack *C.uint64_t, n C.int) (ended C.int) {
	i := of(handle)
	defer i.guard(&ended)
	values := unsafe.Slice((*uint64)(stack), n)
	if number != tickNumber {
		i.door.Dispatch(int(number), values)
		return 0
	}
	c := i.current
	if i.tick == nil {
		c.ended = errUnmetered
		return 1
	}
	fuel, err := i.tick(c.ctx, int64(values[0]), int64(values[1]))
	if err != nil {
		c.ended = err
		return 1
	}
	values[0] = uint64(fuel)
	return 0
}

//export ripstopNewMemory
func ripstopNewMemory(handle C.uintptr_t, c *C.rs_instance, minimum C.uint64_t) (ended C.int) {
	i := of(handle)
	defer i.guard(&ended)
	if uint64(minimum) > uint64(len(i.memory.Bytes())) {
		if i.short = i.memory.Grow(uint64(minimum)); i.short != nil {
			return 1
		}
	}
	i.look(c)
	return 0
}

//export ripstopGrowMemory
func ripstopGrowMemory(handle C.uintptr_t, c *C.rs_instance, size C.uint64_t) (ended C.int) {
	i := of(handle)
	defer i.guard(&ended)
	from := uint64(len(i.memory.Bytes()))
	err := i.memory.Grow(uint64(size))
	i.door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: from, To: uint64(size), Err: err})
	if err != nil {
		return 1
	}
	i.look(c)
	return 0
}

// guard turns a panic into the end of the guest: the door's way to end it, or a defect of the host's.
func (i *instance) guard(ended *C.int) {
	switch p := recover(); p {
	case nil:
		return
	case unwind{}:
		i.current.ended = errEnded
	default:
		i.current.ended = fmt.Errorf("%v\n%s", p, debug.Stack())
	}
	*ended = 1
}
