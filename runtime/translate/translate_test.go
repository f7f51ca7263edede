package translate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

// corpus calls f with every module of wazero's archive.
func corpus(t testing.TB, f func(path string, wasm []byte)) {
	t.Helper()
	dir := wazeroDir(t)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".wasm" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f(strings.TrimPrefix(path, dir+"/"), b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// validator says whether wazero accepts a module.
func validator(t testing.TB) func([]byte) error {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features))
	t.Cleanup(func() { r.Close(ctx) })
	return func(wasm []byte) (err error) {
		defer func() { // of wazero's compiler, which is not what is tested
			if p := recover(); p != nil {
				err = fmt.Errorf("wazero failed: %v", p)
			}
		}()
		c, err := r.CompileModule(ctx, wasm)
		if err == nil {
			c.Close(ctx)
		}
		return err
	}
}

func TestEveryValidModuleStaysValid(t *testing.T) {
	valid := validator(t)
	translated := 0
	corpus(t, func(path string, wasm []byte) {
		if strings.Contains(path, "typed-function-references") || valid(wasm) != nil {
			return
		}
		res, err := translate.Translate(wasm, translate.Options{})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		if err := valid(res.Wasm); err != nil {
			t.Errorf("%s: translated: %v", path, err)
		}
		if again, err := translate.Translate(wasm, translate.Options{}); err != nil || !bytes.Equal(again.Wasm, res.Wasm) {
			t.Errorf("%s: translated twice, it differs", path)
		}
		if _, err := translate.Translate(res.Wasm, translate.Options{}); err == nil {
			t.Errorf("%s: what was translated is translated again", path)
		}
		translated++
	})
	t.Logf("%d modules", translated)
	if translated < 2500 {
		t.Error("too few: is the corpus there?")
	}
}

// FuzzTranslate: whatever the bytes are, translation ends with a *module.Error or with a module that is valid if they were.
func FuzzTranslate(f *testing.F) {
	n := 0
	corpus(f, func(_ string, wasm []byte) {
		if n++; len(wasm) < 2000 && n%40 == 2 {
			f.Add(wasm)
		}
	})
	for seed := range uint64(4) {
		f.Add(generate(seed, 2).wasm)
	}
	validate := validator(f)
	valid := func(wasm []byte) error { return validate(module.PlainNames(wasm)) } // wazero allocates as many names as are claimed
	small := module.Bounds{FunctionLocals: 1000, Nesting: 200, TableElements: 1000, MemoryPages: 16}
	f.Fuzz(func(t *testing.T, wasm []byte) {
		res, err := translate.Translate(wasm, translate.Options{Bounds: small})
		if err != nil {
			var e *module.Error
			if !errors.As(err, &e) || e.Offset > len(wasm) {
				t.Fatalf("refused with %#v", err)
			}
			if e.Check == "translation" && valid(wasm) == nil {
				t.Fatalf("valid, and refused: %v", err)
			}
			return
		}
		if len(res.Wasm) > 20*len(wasm)+2000 {
			t.Fatalf("%d bytes became %d", len(wasm), len(res.Wasm))
		}
		if valid(wasm) == nil {
			if err := valid(res.Wasm); err != nil {
				t.Fatalf("valid before, translated: %v", err)
			}
		}
	})
}

