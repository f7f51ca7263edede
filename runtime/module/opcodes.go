package module

import "fmt"

// Opcode is an instruction's code: one byte, or for those behind a prefix byte (0xfb to 0xfe) the prefix times 0x1000
// plus the code that follows it, so that 0xfc 0x0a is 0xfc00a.
type Opcode uint32

// The opcodes that control flow, and the others that this project names.
const (
	OpUnreachable  Opcode = 0x00
	OpNop          Opcode = 0x01
	OpBlock        Opcode = 0x02
	OpLoop         Opcode = 0x03
	OpIf           Opcode = 0x04
	OpElse         Opcode = 0x05
	OpEnd          Opcode = 0x0b
	OpBr           Opcode = 0x0c
	OpBrIf         Opcode = 0x0d
	OpBrTable      Opcode = 0x0e
	OpReturn       Opcode = 0x0f
	OpCall         Opcode = 0x10
	OpCallIndirect Opcode = 0x11
	OpReturnCall   Opcode = 0x12

	OpReturnCallIndirect Opcode = 0x13

	OpDrop       Opcode = 0x1a
	OpSelect     Opcode = 0x1b
	OpSelectT    Opcode = 0x1c
	OpLocalGet   Opcode = 0x20
	OpLocalSet   Opcode = 0x21
	OpLocalTee   Opcode = 0x22
	OpGlobalGet  Opcode = 0x23
	OpGlobalSet  Opcode = 0x24
	OpTableGet   Opcode = 0x25
	OpTableSet   Opcode = 0x26
	OpI32Load    Opcode = 0x28
	OpI64Store32 Opcode = 0x3e
	OpMemorySize Opcode = 0x3f
	OpMemoryGrow Opcode = 0x40
	OpI32Const   Opcode = 0x41
	OpI64Const   Opcode = 0x42
	OpF32Const   Opcode = 0x43
	OpF64Const   Opcode = 0x44
	OpI32Add     Opcode = 0x6a
	OpI32Sub     Opcode = 0x6b
	OpI32Mul     Opcode = 0x6c
	OpI64Add     Opcode = 0x7c
	OpI64Sub     Opcode = 0x7d
	OpI64Mul     Opcode = 0x7e
	OpRefNull    Opcode = 0xd0
	OpRefIsNull  Opcode = 0xd1
	OpRefFunc    Opcode = 0xd2

	OpMemoryInit Opcode = 0xfc008
	OpDataDrop   Opcode = 0xfc009
	OpMemoryCopy Opcode = 0xfc00a
	OpMemoryFill Opcode = 0xfc00b
	OpTableInit  Opcode = 0xfc00c
	OpElemDrop   Opcode = 0xfc00d
	OpTableCopy  Opcode = 0xfc00e
	OpTableGrow  Opcode = 0xfc00f
	OpTableSize  Opcode = 0xfc010
	OpTableFill  Opcode = 0xfc011
	OpV128Const  Opcode = 0xfd00c
)

// immediate says what follows an opcode (core specification, 5.4).
type immediate byte

const (
	immUnknown immediate = iota // no such instruction
	immNone                     //
	immBlock                    // a block type
	immIndex                    // one index
	immTwo                      // two indices
	immTable                    // br_table: a vector of labels, then one
	immTypes                    // select: a vector of value types
	immMemory                   // memory index: 0
	immMemory2                  // two of them
	immInit                     // memory.init: a data segment, then a memory index
	immAccess                   // alignment and offset
	immLaneOf                   // alignment, offset, lane
	immLane                     // lane
	immBytes16                  // 16 bytes
	immI32                      //
	immI64                      //
	immBytes4                   //
	immBytes8                   //
	immRefType                  //
	immRefused                  // known, and refused by name
	immPrefix                   // another code follows
)

// plain, after0xfc and after0xfd are what follows each opcode.
var plain, after0xfc, after0xfd = immediates()

