package translate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// Names that guests may not use: exports and import modules that begin with Prefix.
const (
	Prefix = "ripstop:"

	// The import that translated modules have: (fuel i64, depth i64) → fuel i64. See Meter.Tick.
	MeterModule = Prefix + "meter"
	TickName    = "tick"

	// Exported globals, mutable. FuelExport and DepthExport are i64: fuel until the next tick, and bytes of frames that are
	// left; below zero they are used up. DirtyExport is an i32: 1 once an instruction wrote to a table or dropped a segment.
	FuelExport  = Prefix + "fuel"
	DepthExport = Prefix + "depth"
	DirtyExport = Prefix + "dirty"
	// StartExport is what was the start function.
	StartExport = Prefix + "start"

	globalExport = Prefix + "global:"
)

// Options configures a translation. The zero value has the platform's bounds.
type Options struct {
	Bounds        module.Bounds // of the module; zero fields mean the defaults
	TableElements uint32        // what the tables may grow to together, if their minima are not more; 0 means DefaultTableElements
	Depth         int64         // what the depth global begins as, in bytes; 0 means DefaultDepth

	each bool // charge each instruction by itself: what regions are held against in tests
}

const (
	// DefaultTableElements is 256 KiB of them. Engines get memory for a table that grows, clear it and copy the table in one go, during which
	// nobody can collect garbage: with 8 MiB, 43 ms where the kernel takes its time for new pages.
	DefaultTableElements = 1 << 15
	// DefaultDepth lets a Go program recurse some 50,000 functions deep. wazero's stack then takes less than half of the 50 MB at
	// which it gives up by itself.
	DefaultDepth = 16 << 20
)

// Result is a translated module.
type Result struct {
	// Wasm is the module. It is valid if the original was.
	Wasm []byte
	// Image is what the memory holds before anything runs: what were active data segments. Extents are applied in order, and
	// may overlap. It shares the bytes of the original. The data of a module whose segments do not all fit into the
	// minimum of a memory of its own stays in Wasm, so that instantiating fails as it did before.
	Image []Extent
	// Start says that the module had a start function: it is exported as StartExport, and whoever instantiates calls it after
	// the image was applied.
	Start bool
	// Info is what Wasm declares.
	Info *module.Module
	// Globals are the mutable globals that the original defines, all of them exported. Those of the translation are not among them.
	Globals []Global
}

// Extent is bytes of memory.
type Extent struct {
	Offset uint32
	Bytes  []byte
}

// Global is a mutable global of a translated module.
type Global struct {
	Index  uint32
	Type   hostcall.ValueType
	Export string
}

// translation is one module on its way.
type translation struct {
	added
	source   *module.Binary
	opts     Options
	result   Result
	imports  uint32 // imported functions of the original
	types    [][]byte
	known    map[string]uint32 // types of ours by their encoding
	routines []routine
	helpers  map[operation]uint32
	usesData bool // memory.init or data.drop occurs
	missing  bool // a function is named that the original does not have
}

