package translate_test

import (
	"bytes"
	"math/rand/v2"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// Value types, and the blocks of a generated module's memory and tables.
const (
	i32, i64, f32, f64, v128 = byte(wasmtest.I32), byte(wasmtest.I64), byte(wasmtest.F32), byte(wasmtest.F64), byte(wasmtest.V128)
	funcRef                  = byte(wasmtest.FuncRef)
)

var numeric = []byte{i32, i64, f32, f64, v128}

// generator makes valid modules, the same from the same seed. Their code ends: each entry of a function and each turn of a loop
// takes one off the exported global "gas", and a guest without gas traps. They show nothing of a NaN's bits, in which engines may differ.
type generator struct {
	*rand.Rand
	types   [][2][]byte // parameters, results
	funcs   []int       // type of each, the imported one first
	globals []byte      // types of the mutable globals, behind gas
	tables  int
	large   bool // tables of more than a chunk
	data    int  // passive segments, in front
	elems   int  // passive segments, in front

	code   []byte
	self   int
	locals []byte
	labels []target
	budget int
}

// target is a label and what a branch to it takes.
type target struct{ types []byte }

func (g *generator) emit(pieces ...[]byte)        { g.code = append(g.code, wasmtest.Cat(pieces...)...) }
func (g *generator) op(b ...byte)                 { g.code = append(g.code, b...) }
func (g *generator) one(of []byte) byte           { return of[g.IntN(len(of))] }
func (g *generator) some(most int) (types []byte) { return g.upTo(g.IntN(most + 1)) }
func (g *generator) chance(oneIn int) bool        { return g.IntN(oneIn) == 0 }
func (g *generator) upTo(n int) (types []byte) {
	for range n {
		types = append(types, g.one(numeric))
	}
	return types
}

func (g *generator) typeIndex(params, results []byte) int {
	for i, t := range g.types {
		if string(t[0]) == string(params) && string(t[1]) == string(results) {
			return i
		}
	}
	g.types = append(g.types, [2][]byte{params, results})
	return len(g.types) - 1
}

// generated is a module, and what a test needs to know of it.
type generated struct {
	wasm   []byte
	funcs  [][2][]byte     // types of the exports "f0", "f1", …
	shows  int             // exports "g0", "g1", … answer the globals
	tables int             // exports "t0", … answer whether an element is null
	wide   map[string]bool // exports with a v128 in their type
}

const gas = 600

func generate(seed1, seed2 uint64) generated {
	g := &generator{Rand: rand.New(rand.NewPCG(seed1, seed2)), tables: 1, data: 2, elems: 2}
	g.tables += g.IntN(2)
	g.large = g.chance(3)
	g.funcs = []int{g.typeIndex([]byte{i32}, []byte{i32})} // the imported one
	own := 2 + g.IntN(5)
	for range own {
		g.funcs = append(g.funcs, g.typeIndex(g.some(4), g.some(3)))
	}
	g.globals = g.upTo(1 + g.IntN(5))
	starts := g.chance(3)
	start := len(g.funcs)
	if starts {
		g.funcs = append(g.funcs, g.typeIndex(nil, nil))
	}

	out := generated{wide: map[string]bool{}}
	var bodies, exports [][]byte
	for i := 1; i < len(g.funcs); i++ {
		bodies = append(bodies, g.function(i))
		if i <= own {
			out.funcs = append(out.funcs, g.types[g.funcs[i]])
			t := g.types[g.funcs[i]]
			out.wide[name('f', i-1)] = bytes.IndexByte(append(t[0][:len(t[0]):len(t[0])], t[1]...), v128) >= 0
			exports = append(exports, wasmtest.Cat(wasmtest.Name(name('f', i-1)), []byte{0}, wasmtest.U32(uint32(i))))
		}
	}
	show := func(prefix byte, i int, params, results []byte, code ...[]byte) {
		exports = append(exports, wasmtest.Cat(wasmtest.Name(name(prefix, i)), []byte{0}, wasmtest.U32(uint32(len(g.funcs)))))
		g.funcs = append(g.funcs, g.typeIndex(params, results))
		bodies = append(bodies, wasmtest.Sized(wasmtest.Cat([]byte{0}, wasmtest.Cat(code...), []byte{wasmtest.End})))
	}
	for i, t := range g.globals {
		out.wide[name('g', i)] = t == v128
		show('g', i, nil, []byte{t}, []byte{0x23}, wasmtest.U32(uint32(i+1)))
	}
	for i := range g.tables {
		show('t', i, []byte{i32}, []byte{i32}, []byte{0x20, 0, 0x25}, wasmtest.U32(uint32(i)), []byte{0xd1})
		show('s', i, nil, []byte{i32}, []byte{0xfc, 0x10}, wasmtest.U32(uint32(i)))
	}
	out.shows, out.tables = len(g.globals), g.tables

	var types, funcs, globals, tables, elems, data [][]byte
	for _, t := range g.types {
		types = append(types, wasmtest.Cat([]byte{0x60}, wasmtest.Vec(t[0]), wasmtest.Vec(t[1])))
	}
	for _, f := range g.funcs[1:] {
		funcs = append(funcs, wasmtest.U32(uint32(f)))
	}
	globals = append(globals, wasmtest.Cat([]byte{i32, 1}, wasmtest.I32Const(gas), []byte{wasmtest.End}))
	exports = append(exports, wasmtest.Cat(wasmtest.Name("gas"), []byte{3, 0}), wasmtest.Cat(wasmtest.Name("memory"), []byte{2, 0}))
	for i, t := range g.globals {
		globals = append(globals, wasmtest.Cat([]byte{t, 1}, g.constant(t), []byte{wasmtest.End}))
		if g.chance(2) && t != v128 {
			exports = append(exports, wasmtest.Cat(wasmtest.Name(name('e', i)), []byte{3}, wasmtest.U32(uint32(i+1))))
		}
	}
	least := uint32(12)
	if g.large {
		least = 20_000
	}
	for range g.tables {
		tables = append(tables, wasmtest.Cat([]byte{funcRef, 1}, wasmtest.U32(least), wasmtest.U32(least+100)))
	}
	functions := func(n int) []byte {
		var list [][]byte
		for range n {
			list = append(list, wasmtest.U32(uint32(g.IntN(len(g.funcs)))))
		}
		return wasmtest.Count(list)
	}
	for range g.elems {
		elems = append(elems, wasmtest.Cat([]byte{1, 0}, functions(6)))
	}
	var every [][]byte // for ref.func every function has to be named somewhere
	for i := range g.funcs {
		every = append(every, wasmtest.U32(uint32(i)))
	}
	elems = append(elems, wasmtest.Cat([]byte{3, 0}, wasmtest.Count(every)),
		wasmtest.Cat([]byte{0}, wasmtest.I32Const(int32(g.IntN(3))), []byte{wasmtest.End}, functions(8)),
		wasmtest.Cat([]byte{4}, wasmtest.I32Const(11), []byte{wasmtest.End, 1, 0xd2}, wasmtest.U32(uint32(g.IntN(len(g.funcs)))), []byte{wasmtest.End}))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(g.Uint32())
		}
		return b
	}
	lengths := []int{40, 70_000}
	for i := range g.data {
		data = append(data, wasmtest.Cat([]byte{1}, wasmtest.Vec(random(lengths[i]))))
	}
	for range g.IntN(4) { // overlapping, too
		data = append(data, wasmtest.Cat([]byte{0}, wasmtest.I32Const(int32(g.IntN(100))), []byte{wasmtest.End}, wasmtest.Vec(random(g.IntN(60)))))
	}
	w := []byte(wasmtest.Header)
	section := func(id byte, content []byte) { w = append(w, wasmtest.Section(id, content)...) }
	section(1, wasmtest.Count(types))
	section(2, wasmtest.Count([][]byte{wasmtest.Cat(wasmtest.Name("env"), wasmtest.Name("mix"), []byte{0}, wasmtest.U32(uint32(g.funcs[0])))}))
	section(3, wasmtest.Count(funcs))
	section(4, wasmtest.Count(tables))
	section(5, []byte{1, 1, 3, 6})
	section(6, wasmtest.Count(globals))
	section(7, wasmtest.Count(exports))
	if starts {
		section(8, wasmtest.U32(uint32(start)))
	}
	section(9, wasmtest.Count(elems))
	section(12, wasmtest.U32(uint32(len(data))))
	section(10, wasmtest.Count(bodies))
	section(11, wasmtest.Count(data))
	out.wasm = w
	return out
}

