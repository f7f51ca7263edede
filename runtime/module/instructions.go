package module

// Instruction is one instruction of a function body or constant expression.
type Instruction struct {
	Op     Opcode
	Offset int // of its first byte, in the binary
	End    int // of the byte after its last
	// A and B are its immediates as they stand: indices, an access's alignment (power of two) and offset, constants
	// (sign-extended; the bits of a float; the low and high half of 16 bytes), memory.init's segment. br_table has its default
	// label in A.
	A, B uint64
	// Lane is the lane of a SIMD instruction that has one.
	Lane byte
	// Block is the type of a block, loop or if: a type index, or negative: BlockEmpty, or minus 128 plus a value type.
	Block int64
	// Labels is the number of br_table's labels, without the default. Instructions.Label reads them.
	Labels int

	labels []byte
}

// BlockEmpty is the type of a block without parameters and results.
const BlockEmpty = -0x40

// Instructions walks over the instructions of one expression and checks their form: known opcodes, well-formed
// immediates, blocks that end. It knows nothing of types and of the index spaces.
//
//	for it.Next() {
//		use(&it.Instruction)
//	}
//	if err := it.Err(); err != nil {
type Instructions struct {
	Instruction
	// Depth is how many blocks are open around the next instruction; the expression itself counts as one.
	Depth int

	r     reader
	max   int    // most blocks open
	open  []byte // opcode of each open block
	ended bool
}

// NewInstructions walks over expr, which begins at offset in the binary and ends with its last end. Deeper nesting than max is refused.
func NewInstructions(expr []byte, offset, max int) *Instructions {
	it := new(Instructions)
	it.reset(reader{b: expr, base: offset, what: "code"}, max)
	return it
}

func (it *Instructions) reset(r reader, max int) {
	open := append(it.open[:0], byte(OpBlock))
	*it = Instructions{r: r, max: max, open: open, Depth: 1}
}

// Err is why the walk ended early, a *Error, or nil.
func (it *Instructions) Err() error {
	if it.r.err == nil {
		return nil
	}
	return it.r.err
}

// Label is label i of the br_table that Next stopped at, counted from 0; labels are read in order from *pos, which begins as 0.
func (it *Instruction) Label(pos *int) uint32 {
	r := reader{b: it.labels, pos: *pos}
	v := r.u32()
	*pos = r.pos
	return v
}

// Next goes to the next instruction. It is false after the expression's last end, and at the first malformed instruction.
func (it *Instructions) Next() bool {
	r := &it.r
	if it.ended || r.err != nil {
		return false
	}
	in := &it.Instruction
	in.Offset, in.A, in.B = r.at(), 0, 0
	if r.pos >= len(r.b) {
		r.fail(r.at(), "an expression does not end")
		return false
	}
	op := Opcode(r.byte())
	kind := plain[op]
	if kind == immPrefix {
		from := r.pos
		sub := r.u32()
		if r.err != nil {
			return false
		}
		prefix := op
		if n := r.pos - from; prefix == 0xfd && n > 1 && sub>>(7*(n-1)) == 0 {
			// The specification allows it, but wazero takes the first byte for the whole code and the rest for other instructions: what
			// we look at has to be what it runs.
			r.fail(in.Offset, "the code after 0xfd takes more bytes than it needs")
			return false
		}
		op, kind = Opcode(uint32(prefix)<<12|sub&0xfff), immUnknown
		switch {
		case prefix == 0xfc && sub < uint32(len(after0xfc)):
			kind = after0xfc[sub]
		case prefix == 0xfd && sub < uint32(len(after0xfd)):
			kind = after0xfd[sub]
		case sub < 0x1000 && refusedName(op) != "":
			kind = immRefused
		}
		if kind == immUnknown {
			r.fail(in.Offset, "there is no instruction 0x%02x 0x%02x", uint32(prefix), sub)
			return false
		}
	}
	in.Op = op
	it.immediates(kind)
	if r.err != nil {
		return false
	}
	switch op {
	case OpBlock, OpLoop, OpIf:
		if it.Depth >= it.max {
			r.failAs("bounds", in.Offset, "blocks are nested more than %d deep", it.max)
			return false
		}
		it.open = append(it.open, byte(op))
		it.Depth++
	case OpElse:
		if it.open[len(it.open)-1] != byte(OpIf) {
			r.fail(in.Offset, "an else without its if")
			return false
		}
		it.open[len(it.open)-1] = byte(OpElse)
	case OpEnd:
		it.open = it.open[:len(it.open)-1]
		it.Depth--
		it.ended = it.Depth == 0
	}
	in.End = r.at()
	return true
}

// immediates reads what follows the opcode.
func (it *Instructions) immediates(kind immediate) {
	r, in := &it.r, &it.Instruction
	switch kind {
	case immNone:
	case immIndex:
		in.A = uint64(r.u32())
	case immAccess, immLaneOf:
		at := r.at()
		in.A = uint64(r.u32())
		in.B = uint64(r.u32())
		switch {
		case in.A >= 64 && in.A < 128:
			r.failAs("features", at, "several memories are not supported")
		case in.A >= 32:
			r.fail(at, "an alignment of 2^%d", in.A)
		}
		if kind == immLaneOf {
			in.Lane = r.byte()
		}
	case immI32:
		in.A = uint64(r.signed(32))
	case immI64:
		in.A = uint64(r.signed(64))
	case immBlock:
		at := r.at()
		in.Block = r.signed(33)
		if in.Block < 0 && in.Block != BlockEmpty && (in.Block < -0x80 || !valueType(byte(in.Block&0x7f))) {
			r.fail(at, "a block of an unknown type")
		}
	case immTwo:
		in.A = uint64(r.u32())
		in.B = uint64(r.u32())
	case immTable:
		n := r.count("labels of a br_table", 1, 0)
		from := r.pos
		for range n {
			r.u32()
		}
		if r.err == nil {
			in.Labels, in.labels = n, r.b[from:r.pos]
		}
		in.A = uint64(r.u32())
	case immTypes:
		at := r.at()
		if n := r.u32(); n != 1 {
			r.fail(at, "a select of %d types; only one is allowed", n)
		}
		in.A = uint64(r.byte())
		if !valueType(byte(in.A)) {
			r.fail(at, "a select of an unknown type")
		}
	case immMemory:
		it.memoryIndex()
	case immMemory2:
		it.memoryIndex()
		it.memoryIndex()
	case immInit:
		in.A = uint64(r.u32())
		it.memoryIndex()
	case immLane:
		in.Lane = r.byte()
	case immBytes16:
		in.A = r.little(8)
		in.B = r.little(8)
	case immBytes4:
		in.A = r.little(4)
	case immBytes8:
		in.A = r.little(8)
	case immRefType:
		at := r.at()
		if in.A = uint64(r.byte()); !refType(byte(in.A)) {
			r.failAs("features", at, "a reference of type 0x%02x is not supported", in.A)
		}
	case immRefused:
		r.failAs("features", in.Offset, "the instruction %s is not supported: build without that feature", refusedName(in.Op))
	default:
		r.fail(in.Offset, "there is no instruction 0x%02x", uint32(in.Op))
	}
}

func (it *Instructions) memoryIndex() {
	at := it.r.at()
	if it.r.byte() != 0 {
		it.r.failAs("features", at, "several memories are not supported")
	}
}

// little reads n bytes, lowest first.
func (r *reader) little(n int) uint64 {
	var v uint64
	for i, c := range r.take(uint32(n)) {
		v |= uint64(c) << (8 * i)
	}
	return v
}
