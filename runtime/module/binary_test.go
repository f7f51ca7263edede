package module_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// roundTrip takes a binary apart and checks that it is written again as it was: as a whole, and with every section put
// together from its entries, every instruction from what was decoded. What its integers take too many bytes for changes then,
// and reading that again must give the same.
func roundTrip(t *testing.T, wasm []byte) (canonical []byte, ok bool) {
	t.Helper()
	b, err := module.Take(wasm, module.Bounds{})
	if err != nil {
		return nil, false
	}
	if got := b.Bytes(); !bytes.Equal(got, wasm) {
		t.Fatalf("written again: %x\nread: %x", got, wasm)
	}
	same := func(f uint32) uint32 { return f }
	for i := range b.Parts {
		p := &b.Parts[i]
		entries := make([][]byte, len(p.Entries))
		copy(entries, p.Entries)
		switch p.ID {
		case module.SectionType:
			for i := range entries {
				entries[i] = b.Types[i].Append(nil)
			}
		case module.SectionTable:
			first := len(b.Tables) - len(entries)
			for i := range entries {
				entries[i] = b.Tables[first+i].Append(nil)
			}
		case module.SectionGlobal:
			first := len(b.Globals) - len(entries)
			for i := range entries {
				g := b.Globals[first+i]
				g.Init = instructions(t, g.Init)
				entries[i] = g.Append(nil)
			}
		case module.SectionExport:
			for i := range entries {
				entries[i] = b.Info.Exports[i].Append(nil)
			}
		case module.SectionElement:
			for i := range entries {
				entries[i] = b.Elements[i].AppendMapped(nil, same)
			}
		case module.SectionData:
			for i := range entries {
				d := b.Data[i]
				if d.Offset != nil {
					d.Offset = instructions(t, d.Offset)
				}
				entries[i] = d.Append(nil)
			}
		case module.SectionCode:
			for i := range entries {
				body := &b.Bodies[i]
				entries[i] = wasmtest.Cat(wasmtest.U32(uint32(len(body.Locals)+len(body.Code))), body.Locals, body.Code)
				code := instructions(t, body.Code)
				if len(code) == len(body.Code) && !bytes.Equal(code, body.Code) {
					t.Fatalf("function %d:\n%x was written as\n%x", i, body.Code, code)
				}
			}
		}
		p.Set(entries)
	}
	return b.Bytes(), true
}

