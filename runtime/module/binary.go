package module

import (
	"encoding/binary"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Binary is a module taken apart, so that parts of it can be changed and the whole be written again. What stays as it is
// is written as it was read, to the byte. It shares the bytes it was taken from, which must not change.
type Binary struct {
	Info  *Module
	Parts []Part // in order

	// What the parts hold, decoded. Those that can be imported have the imported ones first. Changing these changes
	// nothing that is written: Part.Set does.
	Types     []FuncType
	Functions []uint32 // type of each
	Tables    []Table
	Globals   []Global
	Elements  []Element
	Bodies    []Body // of the functions that are not imported
	Data      []Data
	Start     int64 // index of the start function; -1 if there is none
}

// Table is a table's type.
type Table struct {
	Type   hostcall.ValueType // funcref or externref
	Limits Limits
}

// Global is a global. Init is its constant expression, nil for an imported one.
type Global struct {
	GlobalType
	Init []byte
}

// Element is an element segment (core specification, 5.5.12).
type Element struct {
	Flags  uint32
	Table  uint32
	Offset []byte // constant expression of an active segment
	Type   hostcall.ValueType
	Len    int

	entries []byte // function indices, or constant expressions
}

// Active reports whether the segment is written to a table when the module is instantiated.
func (e *Element) Active() bool { return e.Flags&1 == 0 }

// Body is a function's body.
type Body struct {
	Locals      []byte // declarations of locals, with their count
	Code        []byte // instructions, with the last end
	Offset      int    // of Code, in the binary
	LocalValues uint64 // number of locals, without parameters
	WideLocals  uint64 // those of them that are v128
}

// Data is a data segment (core specification, 5.5.14).
type Data struct {
	Flags  uint32
	Offset []byte // constant expression of an active segment
	Bytes  []byte
}

// Active reports whether the segment is written to memory when the module is instantiated.
func (d *Data) Active() bool { return d.Flags != 1 }

// Part is one section.
type Part struct {
	ID SectionID
	// Name is that of a custom section.
	Name string
	// Entries are the elements of the section's vector as they stand; those of code have their size in front. The start, data
	// count and custom sections have one entry, which is their content.
	Entries [][]byte

	raw []byte // the section with its header; nil once it was changed
}

// Set replaces what the section holds.
func (p *Part) Set(entries [][]byte) { p.Entries, p.raw = entries, nil }

// vector reports whether the section is a vector of entries.
func (s SectionID) vector() bool {
	return s != SectionCustom && s != SectionStart && s != SectionDataCount
}

// Take reads a binary as Parse does, and takes it apart.
func Take(wasm []byte, b Bounds) (*Binary, error) {
	out := &Binary{Start: -1}
	info, err := parse(wasm, b, out)
	if err != nil {
		return nil, err
	}
	out.Info = info
	return out, nil
}

// part notes a section whose entries begin at starts.
func (b *Binary) part(s Section, starts []int) {
	p := Part{ID: s.ID, raw: s.whole}
	switch {
	case s.ID == SectionCustom:
		r := reader{b: s.Content}
		p.Name = r.name()
		fallthrough
	case !s.ID.vector():
		p.Entries = [][]byte{s.Content}
	default:
		p.Entries = make([][]byte, len(starts))
		for i, from := range starts {
			to := len(s.Content)
			if i+1 < len(starts) {
				to = starts[i+1]
			}
			p.Entries[i] = s.Content[from:to:to]
		}
	}
	b.Parts = append(b.Parts, p)
}

// Part finds the section of that kind, which is not custom; nil if there is none.
func (b *Binary) Part(id SectionID) *Part {
	for i := range b.Parts {
		if b.Parts[i].ID == id {
			return &b.Parts[i]
		}
	}
	return nil
}

// Ensure finds the section of that kind, which is not custom, and puts an empty one in its place if there is none. It moves
// the others: pointers to them are void.
func (b *Binary) Ensure(id SectionID) *Part {
	if p := b.Part(id); p != nil {
		return p
	}
	at := 0
	for i := range b.Parts {
		if other := b.Parts[i].ID; other != SectionCustom && order[other] < order[id] {
			at = i + 1
		}
	}
	b.Parts = append(b.Parts, Part{})
	copy(b.Parts[at+1:], b.Parts[at:])
	b.Parts[at] = Part{ID: id}
	return &b.Parts[at]
}

// Remove takes out the sections that drop says.
func (b *Binary) Remove(drop func(*Part) bool) {
	kept := b.Parts[:0]
	for i := range b.Parts {
		if !drop(&b.Parts[i]) {
			kept = append(kept, b.Parts[i])
		}
	}
	b.Parts = kept
}

// Bytes writes the module.
func (b *Binary) Bytes() []byte {
	size := headerBytes
	for i := range b.Parts {
		if p := &b.Parts[i]; p.raw != nil {
			size += len(p.raw)
		} else {
			size += p.size() + 1 + 2*binary.MaxVarintLen32
		}
	}
	out := append(make([]byte, 0, size), magic+"\x01\x00\x00\x00"...)
	for i := range b.Parts {
		p := &b.Parts[i]
		if p.raw != nil {
			out = append(out, p.raw...)
			continue
		}
		var count [binary.MaxVarintLen32]byte
		n := 0
		if p.ID.vector() {
			n = binary.PutUvarint(count[:], uint64(len(p.Entries)))
		}
		out = append(out, byte(p.ID))
		out = binary.AppendUvarint(out, uint64(p.size()+n))
		out = append(out, count[:n]...)
		for _, e := range p.Entries {
			out = append(out, e...)
		}
	}
	return out
}

func (p *Part) size() int {
	n := 0
	for _, e := range p.Entries {
		n += len(e)
	}
	return n
}
