package module

import "encoding/binary"

// AppendInt appends a signed LEB128 integer, in as few bytes as it takes (core specification, 5.2.2).
func AppendInt(dst []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(dst, c)
		}
		dst = append(dst, c|0x80)
	}
}

// AppendName appends a name: its length and its bytes.
func AppendName(dst []byte, name string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(name))), name...)
}

// Append writes an entry of the type section.
func (t FuncType) Append(dst []byte) []byte {
	dst = append(dst, 0x60)
	dst = binary.AppendUvarint(dst, uint64(len(t.Params)))
	for _, v := range t.Params {
		dst = append(dst, byte(v))
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Results)))
	for _, v := range t.Results {
		dst = append(dst, byte(v))
	}
	return dst
}

// Append writes an entry of the table section.
func (t Table) Append(dst []byte) []byte {
	dst = append(dst, byte(t.Type))
	if !t.Limits.HasMax {
		return binary.AppendUvarint(append(dst, 0), t.Limits.Min)
	}
	return binary.AppendUvarint(binary.AppendUvarint(append(dst, 1), t.Limits.Min), t.Limits.Max)
}

// Append writes an entry of the global section.
func (g Global) Append(dst []byte) []byte {
	mutable := byte(0)
	if g.Mutable {
		mutable = 1
	}
	return append(append(dst, byte(g.Type), mutable), g.Init...)
}

// Append writes an entry of the export section.
func (e Export) Append(dst []byte) []byte {
	return binary.AppendUvarint(append(AppendName(dst, e.Name), byte(e.Kind)), uint64(e.Index))
}

// Append writes an entry of the data section.
func (d Data) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(d.Flags))
	if d.Flags == 2 {
		dst = append(dst, 0)
	}
	dst = append(dst, d.Offset...)
	return append(binary.AppendUvarint(dst, uint64(len(d.Bytes))), d.Bytes...)
}

// AppendMapped writes an entry of the element section, with function f as to(f).
func (e *Element) AppendMapped(dst []byte, to func(uint32) uint32) []byte {
	dst = binary.AppendUvarint(dst, uint64(e.Flags))
	if e.Active() {
		if e.Flags&2 != 0 {
			dst = binary.AppendUvarint(dst, uint64(e.Table))
		}
		dst = AppendMapped(dst, e.Offset, to)
	}
	if e.Flags&3 != 0 {
		if e.Flags&4 != 0 {
			dst = append(dst, byte(e.Type))
		} else {
			dst = append(dst, 0) // functions
		}
	}
	dst = binary.AppendUvarint(dst, uint64(e.Len))
	if e.Flags&4 != 0 {
		rest := e.entries
		for range e.Len {
			n := expression(rest)
			dst = AppendMapped(dst, rest[:n], to)
			rest = rest[n:]
		}
		return dst
	}
	r := reader{b: e.entries}
	for range e.Len {
		dst = binary.AppendUvarint(dst, uint64(to(r.u32())))
	}
	return dst
}

// expression is the length of the constant expression that b begins with.
func expression(b []byte) int {
	it := NewInstructions(b, 0, 1)
	for it.Next() {
	}
	return it.End
}

// AppendMapped writes a constant expression, with function f as to(f).
func AppendMapped(dst, expr []byte, to func(uint32) uint32) []byte {
	it := NewInstructions(expr, 0, 1)
	for it.Next() {
		if it.Op == OpRefFunc {
			dst = binary.AppendUvarint(append(dst, byte(OpRefFunc)), uint64(to(uint32(it.A))))
			continue
		}
		dst = append(dst, expr[it.Offset:it.End]...)
	}
	return dst
}