// instructions decodes and encodes an expression, and checks that decoding it again gives the same.
func instructions(t *testing.T, expr []byte) []byte {
	t.Helper()
	var out []byte
	it := module.NewInstructions(expr, 0, 1<<20)
	for it.Next() {
		if it.Offset != 0 && it.End == it.Offset {
			t.Fatal("an empty instruction")
		}
		from := len(out)
		out = it.Append(out)
		if !bytes.Equal(out[from:], expr[it.Offset:it.End]) {
			again := module.NewInstructions(append(bytes.Clone(out[from:]), 0x0b), 0, 1<<20)
			if it.Op != module.OpElse && it.Op != module.OpEnd && (len(out)-from >= it.End-it.Offset || !again.Next() ||
				again.Op != it.Op || again.A != it.A || again.B != it.B || !bytes.Equal(again.Append(nil), out[from:])) {
				t.Fatalf("%x was written as %x", expr[it.Offset:it.End], out[from:])
			}
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEveryModuleIsWrittenAsItWasRead goes through wazero's module archive: the specification's suites and its other
// test modules. Whatever the engine accepts round-trips.
func TestEveryModuleIsWrittenAsItWasRead(t *testing.T) {
	ctx := context.Background()
	features := api.CoreFeaturesV2 | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExtendedConst
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features))
	defer r.Close(ctx)
	all, exact, minimal := 0, 0, 0
	corpus(t, wazeroDir(t), func(path string, wasm []byte) {
		all++
		canonical, ok := roundTrip(t, wasm)
		if !ok {
			return
		}
		exact++
		if bytes.Equal(canonical, wasm) {
			minimal++
			return
		}
		again, ok := roundTrip(t, canonical)
		if !ok || !bytes.Equal(again, canonical) {
			t.Errorf("%s: put together from its parts it is not read again as it was", path)
		}
		_, before := r.CompileModule(ctx, wasm)
		if _, after := r.CompileModule(ctx, canonical); (before == nil) != (after == nil) && !strings.Contains(path, "typed-function-references") {
			t.Errorf("%s: before: %v; put together from its parts: %v", path, before, after)
		}
	})
	t.Logf("%d files; %d round-trip, %d of them also from their parts", all, exact, minimal)
	if exact < 2500 || minimal < exact*9/10 {
		t.Error("too few: is the corpus there?")
	}
}

// TestAnOpcodeIsReadInOneWay: wazero takes 0xfd 0x83 0x00 for instruction 0x83 and an unreachable, the specification says that it is
// instruction 3. What is looked at has to be what runs.
func TestAnOpcodeIsReadInOneWay(t *testing.T) {
	for _, op := range []string{"\xfd\x83\x00\x00\x00", "\xfd\x83\x80\x00\x00\x00"} {
		refused(t, function(nil, wasmtest.I32Const(0), []byte(op)), module.Bounds{}, "code", "more bytes than it needs", 42)
	}
}

func TestSectionsFindTheirPlace(t *testing.T) {
	b, err := module.Take((&wasmtest.Module{Memory: []uint32{1}, Funcs: []wasmtest.Func{{Name: "f"}}}).Bytes(), module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	b.Ensure(module.SectionGlobal).Set([][]byte{module.Global{GlobalType: module.GlobalType{Type: 0x7e, Mutable: true}, Init: []byte{0x42, 7, 0x0b}}.Append(nil)})
	b.Ensure(module.SectionImport).Set(nil)
	b.Remove(func(p *module.Part) bool { return p.ID == module.SectionCustom })
	again, err := module.Take(b.Bytes(), module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Globals) != 1 || !again.Globals[0].Mutable || again.Info.HasNames {
		t.Errorf("%+v", again)
	}
}

func TestNamesFollowTheirFunctions(t *testing.T) {
	names := func(pairs ...any) []byte {
		out := []byte{byte(len(pairs) / 2)}
		for i := 0; i < len(pairs); i += 2 {
			out = module.AppendName(append(out, byte(pairs[i].(int))), pairs[i+1].(string))
		}
		return out
	}
	sub := func(id byte, content []byte) []byte { return wasmtest.Cat([]byte{id, byte(len(content))}, content) }
	head := module.AppendName(nil, "name")
	locals := func(f byte) []byte { return wasmtest.Cat([]byte{1, f}, names(0, "x")) }
	content := wasmtest.Cat(head, sub(0, module.AppendName(nil, "m")), sub(1, names(0, "a", 1, "b", 2, "c")), sub(2, locals(2)), sub(3, locals(2)), sub(7, names(0, "g")))
	want := wasmtest.Cat(head, sub(0, module.AppendName(nil, "m")), sub(1, names(0, "a", 1, "new", 2, "b", 3, "c", 9, "last")), sub(2, locals(3)), sub(7, names(0, "g")))
	got, ok := module.RenameFunctions(content, func(f uint32) uint32 {
		if f >= 1 {
			f++
		}
		return f
	}, []module.FunctionName{{1, "new"}, {9, "last"}})
	if !ok || !bytes.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for i := range content {
		module.RenameFunctions(content[:i], func(f uint32) uint32 { return f }, nil)
	}
}

// FuzzTake: what can be taken apart is written again as it was.
func FuzzTake(f *testing.F) {
	f.Add(sample().Bytes())
	n := 0
	corpus(f, wazeroDir(f), func(_ string, wasm []byte) {
		if n++; len(wasm) < 2000 && n%40 == 1 {
			f.Add(wasm)
		}
	})
	f.Fuzz(func(t *testing.T, wasm []byte) {
		if canonical, ok := roundTrip(t, wasm); ok {
			if again, ok := roundTrip(t, canonical); !ok || !bytes.Equal(again, canonical) {
				t.Fatalf("from its parts: %x, then %x", canonical, again)
			}
		}
		module.RenameFunctions(wasm, func(f uint32) uint32 { return f + 1 }, []module.FunctionName{{1, "x"}})
	})
}
