package translate

import (
	"encoding/binary"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// code is a function body being written.
type code []byte

func (c *code) op(op module.Opcode) {
	in := module.Instruction{Op: op}
	*c = in.Append(*c)
}

func (c *code) index(op module.Opcode, i uint32) {
	*c = binary.AppendUvarint(append(*c, byte(op)), uint64(i))
}

func (c *code) two(op module.Opcode, a, b uint32) {
	in := module.Instruction{Op: op, A: uint64(a), B: uint64(b)}
	*c = in.Append(*c)
}

func (c *code) get(local uint32) { c.index(module.OpLocalGet, local) }
func (c *code) set(local uint32) { c.index(module.OpLocalSet, local) }

func (c *code) i32(v int32) { *c = module.AppendInt(append(*c, byte(module.OpI32Const)), int64(v)) }
func (c *code) i64(v int64) { *c = module.AppendInt(append(*c, byte(module.OpI64Const)), v) }

// block begins a block, loop or if of a type.
func (c *code) block(op module.Opcode, t int64) { *c = module.AppendInt(append(*c, byte(op)), t) }

// These are the instructions that only this file needs.
const (
	opI32Ne        module.Opcode = 0x47
	opI32LtS       module.Opcode = 0x48
	opI32LtU       module.Opcode = 0x49
	opI32GtU       module.Opcode = 0x4b
	opI32LeU       module.Opcode = 0x4d
	opI32GeU       module.Opcode = 0x4f
	opI64LtS       module.Opcode = 0x53
	opI64GtU       module.Opcode = 0x56
	opI64GeU       module.Opcode = 0x5a
	opI32And       module.Opcode = 0x71
	opI64And       module.Opcode = 0x83
	opI32Or        module.Opcode = 0x72
	opI32ShrU      module.Opcode = 0x76
	opI64Or        module.Opcode = 0x84
	opI64Shl       module.Opcode = 0x86
	opI64ExtendU32 module.Opcode = 0xad
)

// add adds n to a global.
func (c *code) add(global uint32, n int64) {
	c.index(module.OpGlobalGet, global)
	if n < 0 {
		c.i64(-n)
		c.op(module.OpI64Sub)
	} else {
		c.i64(n)
		c.op(module.OpI64Add)
	}
	c.index(module.OpGlobalSet, global)
}

// names of what translation adds to a module.
type added struct {
	fuel, depth, dirty uint32 // globals
	tick, check        uint32 // functions
}

// check calls the host if the fuel is used up; with depth, also if the stack is.
func (c *code) check(g *added, depth bool) {
	c.index(module.OpGlobalGet, g.fuel)
	if depth {
		c.index(module.OpGlobalGet, g.depth)
		c.op(opI64Or) // negative if one of them is
	}
	c.i64(0)
	c.op(opI64LtS)
	c.block(module.OpIf, module.BlockEmpty)
	c.index(module.OpCall, g.check)
	c.op(module.OpEnd)
}

// function writes one function of the module.
type function struct {
	*translation
	out     code
	regions []region // that are still to be charged
	tracked bool     // its frame is taken off the depth
	frame   int64    // bytes
	since   uint32   // fuel charged on the longest way from the last check to here
	labels  []label
	apart   int   // loops so far whose check is apart
	splits  []int // as in analysis, those still to come
}

// label is an open block: how much fuel was charged on the longest way to its end, and before it.
type label struct {
	op            module.Opcode
	since, before uint32
	extra         int    // blocks that were added around it and those around it
	refund        uint32 // of a loop whose check is apart: what its head charges; 0 of others
}

// Bytes of a frame: what engines keep for each, and for each value in it.
const (
	frameBytes = 64
	valueBytes = 8
	// largeFrame is the frame above which a function that calls no other is counted, too.
	largeFrame = 1 << 10
)

// write translates a function whose analysis is a.
func (f *function) write(body *module.Body, a *analysis, t module.FuncType, values uint64) {
	f.out, f.regions, f.labels, f.apart = append(f.out[:0], body.Locals...), a.regions, f.labels[:0], 0
	f.frame = frameBytes + valueBytes*int64(values+uint64(a.highest))
	f.tracked = a.calls || f.frame > largeFrame

	f.splits = a.splits
	first := &f.regions[0]
	f.regions = f.regions[1:]
	f.out.add(f.fuel, -int64(first.cost))
	f.since = checkEvery - returnCost + first.cost // whoever called may have gone that far
	if f.tracked {
		f.out.add(f.depth, -f.frame)
	}
	if f.tracked || a.tails || f.since > checkEvery {
		f.out.check(&f.added, f.tracked)
		f.since = 0
	}
	if f.tracked {
		f.out.block(module.OpBlock, f.resultType(t)) // what returns branches here, and the depth is given back
	}
	it := module.NewInstructions(body.Code, body.Offset, 1<<30)
	for it.Next() {
		for len(f.regions) > 0 && f.regions[0].at <= it.Offset {
			f.charge(&f.regions[0])
			f.regions = f.regions[1:]
		}
		f.instruction(it)
	}
}

func (f *function) charge(r *region) {
	if r.cost == 0 {
		return
	}
	f.out.add(f.fuel, -int64(r.cost))
	if f.since += r.cost; !r.loop && f.since <= checkEvery {
		return
	}
	f.since = 0
	if n := len(f.labels); r.loop && n > 0 && f.labels[n-1].refund > 0 {
		f.out.index(module.OpGlobalGet, f.fuel)
		f.out.i64(0)
		f.out.op(opI64LtS)
		f.out.index(module.OpBrIf, 1)
		return
	}
	f.out.check(&f.added, false)
}

// branch notes a way to a label.
func (f *function) branch(to uint64) {
	if to < uint64(len(f.labels)) {
		l := &f.labels[len(f.labels)-1-int(to)]
		l.since = max(l.since, f.since)
	}
}

// called notes that code of the module ran, which checked at least at its entry.
func (f *function) called() { f.since = max(f.since, checkEvery-returnCost) }

// instruction writes one instruction. Each is encoded anew, so that an engine that reads integers of more bytes than they need in its
// own way sees what was translated.
func (f *function) instruction(it *module.Instructions) {
	in := &it.Instruction
	if len(f.splits) > 0 && f.splits[0] == in.Offset {
		f.splits = f.splits[1:]
		f.split(in.Op)
	}
	switch in.Op {
	case module.OpLoop:
		if r := f.head(in.End); r != nil {
			f.loop(in.Block, r)
			return
		}
		f.labels = append(f.labels, f.opened(in.Op))
	case module.OpBlock, module.OpIf:
		f.labels = append(f.labels, f.opened(in.Op))
	case module.OpElse:
		l := &f.labels[len(f.labels)-1]
		l.op, l.since = module.OpElse, max(l.since, f.since)
		f.since = l.before
	case module.OpEnd:
		if it.Depth == 0 {
			if f.tracked {
				f.out.op(module.OpEnd)
				f.out.add(f.depth, f.frame)
			}
			break
		}
		l := f.labels[len(f.labels)-1]
		f.labels = f.labels[:len(f.labels)-1]
		if f.since = max(f.since, l.since); l.op == module.OpIf {
			f.since = max(f.since, l.before)
		}
		if l.refund > 0 {
			f.out.op(module.OpEnd)
			f.turned(l.refund)
			return
		}
	case module.OpBr, module.OpBrIf:
		f.branch(in.A)
		f.out.index(in.Op, f.target(uint32(in.A)))
		return
	case module.OpBrTable:
		pos := 0
		for range in.Labels {
			f.branch(uint64(in.Label(&pos)))
		}
		f.branch(in.A)
		f.out = in.AppendLabels(f.out, f.target)
		return
	case module.OpReturn:
		if f.tracked {
			f.out.index(module.OpBr, f.target(uint32(it.Depth-1)))
			return
		}
	case module.OpCall:
		f.out.index(module.OpCall, f.moved(uint32(in.A)))
		if in.A >= uint64(f.imports) {
			f.called()
		}
		return
	case module.OpCallIndirect:
		f.called()
	case module.OpReturnCall, module.OpReturnCallIndirect:
		if f.tracked {
			f.out.add(f.depth, f.frame)
		}
		if in.Op == module.OpReturnCall {
			f.out.index(module.OpReturnCall, f.moved(uint32(in.A)))
			return
		}
	case module.OpRefFunc:
		f.out.index(module.OpRefFunc, f.moved(uint32(in.A)))
		return
	case module.OpMemoryGrow, module.OpMemoryCopy, module.OpMemoryFill, module.OpMemoryInit,
		module.OpTableCopy, module.OpTableFill, module.OpTableInit, module.OpTableGrow:
		f.usesData = f.usesData || in.Op == module.OpMemoryInit
		f.out.index(module.OpCall, f.helper(in.Op, uint32(in.A), uint32(in.B)))
		return
	case module.OpTableSet, module.OpElemDrop, module.OpDataDrop:
		f.usesData = f.usesData || in.Op == module.OpDataDrop
		f.out.mark(&f.added)
	}
	f.out = in.Append(f.out)
}

// mark sets the dirty mark.
func (c *code) mark(g *added) {
	c.i32(1)
	c.index(module.OpGlobalSet, g.dirty)
}

// resultType is the type of a block that leaves what a function of type t returns.
func (t *translation) resultType(f module.FuncType) int64 {
	switch len(f.Results) {
	case 0:
		return module.BlockEmpty
	case 1:
		return int64(f.Results[0]) - 0x80
	}
	return int64(t.typeIndex(nil, f.Results))
}

const (
	i32     = hostcall.I32
	i64     = hostcall.I64
	funcRef = hostcall.ValueType(0x70)
	wide    = hostcall.ValueType(0x7b)
)
