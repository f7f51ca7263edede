package module

import (
	"bytes"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// SectionID is the kind of a section (core specification, 5.5.2).
type SectionID byte

// The sections.
const (
	SectionCustom SectionID = iota
	SectionType
	SectionImport
	SectionFunction
	SectionTable
	SectionMemory
	SectionGlobal
	SectionExport
	SectionStart
	SectionElement
	SectionCode
	SectionData
	SectionDataCount
	SectionTag
)

func (s SectionID) String() string {
	if int(s) >= 14 {
		return "unknown"
	}
	return [...]string{"custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data", "data count", "tag"}[s]
}

// order is the place of each section in a module; custom ones may stand anywhere.
var order = [...]int{SectionType: 1, SectionImport: 2, SectionFunction: 3, SectionTable: 4, SectionMemory: 5, SectionTag: 6, SectionGlobal: 7,
	SectionExport: 8, SectionStart: 9, SectionElement: 10, SectionDataCount: 11, SectionCode: 12, SectionData: 13}

// Section is one section of a binary.
type Section struct {
	ID      SectionID
	Offset  int    // of its content, in the binary
	Content []byte // shared with the binary

	whole []byte // with id and size
}

const (
	magic       = "\x00asm"
	headerBytes = 8
)

// header checks the preamble.
func header(wasm []byte) *Error {
	bad := func(offset int, msg string) *Error { return &Error{Check: "header", Offset: offset, Msg: msg} }
	switch n := min(len(wasm), len(magic)); {
	case len(wasm) == 0:
		return bad(0, "the file is empty; a WebAssembly binary was expected")
	case bytes.HasPrefix(bytes.TrimLeft(wasm, " \t\r\n"), []byte("(module")):
		return bad(0, "this is WebAssembly text: turn it into a binary with wat2wasm first")
	case string(wasm[:n]) != magic[:n]:
		return bad(0, "this is not a WebAssembly binary: it does not begin with \\0asm")
	case len(wasm) < headerBytes:
		return bad(len(wasm), "the file ends within its header: it is truncated")
	}
	switch layer, version := uint16(wasm[6])|uint16(wasm[7])<<8, uint16(wasm[4])|uint16(wasm[5])<<8; {
	case layer == 1:
		return bad(6, "this is a WebAssembly component; a core module is wanted: build for WASI preview 1 "+
			"(Rust: --target wasm32-wasip1, Go: GOOS=wasip1 GOARCH=wasm, TinyGo: -target=wasip1, C: --target=wasm32-wasi or wasm32-wasip1)")
	case layer != 0 || version != 1:
		return bad(4, "this version of the binary format is unknown; version 1 is supported")
	}
	return nil
}

// Sections splits a binary into its sections and checks the header, the lengths and the order, nothing else.
func Sections(wasm []byte) ([]Section, error) {
	if err := header(wasm); err != nil {
		return nil, err
	}
	var out []Section
	r := reader{b: wasm, pos: headerBytes, what: "sections"}
	last := 0
	for r.left() > 0 {
		at := r.pos
		id := SectionID(r.byte())
		size := r.u32()
		s := Section{ID: id, Offset: r.at()}
		if r.err != nil {
			return nil, r.err
		}
		if s.Content = r.take(size); r.err != nil {
			r.err.Msg = "the " + id.String() + " section is longer than the file: it is truncated"
			return nil, r.err
		}
		switch {
		case int(id) >= len(order):
			r.fail(at, "there is no section %d", id)
		case id == SectionCustom:
			if len(out) >= maxSections {
				r.failAs("bounds", at, "more than %d sections", maxSections)
			}
		case order[id] == last:
			r.fail(at, "a second %s section", id)
		case order[id] < last:
			r.fail(at, "the %s section is out of order", id)
		default:
			last = order[id]
		}
		if r.err != nil {
			return nil, r.err
		}
		s.whole = wasm[at:r.pos:r.pos]
		out = append(out, s)
	}
	return out, nil
}

// maxSections bounds the custom sections of a binary; compilers write a dozen.
const maxSections = 1000

// parser reads one binary.
type parser struct {
	reader
	m      *Module
	bounds Bounds

	types     []FuncType
	functions []uint32 // type of each, imported ones first
	imported  [5]int   // by kind
	bodies    bool     // a code section was there
	dataCount int      // -1 without the section
	segments  int

	code        Instructions
	graph       graph
	locals      int
	blockLocals uint64
	mutable     uint64 // globals that are, imported ones too
	reloads     uint64
	climbs      uint64
	lookups     uint64
	comparisons uint64
	labels      int
	entries     int

	taken  *Binary // what is taken apart; nil if the module is only looked at
	starts []int   // of the entries of the section being read
}

// entry notes that an entry of a section begins here.
func (p *parser) entry() {
	if p.taken != nil {
		p.starts = append(p.starts, p.pos)
	}
}

// Parse reads a binary, checks its form and holds it against the bounds. Its error is a *Error.
func Parse(wasm []byte, b Bounds) (*Module, error) { return parse(wasm, b, nil) }

func parse(wasm []byte, b Bounds, taken *Binary) (*Module, error) {
	p := &parser{m: &Module{Size: len(wasm)}, bounds: b.Filled(), dataCount: -1, taken: taken}
	if len(wasm) > p.bounds.Size {
		return nil, &Error{Check: "bounds", Offset: -1, Msg: sizeMessage(len(wasm), p.bounds.Size)}
	}
	sections, err := Sections(wasm)
	if err != nil {
		return nil, err
	}
	for _, s := range sections {
		p.reader = reader{b: s.Content, base: s.Offset, what: s.ID.String() + " section"}
		if s.ID == SectionCode {
			p.what = "code"
		}
		p.section(s.ID)
		if p.err == nil && p.left() > 0 && s.ID != SectionCustom {
			p.fail(p.at(), "%d bytes too many", p.left())
		}
		if p.err != nil {
			return nil, p.err
		}
		if taken != nil {
			taken.part(s, p.starts)
			p.starts = p.starts[:0]
		}
	}
	if taken != nil {
		taken.Types, taken.Functions = p.types, p.functions
	}
	p.reader = reader{base: len(wasm), what: "sections"}
	switch {
	case !p.bodies && p.m.Functions > 0:
		p.fail(len(wasm), "%d functions are declared, but there is no code section", p.m.Functions)
	case p.dataCount > 0 && p.segments != p.dataCount:
		p.fail(len(wasm), "%d data segments are announced, %d are there", p.dataCount, p.segments)
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.m, nil
}

func sizeMessage(have, most int) string {
	e := reader{}
	e.fail(0, "the file has %d bytes; at most %d are allowed. Stripping debug information often helps (-ldflags=-s, strip=true, wasm-strip)", have, most)
	return e.err.Msg
}

func (p *parser) section(id SectionID) {
	switch id {
	case SectionCustom:
		p.customSection()
	case SectionType:
		p.typeSection()
	case SectionImport:
		p.importSection()
	case SectionFunction:
		p.functionSection()
	case SectionTable:
		p.tableSection()
	case SectionMemory:
		p.memorySection()
	case SectionTag:
		p.failAs("features", p.at(), "exceptions are not supported: build without them (-fno-exceptions, panic=abort)")
	case SectionGlobal:
		p.globalSection()
	case SectionExport:
		p.exportSection()
	case SectionStart:
		p.m.HasStart = true
		at := p.at()
		f := p.u32()
		if p.err == nil && uint64(f) >= uint64(len(p.functions)) {
			p.fail(at, "function %d does not exist", f)
		}
		if p.taken != nil {
			p.taken.Start = int64(f)
		}
	case SectionElement:
		p.elementSection()
	case SectionDataCount:
		p.dataCount = int(p.u32())
		if p.dataCount > p.bounds.DataSegments {
			p.failAs("bounds", p.base, "%d data segments; at most %d are allowed", p.dataCount, p.bounds.DataSegments)
		}
	case SectionCode:
		p.codeSection()
	case SectionData:
		p.dataSection()
	}
}

func (p *parser) typeSection() {
	n := p.count("types", 3, p.bounds.Types)
	p.types = make([]FuncType, 0, n)
	for range n {
		p.entry()
		at := p.at()
		if form := p.byte(); p.err == nil && form != 0x60 {
			if form >= 0x4e && form <= 0x5f {
				p.failAs("features", at, "types of the garbage collection proposal are not supported")
			}
			p.fail(at, "a type of the unknown form 0x%02x", form)
		}
		t := FuncType{Params: p.valueTypes(), Results: p.valueTypes()}
		if k := len(t.Params) + len(t.Results); k > p.bounds.Values {
			p.failAs("bounds", at, "a type with %d parameters and results; at most %d are allowed", k, p.bounds.Values)
		}
		if p.err != nil {
			return
		}
		p.types = append(p.types, t)
	}
}

func (p *parser) valueTypes() []hostcall.ValueType {
	n := p.count("parameters or results", 1, p.bounds.Values)
	if n == 0 {
		return nil
	}
	out := make([]hostcall.ValueType, n)
	for i := range out {
		out[i] = p.valueType()
	}
	return out
}

func (p *parser) valueType() hostcall.ValueType {
	at := p.at()
	t := p.byte()
	if p.err == nil && !valueType(t) {
		if t >= 0x60 && t < 0x80 {
			p.failAs("features", at, "a value of type 0x%02x: references other than funcref and externref are not supported", t)
		}
		p.fail(at, "a value of the unknown type 0x%02x", t)
	}
	return hostcall.ValueType(t)
}

func (p *parser) refType() hostcall.ValueType {
	at := p.at()
	t := p.byte()
	if p.err == nil && !refType(t) {
		if t >= 0x60 && t < 0x80 {
			p.failAs("features", at, "references of type 0x%02x: others than funcref and externref are not supported", t)
		}
		p.fail(at, "references of the unknown type 0x%02x", t)
	}
	return hostcall.ValueType(t)
}

func valueType(t byte) bool { return t >= 0x7b && t <= 0x7f || refType(t) }
func refType(t byte) bool   { return t == 0x70 || t == 0x6f }

const funcRef hostcall.ValueType = 0x70

// typeIndex reads the index of a function type.
func (p *parser) typeIndex() uint32 {
	at := p.at()
	i := p.u32()
	if p.err == nil && uint64(i) >= uint64(len(p.types)) {
		p.fail(at, "type %d does not exist", i)
	}
	return i
}

// limits reads the size of a memory or table; most is what both ends may be.
func (p *parser) limits(what string, most uint64) Limits {
	at := p.at()
	flags := p.byte()
	switch {
	case p.err != nil:
	case flags&4 != 0 && flags < 8:
		p.failAs("features", at, "a %s with 64-bit addresses is not supported", what)
	case flags&2 != 0 && flags < 4:
		p.failAs("features", at, "a shared %s (threads) is not supported: build without threads and atomics", what)
	case flags > 1:
		p.fail(at, "%s limits with unknown flags 0x%02x", what, flags)
	}
	l := Limits{Min: uint64(p.u32()), HasMax: flags == 1}
	if l.HasMax {
		l.Max = uint64(p.u32())
	}
	switch {
	case p.err != nil:
	case l.Min > most || l.HasMax && l.Max > most:
		p.fail(at, "a %s larger than %d", what, most)
	case l.HasMax && l.Max < l.Min:
		p.fail(at, "a %s whose maximum is less than its minimum", what)
	}
	return l
}

func (p *parser) importSection() {
	n := p.count("imports", 4, p.bounds.Imports)
	for range n {
		p.entry()
		im := Import{Module: p.name(), Name: p.name()}
		at := p.at()
		im.Kind = ExternKind(p.byte())
		switch im.Kind {
		case ExternFunc:
			t := p.typeIndex()
			if p.err == nil {
				im.Type = p.types[t]
				p.functions = append(p.functions, t)
			}
		case ExternTable:
			p.tableType()
		case ExternMemory:
			p.limits("memory", maxPages)
		case ExternGlobal:
			p.globalType()
		case ExternTag:
			p.failAs("features", at, "an imported tag: exceptions are not supported")
		default:
			p.fail(at, "an import of the unknown kind %d", byte(im.Kind))
		}
		if p.err != nil {
			return
		}
		p.imported[im.Kind]++
		p.m.Imports = append(p.m.Imports, im)
	}
}

func (p *parser) functionSection() {
	n := p.count("functions", 1, p.bounds.Functions)
	p.m.Functions = n
	for range n {
		p.entry()
		if p.functions = append(p.functions, p.typeIndex()); p.err != nil {
			return
		}
	}
}

func (p *parser) tableSection() {
	n := p.count("tables", 3, p.bounds.Tables)
	var total uint64
	for range n {
		p.entry()
		at := p.at()
		if p.left() > 0 && p.b[p.pos] == 0x40 {
			p.failAs("features", at, "a table with an initial value is not supported")
		}
		l := p.tableType()
		if total += l.Min; total > p.bounds.TableElements {
			p.failAs("bounds", at, "tables with %d elements; at most %d are allowed", total, p.bounds.TableElements)
		}
		if p.err != nil {
			return
		}
		p.m.Tables = append(p.m.Tables, l)
	}
}

func (p *parser) tableType() Limits {
	t := p.refType()
	l := p.limits("table", 1<<32-1)
	if p.taken != nil {
		p.taken.Tables = append(p.taken.Tables, Table{t, l})
	}
	return l
}

func (p *parser) memorySection() {
	at := p.at()
	n := p.count("memories", 2, 0)
	if n+p.imported[ExternMemory] > 1 {
		p.failAs("features", at, "several memories are not supported")
	}
	for range n {
		p.entry()
		at := p.at()
		l := p.limits("memory", maxPages)
		if l.Min > p.bounds.MemoryPages {
			p.failAs("bounds", at, "a memory of at least %d pages; at most %d are allowed", l.Min, p.bounds.MemoryPages)
		}
		if p.err != nil {
			return
		}
		p.m.Memories = append(p.m.Memories, l)
	}
}

func (p *parser) globalType() GlobalType {
	t := p.valueType()
	at := p.at()
	mutable := p.byte()
	if mutable > 1 {
		p.fail(at, "a global whose mutability is %d", mutable)
	}
	p.mutable += uint64(mutable)
	g := GlobalType{t, mutable == 1}
	if p.taken != nil {
		p.taken.Globals = append(p.taken.Globals, Global{GlobalType: g})
	}
	return g
}

func (p *parser) globalSection() {
	n := p.count("globals", 4, p.bounds.Globals)
	p.m.Globals = n
	for range n {
		p.entry()
		t := p.globalType()
		init := p.constant()
		if p.err != nil {
			return
		}
		if p.taken != nil {
			p.taken.Globals[len(p.taken.Globals)-1].Init = init
		}
		p.m.GlobalTypes = append(p.m.GlobalTypes, t)
	}
}

// constant walks over a constant expression and answers its bytes.
func (p *parser) constant() []byte {
	if p.err != nil {
		return nil
	}
	from := p.pos
	it := &p.code
	it.reset(reader{b: p.b, pos: p.pos, base: p.base, what: p.what}, 1)
	for it.Next() {
		switch it.Op {
		case OpI32Const, OpI64Const, OpF32Const, OpF64Const, OpV128Const, OpGlobalGet, OpRefNull, OpRefFunc, OpEnd,
			OpI32Add, OpI32Sub, OpI32Mul, OpI64Add, OpI64Sub, OpI64Mul:
		default:
			p.fail(it.Offset, "the instruction 0x%02x is not constant", uint32(it.Op))
			return nil
		}
	}
	if p.pos, p.err = it.r.pos, it.r.err; p.err != nil {
		return nil
	}
	return p.b[from:p.pos:p.pos]
}

func (p *parser) exportSection() {
	n := p.count("exports", 3, p.bounds.Exports)
	seen := make(map[string]struct{}, n)
	for range n {
		p.entry()
		at := p.at()
		e := Export{Name: p.name()}
		e.Kind, e.Index = ExternKind(p.byte()), p.u32()
		if p.err != nil {
			return
		}
		have := 0
		switch e.Kind {
		case ExternFunc:
			have = len(p.functions)
		case ExternTable:
			have = p.imported[ExternTable] + len(p.m.Tables)
		case ExternMemory:
			have = p.imported[ExternMemory] + len(p.m.Memories)
		case ExternGlobal:
			have = p.imported[ExternGlobal] + p.m.Globals
		case ExternTag:
			p.failAs("features", at, "an exported tag: exceptions are not supported")
		default:
			p.fail(at, "an export of the unknown kind %d", byte(e.Kind))
		}
		if uint64(e.Index) >= uint64(have) {
			p.fail(at, "%s %d, exported as %q, does not exist", e.Kind, e.Index, clip(e.Name))
		}
		if _, twice := seen[e.Name]; twice {
			p.fail(at, "%q is exported twice", clip(e.Name))
		}
		if p.err != nil {
			return
		}
		if e.Kind == ExternFunc {
			e.Type = p.types[p.functions[e.Index]]
		}
		seen[e.Name] = struct{}{}
		p.m.Exports = append(p.m.Exports, e)
	}
}

func (p *parser) elementSection() {
	n := p.count("element segments", 3, p.bounds.Elements)
	for range n {
		p.entry()
		at := p.at()
		e := Element{Flags: p.u32(), Type: funcRef}
		if e.Flags > 7 {
			p.fail(at, "an element segment with unknown flags %d", e.Flags)
		}
		if e.Active() {
			if e.Flags&2 != 0 {
				e.Table = p.u32()
			}
			e.Offset = p.constant()
		}
		if e.Flags&3 != 0 {
			if e.Flags&4 != 0 {
				e.Type = p.refType()
			} else if at := p.at(); p.byte() != 0 {
				p.fail(at, "an element segment of an unknown kind")
			}
		}
		at = p.at()
		e.Len = p.count("entries of an element segment", 1, 0)
		if p.entries += e.Len; p.entries > p.bounds.ElementEntries {
			p.failAs("bounds", at, "more than %d entries of element segments", p.bounds.ElementEntries)
		}
		from := p.pos
		for range e.Len {
			if e.Flags&4 != 0 {
				p.constant()
			} else {
				p.u32()
			}
			if p.err != nil {
				return
			}
		}
		if p.err != nil {
			return
		}
		if p.taken != nil {
			e.entries = p.b[from:p.pos:p.pos]
			p.taken.Elements = append(p.taken.Elements, e)
		}
	}
}

func (p *parser) dataSection() {
	at := p.at()
	n := p.count("data segments", 2, p.bounds.DataSegments)
	p.segments = n
	if p.dataCount >= 0 && n != p.dataCount {
		p.fail(at, "%d data segments; the data count section says %d", n, p.dataCount)
	}
	for range n {
		p.entry()
		at := p.at()
		d := Data{Flags: p.u32()}
		switch {
		case d.Flags > 2:
			p.fail(at, "a data segment with unknown flags %d", d.Flags)
		case d.Flags == 2:
			if at := p.at(); p.u32() != 0 {
				p.failAs("features", at, "several memories are not supported")
			}
			fallthrough
		case d.Flags == 0:
			d.Offset = p.constant()
		}
		d.Bytes = p.take(p.u32())
		p.m.DataBytes += len(d.Bytes)
		if p.err != nil {
			return
		}
		if p.taken != nil {
			p.taken.Data = append(p.taken.Data, d)
		}
	}
}

// customSection notes what a custom section tells. One that is malformed inside is none of the specification's business.
func (p *parser) customSection() {
	name := p.name()
	if p.err != nil {
		return
	}
	if len(p.m.Custom) < 64 {
		p.m.Custom = append(p.m.Custom, clip(name))
	}
	content := reader{b: p.b[p.pos:]}
	switch {
	case name == "name":
		p.m.names(&content)
	case name == "producers":
		p.m.producers(&content)
	case strings.HasPrefix(name, ".debug_"):
		p.m.HasDebug = true
	}
}

func (m *Module) names(r *reader) {
	for r.left() > 0 && r.err == nil {
		id := r.byte()
		sub := reader{b: r.take(r.u32())}
		switch {
		case r.err != nil:
		case id == 0:
			if name := sub.name(); sub.err == nil {
				m.Name = clip(name)
			}
		case id == 1:
			m.HasNames = true
		}
	}
}

func (m *Module) producers(r *reader) {
	for range min(r.u32(), 8) {
		field := r.name()
		for range r.u32() {
			text := r.name()
			if v := r.name(); v != "" {
				text += " " + v
			}
			if r.err != nil {
				return
			}
			if len(m.Producers) < 64 {
				m.Producers = append(m.Producers, clip(field+" "+text))
			}
		}
	}
}

// clip keeps a name from a binary short enough to print.
func clip(s string) string {
	if len(s) <= 256 {
		return s
	}
	return strings.ToValidUTF8(s[:256], "") + "…"
}
