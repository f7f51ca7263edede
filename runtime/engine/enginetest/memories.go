package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

var memories = map[string]func(*testing.T, *world){
	"memory grows to its bound and no further":            growth,
	"memory grows to the module's own maximum":            ownMaximum,
	"memory that has grown is zero and what was, stays":   grownIsZero,
	"memory begins with the module's minimum and data":    beginning,
	"an instance on given memory begins with all of it":   givenMemory,
	"given memory is made as long as the module needs":    shortMemory,
	"given memory that cannot be long enough is reported": memoryTooShort,
	"given memory decides how far it grows":               givenGrowth,
	"given memory outlives the instance":                  memoryOutlives,
	"memory that was made shorter is seen so":             shortened,
}

// growing is a module that grows, and looks at, its memory.
func growing(limits ...uint32) wasmtest.Module {
	return wasmtest.Module{Memory: limits, Funcs: []wasmtest.Func{
		fn("grow", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.MemoryGrow()),
		fn("size", nil, types(i32), wasmtest.MemorySize()),
		fn("load", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.Load(0)),
		fn("store", types(i32, i32), nil, wasmtest.LocalGet(0), wasmtest.LocalGet(1), wasmtest.Store(0)),
	}}
}

const failed = math.MaxUint32 // memory.grow's -1

// grow grows and checks what memory.grow gives, and what everyone sees afterwards.
func grow(t *testing.T, i engine.Instance, by, want, size uint64) {
	t.Helper()
	if got := must(t, i, "grow", by); uint64(uint32(got)) != want {
		t.Errorf("growing by %d pages gives %d, want %d", by, int32(got), int32(want))
	}
	if got, n := must(t, i, "size"), len(i.Memory().Bytes()); got != size || n != int(size<<16) {
		t.Errorf("after growing by %d the guest has %d pages and the host %d bytes, want %d pages", by, got, n, size)
	}
}

func growth(t *testing.T, w *world) {
	h := &host{}
	i := w.start(growing(1), h)
	for _, step := range [][3]uint64{{1, 1, 2}, {0, 2, 2}, {maxPages, failed, 2}, {65536, failed, 2}, {failed, failed, 2}, {maxPages - 2, 2, maxPages}, {1, failed, maxPages}, {0, maxPages, maxPages}} {
		grow(t, i, step[0], step[1], step[2])
	}
	must(t, i, "store", maxPages<<16-4, 7)
	if i.Memory().Bytes()[maxPages<<16-4] != 7 {
		t.Error("the host does not see what the guest wrote")
	}
	_, err := invoke(t, i, "store", maxPages<<16-3, 7)
	wantTrap(t, err, "out of bounds memory access")
	var events []string
	for _, e := range h.events {
		var limit *engine.LimitError
		if e.Kind == hostcall.EventGrow {
			events = append(events, fmt.Sprintf("%d→%d %t", e.From>>16, e.To>>16, errors.As(e.Err, &limit) && limit.Limit == "memory"))
		}
	}
	if events[0] != "1→2 false" || !slices.Contains(events, "2→18 true") || !slices.Contains(events, "2→16 false") || !slices.Contains(events, "16→17 true") {
		t.Errorf("events %q", events)
	}
}

func ownMaximum(t *testing.T, w *world) {
	h := &host{}
	i := w.start(growing(1, 3), h)
	grow(t, i, 3, failed, 1)
	grow(t, i, 2, 1, 3)
	grow(t, i, 1, failed, 3)
}

func grownIsZero(t *testing.T, w *world) {
	i := w.start(growing(1), &host{})
	must(t, i, "store", 100, 0x01020304)
	for n := range uint64(maxPages - 1) {
		grow(t, i, 1, n+1, n+2)
		page := i.Memory().Bytes()[(n+1)<<16:]
		if !bytes.Equal(page, make([]byte, len(page))) {
			t.Fatalf("page %d is not zero", n+1)
		}
		page[5] = 1
		if got := must(t, i, "load", 100); got != 0x01020304 {
			t.Fatalf("with %d pages the guest reads %#x", n+2, got)
		}
	}
}

func beginning(t *testing.T, w *world) {
	m := growing(3)
	m.Data = []wasmtest.Data{{Offset: 1<<16 - 2, Bytes: []byte("over")}, {Offset: 1 << 16, Bytes: []byte("E")}}
	i := w.start(m, &host{})
	want := make([]byte, 3<<16)
	copy(want[1<<16-2:], "ovEr")
	if !bytes.Equal(i.Memory().Bytes(), want) {
		t.Error("the memory is not as the module says")
	}
	if none := w.start(growing(0), &host{}); len(none.Memory().Bytes()) != 0 {
		t.Error("a memory of no pages has bytes")
	} else {
		_, err := invoke(t, none, "load", 0)
		wantTrap(t, err, "out of bounds memory access")
		grow(t, none, 1, 0, 1)
	}
}

// slice is memory on the Go heap.
type slice struct {
	buf []byte
	max uint64
}

func (m *slice) Bytes() []byte { return m.buf }