// Translate translates a valid module. The module must have been validated before: translation may make valid what was not, and
// what it does then is undefined, though it ends, does not panic, and gives the guest no hold of what is added. Its error is a
// *module.Error. It is a function of its arguments, and takes time and memory in proportion to the module. Wasm must not change
// afterwards.
func Translate(wasm []byte, opts Options) (*Result, error) {
	if opts.TableElements == 0 {
		opts.TableElements = DefaultTableElements
	}
	if opts.Depth == 0 {
		opts.Depth = DefaultDepth
	}
	b, err := module.Take(wasm, opts.Bounds)
	if err != nil {
		return nil, err
	}
	if err := reserved(b); err != nil {
		return nil, err
	}
	t := &translation{source: b, opts: opts, known: map[string]uint32{}, helpers: map[operation]uint32{}}
	t.imports = uint32(len(b.Functions) - len(b.Bodies))
	t.tick = t.imports
	globals := uint32(len(b.Globals))
	t.fuel, t.depth, t.dirty = globals, globals+1, globals+2
	tickType := t.typeIndex([]hostcall.ValueType{i64, i64}, []hostcall.ValueType{i64})
	t.check = t.add(t.checker())
	t.tables()
	if err := t.functions(); err != nil {
		return nil, err
	}
	t.data()
	t.references()
	t.exports()
	if t.missing {
		return nil, invalid(-1, "a global or an element segment names what is not there")
	}
	t.custom()
	if p := b.Ensure(module.SectionImport); true {
		entry := append(module.AppendName(module.AppendName(nil, MeterModule), TickName), byte(module.ExternFunc))
		p.Set(with(p.Entries, binary.AppendUvarint(entry, uint64(tickType))))
	}
	if p := b.Ensure(module.SectionType); true {
		p.Set(with(p.Entries, t.types...))
	}
	t.result.Wasm = b.Bytes()
	if t.result.Info, err = module.Parse(t.result.Wasm, widened(opts.Bounds)); err != nil {
		if e := new(module.Error); errors.As(err, &e) {
			return nil, &module.Error{Check: e.Check, Offset: -1, Msg: "once translated, " + e.Msg}
		}
		return nil, err
	}
	return &t.result, nil
}

// maxRoutines bounds the functions that are added: compilers use memory.init and table.init for a handful of segments.
const maxRoutines = 1000

// widened is the bounds of a translated module: what makes engines slow is bounded as it was, since it is this that they
// compile; there is room for what is always added, and code may be longer.
func widened(b module.Bounds) module.Bounds {
	b = b.Filled()
	b.Exports += b.Globals + 4
	b.Size, b.FunctionBytes = 8*b.Size, 8*b.FunctionBytes
	b.Types += maxRoutines
	b.Functions += maxRoutines
	b.Imports++
	b.Globals += 3
	b.Nesting += 2 + apartBlocks
	return b
}

// with is entries and more.
func with(entries [][]byte, more ...[]byte) [][]byte {
	return append(entries[:len(entries):len(entries)], more...)
}

// moved is where a function is after the translation: the tick is imported before the module's own functions.
func (t *translation) moved(f uint32) uint32 {
	if uint64(f) >= uint64(len(t.source.Functions)) {
		t.missing = true
	}
	if f >= t.imports {
		f++
	}
	return f
}

// typeIndex finds or adds a function type.
func (t *translation) typeIndex(params, results []hostcall.ValueType) uint32 {
	entry := module.FuncType{Params: params, Results: results}.Append(nil)
	i, ok := t.known[string(entry)]
	if !ok {
		i = uint32(len(t.source.Types) + len(t.types))
		t.types = append(t.types, entry)
		t.known[string(entry)] = i
	}
	return i
}

// reserved refuses a module that uses names of ours.
func reserved(b *module.Binary) error {
	refuse := func(what, name string) error {
		return &module.Error{Check: "names", Offset: -1, Msg: fmt.Sprintf("the %s %q is reserved: names that begin with %q are the platform's", what, name, Prefix)}
	}
	for _, im := range b.Info.Imports {
		if strings.HasPrefix(im.Module, Prefix) {
			return refuse("import module", im.Module)
		}
	}
	for _, e := range b.Info.Exports {
		if strings.HasPrefix(e.Name, Prefix) {
			return refuse("export", e.Name)
		}
	}
	return nil
}

// tables bounds the tables: each may grow to an equal share, or stay as large as it is. Bounds are there for its minimum.
func (t *translation) tables() {
	p := t.source.Part(module.SectionTable)
	if p == nil {
		return
	}
	most := uint64(t.opts.TableElements)
	own := t.source.Tables[len(t.source.Tables)-len(p.Entries):]
	entries := make([][]byte, len(own))
	for i, table := range own {
		l := &table.Limits
		if share := max(l.Min, most/uint64(len(own))); !l.HasMax || l.Max > share {
			l.Max, l.HasMax = share, true
		}
		entries[i] = table.Append(nil)
	}
	p.Set(entries)
}

