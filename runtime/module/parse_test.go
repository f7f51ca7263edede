package module_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// brIf leads to the innermost label.
var brIf = []byte{0x0d, 0}

func sample() *wasmtest.Module {
	return &wasmtest.Module{
		Imports: []wasmtest.Import{{Module: "env", Name: "add", Type: wasmtest.Type{Params: []byte{wasmtest.I32, wasmtest.I32}, Results: []byte{wasmtest.I32}}}},
		Funcs: []wasmtest.Func{{Name: "twice", Export: "twice", Type: wasmtest.Type{Params: []byte{wasmtest.I32}, Results: []byte{wasmtest.I32}},
			Body: wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.LocalGet(0), wasmtest.Call(0))}},
		Memory: []uint32{1, 2},
		Data:   []wasmtest.Data{{Offset: 8, Bytes: []byte("hello")}},
		Custom: []wasmtest.Custom{
			{Name: "producers", Content: wasmtest.Cat([]byte{1}, wasmtest.Name("language"), []byte{1}, wasmtest.Name("Go"), wasmtest.Name("1.26"))},
			{Name: ".debug_info"},
		},
	}
}

func TestParseTellsWhatAModuleDeclares(t *testing.T) {
	b := sample().Bytes()
	m, err := module.Parse(b, module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(m.Size == len(b), m.Imports, m.Exports, m.Memories, m.Functions, m.DataBytes, m.HasNames, m.HasDebug, m.HasStart, m.Custom, m.Producers)
	want := "true [{env add function (i32, i32) → (i32)}] [{twice function 1 (i32) → (i32)} {memory memory 0 () → ()}] [{1 2 true}] 1 5 true true false [name producers .debug_info] [language Go 1.26]"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// function is a module of one function without parameters.
func function(locals []byte, body ...[]byte) []byte {
	m := wasmtest.Module{Funcs: []wasmtest.Func{{Locals: locals, Body: wasmtest.Cat(body...)}}, Memory: []uint32{1}}
	return m.Bytes()
}

func TestBadBinariesAreRefusedWithTheCheckAndTheByte(t *testing.T) {
	h := wasmtest.Header
	section := func(id byte, content ...byte) string { return string(wasmtest.Section(id, content)) }
	for name, c := range map[string]struct {
		wasm, check, msg string
		offset           int
	}{
		"nothing":                     {"", "header", "empty", 0},
		"an ELF file":                 {"\x7fELF\x02\x01\x01\x00", "header", "not a WebAssembly binary", 0},
		"half a header":               {h[:6], "header", "truncated", 6},
		"text":                        {"\n (module)", "header", "wat2wasm", 0},
		"a component":                 {"\x00asm\x0d\x00\x01\x00", "header", "component; a core module is wanted: build for WASI preview 1", 6},
		"another version":             {"\x00asm\x02\x00\x00\x00", "header", "version", 4},
		"a section past the end":      {h + "\x01\x05\x00", "sections", "truncated", 11},
		"an unknown section":          {h + section(14), "sections", "no section 14", 8},
		"a section twice":             {h + section(1, 0) + section(1, 0), "sections", "second type section", 11},
		"sections out of order":       {h + section(3, 0) + section(1, 0), "sections", "out of order", 11},
		"a section with a tail":       {h + section(1, 0, 0), "type section", "1 bytes too many", 11},
		"an overlong integer":         {h + "\x01\x80\x80\x80\x80\x80\x00", "sections", "32 bits", 9},
		"an integer over 32 bits":     {h + section(1, 0xff, 0xff, 0xff, 0xff, 0x1f), "type section", "32 bits", 10},
		"a count without elements":    {h + section(1, 0xff, 0xff, 0x03), "type section", "no room", 10},
		"a count over its bound":      {h + section(1, 0xff, 0xff, 0xff, 0x7f), "bounds", "types; at most", 10},
		"a struct type":               {h + section(1, 1, 0x5f, 0, 0), "features", "garbage collection", 11},
		"an unknown form of type":     {h + section(1, 1, 0x20, 0, 0), "type section", "form", 11},
		"an unknown value type":       {h + section(1, 1, 0x60, 1, 0x11, 0), "type section", "unknown type 0x11", 13},
		"a name that is no UTF-8":     {h + section(2, 1, 1, 0xff, 0, 0, 0), "import section", "UTF-8", 11},
		"an imported tag":             {h + section(2, 1, 0, 0, 4, 0, 0), "features", "exceptions", 13},
		"a function of no type":       {h + section(3, 1, 0), "function section", "type 0 does not exist", 11},
		"a function without its body": {h + section(1, 1, 0x60, 0, 0) + section(3, 1, 0), "sections", "no code section", 18},
		"a shared memory":             {h + section(5, 1, 3, 1, 1), "features", "threads", 11},
		"a 64-bit memory":             {h + section(5, 1, 4, 1), "features", "64-bit", 11},
		"two memories":                {h + section(5, 2, 0, 1, 0, 1), "features", "several memories", 10},
		"a memory over 4 GiB":         {h + section(5, 1, 0, 0x81, 0x80, 0x04), "memory section", "larger than 65536", 11},
		"a maximum below the minimum": {h + section(5, 1, 1, 2, 1), "memory section", "less than its minimum", 11},
		"a table with a start value":  {h + section(4, 1, 0x40, 0, 0x70, 0, 1), "features", "initial value", 11},
		"tags":                        {h + section(13, 1, 0, 0), "features", "exceptions", 10},
		"a global that calls":         {h + section(6, 1, 0x7f, 0, 0x10, 0, 0x0b), "global section", "not constant", 13},
		"a global that never ends":    {h + section(6, 1, 0x7f, 0, 0x41, 0), "global section", "does not end", 15},
		"an export of nothing":        {h + section(7, 1, 1, 'f', 0, 0), "export section", "does not exist", 11},
		"two exports of one name":     {h + section(5, 1, 0, 1) + section(7, 2, 1, 'm', 2, 0, 1, 'm', 2, 0), "export section", "exported twice", 20},
		"a start that is not there":   {h + section(8, 3), "start section", "function 3 does not exist", 10},
		"unknown element flags":       {h + section(9, 1, 9, 0, 0), "element section", "flags", 11},
		"unknown data flags":          {h + section(11, 1, 3, 0), "data section", "flags", 11},
		"data shorter than said":      {h + section(11, 1, 1, 5, 0), "data section", "middle", 14},
		"fewer data than announced":   {h + section(12, 2) + section(11, 1, 1, 0), "data section", "data count", 13},
		"announced data not there":    {h + section(12, 2), "sections", "announced", 11},
	} {
		t.Run(name, func(t *testing.T) { refused(t, []byte(c.wasm), module.Bounds{}, c.check, c.msg, c.offset) })
	}
}

// refused checks that Parse refuses wasm; offset -2 is any.
func refused(t *testing.T, wasm []byte, b module.Bounds, check, msg string, offset int) {
	t.Helper()
	_, err := module.Parse(wasm, b)
	var e *module.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *module.Error", err)
	}
	if e.Check != check || !strings.Contains(e.Msg, msg) || offset != -2 && e.Offset != offset {
		t.Errorf("got %v; want check %q, byte %d, and %q in it", e, check, offset, msg)
	}
}

func TestBadCodeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		body       []byte
		check, msg string
	}{
		"an opcode that is none":      {[]byte{0x27}, "code", "no instruction 0x27"},
		"a prefixed one that is none": {[]byte{0xfc, 0x12}, "code", "no instruction 0xfc 0x12"},
		"a SIMD one that is none":     {[]byte{0xfd, 0x9a, 0x01}, "code", "no instruction 0xfd 0x9a"},
		"an else without if":          {wasmtest.Block([]byte{0x05}), "code", "else"},
		"an end too many":             {[]byte{0x0b}, "code", "after the function's end"},
		"an end too few":              {[]byte{0x02, 0x40}, "code", "does not end"},
		"a block of no type":          {[]byte{0x02, 0x05, 0x0b}, "code", "type 5"},
		"a block of a bad type":       {[]byte{0x02, 0x41, 0x0b}, "code", "unknown type"},
		"an alignment of 2^40":        {[]byte{0x41, 0, 0x28, 40, 0}, "code", "alignment"},
		"a second memory's access":    {[]byte{0x41, 0, 0x28, 0x42, 1, 0}, "features", "several memories"},
		"a second memory's growth":    {[]byte{0x41, 0, 0x40, 1}, "features", "several memories"},
		"an atomic load":              {[]byte{0x41, 0, 0xfe, 0x10, 2, 0}, "features", "i32.atomic.load (threads)"},
		"an atomic exchange":          {[]byte{0xfe, 0x4e, 2, 0}, "features", "i64.atomic.rmw32.cmpxchg_u (threads)"},
		"an atomic wait":              {[]byte{0xfe, 0x01, 2, 0}, "features", "memory.atomic.wait32"},
		"a throw":                     {[]byte{0x08, 0}, "features", "throw (exceptions)"},
		"a try_table":                 {[]byte{0x1f, 0x40, 0, 0x0b}, "features", "try_table (exceptions)"},
		"a struct.new":                {[]byte{0xfb, 0, 0}, "features", "garbage collection"},
		"a relaxed SIMD instruction":  {[]byte{0xfd, 0x80, 0x02}, "features", "relaxed SIMD"},
		"a call_ref":                  {[]byte{0x14, 0}, "features", "call_ref"},
		"an i32 over 32 bits":         {[]byte{0x41, 0xff, 0xff, 0xff, 0xff, 0x0f}, "code", "32 bits"},
		"an i64 over 64 bits":         {[]byte{0x42, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, "code", "64 bits"},
		"memory.init without a count": {[]byte{0xfc, 8, 0, 0}, "code", "data count"},
		"a jump table past the end":   {[]byte{0x0e, 0xff, 0xff, 0xff, 0xff, 0x0f}, "code", "no room"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, function(nil, c.body), module.Bounds{}, c.check, c.msg, -2) })
	}
}

