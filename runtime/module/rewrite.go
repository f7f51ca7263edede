package module

import "encoding/binary"

// LoopOften rewrites a module so that running code is never far from a loop's head, for an engine that looks for a deadline
// only there. Without it a tree of calls, a long stretch of straight code, or a few hundred instructions that each fill the whole
// memory would run for as long as they like. Empty loops go to the entries of functions that call others, unless one is met
// anyway, as in those of Go's compiler; into straight code every few thousand bytes; and before each instruction that moves
// a range of unknown length. The meaning stays the same, and so does whether the module is valid. A binary that cannot be read is
// answered as it is.
func LoopOften(wasm []byte) []byte { return rewrite(wasm, SectionCode, loopOften) }

// LowerTables rewrites a module so that its tables have at most most elements together, each an equal share, or its minimum if
// that is more. An engine that allocates what table.grow asks for could be brought down by one instruction; the guest sees
// table.grow fail. A binary that cannot be read is answered as it is.
func LowerTables(wasm []byte, most uint32) []byte {
	return rewrite(wasm, SectionTable, func(content []byte) ([]byte, bool) {
		p := parser{reader: reader{b: content}}
		n := p.count("tables", 3, 0)
		out := binary.AppendUvarint(nil, uint64(n))
		for range n {
			at := p.pos
			p.refType()
			l := p.limits("table", 1<<32-1)
			if p.err != nil {
				return nil, false
			}
			top := max(l.Min, uint64(most)/uint64(n))
			if l.HasMax {
				top = min(top, l.Max)
			}
			out = append(out, content[at], 1) // type, and a maximum is there
			out = binary.AppendUvarint(out, l.Min)
			out = binary.AppendUvarint(out, top)
		}
		return out, p.err == nil && p.left() == 0
	})
}

// rewrite puts what change makes of a section in its place.
func rewrite(wasm []byte, id SectionID, change func(content []byte) ([]byte, bool)) []byte {
	sections, err := Sections(wasm)
	if err != nil {
		return wasm
	}
	for i := range sections {
		if sections[i].ID != id {
			continue
		}
		content, ok := change(sections[i].Content)
		if !ok {
			return wasm
		}
		was := len(sections[i].Content)
		sections[i].Content = content
		out := make([]byte, 0, len(wasm)+len(content)-was+binary.MaxVarintLen32)
		out = append(out, wasm[:headerBytes]...)
		for _, s := range sections {
			out = append(out, byte(s.ID))
			out = binary.AppendUvarint(out, uint64(len(s.Content)))
			out = append(out, s.Content...)
		}
		return out
	}
	return wasm
}

// straightCode is how many bytes of code may follow one another without a loop's head: at most some 2,000 instructions, or
// as many calls of functions that have none, which together take well below 100 ms.
const straightCode = 4 << 10

// loopOften rewrites the content of a code section.
func loopOften(content []byte) ([]byte, bool) {
	r := reader{b: content, what: "code"}
	n := r.u32()
	out := make([]byte, 0, len(content)+len(content)/16)
	out = append(out, content[:r.pos]...)
	var it Instructions
	var points []int // of the body, where a loop goes
	for range n {
		body := reader{b: r.take(r.u32()), what: "code"}
		locals := uint64(0)
		for range body.count("groups of locals", 2, 0) {
			locals += uint64(body.u32())
			body.byte()
		}
		if r.err != nil || body.err != nil {
			return nil, false
		}
		// An engine's work grows with blocks times locals, so that loops are rarer where there are many of these.
		every := max(straightCode, uint64(len(body.b))*locals/straightBlockLocals)
		it.reset(body, 1<<31-1)
		points = loopPoints(&it, points[:0], body.pos, int(min(every, 1<<31-1)))
		if it.r.err != nil {
			return nil, false
		}
		out = binary.AppendUvarint(out, uint64(len(body.b)+len(points)*len(emptyLoop)))
		at := 0
		for _, p := range points {
			out = append(out, body.b[at:p]...)
			out = append(out, emptyLoop...)
			at = p
		}
		out = append(out, body.b[at:]...)
	}
	return out, r.err == nil && r.left() == 0
}

// straightBlockLocals bounds what loops in the straight code of one function add to its blocks times locals.
const straightBlockLocals = 1 << 20

// emptyLoop is loop, no type, end.
const emptyLoop = "\x03\x40\x0b"

// loopPoints answers where a function needs loops, as places in its body, in order. entry is where its code begins.
func loopPoints(it *Instructions, points []int, entry, every int) []int {
	const (
		unknown = iota // no loop and no call so far, and every entry comes by here
		met            // every entry meets a loop before it calls
		needed         // some entry calls before it meets a loop
		forked         // as unknown, but not every entry comes by here
	)
	begin, last, short := unknown, entry, false
	for it.Next() {
		switch it.Op {
		case OpLoop:
			if begin == unknown {
				begin = met
			}
		case OpCall, OpCallIndirect, OpReturnCall, OpReturnCallIndirect:
			if begin != met {
				begin = needed
			}
		case OpIf, OpElse, OpBr, OpBrIf, OpBrTable, OpReturn, OpUnreachable:
			if begin == unknown {
				begin = forked
			}
		}
		if long := it.Op.long() && !short; long || it.Offset-last >= every {
			points = append(points, it.Offset)
			last = it.Offset
		}
		// The length is what was pushed last. Up to 64 KiB of known length are like any other instruction.
		short = it.Op == OpI32Const && uint32(it.A) <= 64<<10
	}
	if begin == needed && (len(points) == 0 || points[0] != entry) {
		points = append(points, 0)
		copy(points[1:], points)
		points[0] = entry
	}
	return points
}

// long reports whether an instruction's time depends on a length that it pops.
func (op Opcode) long() bool {
	switch op {
	case OpMemoryInit, OpMemoryCopy, OpMemoryFill, OpTableInit, OpTableCopy, OpTableGrow, OpTableFill:
		return true
	}
	return false
}
