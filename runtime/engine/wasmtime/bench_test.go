//go:build wasmtime && cgo

package wasmtime_test

import (
	"context"
	"testing"

	wt "github.com/bytecodealliance/wasmtime-go/v44"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wasmtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

const calls = 1000

// many calls an imported function of two numbers 1,000 times; "nothing" does nothing.
func many() []byte {
	i32 := byte(wasmtest.I32)
	t := wasmtest.Type{Params: []byte{i32, i32}, Results: []byte{i32}}
	return (&wasmtest.Module{
		Imports: []wasmtest.Import{{Module: "m", Name: "add", Type: t}}, Memory: []uint32{1},
		Funcs: []wasmtest.Func{{Export: "run", Locals: []byte{i32}, Body: wasmtest.Cat(
			wasmtest.I32Const(calls), wasmtest.LocalSet(0),
			wasmtest.Loop(wasmtest.I32Const(1), wasmtest.I32Const(2), wasmtest.Call(0), []byte{wasmtest.Drop},
				wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0, 0x0d, 0}), // local.tee 0, br_if 0
		)}, {Export: "nothing"}},
	}).Bytes()
}

func benchInstance(b *testing.B) (engine.Module, *hostcall.Table) {
	i32 := hostcall.I32
	table, err := hostcall.NewTable(&hostcall.Library{Name: "l", Funcs: []hostcall.Func{{Module: "m", Name: "add",
		Params: []hostcall.ValueType{i32, i32}, Results: []hostcall.ValueType{i32}, Args: []hostcall.Arg{{Name: "a"}, {Name: "b", Param: 1}},
		Call: func(c *hostcall.Call) { c.SetResult(0, uint64(c.Uint32(0)+c.Uint32(1))) }}}})
	if err != nil {
		b.Fatal(err)
	}
	e, err := wasmtime.Open(table, wasmtime.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	m, err := e.Compile(context.Background(), many())
	if err != nil {
		b.Fatal(err)
	}
	return m, table
}

func instantiate(b *testing.B, m engine.Module, table *hostcall.Table) engine.Instance {
	d, err := hostcall.NewDoor(table, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	i, err := m.Instantiate(context.Background(), d, engine.NewMemory(16))
	if err != nil {
		b.Fatal(err)
	}
	return i
}

// BenchmarkHostCall compares a call through the door with the Go package's own, in nanoseconds a call: compare within one run.
func BenchmarkHostCall(b *testing.B) {
	perCall := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/calls, "ns/call")
	}
	b.Run("shim", func(b *testing.B) {
		m, table := benchInstance(b)
		i := instantiate(b, m, table)
		defer i.Close()
		f := i.Function("run")
		b.ReportAllocs()
		for b.Loop() {
			if err := f.Call(context.Background(), nil); err != nil {
				b.Fatal(err)
			}
		}
		perCall(b)
	})
	b.Run("wasmtime-go", func(b *testing.B) {
		store, f := theirs(b)
		run := f.GetFunc(store, "run")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := run.Call(store); err != nil {
				b.Fatal(err)
			}
		}
		perCall(b)
	})
}

// theirs is an instance by the Go package.
func theirs(b *testing.B) (*wt.Store, *wt.Instance) {
	store := wt.NewStore(wt.NewEngine())
	code, err := wt.NewModule(store.Engine, many())
	if err != nil {
		b.Fatal(err)
	}
	i32 := wt.NewValType(wt.KindI32)
	add := wt.NewFunc(store, wt.NewFuncType([]*wt.ValType{i32, i32}, []*wt.ValType{i32}), func(_ *wt.Caller, in []wt.Val) ([]wt.Val, *wt.Trap) {
		return []wt.Val{wt.ValI32(in[0].I32() + in[1].I32())}, nil
	})
	i, err := wt.NewInstance(store, code, []wt.AsExtern{add})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(store.Close)
	return store, i
}

// BenchmarkGuestCall compares a call of a function that does nothing.
func BenchmarkGuestCall(b *testing.B) {
	ends, cancel := context.WithCancel(context.Background())
	defer cancel()
	for name, ctx := range map[string]context.Context{"shim": context.Background(), "shim that can be cancelled": ends} {
		b.Run(name, func(b *testing.B) {
			m, table := benchInstance(b)
			i := instantiate(b, m, table)
			defer i.Close()
			f := i.Function("nothing")
			b.ReportAllocs()
			for b.Loop() {
				if err := f.Call(ctx, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("wasmtime-go", func(b *testing.B) {
		store, i := theirs(b)
		f := i.GetFunc(store, "nothing")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := f.Call(store); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkInstantiate makes and closes an instance with a page of memory.
func BenchmarkInstantiate(b *testing.B) {
	m, table := benchInstance(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := instantiate(b, m, table).Close(); err != nil {
			b.Fatal(err)
		}
	}
}
