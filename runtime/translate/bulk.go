package translate

import (
	"encoding/binary"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// operation is an instruction that a function of ours stands for: it charges by length and works in chunks.
type operation struct {
	op   module.Opcode
	a, b uint32 // its immediates
}

// helper is the index of the function that does an operation.
func (t *translation) helper(op module.Opcode, a, b uint32) uint32 {
	o := operation{op, a, b}
	i, ok := t.helpers[o]
	if !ok {
		i = t.add(t.bulk(o))
		t.helpers[o] = i
	}
	return i
}

// routine is a function that translation adds.
type routine struct {
	name    string
	typ     uint32
	locals  []byte
	code    code
	indexed uint32
}

// add adds a function to the module.
func (t *translation) add(r routine) uint32 {
	r.indexed = t.imports + 1 + uint32(len(t.source.Bodies)) + uint32(len(t.routines))
	t.routines = append(t.routines, r)
	return r.indexed
}

func (r *routine) entry() []byte {
	content := append(append([]byte{}, r.locals...), r.code...)
	return append(binary.AppendUvarint(nil, uint64(len(content))), content...)
}

// checker is the function that calls the host.
func (t *translation) checker() routine {
	r := routine{name: Prefix + "check", typ: t.typeIndex(nil, nil), locals: []byte{0}}
	r.code.index(module.OpGlobalGet, t.fuel)
	r.code.index(module.OpGlobalGet, t.depth)
	r.code.index(module.OpCall, t.tick)
	r.code.index(module.OpGlobalSet, t.fuel)
	r.code.op(module.OpEnd)
	return r
}

// spend charges local n, shifted right, and checks.
func (c *code) spend(g *added, n uint32, shift int32) {
	c.index(module.OpGlobalGet, g.fuel)
	c.get(n)
	if shift > 0 {
		c.i32(shift)
		c.op(opI32ShrU)
	}
	c.op(opI64ExtendU32)
	c.op(module.OpI64Sub)
	c.index(module.OpGlobalSet, g.fuel)
	c.check(g, false)
}

// bulk writes the function for an operation. Up to a chunk is charged and then done by the original instruction, which traps as
// it would. More is first held against the bounds: if anything is outside, the original instruction gets the original operands
// and traps; else chunks are charged and done one by one, in the direction that overlapping allows.
func (t *translation) bulk(o operation) routine {
	switch o.op {
	case module.OpMemoryGrow, module.OpTableGrow:
		return t.grow(o)
	}
	const dst, src, n, chunk = 0, 1, 2, 3 // for fills, src is the value
	var c code
	second, advance, tables := i32, true, true
	largest, shift := int32(chunkEntries), int32(0)
	switch o.op {
	case module.OpMemoryCopy, module.OpMemoryFill, module.OpMemoryInit:
		largest, shift, tables = chunkBytes, bytesShift, false
		advance = o.op != module.OpMemoryFill
	case module.OpTableFill:
		second, advance = t.tableType(o.a), false
	}
	original := func(count uint32) { // with offsets on the stack
		c.get(count)
		c.two(o.op, o.a, o.b)
	}
	if tables {
		c.mark(&t.added)
	}

	c.get(n)
	c.i32(largest)
	c.op(opI32LeU)
	c.block(module.OpIf, module.BlockEmpty)
	c.spend(&t.added, n, shift)
	c.get(dst)
	c.get(src)
	original(n)
	c.op(module.OpReturn)
	c.op(module.OpEnd)

	end := func(offset uint32, limit func()) { // whether offset + n is past the limit
		c.get(offset)
		c.op(opI64ExtendU32)
		c.get(n)
		c.op(opI64ExtendU32)
		c.op(module.OpI64Add)
		limit()
		c.op(opI64GtU)
	}
	memory := func() {
		c.op(module.OpMemorySize)
		c.op(opI64ExtendU32)
		c.i64(16)
		c.op(opI64Shl)
	}
	table := func(i uint32) func() {
		return func() {
			c.two(module.OpTableSize, i, 0)
			c.op(opI64ExtendU32)
		}
	}
	length := func(n int) func() { return func() { c.i64(int64(n)) } }
	switch o.op {
	case module.OpMemoryCopy:
		end(dst, memory)
		end(src, memory)
	case module.OpMemoryFill:
		end(dst, memory)
		c.i32(0)
	case module.OpMemoryInit:
		end(dst, memory)
		end(src, length(t.dataLength(o.a)))
	case module.OpTableCopy:
		end(dst, table(o.a))
		end(src, table(o.b))
	case module.OpTableFill:
		end(dst, table(o.a))
		c.i32(0)
	case module.OpTableInit:
		end(dst, table(o.b))
		end(src, length(t.elementLength(o.a)))
	}
	c.op(opI32Or)
	c.block(module.OpIf, module.BlockEmpty)
	c.get(dst)
	c.get(src)
	original(n)
	c.op(module.OpUnreachable)
	c.op(module.OpEnd)

	least := func() { // chunk = min(n, largest)
		c.get(n)
		c.i32(largest)
		c.get(n)
		c.i32(largest)
		c.op(opI32LtU)
		c.op(module.OpSelect)
		c.set(chunk)
	}
	add := func(local, by uint32, op module.Opcode) {
		c.get(local)
		c.get(by)
		c.op(op)
		c.set(local)
	}
	again := func() {
		c.get(n)
		c.index(module.OpBrIf, 0)
		c.op(module.OpEnd)
	}
	if o.op == module.OpMemoryCopy || o.op == module.OpTableCopy {
		// What is copied upwards may overlap what is still to be read: the end goes first.
		c.get(dst)
		c.get(src)
		c.op(opI32GtU)
		c.block(module.OpIf, module.BlockEmpty)
		c.block(module.OpLoop, module.BlockEmpty)
		least()
		c.spend(&t.added, chunk, shift)
		add(n, chunk, module.OpI32Sub)
		c.get(dst)
		c.get(n)
		c.op(module.OpI32Add)
		c.get(src)
		c.get(n)
		c.op(module.OpI32Add)
		original(chunk)
		again()
		c.op(module.OpReturn)
		c.op(module.OpEnd)
	}
	c.block(module.OpLoop, module.BlockEmpty)
	least()
	c.spend(&t.added, chunk, shift)
	c.get(dst)
	c.get(src)
	original(chunk)
	add(dst, chunk, module.OpI32Add)
	if advance {
		add(src, chunk, module.OpI32Add)
	}
	add(n, chunk, module.OpI32Sub)
	again()
	c.op(module.OpEnd)
	return routine{name: Prefix + bulkNames[o.op], typ: t.typeIndex([]hostcall.ValueType{i32, second, i32}, nil), locals: []byte{1, 1, byte(i32)}, code: c}
}

// grow writes the function for memory.grow or table.grow: it charges for what was added, so that a failure costs little.
func (t *translation) grow(o operation) routine {
	var c code
	params, n := []hostcall.ValueType{i32}, uint32(0)
	if o.op == module.OpTableGrow {
		params, n = []hostcall.ValueType{t.tableType(o.a), i32}, 1
		c.mark(&t.added)
		c.get(0)
	}
	result := n + 1
	c.get(n)
	c.two(o.op, o.a, 0)
	c.index(module.OpLocalTee, result)
	c.i32(-1)
	c.op(opI32Ne)
	c.block(module.OpIf, module.BlockEmpty)
	if o.op == module.OpMemoryGrow {
		c.get(n)
		c.i32(growCost)
		c.op(module.OpI32Mul)
		c.set(n)
	}
	c.spend(&t.added, n, 0)
	c.op(module.OpEnd)
	c.get(result)
	c.op(module.OpEnd)
	return routine{name: Prefix + bulkNames[o.op], typ: t.typeIndex(params, []hostcall.ValueType{i32}), locals: []byte{1, 1, byte(i32)}, code: c}
}

var bulkNames = map[module.Opcode]string{
	module.OpMemoryGrow: "memory.grow", module.OpMemoryCopy: "memory.copy", module.OpMemoryFill: "memory.fill", module.OpMemoryInit: "memory.init",
	module.OpTableGrow: "table.grow", module.OpTableCopy: "table.copy", module.OpTableFill: "table.fill", module.OpTableInit: "table.init",
}

func (t *translation) tableType(i uint32) hostcall.ValueType { return t.source.Tables[i].Type }

// dataLength is how many bytes memory.init can take from a segment: an active one is dropped from the beginning.
func (t *translation) dataLength(i uint32) int {
	if d := &t.source.Data[i]; !d.Active() {
		return len(d.Bytes)
	}
	return 0
}

// elementLength is how many entries table.init can take from a segment: only passive ones have any.
func (t *translation) elementLength(i uint32) int {
	if e := &t.source.Elements[i]; e.Flags&3 == 1 {
		return e.Len
	}
	return 0
}