func immediates() (p [256]immediate, fc [18]immediate, fd [256]immediate) {
	set := func(t []immediate, k immediate, ranges ...int) {
		for i := 0; i < len(ranges); i += 2 {
			for n := ranges[i]; n <= ranges[i+1]; n++ {
				t[n] = k
			}
		}
	}
	set(p[:], immNone, 0x00, 0x01, 0x05, 0x05, 0x0b, 0x0b, 0x0f, 0x0f, 0x1a, 0x1b, 0x45, 0xc4, 0xd1, 0xd1)
	set(p[:], immBlock, 0x02, 0x04)
	set(p[:], immIndex, 0x0c, 0x0d, 0x10, 0x10, 0x12, 0x12, 0x20, 0x26, 0xd2, 0xd2)
	set(p[:], immTable, 0x0e, 0x0e)
	set(p[:], immTwo, 0x11, 0x11, 0x13, 0x13)
	set(p[:], immTypes, 0x1c, 0x1c)
	set(p[:], immAccess, 0x28, 0x3e)
	set(p[:], immMemory, 0x3f, 0x40)
	p[0x41], p[0x42], p[0x43], p[0x44] = immI32, immI64, immBytes4, immBytes8
	p[0xd0] = immRefType
	set(p[:], immPrefix, 0xfb, 0xfe)
	for op := range refused {
		if op < 256 {
			p[op] = immRefused
		}
	}

	set(fc[:], immNone, 0x00, 0x07) // saturating truncation
	fc[0x08], fc[0x09], fc[0x0a], fc[0x0b] = immInit, immIndex, immMemory2, immMemory
	fc[0x0c], fc[0x0d], fc[0x0e] = immTwo, immIndex, immTwo
	set(fc[:], immIndex, 0x0f, 0x11)

	set(fd[:], immAccess, 0x00, 0x0b, 0x5c, 0x5d)
	set(fd[:], immBytes16, 0x0c, 0x0d)
	set(fd[:], immLane, 0x15, 0x22)
	set(fd[:], immLaneOf, 0x54, 0x5b)
	set(fd[:], immNone, 0x0e, 0x14, 0x23, 0x53, 0x5e, 0x99, 0x9b, 0xff)
	for _, gap := range []int{0xa2, 0xa5, 0xa6, 0xaf, 0xb0, 0xb2, 0xb3, 0xb4, 0xbb, 0xc2, 0xc5, 0xc6, 0xcf, 0xd0, 0xd2, 0xd3, 0xd4, 0xe2, 0xee} {
		fd[gap] = immUnknown
	}
	return p, fc, fd
}

// refused names the instructions of proposals that no guest may use here, by opcode of one byte.
var refused = map[Opcode]string{
	0x06: "try (exceptions)", 0x07: "catch (exceptions)", 0x08: "throw (exceptions)", 0x09: "rethrow (exceptions)",
	0x0a: "throw_ref (exceptions)", 0x18: "delegate (exceptions)", 0x19: "catch_all (exceptions)", 0x1f: "try_table (exceptions)",
	0x14: "call_ref (typed function references)", 0x15: "return_call_ref (typed function references)",
	0xd3: "ref.eq (garbage collection)", 0xd4: "ref.as_non_null (typed function references)",
	0xd5: "br_on_null (typed function references)", 0xd6: "br_on_non_null (typed function references)",
}

// atomicAccess are the atomic instructions from 0x10, without what they do for read-modify-write ones.
var (
	atomicLoads = [...]string{"i32.atomic.load", "i64.atomic.load", "i32.atomic.load8_u", "i32.atomic.load16_u", "i64.atomic.load8_u", "i64.atomic.load16_u", "i64.atomic.load32_u",
		"i32.atomic.store", "i64.atomic.store", "i32.atomic.store8", "i32.atomic.store16", "i64.atomic.store8", "i64.atomic.store16", "i64.atomic.store32"}
	atomicTypes = [...]string{"i32.atomic.rmw.%s", "i64.atomic.rmw.%s", "i32.atomic.rmw8.%s_u", "i32.atomic.rmw16.%s_u", "i64.atomic.rmw8.%s_u", "i64.atomic.rmw16.%s_u", "i64.atomic.rmw32.%s_u"}
	atomicVerbs = [...]string{"add", "sub", "and", "or", "xor", "xchg", "cmpxchg"}
)

// refusedName is what an instruction that is known and refused is called; empty for others.
func refusedName(op Opcode) string {
	switch {
	case op < 0x100:
		return refused[op]
	case op>>12 == 0xfb:
		return fmt.Sprintf("0xfb 0x%02x (garbage collection)", uint32(op&0xfff))
	case op>>12 == 0xfd && op&0xfff >= 0x100 && op&0xfff <= 0x113:
		return fmt.Sprintf("0xfd 0x%03x (relaxed SIMD)", uint32(op&0xfff))
	case op>>12 != 0xfe:
		return ""
	}
	switch n := int(op & 0xfff); {
	case n == 0:
		return "memory.atomic.notify (threads)"
	case n == 1:
		return "memory.atomic.wait32 (threads)"
	case n == 2:
		return "memory.atomic.wait64 (threads)"
	case n == 3:
		return "atomic.fence (threads)"
	case n >= 0x10 && n < 0x10+len(atomicLoads):
		return atomicLoads[n-0x10] + " (threads)"
	case n >= 0x1e && n < 0x1e+len(atomicTypes)*len(atomicVerbs):
		n -= 0x1e
		return fmt.Sprintf(atomicTypes[n%len(atomicTypes)], atomicVerbs[n/len(atomicTypes)]) + " (threads)"
	}
	return ""
}
