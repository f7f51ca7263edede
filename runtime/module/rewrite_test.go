package module_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

func TestFunctionsThatCallOthersMeetALoopFirst(t *testing.T) {
	call, loop := wasmtest.Call(0), wasmtest.Loop([]byte{wasmtest.Nop})
	added := wasmtest.Loop()
	for name, c := range map[string]struct {
		body []byte
		add  bool
	}{
		"no call":                    {wasmtest.Block([]byte{wasmtest.Nop}), false},
		"a call":                     {call, true},
		"a call through a table":     {wasmtest.Cat(wasmtest.I32Const(0), []byte{0x11, 0, 0}), true},
		"a call in a block":          {wasmtest.Block(call), true},
		"a call in a loop":           {wasmtest.Block(wasmtest.Loop(call)), false},
		"a call after a loop":        {wasmtest.Cat(loop, call), false},
		"a loop that may be missed":  {wasmtest.Cat(wasmtest.I32Const(0), []byte{0x04, 0x40}, loop, []byte{wasmtest.End}, call), true},
		"a loop after a way past it": {wasmtest.Cat(wasmtest.Block(wasmtest.I32Const(0), []byte{0x0d, 0}, loop), call), true},
	} {
		t.Run(name, func(t *testing.T) {
			m := func(body []byte) []byte {
				return (&wasmtest.Module{Table: []uint32{1}, Memory: []uint32{1}, Funcs: []wasmtest.Func{
					{Name: "f", Locals: []byte{wasmtest.I32}, Body: body}}}).Bytes()
			}
			want := m(c.body)
			if c.add {
				want = m(wasmtest.Cat(added, c.body))
			}
			if got := module.LoopOften(m(c.body)); !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
		})
	}
}

func TestWhatTakesLongMeetsALoopFirst(t *testing.T) {
	fill := []byte{0xfc, 11, 0}
	args := func(n int32) []byte {
		return wasmtest.Cat(wasmtest.I32Const(0), wasmtest.I32Const(0), wasmtest.I32Const(n))
	}
	unknown := wasmtest.Cat(wasmtest.I32Const(0), wasmtest.I32Const(0), wasmtest.LocalGet(0))
	loop := wasmtest.Loop()
	straight := func(n int) []byte { return wasmtest.Repeat(n, wasmtest.Nop) }
	many := wasmtest.Repeat(10_000, wasmtest.I32)
	for name, c := range map[string]struct {
		locals     []byte
		body, want []byte
	}{
		"a short range":             {nil, wasmtest.Cat(args(65536), fill), wasmtest.Cat(args(65536), fill)},
		"a long range":              {nil, wasmtest.Cat(args(65537), fill), wasmtest.Cat(args(65537), loop, fill)},
		"a range below zero":        {nil, wasmtest.Cat(args(-1), fill), wasmtest.Cat(args(-1), loop, fill)},
		"a range of unknown length": {[]byte{wasmtest.I32}, wasmtest.Cat(unknown, fill), wasmtest.Cat(unknown, loop, fill)},
		"short straight code":       {nil, straight(4096 - 1), straight(4096 - 1)},
		"long straight code":        {nil, straight(2 * 4097), wasmtest.Cat(straight(4096), loop, straight(4096), loop, straight(2))},
		"a call and straight code":  {nil, wasmtest.Cat(wasmtest.Call(0), straight(4096)), wasmtest.Cat(loop, wasmtest.Call(0), straight(4094), loop, straight(2))},
		"very many locals":          {many, straight(100 * 4096), nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := func(body []byte) []byte {
				return (&wasmtest.Module{Memory: []uint32{1}, Funcs: []wasmtest.Func{{Locals: c.locals, Body: body}}}).Bytes()
			}
			got := module.LoopOften(m(c.body))
			if c.want != nil && !bytes.Equal(got, m(c.want)) {
				t.Errorf("got  %x\nwant %x", got, m(c.want))
			}
			// Loops times locals stay bounded, however long the code is.
			if n := (len(got) - len(m(c.body))) / len(loop); uint64(n)*uint64(len(c.locals)) > 1<<20+10_000 {
				t.Errorf("%d loops in a function with %d locals", n, len(c.locals))
			}
		})
	}
}

// TestRewritingKeepsModulesAsValidAsTheyWere goes through the specification's suites.
func TestRewritingKeepsModulesAsValidAsTheyWere(t *testing.T) {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	valid := func(wasm []byte) bool {
		c, err := r.CompileModule(ctx, wasm)
		if err == nil {
			c.Close(ctx)
		}
		return err == nil
	}
	changed := 0
	corpus(t, wazeroDir(t), func(path string, wasm []byte) {
		after := module.LoopOften(module.LowerTables(wasm, 1000))
		if bytes.Equal(after, wasm) {
			return
		}
		changed++
		if was, is := valid(wasm), valid(after); was != is {
			t.Errorf("%s: valid before: %t, after: %t", path, was, is)
		}
	})
	if changed < 100 {
		t.Errorf("only %d modules were changed", changed)
	}
}

func TestTableMaximaAreLowered(t *testing.T) {
	for _, c := range []struct{ have, want []uint32 }{
		{[]uint32{1}, []uint32{1, 100}},
		{[]uint32{1, 50}, []uint32{1, 50}},
		{[]uint32{1, 5000}, []uint32{1, 100}},
		{[]uint32{500}, []uint32{500, 500}},
		{[]uint32{500, 600}, []uint32{500, 500}},
	} {
		m := func(l []uint32) []byte { return (&wasmtest.Module{Table: l, Memory: []uint32{1}}).Bytes() }
		if got := module.LowerTables(m(c.have), 100); !bytes.Equal(got, m(c.want)) {
			t.Errorf("table %v: got %x, want %v", c.have, got, c.want)
		}
	}
	tables := func(l ...byte) []byte {
		return wasmtest.Cat([]byte(wasmtest.Header), wasmtest.Section(4, l))
	}
	if got, want := module.LowerTables(tables(2, 0x70, 0, 1, 0x6f, 0, 60), 100), tables(2, 0x70, 1, 1, 50, 0x6f, 1, 60, 60); !bytes.Equal(got, want) {
		t.Errorf("two tables: got %x, want %x", got, want)
	}
	for _, bad := range []string{"", "\x00asm", wasmtest.Header + "\x04\x05\x01"} {
		if got := module.LoopOften(module.LowerTables([]byte(bad), 100)); string(got) != bad {
			t.Errorf("%q became %q", bad, got)
		}
	}
}
