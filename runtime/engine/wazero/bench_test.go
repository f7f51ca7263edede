package wazero_test

import (
	"context"
	"testing"

	wz "github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wazero"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// many calls an imported function of two numbers 1,000 times.
func many() []byte {
	i32 := byte(wasmtest.I32)
	t := wasmtest.Type{Params: []byte{i32, i32}, Results: []byte{i32}}
	m := wasmtest.Module{
		Imports: []wasmtest.Import{{Module: "m", Name: "add", Type: t}}, Memory: []uint32{1},
		Funcs: []wasmtest.Func{{Export: "run", Locals: []byte{i32}, Body: wasmtest.Cat(
			wasmtest.I32Const(calls), wasmtest.LocalSet(0),
			wasmtest.Loop(wasmtest.I32Const(1), wasmtest.I32Const(2), wasmtest.Call(0), []byte{wasmtest.Drop},
				wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0, 0x0d, 0}), // local.tee 0, br_if 0
		)}},
	}
	return m.Bytes()
}

const calls = 1000

func adder() *hostcall.Library {
	i32 := hostcall.I32
	return &hostcall.Library{Name: "l", Funcs: []hostcall.Func{{Module: "m", Name: "add", Params: []hostcall.ValueType{i32, i32}, Results: []hostcall.ValueType{i32},
		Args: []hostcall.Arg{{Name: "a"}, {Name: "b", Param: 1}},
		Call: func(c *hostcall.Call) { c.SetResult(0, uint64(c.Uint32(0)+c.Uint32(1))) }}}}
}

type quiet struct{}

func (quiet) Watches(*hostcall.Func) bool            { return true }
func (quiet) Before(*hostcall.Call) hostcall.Verdict { return hostcall.Proceed }
func (quiet) After(*hostcall.Call)                   {}

// BenchmarkHostCall compares a call through the door with the engine's own, in nanoseconds a call: compare within one run.
func BenchmarkHostCall(b *testing.B) {
	ctx := context.Background()
	perCall := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/calls, "ns/call")
	}
	b.Run("bare", func(b *testing.B) {
		r := wz.NewRuntime(ctx)
		defer r.Close(ctx)
		i32 := []api.ValueType{api.ValueTypeI32, api.ValueTypeI32}
		if _, err := r.NewHostModuleBuilder("m").NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, _ api.Module, s []uint64) {
			s[0] = uint64(uint32(s[0]) + uint32(s[1]))
		}), i32, i32[:1]).Export("add").Instantiate(ctx); err != nil {
			b.Fatal(err)
		}
		m, err := r.Instantiate(ctx, many())
		if err != nil {
			b.Fatal(err)
		}
		f, stack := m.ExportedFunction("run"), make([]uint64, 1)
		b.ReportAllocs()
		for b.Loop() {
			if err := f.CallWithStack(ctx, stack); err != nil {
				b.Fatal(err)
			}
		}
		perCall(b)
	})
	for _, c := range []struct {
		name string
		ips  []hostcall.Interposer
	}{{"unwatched", nil}, {"watched", []hostcall.Interposer{quiet{}}}} {
		b.Run(c.name, func(b *testing.B) {
			lib := adder()
			table, err := hostcall.NewTable(lib)
			if err != nil {
				b.Fatal(err)
			}
			e, err := wazero.Open(ctx, table, wazero.Options{Endless: true})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			m, err := e.Compile(ctx, many())
			if err != nil {
				b.Fatal(err)
			}
			d, err := hostcall.NewDoor(table, nil, c.ips)
			if err != nil {
				b.Fatal(err)
			}
			i, err := m.Instantiate(ctx, d, engine.NewMemory(1))
			if err != nil {
				b.Fatal(err)
			}
			f, stack := i.Function("run"), make([]uint64, 1)
			b.ReportAllocs()
			for b.Loop() {
				if err := f.Call(ctx, stack); err != nil {
					b.Fatal(err)
				}
			}
			perCall(b)
		})
	}
}
