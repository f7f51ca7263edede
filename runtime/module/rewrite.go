package module

import "encoding/binary"

// LoopAtEntries rewrites a module so that whoever enters a function that calls others passes a loop's head: an engine that
// looks for a deadline only there would let a tree of calls without loops run for ever. Functions that begin with a loop
// anyway, as those of Go's compiler do, and those that call nothing stay as they are. The meaning stays the same, and so
// does whether the module is valid. A binary that cannot be read is answered as it is.
func LoopAtEntries(wasm []byte) []byte { return rewrite(wasm, SectionCode, loopAtEntries) }

// LowerTables rewrites a module so that no table grows past most elements, or past its minimum if that is more. An engine
// that allocates what table.grow asks for could be brought down by one instruction; the guest sees table.grow fail. A
// binary that cannot be read is answered as it is.
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
			top := max(l.Min, uint64(most))
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

// loopAtEntries rewrites the content of a code section.
func loopAtEntries(content []byte) ([]byte, bool) {
	r := reader{b: content, what: "code"}
	n := r.u32()
	out := make([]byte, 0, len(content)+len(content)/16)
	out = append(out, content[:r.pos]...)
	var it Instructions
	for range n {
		body := reader{b: r.take(r.u32()), what: "code"}
		for range body.count("groups of locals", 2, 0) {
			body.u32()
			body.byte()
		}
		if r.err != nil || body.err != nil {
			return nil, false
		}
		locals := body.pos
		it.reset(body, 1<<31-1)
		add := needsLoop(&it)
		if it.r.err != nil {
			return nil, false
		}
		size := len(body.b)
		if add {
			size += len(emptyLoop)
		}
		out = binary.AppendUvarint(out, uint64(size))
		out = append(out, body.b[:locals]...)
		if add {
			out = append(out, emptyLoop...)
		}
		out = append(out, body.b[locals:]...)
	}
	return out, r.err == nil && r.left() == 0
}

// emptyLoop is loop, no type, end.
const emptyLoop = "\x03\x40\x0b"

// needsLoop reports whether a function calls others before it is sure to meet a loop.
func needsLoop(it *Instructions) bool {
	straight := true // so far, every entry comes by here
	for it.Next() {
		switch it.Op {
		case OpLoop:
			if straight {
				return false
			}
		case OpCall, OpCallIndirect, OpReturnCall, OpReturnCallIndirect:
			return true
		case OpIf, OpElse, OpBr, OpBrIf, OpBrTable, OpReturn, OpUnreachable:
			straight = false
		}
	}
	return false
}