func name(prefix byte, i int) string { return string([]byte{prefix, byte('0' + i)}) }

// function makes the body of function i.
func (g *generator) function(i int) []byte {
	t := g.types[g.funcs[i]]
	g.self, g.code, g.budget = i, nil, 10+g.IntN(60)
	g.locals = append(append([]byte{}, t[0]...), g.some(6)...)
	declared := len(t[0])
	g.labels = []target{{t[1]}}
	g.takeGas()
	if g.chance(20) { // about as many as have their checks outside
		g.emit(wasmtest.Repeat(27+g.IntN(8), wasmtest.Loop()...))
	}
	g.statements(1 + g.IntN(4))
	if g.chance(10) && len(t[1]) > 0 { // the function ends with a loop
		g.labels = append(g.labels, target{})
		g.emit([]byte{0x03}, g.blockType(nil, t[1]))
		g.takeGas()
		g.statements(1 + g.IntN(3))
		g.values(t[1])
		g.close()
	} else {
		g.values(t[1])
	}
	var groups [][]byte
	for _, l := range g.locals[declared:] {
		groups = append(groups, []byte{1, l})
	}
	return wasmtest.Sized(wasmtest.Cat(wasmtest.Count(groups), g.code, []byte{wasmtest.End}))
}

// takeGas takes one off the gas and traps if there is none.
func (g *generator) takeGas() {
	g.op(0x23, 0, 0x41, 1, wasmtest.I32Sub, 0x24, 0, 0x23, 0, 0x41, 0, 0x48, 0x04, 0x40, wasmtest.Unreachable, wasmtest.End)
}

