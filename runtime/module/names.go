package module

import "encoding/binary"

// PlainNames rewrites a module so that its custom sections are no more than one name section with well-formed names of the
// module and its functions, the first such if there are several. Validity does not depend on custom sections (core
// specification, 7.5), but engines read them: a count in 60 bytes of names can ask one for gigabytes, and a malformed or second
// section make it refuse a valid module. A binary that cannot be read is answered as it is.
func PlainNames(wasm []byte) []byte {
	sections, err := Sections(wasm)
	if err != nil {
		return wasm
	}
	out := append(make([]byte, 0, len(wasm)), wasm[:headerBytes]...)
	named := false
	for _, s := range sections {
		content := s.Content
		if s.ID == SectionCustom {
			r := reader{b: content}
			if r.name() != "name" || named {
				continue
			}
			if content = plainNames(&r); content == nil {
				continue
			}
			named = true
		}
		out = append(out, byte(s.ID))
		out = binary.AppendUvarint(out, uint64(len(content)))
		out = append(out, content...)
	}
	return out
}

// plainNames is the content of a name section with the subsections of r that name the module and functions (core
// specification, 7.4.1), each at most once; nil if there is none or something is malformed.
func plainNames(r *reader) []byte {
	out := AppendName(nil, "name")
	head := len(out)
	last := -1
	for r.left() > 0 {
		id := r.byte()
		content := r.take(r.u32())
		if r.err != nil || int(id) <= last {
			return nil
		}
		last = int(id)
		sub := reader{b: content}
		switch id {
		case 0:
			sub.name()
		case 1:
			for range sub.count("names", 2, 0) {
				sub.u32()
				sub.name()
			}
		default:
			continue
		}
		if sub.err != nil || sub.left() > 0 {
			return nil
		}
		out = append(out, id)
		out = binary.AppendUvarint(out, uint64(len(content)))
		out = append(out, content...)
	}
	if r.err != nil || len(out) == head {
		return nil
	}
	return out
}