// Append writes an instruction, each integer in as few bytes as it takes.
func (in *Instruction) Append(dst []byte) []byte {
	kind := plain[byte(in.Op)]
	if in.Op < 0x100 {
		dst = append(dst, byte(in.Op))
	} else {
		prefix, sub := byte(in.Op>>12), in.Op&0xfff
		dst = binary.AppendUvarint(append(dst, prefix), uint64(sub))
		if kind = after0xfd[byte(sub)]; prefix == 0xfc {
			kind = after0xfc[sub]
		}
	}
	switch kind {
	case immIndex:
		dst = binary.AppendUvarint(dst, in.A)
	case immAccess, immLaneOf, immTwo:
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, in.A), in.B)
		if kind == immLaneOf {
			dst = append(dst, in.Lane)
		}
	case immI32, immI64:
		dst = AppendInt(dst, int64(in.A))
	case immBlock:
		dst = AppendInt(dst, in.Block)
	case immTable:
		dst = in.appendLabels(dst, func(l uint32) uint32 { return l })
	case immTypes:
		dst = append(dst, 1, byte(in.A))
	case immMemory:
		dst = append(dst, 0)
	case immMemory2:
		dst = append(dst, 0, 0)
	case immInit:
		dst = append(binary.AppendUvarint(dst, in.A), 0)
	case immLane:
		dst = append(dst, in.Lane)
	case immBytes16:
		dst = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(dst, in.A), in.B)
	case immBytes4:
		dst = binary.LittleEndian.AppendUint32(dst, uint32(in.A))
	case immBytes8:
		dst = binary.LittleEndian.AppendUint64(dst, in.A)
	case immRefType:
		dst = append(dst, byte(in.A))
	}
	return dst
}

// AppendLabels encodes a br_table with label l as to(l).
func (in *Instruction) AppendLabels(dst []byte, to func(uint32) uint32) []byte {
	return in.appendLabels(append(dst, byte(in.Op)), to)
}

func (in *Instruction) appendLabels(dst []byte, to func(uint32) uint32) []byte {
	dst = binary.AppendUvarint(dst, uint64(in.Labels))
	pos := 0
	for range in.Labels {
		dst = binary.AppendUvarint(dst, uint64(to(in.Label(&pos))))
	}
	return binary.AppendUvarint(dst, uint64(to(uint32(in.A))))
}

// FunctionName is a name for a function.
type FunctionName struct {
	Index uint32
	Name  string
}

// RenameFunctions rewrites the content of a name section for functions that moved and others that were added: function f is
// to(f), which keeps their order, and add has names of others, in order of their indices. Only names of modules, functions, locals,
// types, tables, memories, globals and segments are kept. It is false for a section that cannot be read.
func RenameFunctions(content []byte, to func(uint32) uint32, add []FunctionName) ([]byte, bool) {
	const kept = 1<<0 | 1<<1 | 1<<2 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<9
	r := reader{b: content, what: "names"}
	out := AppendName(nil, r.name())
	for r.left() > 0 && r.err == nil {
		id := r.byte()
		sub := reader{b: r.take(r.u32()), what: "names"}
		if r.err != nil || id >= 16 || kept>>id&1 == 0 {
			continue
		}
		part := sub.b
		if id == 1 || id == 2 {
			n := sub.count("names", 2, 0)
			entries := make([]byte, 0, len(sub.b)+n/8+64)
			more := add
			if id == 2 {
				more = nil
			}
			total := n + len(more)
			for range n {
				f := to(sub.u32())
				for len(more) > 0 && more[0].Index < f {
					entries = AppendName(binary.AppendUvarint(entries, uint64(more[0].Index)), more[0].Name)
					more = more[1:]
				}
				entries = binary.AppendUvarint(entries, uint64(f))
				from := sub.pos
				if id == 1 {
					sub.take(sub.u32())
				} else {
					for range sub.count("names of locals", 2, 0) {
						sub.u32()
						sub.take(sub.u32())
					}
				}
				if sub.err != nil {
					return nil, false
				}
				entries = append(entries, sub.b[from:sub.pos]...)
			}
			for _, m := range more {
				entries = AppendName(binary.AppendUvarint(entries, uint64(m.Index)), m.Name)
			}
			if sub.err != nil {
				return nil, false
			}
			part = append(binary.AppendUvarint(nil, uint64(total)), entries...)
		}
		out = append(out, id)
		out = binary.AppendUvarint(out, uint64(len(part)))
		out = append(out, part...)
	}
	return out, r.err == nil
}