func (g *generator) values(types []byte) {
	for _, t := range types {
		g.value(t, 3)
	}
}

// local is a local of type t, made if there is none.
func (g *generator) local(t byte) uint32 {
	var have []int
	for i, l := range g.locals {
		if l == t {
			have = append(have, i)
		}
	}
	if len(have) == 0 || len(g.locals) < 12 && g.chance(6) {
		g.locals = append(g.locals, t)
		return uint32(len(g.locals) - 1)
	}
	return uint32(have[g.IntN(len(have))])
}

// global is one of type t, or 0.
func (g *generator) global(t byte) uint32 {
	for range 3 {
		if i := g.IntN(len(g.globals)); g.globals[i] == t {
			return uint32(i + 1)
		}
	}
	return 0
}

func (g *generator) constant(t byte) []byte {
	small := []int64{0, 1, -1, 2, 7, 31, 64, 255, 65536, 1 << 31, -(1 << 31), 1 << 62}
	n := small[g.IntN(len(small))]
	switch t {
	case i32:
		return wasmtest.I32Const(int32(n))
	case i64:
		return wasmtest.I64Const(n)
	case f32:
		return []byte{0x43, 0, 0, byte(g.Uint32()), byte(g.Uint32()) & 0x7e}
	case f64:
		return wasmtest.F64Const(float64(n) / 4)
	case v128:
		out := []byte{0xfd, 0x0c}
		for range 16 {
			out = append(out, byte(g.Uint32()))
		}
		return out
	}
	return []byte{0xd0, t}
}

// operators are, for each type of result, opcodes and what they take.
var operators = map[byte][]struct {
	op   []byte
	args []byte
}{
	i32: ops(i32, "67 68 69 c0 c1 45", "i", "6a 6b 6c 6d 6e 6f 70 71 72 73 74 75 76 77 78 46 47 48 4a 4c 4e", "ii", "a7 50", "l", "51 53 57 5a", "ll",
		"a8 fc00 fc01", "f", "aa fc02 fc03", "d", "5b 5d", "ff", "61 64", "dd", "fd1b00 fd1503 fd5300 fd8301", "v"),
	i64: ops(i64, "79 7a 7b c2 c3 c4", "l", "7c 7d 7e 7f 80 81 82 83 84 85 86 87 88 89 8a", "ll", "ac ad", "i", "ae fc04 fc05", "f", "b0 fc06 fc07", "d", "fd1d01", "v"),
	f32: ops(f32, "8b 8c 8d 8e 8f 90 91", "f", "92 93 94 95 96 97", "ff", "b2 b3 be", "i", "b4 b5", "l", "b6", "d"),
	f64: ops(f64, "99 9a 9b 9c 9d 9e 9f", "d", "a0 a1 a2 a3 a4 a5", "dd", "b7 b8", "i", "b9 ba bf", "l", "bb", "f"),
	v128: ops(v128, "fdae01 fdb101 fdb501 fd6e fd71 fd4e fd50 fd51 fdd501 fd23 fd0d000102030405060708090a0b0c0d0e1f fdba01", "vv", "fd52", "vvv", "fd4d fd60 fdc001", "v", "fd11 fd0f", "i", "fd12", "l",
		"fd1c02", "vi", "fd6b fdab01", "vi"),
}

