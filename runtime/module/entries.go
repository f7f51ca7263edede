package module

import "encoding/binary"

// LoopAtEntries rewrites a module so that whoever enters a function that calls others passes a loop's head: an engine that
// looks for a deadline only there would let a tree of calls without loops run for ever. Functions that begin with a loop
// anyway, as those of Go's compiler do, and those that call nothing stay as they are. The meaning stays the same, and so
// does whether the module is valid. A binary that cannot be read is answered as it is.
func LoopAtEntries(wasm []byte) []byte {
	sections, err := Sections(wasm)
	if err != nil {
		return wasm
	}
	for _, s := range sections {
		if s.ID != SectionCode {
			continue
		}
		code, ok := loopAtEntries(s.Content)
		if !ok {
			return wasm
		}
		out := make([]byte, 0, len(wasm)+len(code)-len(s.Content)+binary.MaxVarintLen32)
		out = append(out, wasm[:headerBytes]...)
		for _, s := range sections {
			content := s.Content
			if s.ID == SectionCode {
				content = code
			}
			out = append(out, byte(s.ID))
			out = binary.AppendUvarint(out, uint64(len(content)))
			out = append(out, content...)
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
	return out, r.left() == 0
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