// functions translates the code and adds ours.
func (t *translation) functions() error {
	b := t.source
	a := &analysis{source: b, each: t.opts.each}
	f := &function{translation: t}
	bodies := make([][]byte, 0, len(b.Bodies)+1)
	for i := range b.Bodies {
		body, typ := &b.Bodies[i], b.Types[b.Functions[int(t.imports)+i]]
		values := body.LocalValues + body.WideLocals + uint64(len(typ.Params))
		if err := a.run(body, typ); err != nil {
			return err
		}
		f.write(body, a, typ, values)
		if len(t.routines) > maxRoutines {
			return &module.Error{Check: "bounds", Offset: body.Offset, Msg: fmt.Sprintf("instructions that move ranges name more than %d segments and tables", maxRoutines)}
		}
		entry := make([]byte, 0, len(f.out)+binary.MaxVarintLen32)
		bodies = append(bodies, append(binary.AppendUvarint(entry, uint64(len(f.out))), f.out...))
	}
	p := b.Ensure(module.SectionFunction)
	entries := with(p.Entries)
	for i := range t.routines {
		entries = append(entries, binary.AppendUvarint(nil, uint64(t.routines[i].typ)))
		bodies = append(bodies, t.routines[i].entry())
	}
	p.Set(entries)
	b.Ensure(module.SectionCode).Set(bodies)
	return nil
}

// data takes active segments out of the module.
func (t *translation) data() {
	p := t.source.Part(module.SectionData)
	if p == nil || !t.takeImage() {
		return
	}
	if !t.usesData {
		t.source.Remove(func(p *module.Part) bool { return p.ID == module.SectionData || p.ID == module.SectionDataCount })
		return
	}
	entries := with(p.Entries)
	for i := range t.source.Data {
		if t.source.Data[i].Active() {
			entries[i] = []byte{1, 0} // passive and empty: what an active segment is once it was applied
		}
	}
	p.Set(entries)
}

// takeImage fills the image from the active segments, unless they have to stay.
func (t *translation) takeImage() bool {
	if len(t.source.Info.Memories) == 0 {
		return false // active segments go to an imported memory, if there are any
	}
	size := t.source.Info.Memories[0].Min << 16
	var image []Extent
	for i := range t.source.Data {
		d := &t.source.Data[i]
		if !d.Active() {
			continue
		}
		at, ok := constant(d.Offset)
		if !ok || uint64(at)+uint64(len(d.Bytes)) > size {
			return false
		}
		if len(d.Bytes) > 0 {
			image = append(image, Extent{at, d.Bytes})
		}
	}
	t.result.Image = image
	return true
}

// constant evaluates an offset. It is false for what is only known when the module is instantiated.
func constant(expr []byte) (uint32, bool) {
	var stack []uint32
	it := module.NewInstructions(expr, 0, 1)
	for it.Next() {
		switch it.Op {
		case module.OpEnd:
		case module.OpI32Const:
			stack = append(stack, uint32(it.A))
		case module.OpI32Add, module.OpI32Sub, module.OpI32Mul:
			n := len(stack) - 2
			if n < 0 {
				return 0, false
			}
			switch x, y := stack[n], stack[n+1]; it.Op {
			case module.OpI32Add:
				stack[n] = x + y
			case module.OpI32Sub:
				stack[n] = x - y
			default:
				stack[n] = x * y
			}
			stack = stack[:n+1]
		default:
			return 0, false
		}
	}
	if len(stack) != 1 || it.Err() != nil {
		return 0, false
	}
	return stack[0], true
}