func ops(_ byte, spec ...string) (list []struct{ op, args []byte }) {
	types := map[byte]byte{'i': i32, 'l': i64, 'f': f32, 'd': f64, 'v': v128}
	digit := func(c byte) byte {
		if c >= 'a' {
			return c - 'a' + 10
		}
		return c - '0'
	}
	for i := 0; i < len(spec); i += 2 {
		var args []byte
		for _, c := range []byte(spec[i+1]) {
			args = append(args, types[c])
		}
		var op []byte
		for j := 0; j <= len(spec[i]); j += 2 {
			if j == len(spec[i]) || spec[i][j] == ' ' {
				list = append(list, struct{ op, args []byte }{op, args})
				op = nil
				j--
				continue
			}
			op = append(op, digit(spec[i][j])<<4|digit(spec[i][j+1]))
		}
	}
	return list
}

// address pushes an address that is mostly inside.
func (g *generator) address() {
	if g.chance(8) {
		g.value(i32, 2)
		return
	}
	g.value(i32, 1)
	g.emit(wasmtest.I32Const(0x1ffff), []byte{0x71})
}

// count pushes a length.
func (g *generator) count(most int32) {
	if g.chance(10) {
		g.value(i32, 1)
		return
	}
	g.emit(wasmtest.I32Const(int32(g.IntN(int(most)))))
}

func (g *generator) length() {
	if g.chance(3) {
		g.count(140_000) // several chunks
		return
	}
	g.count(50)
}

func (g *generator) entries() {
	if g.large && g.chance(3) {
		g.count(19_000)
		return
	}
	g.count(8)
}

// value pushes a value of type t.
func (g *generator) value(t byte, deep int) {
	g.budget--
	if deep <= 0 || g.budget <= 0 {
		if g.chance(2) {
			g.emit(wasmtest.LocalGet(g.local(t)))
			return
		}
		g.emit(g.constant(t))
		return
	}
	switch g.IntN(14) {
	case 0:
		g.emit(g.constant(t))
	case 1, 2:
		g.emit(wasmtest.LocalGet(g.local(t)))
	case 3:
		if i := g.global(t); i > 0 {
			g.emit([]byte{0x23}, wasmtest.U32(i))
			return
		}
		g.value(t, deep-1)
		g.emit([]byte{0x22}, wasmtest.U32(g.local(t)))
	case 4: // select
		g.value(t, deep-1)
		g.value(t, deep-1)
		g.value(i32, deep-1)
		if t == v128 || g.chance(2) {
			g.op(0x1c, 1, t)
		} else {
			g.op(0x1b)
		}
	case 5: // a block with a value
		g.labels = append(g.labels, target{[]byte{t}})
		g.op(0x02, t)
		g.statements(1)
		g.value(t, deep-1)
		if g.chance(2) {
			g.value(i32, deep-1)
			g.op(0x0d, 0)
		}
		g.close()
	case 6: // if with a value
		g.value(i32, deep-1)
		g.labels = append(g.labels, target{[]byte{t}})
		g.op(0x04, t)
		g.value(t, deep-1)
		g.op(0x05)
		g.value(t, deep-1)
		g.close()
	case 7:
		if f := g.callee([]byte{t}); f >= 0 {
			g.call(f, false)
			return
		}
		fallthrough
	case 8:
		loads := map[byte][]byte{i32: {0x28, 0x2c, 0x2d, 0x2e, 0x2f}, i64: {0x29, 0x30, 0x35}, f32: {0x2a}, f64: {0x2b}}
		g.address()
		if t == v128 {
			g.op(0xfd, 0, 0, 4)
			return
		}
		g.op(g.one(loads[t]), 0, byte(g.IntN(100)))
	case 9:
		switch {
		case t == i32 && g.chance(2):
			switch g.IntN(5) {
			case 0:
				g.op(0x3f, 0)
			case 1:
				g.emit(wasmtest.I32Const(int32(g.IntN(3))), []byte{0x40, 0})
			case 2:
				g.op(0xfc, 0x10, byte(g.IntN(g.tables)))
			case 3:
				g.op(0xd2)
				g.emit(wasmtest.U32(uint32(g.IntN(len(g.funcs)))), wasmtest.I32Const(int32(g.IntN(4))), []byte{0xfc, 0x0f, byte(g.IntN(g.tables))})
			default:
				g.entries()
				g.op(0x25, byte(g.IntN(g.tables)), 0xd1)
			}
		default:
			g.value(t, deep-1)
		}
	default:
		o := operators[t][g.IntN(len(operators[t]))]
		for _, a := range o.args {
			g.value(a, deep-1)
		}
		g.op(o.op...)
	}
}