// The bombs that took an engine seconds to minutes and gigabytes.
func TestCompileBombsAreRefused(t *testing.T) {
	loops := func(n int) []byte {
		return wasmtest.Cat(wasmtest.Repeat(n, 0x03, 0x40), wasmtest.Repeat(n, wasmtest.End))
	}
	for name, c := range map[string]struct {
		wasm []byte
		msg  string
	}{
		"31 KB of nested loops over locals": {function(wasmtest.Repeat(2500, wasmtest.I64), loops(8000)), "product"},
		"nesting":                           {function(nil, loops(20_000)), "nested more than"},
		"a jump table of 2 MB": {function(nil, wasmtest.I32Const(0), []byte{0x0e}, wasmtest.U32(2<<20), wasmtest.Repeat(2<<20+1, 0)),
			"jump tables"},
		"1,000 empty functions with 50,000 locals each": {manyLocals(1000, 50_000), "locals"},
		"1,000 empty functions with 10,000 locals each": {manyLocals(1000, 10_000), "locals together"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.wasm, module.Bounds{}, "bounds", c.msg, -2) })
	}
}

// What takes an engine about two seconds is allowed, and what takes longer is not.
func TestCodeThatGrowsFasterThanItsLengthIsBounded(t *testing.T) {
	get, turn := wasmtest.LocalGet, wasmtest.Cat(wasmtest.LocalGet(0), brIf)
	each := func(locals int, f func(local uint32) []byte) (code []byte) {
		for i := range locals {
			code = append(code, f(uint32(i))...)
		}
		return code
	}
	load := func(local uint32) []byte {
		return wasmtest.Cat(wasmtest.I32Const(0), wasmtest.Load(0), wasmtest.LocalSet(local))
	}
	store := func(local uint32) []byte { return wasmtest.Cat(wasmtest.I32Const(0), get(local), wasmtest.Store(0)) }
	for name, c := range map[string]struct {
		at, past int
		locals   int
		code     func(n, locals int) []byte
		msg      string
	}{
		"empty loops": {7000, 7100, 100, func(n, _ int) []byte { return wasmtest.Repeat(n, 0x03, 0x40, wasmtest.End) }, "finding its loops"},
		"branches":    {9900, 10_100, 1, func(n, _ int) []byte { return wasmtest.Block(wasmtest.Repeat(n, turn...)) }, "finding its loops"},
		"conditions": {7000, 7100, 1, func(n, _ int) []byte {
			return wasmtest.Repeat(n, wasmtest.Cat(get(0), []byte{0x04, 0x40, wasmtest.End})...)
		}, "finding its loops"},
		"branches past which locals change": {980, 1000, 200, func(n, locals int) []byte {
			return wasmtest.Cat(each(locals, load), wasmtest.Block(wasmtest.Repeat(n, turn...), each(locals, load)), each(locals, store))
		}, "finding where they were set"},
		"reads after much that is empty": {17_000, 18_000, 1, func(n, _ int) []byte {
			return wasmtest.Cat(wasmtest.Repeat(5000, 0x03, 0x40, wasmtest.End), wasmtest.Repeat(n, 0x20, 0, wasmtest.Drop))
		}, "finding where they were set"},
		"nested loops over locals": {440, 450, 100, func(n, locals int) []byte {
			return wasmtest.Cat(each(locals, load), wasmtest.Repeat(n, 0x03, 0x40), wasmtest.Repeat(n, wasmtest.Cat(turn, []byte{wasmtest.End})...), each(locals, store))
		}, "ways × locals² × loops"},
		"loops over many locals": {5_600, 5_800, 0, func(n, _ int) []byte {
			return wasmtest.Cat(each(n, load), wasmtest.Repeat(20, wasmtest.Loop(turn)...), each(n, store))
		}, "ways × locals² × loops"},
	} {
		t.Run(name, func(t *testing.T) {
			build := func(n int) []byte {
				locals := c.locals
				if locals == 0 {
					locals = n
				}
				return function(wasmtest.Repeat(locals, wasmtest.I32), c.code(n, locals))
			}
			if _, err := module.Parse(build(c.at), module.Bounds{}); err != nil {
				t.Errorf("%d: %v", c.at, err)
			}
			refused(t, build(c.past), module.Bounds{}, "bounds", c.msg, -2)
		})
	}
}