func (m *slice) Grow(size uint64) error {
	if size > m.max {
		return &engine.LimitError{Limit: "memory", Used: size, Max: m.max}
	}
	m.buf = append(m.buf, make([]byte, size-uint64(len(m.buf)))...) // which may move it
	return nil
}

func (w *world) startOn(m wasmtest.Module, mem engine.Memory) (engine.Instance, *host) {
	w.t.Helper()
	h := &host{}
	i, err := w.compile(build(m)).Instantiate(context.Background(), w.door(h), mem)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = i.Close() })
	return i, h
}

func givenMemory(t *testing.T, w *world) {
	m := growing(1, 8)
	m.Data = []wasmtest.Data{{Offset: 4, Bytes: []byte{1}}}
	mem := &slice{buf: bytes.Repeat([]byte{9}, 4<<16), max: 6 << 16}
	i, h := w.startOn(m, mem)
	if got := must(t, i, "size"); got != 4 || len(i.Memory().Bytes()) != 4<<16 {
		t.Errorf("the guest has %d pages, the host %d bytes", got, len(i.Memory().Bytes()))
	}
	if got := must(t, i, "load", 4<<16-4); got != 0x09090909 {
		t.Errorf("the guest reads %#x", got)
	}
	if got := must(t, i, "load", 4); got != 0x09090901 {
		t.Errorf("where a segment was written the guest reads %#x", got)
	}
	must(t, i, "store", 8, 5)
	if mem.buf[8] != 5 {
		t.Error("the owner does not see what the guest wrote")
	}
	for _, e := range h.events {
		if e.Kind == hostcall.EventGrow {
			t.Errorf("the beginning is no growth: %+v", e)
		}
	}
}

func shortMemory(t *testing.T, w *world) {
	mem := &slice{buf: bytes.Repeat([]byte{9}, 1<<16), max: 6 << 16}
	i, _ := w.startOn(growing(3), mem)
	if got := must(t, i, "size"); got != 3 || len(mem.buf) != 3<<16 {
		t.Errorf("the guest has %d pages, the owner %d bytes", got, len(mem.buf))
	}
	if a, b := must(t, i, "load", 1<<16-4), must(t, i, "load", 1<<16); a != 0x09090909 || b != 0 {
		t.Errorf("the guest reads %#x and %#x", a, b)
	}
}

func memoryTooShort(t *testing.T, w *world) {
	var limit *engine.LimitError
	i, err := w.compile(build(growing(3))).Instantiate(context.Background(), w.door(&host{}), &slice{max: 2 << 16})
	if !errors.As(err, &limit) || limit.Limit != "memory" || limit.Used != 3<<16 || limit.Max != 2<<16 {
		t.Errorf("instance %v, error %v", i, err)
	}
}

func givenGrowth(t *testing.T, w *world) {
	mem := &slice{buf: make([]byte, 1<<16), max: 3 << 16}
	i, h := w.startOn(growing(1), mem)
	must(t, i, "store", 0, 42)
	grow(t, i, 2, 1, 3) // moves it
	grow(t, i, 1, failed, 3)
	if must(t, i, "load", 0) != 42 || mem.buf[0] != 42 {
		t.Error("what was written is gone")
	}
	must(t, i, "store", 3<<16-4, 43)
	if mem.buf[3<<16-4] != 43 {
		t.Error("the owner does not see what the guest wrote after growth")
	}
	var errs []string
	for _, e := range h.events {
		if e.Kind == hostcall.EventGrow && e.Err != nil {
			errs = append(errs, e.Err.Error())
		}
	}
	if len(errs) != 1 || !strings.HasPrefix(errs[0], "memory limit") {
		t.Errorf("failures %q", errs)
	}
}

func memoryOutlives(t *testing.T, w *world) {
	mem := &slice{buf: make([]byte, 1<<16), max: 3 << 16}
	m := growing(1)
	for n := range uint64(3) {
		i, _ := w.startOn(m, mem)
		if got := must(t, i, "load", 0); got != n {
			t.Errorf("instance %d reads %d", n, got)
		}
		must(t, i, "store", 0, n+1)
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		if len(mem.buf) != 1<<16 || mem.buf[0] != byte(n+1) {
			t.Fatalf("closing instance %d changed the memory", n)
		}
	}
}

func shortened(t *testing.T, w *world) {
	mem := &slice{buf: make([]byte, 1<<16), max: 8 << 16}
	i, h := w.startOn(growing(1), mem)
	for range 3 {
		grow(t, i, 3, 1, 4)
		must(t, i, "store", 4<<16-4, 1)
		mem.buf = mem.buf[:1<<16]
		events := len(h.events)
		if !i.Shorten() {
			t.Skip("this engine cannot shorten memory")
		}
		if len(h.events) != events {
			t.Error("shortening is an event of the guest's")
		}
		if got := must(t, i, "size"); got != 1 || len(i.Memory().Bytes()) != 1<<16 {
			t.Errorf("the guest has %d pages, the host %d bytes", got, len(i.Memory().Bytes()))
		}
		_, err := invoke(t, i, "load", 1<<16-3)
		wantTrap(t, err, "out of bounds memory access")
	}
}