// references moves the functions that globals and element segments name, and adds our globals.
func (t *translation) references() {
	b := t.source
	p := b.Ensure(module.SectionGlobal)
	entries := with(p.Entries)
	own := b.Globals[len(b.Globals)-len(entries):]
	imported := len(b.Globals) - len(own)
	for i, g := range own {
		if named, ok := global(g.Init); ok && named >= uint64(imported+i) {
			t.missing = true // what comes later cannot be named, and ours come last
		}
		g.Init = module.AppendMapped(nil, g.Init, t.moved)
		entries[i] = g.Append(nil)
	}
	for _, g := range []struct {
		typ  hostcall.ValueType
		init int64
	}{{i64, 0}, {i64, t.opts.Depth}, {i32, 0}} {
		var init code
		if g.typ == i32 {
			init.i32(int32(g.init))
		} else {
			init.i64(g.init)
		}
		init.op(module.OpEnd)
		entries = append(entries, module.Global{GlobalType: module.GlobalType{Type: g.typ, Mutable: true}, Init: init}.Append(nil))
	}
	p.Set(entries)
	if p := b.Part(module.SectionElement); p != nil {
		entries := make([][]byte, len(b.Elements))
		for i := range b.Elements {
			entries[i] = b.Elements[i].AppendMapped(nil, t.moved)
		}
		p.Set(entries)
	}
}

// global is the global that a constant expression gets, if it does; the highest one.
func global(expr []byte) (index uint64, ok bool) {
	it := module.NewInstructions(expr, 0, 1)
	for it.Next() {
		if it.Op == module.OpGlobalGet {
			index, ok = max(index, it.A), true
		}
	}
	return index, ok
}

// exports moves exported functions, and adds hidden state and what was the start function.
func (t *translation) exports() {
	b := t.source
	p := b.Ensure(module.SectionExport)
	entries := make([][]byte, 0, len(b.Info.Exports)+4)
	named := map[uint32]string{}
	for _, e := range b.Info.Exports {
		switch e.Kind {
		case module.ExternFunc:
			e.Index = t.moved(e.Index)
		case module.ExternGlobal:
			if _, twice := named[e.Index]; !twice {
				named[e.Index] = e.Name
			}
		}
		entries = append(entries, e.Append(nil))
	}
	export := func(name string, kind module.ExternKind, index uint32) {
		entries = append(entries, module.Export{Name: name, Kind: kind, Index: index}.Append(nil))
	}
	for i, g := range b.Globals {
		if !g.Mutable || g.Init == nil {
			continue
		}
		name, ok := named[uint32(i)]
		if !ok {
			name = fmt.Sprintf("%s%d", globalExport, i)
			export(name, module.ExternGlobal, uint32(i))
		}
		t.result.Globals = append(t.result.Globals, Global{Index: uint32(i), Type: g.Type, Export: name})
	}
	export(FuelExport, module.ExternGlobal, t.fuel)
	export(DepthExport, module.ExternGlobal, t.depth)
	export(DirtyExport, module.ExternGlobal, t.dirty)
	if b.Start >= 0 {
		t.result.Start = true
		export(StartExport, module.ExternFunc, t.moved(uint32(b.Start)))
	}
	p.Set(entries)
	if b.Start >= 0 {
		b.Remove(func(p *module.Part) bool { return p.ID == module.SectionStart })
	}
}

// custom renames functions and drops what speaks of places in the code, which have moved.
func (t *translation) custom() {
	b := t.source
	names := []module.FunctionName{{Index: t.tick, Name: MeterModule + "." + TickName}}
	for _, r := range t.routines {
		names = append(names, module.FunctionName{Index: r.indexed, Name: r.name})
	}
	b.Remove(func(p *module.Part) bool {
		if p.ID != module.SectionCustom {
			return false
		}
		if p.Name == "name" {
			content, ok := module.RenameFunctions(p.Entries[0], t.moved, names)
			if ok {
				p.Set([][]byte{content})
			}
			return !ok
		}
		for _, prefix := range []string{".debug_", "sourceMappingURL", "external_debug_info", "linking", "reloc.", "metadata.code.", "dylink"} {
			if strings.HasPrefix(p.Name, prefix) {
				return true
			}
		}
		return false
	})
}