// What Go compiles a function to, and others a switch: there is much code, and little of it behind other code.
func TestAJumpTableToManyBlocksIsAllowed(t *testing.T) {
	const n = 4900
	labels, arms := []byte{}, []byte{}
	for i := range n {
		labels = append(labels, wasmtest.U32(uint32(i))...)
		arms = append(arms, wasmtest.Cat([]byte{wasmtest.End}, wasmtest.LocalGet(0), []byte{0x04, 0x40}, wasmtest.Br(uint32(n-i)), []byte{wasmtest.End})...)
	}
	code := wasmtest.Loop(wasmtest.Repeat(n, 0x02, 0x40), wasmtest.LocalGet(0), []byte{0x0e}, wasmtest.U32(n-1), labels, arms)
	if _, err := module.Parse(function([]byte{wasmtest.I32}, code), module.Bounds{}); err != nil {
		t.Error(err)
	}
}

// manyLocals is a module of n empty functions that declare locals.
func manyLocals(n int, locals uint32) []byte {
	body := wasmtest.Sized(wasmtest.Cat([]byte{1}, wasmtest.U32(locals), []byte{wasmtest.I64, wasmtest.End}))
	count := wasmtest.U32(uint32(n))
	return wasmtest.Cat([]byte(wasmtest.Header), wasmtest.Section(1, []byte{1, 0x60, 0, 0}),
		wasmtest.Section(3, wasmtest.Cat(count, wasmtest.Repeat(n, 0))),
		wasmtest.Section(10, wasmtest.Cat(count, wasmtest.Repeat(n, body...))))
}

