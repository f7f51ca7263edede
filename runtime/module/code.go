package module

import "github.com/ripstop-vm/ripstop/runtime/processor"

// codeSection walks over every function body and holds it against the bounds.
func (p *parser) codeSection() {
	p.bodies = true
	at := p.at()
	n := p.count("function bodies", 2, p.bounds.Functions)
	if n != p.m.Functions {
		p.fail(at, "%d function bodies for %d functions", n, p.m.Functions)
	}
	var courtesy processor.Courtesy // megabytes take tens of milliseconds, beside requests
	for i := range n {
		courtesy.Yield()
		p.entry()
		at := p.at()
		body := reader{b: p.take(p.u32()), what: "code"}
		if p.err != nil {
			return
		}
		body.base = p.at() - len(body.b)
		p.m.CodeBytes += len(body.b)
		if len(body.b) > p.bounds.FunctionBytes {
			p.failAs("bounds", at, "a function body of %d bytes; at most %d are allowed", len(body.b), p.bounds.FunctionBytes)
			return
		}
		t := p.types[p.functions[p.imported[ExternFunc]+i]]
		if p.body(&body, len(t.Params)); p.err != nil {
			return
		}
	}
}

// body checks one function body. The bounds are checked as it goes, so that a bomb costs no more than a bound's worth.
func (p *parser) body(r *reader, params int) {
	b := &p.bounds
	over := func(at int, format string, args ...any) { p.failAs("bounds", at, format, args...) }
	start := r.at()
	locals, wide := uint64(params), uint64(0)
	for range r.count("groups of locals", 2, 0) {
		n := r.u32()
		at := r.at()
		t := r.byte()
		if r.err == nil && !valueType(t) {
			r.fail(at, "a local of the unknown type 0x%02x", t)
		}
		if t == 0x7b {
			wide += uint64(n)
		}
		locals += uint64(n) // at most 2²⁰ groups in a body, of 2³²
	}
	if p.err = r.err; p.err != nil {
		return
	}
	if p.taken != nil {
		p.taken.Bodies = append(p.taken.Bodies, Body{Locals: r.b[:r.pos:r.pos], Code: r.b[r.pos:], Offset: r.at(),
			LocalValues: locals - uint64(params), WideLocals: wide})
	}
	if locals > uint64(b.FunctionLocals) {
		over(start, "a function with %d locals; at most %d are allowed", locals, b.FunctionLocals)
		return
	}
	if p.locals += int(locals); p.locals > b.Locals {
		over(start, "functions with more than %d locals together", b.Locals)
		return
	}

	it := &p.code
	it.reset(*r, b.Nesting)
	blocks, calls, labels, nesting := uint64(1), uint64(0), 0, 1
	g := &p.graph
	g.begin(int(locals))
	last := r.at() // where code begins, or a loop that LoopOften may add
	for it.Next() {
		if it.Op.long() || it.Offset-last >= straightCode {
			blocks++
			g.emptyLoop()
			last = it.Offset
		}
		if it.Op <= OpGlobalGet { // step knows none above
			g.step(&it.Instruction)
		}
		switch it.Op {
		case OpBlock, OpLoop, OpIf, OpElse:
			blocks++
			nesting = max(nesting, it.Depth)
			if it.Op != OpElse && it.Block >= int64(len(p.types)) {
				p.fail(it.Offset, "a block of type %d, which does not exist", it.Block)
				return
			}
			if blocks*locals > b.BlockLocals {
				over(it.Offset, "a function with %d locals and more than %d blocks; at most %d of their product are allowed", locals, blocks-1, b.BlockLocals)
				return
			}
		case OpCall, OpCallIndirect:
			calls++
		case OpBrTable:
			if labels += it.Labels + 1; labels > b.Labels {
				over(it.Offset, "a function whose jump tables have %d targets; at most %d are allowed", labels, b.Labels)
				return
			}
		case OpTableSet, OpTableGrow, OpTableFill, OpTableCopy, OpTableInit, OpElemDrop:
			p.m.Mutates = true
		case OpMemoryInit, OpDataDrop:
			p.m.Mutates = p.m.Mutates || it.Op == OpDataDrop
			if p.dataCount < 0 {
				p.fail(it.Offset, "memory.init or data.drop needs a data count section")
				return
			}
		}
	}
	if p.err = it.r.err; p.err != nil {
		return
	}
	if it.r.left() > 0 {
		p.fail(it.r.at(), "%d bytes after the function's end", it.r.left())
		return
	}
	if blocks*locals > b.BlockLocals {
		over(start, "a function with %d locals and %d blocks and bulk instructions; at most %d of their product are allowed", locals, blocks-1, b.BlockLocals)
		return
	}
	l := &p.m.Largest
	l.Bytes, l.Locals, l.Nesting = max(l.Bytes, len(r.b)), max(l.Locals, int(locals)), max(l.Nesting, nesting)
	l.Labels, l.BlockLocals = max(l.Labels, labels), max(l.BlockLocals, blocks*locals)
	if p.labels += labels; p.labels > b.AllLabels {
		over(start, "jump tables with more than %d targets together", b.AllLabels)
	}
	if p.reloads += calls * p.mutable; p.reloads > b.AllReloads {
		over(start, "calls times mutable globals are more than %d together", b.AllReloads)
	}
	if p.climbs += g.climbs; p.climbs > b.AllClimbs {
		over(start, "a function with %d ways between blocks, one after another; finding its loops may take %d steps, with all others' together", g.ways, b.AllClimbs)
	}
	if p.lookups += g.lookups(); p.lookups > b.AllLookups {
		over(start, "a function with %d locals in use over %d ways between blocks; finding where they were set may take %d steps, with all others' together", g.values, g.ways, b.AllLookups)
	}
	if p.comparisons += g.comparisons(); p.comparisons > b.AllComparisons {
		over(start, "a function with %d locals in use over %d ways between blocks and in %d nested loops; ways × locals² × loops may be at most %d together",
			g.values, g.ways, g.around, b.AllComparisons)
	}
	if p.blockLocals += blocks * locals; p.blockLocals > b.AllBlockLocals {
		over(start, "the functions' blocks times locals are more than %d together", b.AllBlockLocals)
	}
}
