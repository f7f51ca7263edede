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
			if got := module.LoopAtEntries(m(c.body)); !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
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
		after := module.LoopAtEntries(module.LowerTables(wasm, 1000))
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
	for _, bad := range []string{"", "\x00asm", wasmtest.Header + "\x04\x05\x01"} {
		if got := module.LoopAtEntries(module.LowerTables([]byte(bad), 100)); string(got) != bad {
			t.Errorf("%q became %q", bad, got)
		}
	}
}