func TestEachBoundIsKept(t *testing.T) {
	b := sample().Bytes()
	code := function(wasmtest.Repeat(4, wasmtest.I32), wasmtest.Block(wasmtest.Block(wasmtest.I32Const(0), []byte{0x0e, 1, 0, 1})))
	global := wasmtest.Global{Type: wasmtest.I32, Init: wasmtest.I32Const(0)}
	reloads := (&wasmtest.Module{Globals: []wasmtest.Global{global, global, global}, Funcs: []wasmtest.Func{{Body: wasmtest.Repeat(4, wasmtest.Call(0)...)}}}).Bytes()
	rounds := function(wasmtest.Repeat(2, wasmtest.I32), wasmtest.Loop(wasmtest.LocalGet(1), wasmtest.LocalSet(0), wasmtest.LocalGet(0), brIf), wasmtest.LocalGet(0), wasmtest.LocalSet(1))
	table := (&wasmtest.Module{Table: []uint32{100}}).Bytes()
	for name, c := range map[string]struct {
		wasm      []byte
		at, below module.Bounds
		msg       string
	}{
		"size":          {b, module.Bounds{Size: len(b)}, module.Bounds{Size: len(b) - 1}, "at most"},
		"types":         {b, module.Bounds{Types: 2}, module.Bounds{Types: 1}, "types"},
		"data segments": {wasmtest.Cat([]byte(wasmtest.Header), wasmtest.Section(11, []byte{2, 1, 0, 1, 0})), module.Bounds{DataSegments: 2}, module.Bounds{DataSegments: 1}, "data segments"},
		"exports":       {b, module.Bounds{Exports: 2}, module.Bounds{Exports: 1}, "exports"},
		"values":        {b, module.Bounds{Values: 3}, module.Bounds{Values: 2}, "parameters"},
		"functions":     {manyLocals(2, 1), module.Bounds{Functions: 2}, module.Bounds{Functions: 1}, "functions"},
		"locals":        {manyLocals(2, 10), module.Bounds{Locals: 20}, module.Bounds{Locals: 19}, "together"},
		"own locals":    {code, module.Bounds{FunctionLocals: 4}, module.Bounds{FunctionLocals: 3}, "locals"},
		"body":          {code, module.Bounds{FunctionBytes: 22}, module.Bounds{FunctionBytes: 21}, "body"},
		"blocks":        {code, module.Bounds{BlockLocals: 12}, module.Bounds{BlockLocals: 11}, "product"},
		"all blocks":    {code, module.Bounds{AllBlockLocals: 12}, module.Bounds{AllBlockLocals: 11}, "together"},
		"reloads":       {reloads, module.Bounds{AllReloads: 12}, module.Bounds{AllReloads: 11}, "mutable globals"},
		"climbs":        {rounds, module.Bounds{AllClimbs: 14}, module.Bounds{AllClimbs: 13}, "finding its loops"},
		"lookups":       {rounds, module.Bounds{AllLookups: 14}, module.Bounds{AllLookups: 13}, "finding where they were set"},
		"comparisons":   {rounds, module.Bounds{AllComparisons: 24}, module.Bounds{AllComparisons: 23}, "ways × locals² × loops"},
		"bulk":          {function(wasmtest.Repeat(4, wasmtest.I32), []byte{0xfc, 11, 0}), module.Bounds{BlockLocals: 8}, module.Bounds{BlockLocals: 7}, "product"},
		"nesting":       {code, module.Bounds{Nesting: 3}, module.Bounds{Nesting: 2}, "nested"},
		"labels":        {code, module.Bounds{Labels: 2}, module.Bounds{Labels: 1}, "targets"},
		"all labels":    {code, module.Bounds{AllLabels: 2}, module.Bounds{AllLabels: 1}, "targets together"},
		"memory":        {(&wasmtest.Module{Memory: []uint32{2}}).Bytes(), module.Bounds{MemoryPages: 2}, module.Bounds{MemoryPages: 1}, "pages"},
		"tables":        {table, module.Bounds{TableElements: 100}, module.Bounds{TableElements: 99}, "elements"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := module.Parse(c.wasm, c.at); err != nil {
				t.Errorf("at the bound: %v", err)
			}
			refused(t, c.wasm, c.below, "bounds", c.msg, -2)
		})
	}
}

