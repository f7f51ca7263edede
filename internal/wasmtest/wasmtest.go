// Package wasmtest builds small WebAssembly binaries by code, for tests. It checks nothing: what a test describes
// is what it gets, valid or not.
package wasmtest

import (
	"encoding/binary"
	"math"
)

// Value types (core specification, 5.3).
const (
	I32       = 0x7f
	I64       = 0x7e
	F32       = 0x7d
	F64       = 0x7c
	V128      = 0x7b
	FuncRef   = 0x70
	ExternRef = 0x6f
)

// Type is a function's type.
type Type struct{ Params, Results []byte }

// Import is an imported function.
type Import struct {
	Module, Name string
	Type         Type
}

// Func is a function defined in the module. It has the index of its place in Module.Funcs after all imports.
type Func struct {
	Name   string // in the name section; empty for none
	Export string // empty: not exported
	Type   Type
	Locals []byte
	Body   []byte // without the last end
}

// Data is an active data segment of memory 0.
type Data struct {
	Offset uint32
	Bytes  []byte
}

// Module describes a binary. The zero value is an empty module.
type Module struct {
	Imports []Import
	Funcs   []Func
	// Memory is {minimum} or {minimum, maximum} in pages, exported as "memory"; nil for none.
	Memory []uint32
	Table  []uint32 // {minimum} or {minimum, maximum}; functions
	// Globals are defined here, and mutable.
	Globals []Global
	Start   *uint32 // function index
	// Elements are passive segments of function indices, and Passive are data segments after those of Data.
	Elements [][]uint32
	Passive  [][]byte
	Data     []Data
	Custom   []Custom // at the end
}

// Global is a mutable global.
type Global struct {
	Type   byte
	Init   []byte // a constant expression without its end
	Export string // empty: not exported
}

// Custom is a custom section.
type Custom struct {
	Name    string
	Content []byte
}

// Header is the preamble of a binary.
const Header = "\x00asm\x01\x00\x00\x00"

// Bytes is the binary.
func (m *Module) Bytes() []byte {
	var types [][]byte
	index := func(t Type) uint32 {
		enc := Cat([]byte{0x60}, Vec(t.Params), Vec(t.Results))
		for i, have := range types {
			if string(have) == string(enc) {
				return uint32(i)
			}
		}
		types = append(types, enc)
		return uint32(len(types) - 1)
	}
	var imports, funcs, exports, bodies, names [][]byte
	for _, im := range m.Imports {
		imports = append(imports, Cat(Name(im.Module), Name(im.Name), []byte{0}, U32(index(im.Type))))
	}
	for i, f := range m.Funcs {
		n := uint32(len(m.Imports) + i)
		funcs = append(funcs, U32(index(f.Type)))
		if f.Export != "" {
			exports = append(exports, Cat(Name(f.Export), []byte{0}, U32(n)))
		}
		if f.Name != "" {
			names = append(names, Cat(U32(n), Name(f.Name)))
		}
		var locals [][]byte
		for _, l := range f.Locals {
			locals = append(locals, []byte{1, l})
		}
		bodies = append(bodies, Sized(Cat(Count(locals), f.Body, []byte{0x0b})))
	}
	out := []byte(Header)
	section := func(id byte, items [][]byte) {
		if len(items) > 0 {
			out = append(out, Section(id, Count(items))...)
		}
	}
	section(1, types)
	section(2, imports)
	section(3, funcs)
	if m.Table != nil {
		section(4, [][]byte{Cat([]byte{FuncRef}, limits(m.Table))})
	}
	if m.Memory != nil {
		section(5, [][]byte{limits(m.Memory)})
		exports = append(exports, Cat(Name("memory"), []byte{2, 0}))
	}
	var globals [][]byte
	for i, g := range m.Globals {
		globals = append(globals, Cat([]byte{g.Type, 1}, g.Init, []byte{End}))
		if g.Export != "" {
			exports = append(exports, Cat(Name(g.Export), []byte{3}, U32(uint32(i))))
		}
	}
	section(6, globals)
	section(7, exports)
	if m.Start != nil {
		out = append(out, Section(8, U32(*m.Start))...)
	}
	var elements [][]byte
	for _, e := range m.Elements {
		var indices [][]byte
		for _, n := range e {
			indices = append(indices, U32(n))
		}
		elements = append(elements, Cat([]byte{1, 0}, Count(indices)))
	}
	section(9, elements)
	if len(m.Passive) > 0 {
		out = append(out, Section(12, U32(uint32(len(m.Data)+len(m.Passive))))...)
	}
	section(10, bodies)
	var data [][]byte
	for _, d := range m.Data {
		data = append(data, Cat([]byte{0}, I32Const(int32(d.Offset)), []byte{0x0b}, Vec(d.Bytes)))
	}
	for _, p := range m.Passive {
		data = append(data, Cat([]byte{1}, Vec(p)))
	}
	section(11, data)
	if len(names) > 0 {
		out = append(out, Section(0, Cat(Name("name"), []byte{1}, Sized(Count(names))))...)
	}
	for _, c := range m.Custom {
		out = append(out, Section(0, Cat(Name(c.Name), c.Content))...)
	}
	return out
}

