package translate

import "github.com/ripstop-vm/ripstop/runtime/module"

// effect is by how many values an instruction without control flow changes the height of the operand stack.
func effect(op module.Opcode) int {
	switch {
	case op < 0x100:
		return int(plainEffects[op])
	case op>>12 == 0xfc:
		return int(bulkEffects[op&0xfff])
	}
	return int(simdEffects[byte(op)])
}

// span sets n for ranges of opcodes, both ends included.
func span(t []int8, n int8, ranges ...int) {
	for i := 0; i < len(ranges); i += 2 {
		for op := ranges[i]; op <= ranges[i+1]; op++ {
			t[op] = n
		}
	}
}

// In all three tables, what is not named takes as many values as it gives.
var plainEffects = func() (t [256]int8) {
	span(t[:], -1, 0x1a, 0x1a)                                                            // drop
	span(t[:], -2, 0x1b, 0x1c)                                                            // select
	span(t[:], 1, 0x20, 0x20, 0x23, 0x23, 0x3f, 0x3f, 0x41, 0x44, 0xd0, 0xd0, 0xd2, 0xd2) // get, memory.size, constants, ref.null, ref.func
	span(t[:], -1, 0x21, 0x21, 0x24, 0x24)                                                // set
	span(t[:], -2, 0x26, 0x26, 0x36, 0x3e)                                                // table.set, stores
	span(t[:], -1, 0x46, 0x4f, 0x51, 0x66)                                                // comparisons; 0x45 and 0x50 are eqz
	span(t[:], -1, 0x6a, 0x78, 0x7c, 0x8a, 0x92, 0x98, 0xa0, 0xa6)                        // binary arithmetic
	return t
}()

var bulkEffects = func() (t [18]int8) {
	span(t[:], -3, 0x08, 0x08, 0x0a, 0x0c, 0x0e, 0x0e, 0x11, 0x11) // init, copy and fill
	span(t[:], -1, 0x0f, 0x0f)                                     // table.grow
	span(t[:], 1, 0x10, 0x10)                                      // table.size
	return t
}()

var simdEffects = func() (t [256]int8) {
	span(t[:], -2, 0x0b, 0x0b, 0x52, 0x52, 0x58, 0x5b) // store, bitselect, store lane
	span(t[:], 1, 0x0c, 0x0c)                          // const
	// shuffle, swizzle; replace lane; comparisons; and, andnot, or, xor; load lane
	span(t[:], -1, 0x0d, 0x0e, 0x17, 0x17, 0x1a, 0x1a, 0x1c, 0x1c, 0x1e, 0x1e, 0x20, 0x20, 0x22, 0x22, 0x23, 0x4c, 0x4e, 0x51, 0x54, 0x57)
	span(t[:], -1, 0x65, 0x66, 0x6b, 0x73, 0x76, 0x79, 0x7b, 0x7b)             // i8x16
	span(t[:], -1, 0x82, 0x82, 0x85, 0x86, 0x8b, 0x93, 0x95, 0x99, 0x9b, 0x9f) // i16x8
	span(t[:], -1, 0xab, 0xae, 0xb1, 0xb1, 0xb5, 0xba, 0xbc, 0xbf)             // i32x4
	span(t[:], -1, 0xcb, 0xce, 0xd1, 0xd1, 0xd5, 0xdf)                         // i64x2
	span(t[:], -1, 0xe4, 0xeb, 0xf0, 0xf7)                                     // f32x4, f64x2
	return t
}()