func TestImmediatesAreDecodedAsTheyStand(t *testing.T) {
	expr := wasmtest.Cat(wasmtest.I32Const(math.MinInt32), wasmtest.I64Const(math.MinInt64), wasmtest.F64Const(1.5), wasmtest.Load(300),
		[]byte{0x0e, 2, 1, 0x80, 0x01, 0, 0xfd, 0x54, 0, 9, 3, 0x11, 4, 0, wasmtest.End})
	it := module.NewInstructions(expr, 100, 10)
	var got []string
	for it.Next() {
		s := fmt.Sprintf("%d-%d %x %d %d", it.Offset, it.End, uint32(it.Op), int64(it.A), it.B)
		if it.Op == module.OpBrTable {
			for pos, i := 0, 0; i < it.Labels; i++ {
				s += fmt.Sprintf(" l%d", it.Label(&pos))
			}
		}
		got = append(got, s)
	}
	want := []string{"100-106 41 -2147483648 0", "106-117 42 -9223372036854775808 0", fmt.Sprintf("117-126 44 %d 0", math.Float64bits(1.5)),
		"126-130 28 2 300", "130-136 e 0 0 l1 l128", "136-141 fd054 0 9", "141-144 11 4 0", "144-145 b 0 0"}
	if it.Err() != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("err %v, got\n%s\nwant\n%s", it.Err(), strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func offered(t testing.TB) *hostcall.Table {
	t.Helper()
	nop := func(*hostcall.Call) {}
	i32 := hostcall.I32
	table, err := hostcall.NewTable(&hostcall.Library{Name: "test", Funcs: []hostcall.Func{
		{Module: "env", Name: "add", Params: []hostcall.ValueType{i32, i32}, Results: []hostcall.ValueType{i32}, Call: nop,
			Args: []hostcall.Arg{{Name: "a", Param: 0}, {Name: "b", Param: 1}}},
		{Module: "env", Name: "subtract", Call: nop},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestEachUnknownImportIsNamedWithTheNearestKnown(t *testing.T) {
	m, err := module.Parse(sample().Bytes(), module.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	if err := module.Audit(m, offered(t)); err != nil {
		t.Errorf("known imports: %v", err)
	}
	i32 := hostcall.I32
	err = module.Audit(&module.Module{Imports: []module.Import{
		{Module: "env", Name: "substract"},
		{Module: "env", Name: "add", Type: module.FuncType{Params: []hostcall.ValueType{i32}}},
		{Module: "env", Name: "memory", Kind: module.ExternMemory},
		{Module: "e\x1bv", Name: "ad"},
		{Module: "env", Name: "emscripten_notify_memory_growth"},
		{Module: "mine", Name: "magic"},
	}}, offered(t))
	want := "imports: env.substract is unknown; the nearest known function is env.subtract; " +
		"env.add is imported as (i32) → (); the host's is (i32, i32) → (i32); " +
		"env.memory is an imported memory; only functions can be imported: have the module define its own; " +
		`e\x1bv.ad is unknown; the nearest known function is env.add; ` +
		"env.emscripten_notify_memory_growth is unknown; modules that import from env are built for Emscripten or a browser, or lack a library: build for WASI preview 1 (wasip1); " +
		"mine.magic is unknown"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestGlobalsAndWhatChangesTablesAreNoted(t *testing.T) {
	for name, c := range map[string]struct {
		body []byte
		want bool
	}{
		"nothing":   {[]byte{wasmtest.Nop}, false},
		"table.get": {[]byte{0x41, 0, 0x25, 0, wasmtest.Drop}, false},
		"table.set": {[]byte{0x41, 0, 0xd0, 0x70, 0x26, 0}, true},
	} {
		wasm := (&wasmtest.Module{Table: []uint32{1}, Funcs: []wasmtest.Func{{Body: c.body}}}).Bytes()
		m, err := module.Parse(wasm, module.Bounds{})
		if err != nil || m.Mutates != c.want {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	wasm := wasmtest.Cat([]byte(wasmtest.Header), wasmtest.Section(6, []byte{2, wasmtest.I64, 1, 0x42, 0, wasmtest.End, wasmtest.I32, 0, 0x41, 0, wasmtest.End}))
	m, err := module.Parse(wasm, module.Bounds{})
	if err != nil || len(m.GlobalTypes) != 2 || m.GlobalTypes[0] != (module.GlobalType{hostcall.I64, true}) || m.GlobalTypes[1] != (module.GlobalType{hostcall.I32, false}) {
		t.Errorf("%+v, %v", m, err)
	}
}
