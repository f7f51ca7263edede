package translate

import "github.com/ripstop-vm/ripstop/runtime/module"

// Version changes whenever a translation of the same module would differ: caches of translated or compiled code, and
// everything that compares fuel, are keyed by it.
const Version = 2

const (
	entryCost = 3 // of being called, besides what the call itself costs
	turnCost  = 1 // of each turn of a loop, so that none is free

	// regionCost bounds what is charged at once, so that what was charged ahead stays far below a tick.
	regionCost = 2000
	// checkEvery is the most fuel charged on any way through a function without a check.
	checkEvery = 4096
	// returnCost is what may be run after a call without a check: returning from deep recursion passes no function
	// entry and no loop head, and must not go unnoticed.
	returnCost = 128

	// A bulk instruction is done in chunks of 64 KiB. A byte costs an eighth, so that a chunk is less than a tick.
	chunkBytes   = 64 << 10
	bytesShift   = 3
	chunkEntries = chunkBytes >> bytesShift // table entries cost 1 each
	growCost     = 1024                     // a page of memory
)

// cost is the fuel that an instruction takes, about one for what a processor does in a cycle or less. Bulk instructions and
// growth cost more, by their length, when they run. Blocks and ends are free, since they take no time; a loop is not, so that
// every turn costs something.
func cost(op module.Opcode) uint32 {
	switch {
	case op < 0x100:
		return uint32(plainCosts[op])
	case op>>12 == 0xfd:
		return uint32(simdCost(op & 0xfff))
	case op <= 0xfc007: // saturating truncation
		return 4
	case op == module.OpTableSize:
		return 1
	}
	return 10
}

var plainCosts = func() (c [256]uint8) {
	for i := range c {
		c[i] = 1
	}
	for _, op := range []module.Opcode{module.OpNop, module.OpBlock, module.OpLoop, module.OpElse, module.OpEnd} {
		c[op] = 0
	}
	set := func(n uint8, ops ...int) {
		for i := 0; i < len(ops); i += 2 {
			for op := ops[i]; op <= ops[i+1]; op++ {
				c[op] = n
			}
		}
	}
	set(3, int(module.OpBrTable), int(module.OpBrTable))
	set(4, int(module.OpCall), int(module.OpCall), int(module.OpReturnCall), int(module.OpReturnCall))
	set(8, int(module.OpCallIndirect), int(module.OpCallIndirect), int(module.OpReturnCallIndirect), int(module.OpReturnCallIndirect))
	set(2, int(module.OpTableGet), int(module.OpTableSet))
	set(100, int(module.OpMemoryGrow), int(module.OpMemoryGrow))
	set(10, 0x6d, 0x70, 0x7f, 0x82) // integer division and remainder
	set(5, 0x95, 0x95, 0xa3, 0xa3)  // floating-point division
	set(6, 0x91, 0x91, 0x9f, 0x9f)  // square root
	set(4, 0xa8, 0xab, 0xae, 0xb1)  // truncation to integers
	set(40, int(module.OpRefFunc), int(module.OpRefFunc))
	return c
}()

// simdCost is the cost of a vector instruction: more for those that engines make several of.
func simdCost(sub module.Opcode) uint8 {
	switch {
	case sub == 0xd5: // i64x2.mul
		return 6
	case sub >= 0xe3 && sub <= 0xe7, sub >= 0xef && sub <= 0xf3: // square root, division
		return 6
	case sub >= 0xf8: // conversions
		return 4
	}
	return 2
}