func limits(l []uint32) []byte {
	if len(l) == 1 {
		return Cat([]byte{0}, U32(l[0]))
	}
	return Cat([]byte{1}, U32(l[0]), U32(l[1]))
}

// Section is a section with its id and length.
func Section(id byte, content []byte) []byte { return Cat([]byte{id}, Sized(content)) }

// Sized puts the length before b.
func Sized(b []byte) []byte { return Cat(U32(uint32(len(b))), b) }

// Vec is a vector of bytes.
func Vec(b []byte) []byte { return Sized(b) }

// Name is a name.
func Name(s string) []byte { return Sized([]byte(s)) }

// Count puts the number of items before them.
func Count(items [][]byte) []byte { return Cat(U32(uint32(len(items))), Cat(items...)) }

// Cat joins pieces.
func Cat(pieces ...[]byte) []byte {
	var out []byte
	for _, p := range pieces {
		out = append(out, p...)
	}
	return out
}

// Repeat is b, n times.
func Repeat(n int, b ...byte) []byte {
	out := make([]byte, 0, n*len(b))
	for range n {
		out = append(out, b...)
	}
	return out
}

// U32 is an unsigned LEB128 integer.
func U32(v uint32) []byte { return binary.AppendUvarint(nil, uint64(v)) }

// S64 is a signed LEB128 integer.
func S64(v int64) []byte {
	var out []byte
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(out, c)
		}
		out = append(out, c|0x80)
	}
}

// Instructions that take an immediate.

// I32Const pushes v.
func I32Const(v int32) []byte { return Cat([]byte{0x41}, S64(int64(v))) }

// I64Const pushes v.
func I64Const(v int64) []byte { return Cat([]byte{0x42}, S64(v)) }

// F64Const pushes v.
func F64Const(v float64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{0x44}, math.Float64bits(v))
}

// LocalGet pushes a local.
func LocalGet(i uint32) []byte { return Cat([]byte{0x20}, U32(i)) }

// LocalSet pops a local.
func LocalSet(i uint32) []byte { return Cat([]byte{0x21}, U32(i)) }

// Call calls function i.
func Call(i uint32) []byte { return Cat([]byte{0x10}, U32(i)) }

// GlobalGet pushes a global.
func GlobalGet(i uint32) []byte { return Cat([]byte{0x23}, U32(i)) }

// GlobalSet pops a global.
func GlobalSet(i uint32) []byte { return Cat([]byte{0x24}, U32(i)) }

// Br branches to the label that is i blocks out.
func Br(i uint32) []byte { return Cat([]byte{0x0c}, U32(i)) }

// Load is i32.load at the popped address plus offset.
func Load(offset uint32) []byte { return Cat([]byte{0x28, 2}, U32(offset)) }

// Store is i32.store at the popped address plus offset.
func Store(offset uint32) []byte { return Cat([]byte{0x36, 2}, U32(offset)) }

// Loop is a loop without parameters and results around body.
func Loop(body ...[]byte) []byte { return Cat([]byte{0x03, 0x40}, Cat(body...), []byte{End}) }

// Block is a block without parameters and results around body.
func Block(body ...[]byte) []byte { return Cat([]byte{0x02, 0x40}, Cat(body...), []byte{End}) }

// Opcodes without immediates.
const (
	Unreachable = 0x00
	Nop         = 0x01
	End         = 0x0b
	Return      = 0x0f
	Drop        = 0x1a
	I32Eqz      = 0x45
	I32Add      = 0x6a
	I32Sub      = 0x6b
	I32DivS     = 0x6d
)

// MemoryGrow is memory.grow.
func MemoryGrow() []byte { return []byte{0x40, 0} }

// MemorySize is memory.size.
func MemorySize() []byte { return []byte{0x3f, 0} }

// Task is the smallest task by the SDK's ABI (sdk/ABI.md, version 1): it writes a byte to each of pages pages of 4 KiB, and answers every request with
// response, which is laid out as that document says.
func Task(response []byte, pages uint32) []byte {
	const buffer, capacity, answer, touched = 4 << 10, 4 << 10, 16 << 10, 64 << 10
	var touch []byte
	for i := range pages {
		touch = append(touch, Cat(I32Const(int32(touched+i*4096)), I32Const(1), Store(0))...)
	}
	return (&Module{
		Memory: []uint32{(touched+pages*4096)>>16 + 1},
		Data:   []Data{{Offset: answer, Bytes: response}},
		Funcs: []Func{
			{Export: "ripstop_buffer", Type: Type{Results: []byte{I64}}, Body: I64Const(buffer<<32 | capacity)},
			{Export: "ripstop_handle", Type: Type{Params: []byte{I32}, Results: []byte{I64}}, Body: Cat(touch, I64Const(answer<<32|int64(len(response))))},
		},
	}).Bytes()
}

// TaskResponse is a response of a task: a status, one header field, and a body.
func TaskResponse(status uint32, name, value, body string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, status)
	b = binary.LittleEndian.AppendUint32(b, 1)
	for _, s := range []string{name, value, body} {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	return b
}