func (g *generator) close() {
	g.op(wasmtest.End)
	g.labels = g.labels[:len(g.labels)-1]
}

// callee is a function with these results, or -1.
func (g *generator) callee(results []byte) int {
	for range 4 {
		if f := g.IntN(len(g.funcs)); string(g.types[g.funcs[f]][1]) == string(results) {
			return f
		}
	}
	return -1
}

// call calls function f, or one of its type through a table.
func (g *generator) call(f int, tail bool) {
	t := g.funcs[f]
	for _, p := range g.types[t][0] {
		g.value(p, 1)
	}
	op := byte(0x10)
	if tail {
		op = 0x12
	}
	if g.chance(4) {
		g.entries()
		g.emit([]byte{op + 1}, wasmtest.U32(uint32(t)), []byte{byte(g.IntN(g.tables))})
		return
	}
	g.emit([]byte{op}, wasmtest.U32(uint32(f)))
}

// branch is a label, counted from the inside.
func (g *generator) branch() (label int, types []byte) {
	label = g.IntN(len(g.labels))
	return label, g.labels[len(g.labels)-1-label].types
}

func (g *generator) drop(types []byte) {
	for range types {
		g.op(0x1a)
	}
}

func (g *generator) statements(n int) {
	for range n {
		if g.budget <= 0 {
			return
		}
		g.statement()
	}
}

func (g *generator) statement() {
	g.budget--
	switch g.IntN(22) {
	case 0, 1:
		t := g.one(numeric)
		g.value(t, 3)
		g.emit(wasmtest.LocalSet(g.local(t)))
	case 2:
		t := g.one(numeric)
		g.value(t, 3)
		if i := g.global(t); i > 0 {
			g.emit([]byte{0x24}, wasmtest.U32(i))
		} else {
			g.op(0x1a)
		}
	case 3:
		g.address()
		switch t := g.one([]byte{i32, i64, v128}); t {
		case v128:
			g.value(t, 2)
			g.op(0xfd, 0x0b, 0, 0)
		case i32:
			g.value(t, 2)
			g.op(g.one([]byte{0x36, 0x3a, 0x3b}), 0, byte(g.IntN(100)))
		default:
			g.value(t, 2)
			g.op(g.one([]byte{0x37, 0x3c, 0x3d, 0x3e}), 0, byte(g.IntN(100)))
		}
	case 4, 5: // if, with one arm or two
		g.value(i32, 2)
		g.labels = append(g.labels, target{})
		g.op(0x04, 0x40)
		g.statements(1 + g.IntN(3))
		if g.chance(2) {
			g.op(0x05)
			g.statements(1 + g.IntN(3))
		}
		g.close()
	case 6, 7:
		g.loop()
	case 8: // a block, perhaps with parameters and results
		params, results := g.some(2), g.some(3)
		g.values(params)
		g.labels = append(g.labels, target{results})
		g.emit([]byte{0x02}, wasmtest.S64(int64(g.typeIndex(params, results))))
		g.drop(params)
		g.statements(1 + g.IntN(3))
		g.values(results)
		g.close()
		g.drop(results)
	case 9, 10: // br_if
		label, types := g.branch()
		g.values(types)
		g.value(i32, 2)
		g.emit([]byte{0x0d}, wasmtest.U32(uint32(label)))
		g.drop(types)
	case 11: // br_table
		label, types := g.branch()
		labels := [][]byte{}
		for range g.IntN(5) {
			if l, t := g.branch(); string(t) == string(types) {
				labels = append(labels, wasmtest.U32(uint32(l)))
			}
		}
		g.op(0x02, 0x40)
		g.labels = append(g.labels, target{})
		g.values(types)
		g.value(i32, 2)
		g.op(0x0e)
		for i := range labels {
			labels[i] = wasmtest.U32(uint32(labels[i][0]) + 1)
		}
		g.emit(wasmtest.Count(labels), wasmtest.U32(uint32(label+1)))
		g.dead()
		g.close()
	case 12: // leave
		g.op(0x02, 0x40)
		g.labels = append(g.labels, target{})
		g.value(i32, 1)
		g.op(0x0d, 0)
		results := g.types[g.funcs[g.self]][1]
		switch f := g.callee(results); {
		case g.chance(2):
			label, types := g.branch()
			g.values(types)
			g.emit(wasmtest.Br(uint32(label)))
		case f >= 0 && g.chance(2):
			g.call(f, true)
		case g.chance(4):
			g.op(wasmtest.Unreachable)
		default:
			g.values(results)
			g.op(wasmtest.Return)
		}
		g.dead()
		g.close()
	case 13, 14:
		f := g.IntN(len(g.funcs))
		g.call(f, false)
		g.drop(g.types[g.funcs[f]][1])
	case 15:
		g.address()
		if g.chance(2) {
			g.address()
			g.length()
			g.op(0xfc, 0x0a, 0, 0)
		} else {
			g.value(i32, 1)
			g.length()
			g.op(0xfc, 0x0b, 0)
		}
	case 16:
		segment := byte(g.IntN(g.data))
		g.address()
		g.count(5)
		g.length()
		g.op(0xfc, 0x08, segment, 0)
		if g.chance(12) {
			g.op(0xfc, 0x09, segment)
		}
	case 17:
		g.entries()
		g.emit([]byte{0xd2}, wasmtest.U32(uint32(g.IntN(len(g.funcs)))), []byte{0x26, byte(g.IntN(g.tables))})
	case 18:
		g.entries()
		g.entries()
		g.entries()
		g.op(0xfc, 0x0e, byte(g.IntN(g.tables)), byte(g.IntN(g.tables)))
	case 19:
		g.entries()
		g.emit([]byte{0xd2}, wasmtest.U32(uint32(g.IntN(len(g.funcs)))))
		g.entries()
		g.op(0xfc, 0x11, byte(g.IntN(g.tables)))
	case 20:
		segment := byte(g.IntN(g.elems))
		g.entries()
		g.count(3)
		g.count(5)
		g.op(0xfc, 0x0c, segment, byte(g.IntN(g.tables)))
		if g.chance(12) {
			g.op(0xfc, 0x0d, segment)
		}
	case 21:
		g.op(wasmtest.Nop)
	}
}

