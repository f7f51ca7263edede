// Package doortest calls host functions in tests without an engine and without a guest.
package doortest

import (
	"context"
	"fmt"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Guest is the guest's side of a door: some memory, and a way to call.
type Guest struct {
	T    testing.TB
	Door *hostcall.Door
	// Table numbers the library's functions.
	Table *hostcall.Table
	mem   memory
	next  uint32
}

type memory []byte

func (m memory) Bytes() []byte { return m }

type unwind struct{}

// New makes a door to lib, watched by interposers, with 64 KiB of guest memory.
func New(t testing.TB, lib *hostcall.Library, state any, interposers ...hostcall.Interposer) *Guest {
	t.Helper()
	table, err := hostcall.NewTable(lib)
	if err != nil {
		t.Fatal(err)
	}
	return NewIn(t, table, []hostcall.Binding{{Library: lib, State: state}}, interposers...)
}

// NewIn is New with a table that is there already, and with what is bound to its libraries.
func NewIn(t testing.TB, table *hostcall.Table, bind []hostcall.Binding, interposers ...hostcall.Interposer) *Guest {
	t.Helper()
	d, err := hostcall.NewDoor(table, bind, interposers)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{T: t, Door: d, Table: table, mem: make(memory, 64<<10), next: 8}
	d.Attach(g.mem, unwind{})
	return g
}

// Put copies b into guest memory and answers where, aligned to 8.
func (g *Guest) Put(b []byte) uint32 {
	at := g.next
	if int(at)+len(b) > len(g.mem) {
		g.next, at = 8, 8
	}
	copy(g.mem[at:], b)
	g.next += (uint32(len(b)) + 15) &^ 7
	return at
}

// Memory is the guest's memory.
func (g *Guest) Memory() []byte { return g.mem }

// Params lays out arguments as a guest would: text and bytes become a pointer and a length.
func (g *Guest) Params(args ...any) []uint64 {
	var p []uint64
	for _, a := range args {
		switch v := a.(type) {
		case string:
			p = append(p, uint64(g.Put([]byte(v))), uint64(len(v)))
		case []byte:
			p = append(p, uint64(g.Put(v)), uint64(len(v)))
		case int:
			p = append(p, uint64(v))
		case uint32:
			p = append(p, uint64(v))
		case uint64:
			p = append(p, v)
		default:
			g.T.Fatalf("doortest: argument of type %T", a)
		}
	}
	return p
}

// Call calls a function by name and answers its first result, and how the guest was ended, if it was.
func (g *Guest) Call(name string, args ...any) (errno hostcall.Errno, end error) {
	g.T.Helper()
	for n, f := range g.Table.Funcs() {
		if f.Name == name {
			stack := append(g.Params(args...), 0, 0)
			return g.Dispatch(n, stack)
		}
	}
	g.T.Fatalf("doortest: no function %s", name)
	return 0, nil
}

// Dispatch calls function n with raw parameters.
func (g *Guest) Dispatch(n int, stack []uint64) (errno hostcall.Errno, end error) {
	m := g.Door.Enter(context.Background())
	err := func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(unwind); !ok {
					g.T.Errorf("a host function panicked: %v", r)
				}
				err = fmt.Errorf("unwound: %v", r)
			}
		}()
		g.Door.Dispatch(n, stack)
		return nil
	}()
	return hostcall.Errno(uint32(stack[0])), g.Door.Leave(m, err)
}