func TestReservedNamesAreRefused(t *testing.T) {
	for what, m := range map[string]wasmtest.Module{
		"an export": {Funcs: []wasmtest.Func{{Export: translate.FuelExport}}},
		"an import": {Imports: []wasmtest.Import{{Module: translate.MeterModule, Name: "x"}}},
	} {
		_, err := translate.Translate(m.Bytes(), translate.Options{})
		var e *module.Error
		if !errors.As(err, &e) || e.Check != "names" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWhatIsAddedIsOutOfReach: modules that name globals, functions or types that only translation adds are refused, even if
// nobody validated them.
func TestWhatIsAddedIsOutOfReach(t *testing.T) {
	for what, body := range map[string][]byte{
		"the fuel global":           wasmtest.Cat(wasmtest.I64Const(1), []byte{0x24, 0}),
		"the tick":                  wasmtest.Cat(wasmtest.I64Const(1), wasmtest.I64Const(1), wasmtest.Call(2), []byte{wasmtest.Drop}),
		"the type of the tick":      wasmtest.Cat(wasmtest.I32Const(0), []byte{0x11, 1, 0}),
		"a block of a type of it":   {0x02, 1, wasmtest.End},
		"a reference to the check":  {0xd2, 2, wasmtest.Drop},
		"a local that is none":      wasmtest.Cat(wasmtest.LocalGet(0), []byte{wasmtest.Drop}),
		"a table that is none":      wasmtest.Cat(wasmtest.I32Const(0), []byte{0x25, 1, wasmtest.Drop}),
		"a segment that is none":    {0xfc, 0x0d, 0},
		"values that are not there": {wasmtest.Drop},
		"a label that is none":      wasmtest.Br(3),
	} {
		wasm := (&wasmtest.Module{Table: []uint32{1}, Funcs: []wasmtest.Func{{Body: body}}}).Bytes()
		if res, err := translate.Translate(wasm, translate.Options{}); err == nil {
			t.Errorf("%s: translated to %x", what, res.Wasm)
		}
	}
}

// TestSegmentsAndGlobalsCannotReachWhatIsAdded is the same for what is not code.
func TestSegmentsAndGlobalsCannotReachWhatIsAdded(t *testing.T) {
	build := func(global, elem []byte) []byte {
		w := []byte(wasmtest.Header)
		section := func(id byte, content []byte) { w = append(w, wasmtest.Section(id, content)...) }
		section(1, []byte{1, 0x60, 0, 0})
		section(3, []byte{1, 0})
		section(4, []byte{1, funcRef, 0, 1})
		section(6, wasmtest.Cat([]byte{1}, global))
		section(9, wasmtest.Cat([]byte{1}, elem))
		section(10, wasmtest.Cat([]byte{1}, wasmtest.Sized([]byte{0, wasmtest.End})))
		return w
	}
	null := []byte{funcRef, 0, 0xd0, funcRef, wasmtest.End}
	for what, c := range map[string]struct {
		global, elem []byte
		ok           bool
	}{
		"what is there":                     {[]byte{funcRef, 0, 0xd2, 0, wasmtest.End}, []byte{1, 0, 1, 0}, true},
		"a global with a function of ours":  {[]byte{funcRef, 0, 0xd2, 1, wasmtest.End}, []byte{1, 0, 1, 0}, false},
		"a global with a global of ours":    {[]byte{i64, 0, 0x23, 1, wasmtest.End}, []byte{1, 0, 1, 0}, false},
		"a segment with a function of ours": {null, []byte{1, 0, 1, 1}, false},
		"an expression with a function":     {null, []byte{5, funcRef, 1, 0xd2, 2, wasmtest.End}, false},
	} {
		if _, err := translate.Translate(build(c.global, c.elem), translate.Options{}); (err == nil) != c.ok {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestTablesAreBounded(t *testing.T) {
	for _, c := range []struct {
		table []uint32
		most  uint32
		max   uint64
	}{
		{[]uint32{1}, 0, translate.DefaultTableElements},
		{[]uint32{1}, 50, 50},
		{[]uint32{1, 20}, 50, 20},
		{[]uint32{1, 1 << 30}, 50, 50},
		{[]uint32{50, 60}, 50, 50},
		{[]uint32{51}, 50, 51},
		{[]uint32{1 << 20}, 0, 1 << 20},
	} {
		res, err := translate.Translate((&wasmtest.Module{Table: c.table}).Bytes(), translate.Options{TableElements: c.most, Bounds: module.Bounds{TableElements: 1 << 21}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := module.Parse(res.Wasm, module.Bounds{TableElements: 1 << 21})
		if err != nil || m.Tables[0] != (module.Limits{Min: uint64(c.table[0]), Max: c.max, HasMax: true}) {
			t.Errorf("%v, bound %d: %+v, %v", c.table, c.most, m, err)
		}
	}
}

// TestWhatTranslationAddsIsBoundedToo: engines compile the result, so that it is held against the bounds, too.
func TestWhatTranslationAddsIsBoundedToo(t *testing.T) {
	section := func(w *[]byte, id byte, content []byte) { *w = append(*w, wasmtest.Section(id, content)...) }
	segments := func(n int) []byte {
		w := []byte(wasmtest.Header)
		var elems, body [][]byte
		for i := range n {
			elems = append(elems, []byte{1, 0, 0})
			body = append(body, wasmtest.Repeat(3, wasmtest.I32Const(0)...), []byte{0xfc, 0x0c}, wasmtest.U32(uint32(i)), []byte{0})
		}
		section(&w, 1, []byte{1, 0x60, 0, 0})
		section(&w, 3, []byte{1, 0})
		section(&w, 4, []byte{1, funcRef, 0, 1})
		section(&w, 9, wasmtest.Count(elems))
		section(&w, 10, wasmtest.Cat([]byte{1}, wasmtest.Sized(wasmtest.Cat([]byte{0}, wasmtest.Cat(body...), []byte{wasmtest.End}))))
		return w
	}
	loops := func(n int) []byte {
		return (&wasmtest.Module{Funcs: []wasmtest.Func{{Body: wasmtest.Repeat(n, wasmtest.Loop()...)}}}).Bytes()
	}
	nested := func(n, locals int) []byte { // all of which are in use from before them until after them
		var before, after []byte
		for i := range uint32(locals) {
			before = wasmtest.Cat(before, wasmtest.I32Const(0), wasmtest.Load(0), wasmtest.LocalSet(i))
			after = wasmtest.Cat(after, wasmtest.I32Const(0), wasmtest.LocalGet(i), wasmtest.Store(0))
		}
		turn := []byte{0x20, 0, 0x0d, 0, wasmtest.End}
		return (&wasmtest.Module{Memory: []uint32{1}, Funcs: []wasmtest.Func{{Locals: wasmtest.Repeat(locals, i32),
			Body: wasmtest.Cat(before, wasmtest.Repeat(n, 0x03, 0x40), wasmtest.Repeat(n, turn...), after)}}}).Bytes()
	}
	for what, c := range map[string]struct {
		wasm []byte
		ok   bool
	}{
		"900 segments":   {segments(900), true},
		"1,100 segments": {segments(1100), false},
		"3,300 loops":    {loops(3300), true},
		"3,400 loops":    {loops(3400), false},
		"4,800 loops":    {loops(4800), false}, // some 5 s, and 3 s for 3,300

		"310 nested loops over 100 locals": {nested(310, 100), true},
		"320 nested loops over 100 locals": {nested(320, 100), false},
	} {
		_, err := translate.Translate(c.wasm, translate.Options{})
		var e *module.Error
		if ok := err == nil; ok != c.ok || !ok && (!errors.As(err, &e) || e.Check != "bounds") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := module.Parse(c.wasm, module.Bounds{}); err != nil {
			t.Errorf("%s, untranslated: %v", what, err)
		}
	}
}

// TestTheStartFunctionComesAfterTheImage: the start function is not run by instantiating, and finds its data.
func TestTheStartFunctionComesAfterTheImage(t *testing.T) {
	m := wasmtest.Module{Memory: []uint32{1}, Start: new(uint32),
		Data:  []wasmtest.Data{{Offset: 8, Bytes: []byte{5, 0, 0, 0}}, {Offset: 9, Bytes: []byte{1}}},
		Funcs: []wasmtest.Func{{Body: wasmtest.Cat(wasmtest.I32Const(0), wasmtest.I32Const(0), wasmtest.Load(8), wasmtest.Store(0))}}}
	for _, k := range kinds {
		w := newWorld(t, k, features)
		defer w.close()
		in, err := w.instantiate(m.Bytes(), "")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := in.Memory().ReadUint32Le(0); got != 0x105 {
			t.Errorf("%s: the start function found %x", k, got)
		}
		if k.translate && (!in.result.Start || len(in.result.Image) != 2) {
			t.Errorf("%s: %+v", k, in.result)
		}
	}
}

// TestDataThatDoesNotFitStaysWhereItFails: instantiating fails as it did.
func TestDataThatDoesNotFitStaysWhereItFails(t *testing.T) {
	m := wasmtest.Module{Memory: []uint32{1}, Data: []wasmtest.Data{{Offset: 0, Bytes: []byte{1}}, {Offset: 65535, Bytes: []byte{1, 2}}}}
	for _, k := range kinds {
		w := newWorld(t, k, features)
		defer w.close()
		if _, err := w.instantiate(m.Bytes(), ""); err == nil || !strings.Contains(err.Error(), "out of bounds memory access") {
			t.Errorf("%s: %v", k, err)
		}
	}
}

func TestNamesStayAndDebugInformationGoes(t *testing.T) {
	m := wasmtest.Module{Imports: []wasmtest.Import{{Module: "env", Name: "x"}}, Funcs: []wasmtest.Func{{Name: "one"}, {Name: "two"}},
		Custom: []wasmtest.Custom{{Name: ".debug_info", Content: []byte{1}}, {Name: "mine", Content: []byte{1}}, {Name: "sourceMappingURL"}}}
	res := mustTranslate(t, m.Bytes(), translate.Options{})
	b, err := module.Take(res.Wasm, module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	var custom []string
	for _, p := range b.Parts {
		if p.ID != module.SectionCustom {
			continue
		}
		custom = append(custom, p.Name)
		want := wasmtest.Cat([]byte{4, 1}, wasmtest.Name("ripstop:meter.tick"), []byte{2}, wasmtest.Name("one"), []byte{3}, wasmtest.Name("two"), []byte{4}, wasmtest.Name("ripstop:check"))
		if p.Name == "name" && !bytes.HasSuffix(p.Entries[0], want) {
			t.Errorf("names: %q", p.Entries[0])
		}
	}
	if !slices.Equal(custom, []string{"name", "mine"}) {
		t.Errorf("custom sections: %q", custom)
	}
}

func TestTheDirtyMarkIsSetByWhatNoEngineHandsOut(t *testing.T) {
	zero, null := wasmtest.I32Const(0), []byte{0xd0, funcRef}
	three := wasmtest.Repeat(3, zero...)
	for what, c := range map[string]struct {
		body  []byte
		dirty uint64
	}{
		"nothing":     {nil, 0},
		"table.get":   {wasmtest.Cat(zero, []byte{0x25, 0, wasmtest.Drop}), 0},
		"table.size":  {[]byte{0xfc, 0x10, 0, wasmtest.Drop}, 0},
		"memory.fill": {wasmtest.Cat(three, []byte{0xfc, 0x0b, 0}), 0},
		"memory.copy": {wasmtest.Cat(three, []byte{0xfc, 0x0a, 0, 0}), 0},
		"memory.grow": {wasmtest.Cat(zero, []byte{0x40, 0, wasmtest.Drop}), 0},
		"table.set":   {wasmtest.Cat(zero, null, []byte{0x26, 0}), 1},
		"table.grow":  {wasmtest.Cat(null, zero, []byte{0xfc, 0x0f, 0, wasmtest.Drop}), 1},
		"table.fill":  {wasmtest.Cat(zero, null, zero, []byte{0xfc, 0x11, 0}), 1},
		"table.copy":  {wasmtest.Cat(three, []byte{0xfc, 0x0e, 0, 0}), 1},
	} {
		w := newWorld(t, kind{true, true}, features)
		defer w.close()
		in, err := w.instantiate((&wasmtest.Module{Memory: []uint32{1}, Table: []uint32{1}, Funcs: []wasmtest.Func{{Export: "f", Body: c.body}}}).Bytes(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.call(in, "f"); err != nil || in.dirty.Get() != c.dirty {
			t.Errorf("%s: dirty is %d; %v", what, in.dirty.Get(), err)
		}
	}
	// Segments: the generator's modules have passive ones.
	m := generate(3, 3)
	for what, body := range map[string][]byte{"table.init": wasmtest.Cat(three, []byte{0xfc, 0x0c, 0, 0}), "elem.drop": {0xfc, 0x0d, 0}, "data.drop": {0xfc, 0x09, 0}} {
		b, err := module.Take(m.wasm, module.Bounds{})
		if err != nil {
			t.Fatal(err)
		}
		p := b.Part(module.SectionCode)
		bodies := slices.Clone(p.Entries)
		types := b.Part(module.SectionType)
		types.Set(append(slices.Clone(types.Entries), []byte{0x60, 0, 0}))
		funcs := b.Part(module.SectionFunction)
		funcs.Set(append(slices.Clone(funcs.Entries), wasmtest.U32(uint32(len(types.Entries)-1))))
		p.Set(append(bodies, wasmtest.Sized(wasmtest.Cat([]byte{0}, body, []byte{wasmtest.End}))))
		res := mustTranslate(t, b.Bytes(), translate.Options{})
		after, err := module.Take(res.Wasm, module.Bounds{})
		if err != nil {
			t.Fatal(err)
		}
		dirty := wasmtest.Cat(wasmtest.I32Const(1), []byte{0x24}, wasmtest.U32(uint32(len(after.Globals)-1)))
		found := false
		for _, body := range after.Bodies[len(bodies):] {
			found = found || bytes.Contains(body.Code, dirty)
		}
		if !found {
			t.Errorf("%s sets no mark", what)
		}
	}
}

func TestHiddenGlobalsAreExported(t *testing.T) {
	m := generate(7, 7)
	b, err := module.Take(m.wasm, module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	res := mustTranslate(t, m.wasm, translate.Options{})
	if len(res.Globals) != len(b.Globals) {
		t.Fatalf("%d globals of %d", len(res.Globals), len(b.Globals))
	}
	after, err := module.Parse(res.Wasm, module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range res.Globals {
		e, ok := after.Export(g.Export)
		if !ok || e.Kind != module.ExternGlobal || e.Index != g.Index || g.Index != uint32(i) || g.Type != b.Globals[i].Type {
			t.Errorf("%+v is exported as %+v", g, e)
		}
	}
	if res.Globals[0].Export != "gas" {
		t.Errorf("a global that has a name got another one: %s", res.Globals[0].Export)
	}
}

// TestBulkInstructionsAreAllOrNothing: past a chunk, too, a trap changes nothing, and what overlaps is copied as a whole.
func TestBulkInstructionsAreAllOrNothing(t *testing.T) {
	const size = 4 << 16
	typ := wasmtest.Type{Params: []byte{i32, i32, i32}}
	args := wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.LocalGet(1), wasmtest.LocalGet(2))
	wasm := (&wasmtest.Module{Memory: []uint32{4}, Funcs: []wasmtest.Func{
		{Export: "copy", Type: typ, Body: wasmtest.Cat(args, []byte{0xfc, 0x0a, 0, 0})},
		{Export: "fill", Type: typ, Body: wasmtest.Cat(args, []byte{0xfc, 0x0b, 0})}}}).Bytes()
	for _, interpret := range []bool{false, true} {
		var worlds []*world
		for _, tr := range []bool{false, true} {
			w := newWorld(t, kind{interpret, tr}, features)
			defer w.close()
			in, err := w.instantiate(wasm, "")
			if err != nil {
				t.Fatal(err)
			}
			pattern := make([]byte, size)
			for i := range pattern {
				pattern[i] = byte(i * 7 / 3)
			}
			in.Memory().Write(0, pattern)
			worlds = append(worlds, w)
		}
		const big = 3<<16 + 5
		for _, c := range []struct {
			name string
			args [3]uint64
		}{
			{"copy", [3]uint64{0, 1, big}}, {"copy", [3]uint64{1, 0, big}}, {"copy", [3]uint64{1000, 0, 200_000}}, {"copy", [3]uint64{0, 65536, 131072}},
			{"copy", [3]uint64{65537, 0, 65537}}, {"copy", [3]uint64{0, 0, size}}, {"copy", [3]uint64{0, 1, size}}, {"copy", [3]uint64{1, 0, size}},
			{"copy", [3]uint64{0, 1 << 31, 1 << 31}}, {"copy", [3]uint64{1<<32 - 1, 0, 1<<32 - 1}}, {"copy", [3]uint64{size, size, 0}}, {"copy", [3]uint64{size + 1, 0, 0}},
			{"fill", [3]uint64{0, 9, size}}, {"fill", [3]uint64{1, 8, size}}, {"fill", [3]uint64{3, 7, 65537}}, {"fill", [3]uint64{1<<32 - 1, 0, 1<<32 - 1}}, {"fill", [3]uint64{size + 1, 0, 0}},
		} {
			var memories [][]byte
			var outcomes []string
			for _, w := range worlds {
				_, err := w.call(w.live[0], c.name, c.args[:]...)
				outcomes = append(outcomes, w.outcome(err))
				b, _ := w.live[0].Memory().Read(0, size)
				memories = append(memories, bytes.Clone(b))
			}
			if outcomes[0] != outcomes[1] || !bytes.Equal(memories[0], memories[1]) {
				t.Errorf("%s%v: %s; translated: %s; same memory: %t", c.name, c.args, outcomes[0], outcomes[1], bytes.Equal(memories[0], memories[1]))
			}
		}
	}
}

func TestAMeterCountsWhatWasUsed(t *testing.T) {
	var m translate.Meter
	if got := m.Begin(25_000); got != translate.TickFuel {
		t.Fatalf("began with %d", got)
	}
	if used := m.Used(4_000); used != 6_000 {
		t.Errorf("used %d", used)
	}
	grant, ok := m.Tick(-500)
	if !ok || grant != translate.TickFuel || m.Used(grant) != 10_500 {
		t.Errorf("the first tick gave %d, %t; used %d", grant, ok, m.Used(grant))
	}
	if grant, ok = m.Tick(-1_000); !ok || grant != 25_000-21_500 || m.Used(grant) != 21_500 {
		t.Errorf("the second tick gave %d, %t; used %d", grant, ok, m.Used(grant))
	}
	if _, ok = m.Tick(-1); ok || m.Used(-1) != 25_001 {
		t.Errorf("a tick past the budget: %t; used %d", ok, m.Used(-1))
	}
	if got := m.Begin(5); got != 5 || m.Used(got) != 0 {
		t.Errorf("a small budget began with %d", got)
	}
	var zero translate.Meter
	if _, ok := zero.Tick(-1); ok {
		t.Error("the zero value gave fuel")
	}
}

func TestAMeterCountsTheSameWhateverItsSteps(t *testing.T) {
	const budget, each = 100_000, 37
	for _, steps := range [][]int64{{0}, {translate.TickFuel}, {1}, {100}, {translate.TickFuel * 2}, {5_000, 1, 300}} {
		var m translate.Meter
		m.Step = steps[0]
		fuel, used, ticks := m.Begin(budget), int64(0), 0
		for ok := true; ok; {
			fuel -= each
			used += each
			if fuel >= 0 {
				continue
			}
			m.Step = steps[ticks%len(steps)]
			ticks++
			var grant int64
			if grant, ok = m.Tick(fuel); ok {
				if fuel = grant; fuel > translate.TickFuel {
					t.Fatalf("steps %v: a grant of %d", steps, grant)
				}
			}
		}
		if want := int64(budget/each+1) * each; used != want || m.Used(fuel) != used {
			t.Errorf("steps %v: the guest ended when it had used %d, and the meter says %d; want %d", steps, used, m.Used(fuel), want)
		}
	}
}

// TestLoopsAreLeftAndTickedFromWithin: the check of a loop without others in it is outside of it, which moves labels; that of others, and of more
// such loops than a function may have, is not. All three are left by every kind of branch, have values below them and a result, and take the same
// fuel however often the host is called.
func TestLoopsAreLeftAndTickedFromWithin(t *testing.T) {
	// Counts local 0 down from 50, then leaves 7 blocks of which one is a loop by br, br_if, br_table or return, or falls out of the loop.
	const turns = 50
	again := wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0}, []byte{0x0d, 0})
	inner := func(leave []byte) []byte {
		return wasmtest.Cat(wasmtest.I32Const(turns), wasmtest.LocalSet(0), []byte{0x02, wasmtest.I32}, // a block with a result
			wasmtest.I32Const(100), []byte{0x03, wasmtest.I32}, again, leave, []byte{wasmtest.End}, []byte{wasmtest.I32Add}, []byte{wasmtest.End})
	}
	leaves := [][]byte{
		wasmtest.I32Const(1),
		wasmtest.Cat(wasmtest.I32Const(2), wasmtest.Br(1)),
		wasmtest.Cat(wasmtest.I32Const(3), wasmtest.I32Const(1), []byte{0x0d, 1}),
		wasmtest.Cat(wasmtest.I32Const(4), wasmtest.I32Const(0), []byte{0x0e, 1, 1, 1}),
		wasmtest.Cat(wasmtest.I32Const(5), wasmtest.I32Const(9), []byte{0x0e, 1, 1, 1}),
	}
	want := 101 + 2 + 3 + 4 + 5
	body := wasmtest.I32Const(0)
	for _, l := range leaves {
		body = wasmtest.Cat(body, inner(l), []byte{wasmtest.I32Add})
	}
	var many []byte
	for range 150 {
		many = wasmtest.Cat(many, wasmtest.I32Const(turns), wasmtest.LocalSet(0), wasmtest.Loop(again))
	}
	nested := wasmtest.Cat(wasmtest.I32Const(3), wasmtest.LocalSet(1), wasmtest.Loop(
		body, wasmtest.LocalGet(2), []byte{wasmtest.I32Add}, wasmtest.LocalSet(2),
		wasmtest.LocalGet(1), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 1}, []byte{0x0d, 0}), many,
		wasmtest.I32Const(turns), wasmtest.LocalSet(0), wasmtest.Loop(again, wasmtest.LocalGet(2), []byte{0x0f}), []byte{0x00})
	wasm := (&wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Type: wasmtest.Type{Params: []byte{wasmtest.I32}, Results: []byte{wasmtest.I32}},
		Locals: []byte{wasmtest.I32, wasmtest.I32}, Body: nested}}}).Bytes()
	for _, k := range kinds {
		if !k.translate {
			continue
		}
		var fuel []int64
		for _, each := range []bool{true, false} {
			for _, step := range []int64{0, 1, 7} {
				w := newWorld(t, k, features)
				if each {
					translate.ChargeEach(&w.options)
				}
				if _, err := w.instantiate(wasm, ""); err != nil {
					t.Fatal(err)
				}
				in := w.live[0]
				in.meter.Step = step
				got, err := w.call(in, "f", 0)
				if err != nil || len(got) != 1 || int(int32(got[0])) != 3*want {
					t.Fatalf("%v, each %v, step %d: %v, %v; want %d", k, each, step, got, err, 3*want)
				}
				fuel = append(fuel, in.meter.Used(int64(in.fuel.Get())))
				if step == 1 && w.ticks < 150*turns {
					t.Errorf("%v, each %v: %d ticks", k, each, w.ticks)
				}
				w.close()
			}
		}
		for _, f := range fuel {
			if f != fuel[0] {
				t.Fatalf("%v: the same call took %v fuel", k, fuel)
			}
		}
	}
}

// TestAComparisonOfNothingWithAnAndBranchesAsItShould: wazero's compiler goes the other way where 0 is compared with what an and made.
func TestAComparisonOfNothingWithAnAndBranchesAsItShould(t *testing.T) {
	type compare struct {
		name string
		op   byte // of i32; i64's is 11 more
		is   func(v int64) bool
	}
	compares := []compare{
		{"lt_s", 0x48, func(v int64) bool { return 0 < v }}, {"lt_u", 0x49, func(v int64) bool { return 0 < uint64(v) }},
		{"gt_s", 0x4a, func(v int64) bool { return 0 > v }}, {"gt_u", 0x4b, func(int64) bool { return false }},
		{"le_s", 0x4c, func(v int64) bool { return 0 <= v }}, {"le_u", 0x4d, func(int64) bool { return true }},
		{"ge_s", 0x4e, func(v int64) bool { return 0 >= v }}, {"ge_u", 0x4f, func(v int64) bool { return v == 0 }},
	}
	for _, wide := range []bool{false, true} {
		typ, and, zero, ones := byte(wasmtest.I32), byte(0x71), wasmtest.I32Const(0), wasmtest.I32Const(-1)
		if wide {
			typ, and, zero, ones = wasmtest.I64, 0x83, wasmtest.I64Const(0), wasmtest.I64Const(-1)
		}
		anded := wasmtest.Cat(wasmtest.LocalGet(0), ones, []byte{and})
		for way, operands := range map[string][]byte{
			"a constant":         wasmtest.Cat(zero, anded),
			"a local":            wasmtest.Cat(wasmtest.LocalGet(1), anded),
			"by way of a local":  wasmtest.Cat(anded, wasmtest.LocalSet(2), zero, wasmtest.LocalGet(2)),
			"with a tee":         wasmtest.Cat(zero, anded, []byte{0x22, 2}),
			"something between":  wasmtest.Cat(zero, anded, wasmtest.I32Const(1), []byte{wasmtest.Drop}),
			"the and comes last": wasmtest.Cat(zero, wasmtest.LocalGet(0), wasmtest.LocalSet(2), ones, wasmtest.LocalGet(2), []byte{and}),
		} {
			for _, c := range compares {
				op := c.op
				if wide {
					op += 11
				}
				wasm := (&wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f", Type: wasmtest.Type{Params: []byte{typ}, Results: []byte{wasmtest.I32}},
					Locals: []byte{typ, typ}, Body: wasmtest.Cat(operands, []byte{op, 0x04, wasmtest.I32}, wasmtest.I32Const(1), []byte{0x05}, wasmtest.I32Const(0), []byte{wasmtest.End})}}}).Bytes()
				for _, k := range []kind{{false, true}, {true, true}} {
					w := newWorld(t, k, features)
					in, err := w.instantiate(wasm, "")
					if err != nil {
						t.Fatal(err)
					}
					for _, v := range []int64{7, -7, 0} {
						param := uint64(v)
						if !wide {
							param = uint64(uint32(v))
						}
						got, err := w.call(in, "f", param)
						if err != nil || (uint32(got[0]) == 1) != c.is(v) {
							t.Errorf("%v, wide %v, %s: 0 %s %d is %v, %v", k, wide, way, c.name, v, got, err)
						}
					}
					w.close()
				}
			}
		}
	}
}