// loop writes a loop, which may have parameters and results, and is left at its end, or by branches alone.
func (g *generator) loop() {
	n := g.local(i32)
	g.emit(wasmtest.I32Const(int32(1+g.IntN(6))), wasmtest.LocalSet(n))
	var params, results []byte
	if g.chance(2) {
		results = g.some(3)
		if g.chance(4) {
			results = append(results, funcRef)
		}
	}
	if g.chance(4) {
		params = g.some(2)
	}
	g.values(params)
	g.labels = append(g.labels, target{params})
	g.emit([]byte{0x03}, g.blockType(params, results))
	g.drop(params)
	g.takeGas()
	g.statements(1 + g.IntN(3))
	if g.chance(8) { // those who are not left by then go on for ever
		g.values(params)
		g.emit(wasmtest.Br(0))
		g.dead()
	} else {
		g.values(params)
		g.emit(wasmtest.LocalGet(n), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22}, wasmtest.U32(n), []byte{0x0d, 0})
		g.drop(params)
		switch {
		case g.chance(10):
			g.values(g.types[g.funcs[g.self]][1])
			g.op(wasmtest.Return)
			g.dead()
		default:
			for _, t := range results {
				if t == funcRef {
					g.value(t, 0)
				} else {
					g.value(t, 2)
				}
			}
		}
	}
	g.close()
	g.drop(results)
}

// blockType is how a block says its type.
func (g *generator) blockType(params, results []byte) []byte {
	switch {
	case len(params) == 0 && len(results) == 0:
		return []byte{0x40}
	case len(params) == 0 && len(results) == 1:
		return results
	}
	return wasmtest.S64(int64(g.typeIndex(params, results)))
}

// dead writes code that cannot be reached.
func (g *generator) dead() {
	switch g.IntN(5) {
	case 0:
		g.statement()
	case 1: // takes values that are not there
		g.op(0xfc, 0x0a, 0, 0, 0x1a, 0x6a, 0x1a)
	case 2:
		g.op(0x0c, 0)
	}
}
