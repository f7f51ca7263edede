package translate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ripstop-vm/ripstop/runtime/module"
)

// A region is a set of instructions of which, once the first is reached, all are run, unless the guest ends within. Its
// fuel is charged at once, at its beginning. It grows past blocks and branches that nothing leaves: what follows an if or a
// loop belongs to what came before it.
type region struct {
	at    int // offset of the instruction before which it is charged
	cost  uint32
	loop  bool // at a loop's head
	apart bool // of such a loop: the host can be called outside of it

	calls int    // how many calls there were in the function when it began
	seen  int    // the same when it last grew
	after uint32 // by how much it grew after the last call
}

// frame is an open block.
type frame struct {
	op              module.Opcode
	region          int // that grows
	base            int // height of the operand stack below the parameters
	params, results int
	outward         int // the outermost frame that a branch from within leads to
	dead            bool
	born            bool // it was dead from the beginning
	turns           bool // there is a loop in it
	fork            int  // of an if: the region that the condition belongs to; -1 if nothing may be moved there
	first, second   int  // of an if: the regions that its arms begin with
}

// analysis is what is found out about a function before it is written.
type analysis struct {
	regions []region
	highest int  // of the operand stack
	calls   bool // it calls functions of the module, or through a table, other than by tail calls
	tails   bool // it has tail calls

	source *module.Binary
	each   bool // a region for each instruction
	locals int  // with parameters
	frames []frame
	height int
	seq    int // calls so far

	ands     []bool // of each value on the operand stack: an and made it
	andLocal []bool // of each local: the same of what was put there last, in the order of the code
	splits   []int  // offsets of comparisons that an and is kept apart from; ascending. See function.split
}

// invalid is for what validation would have found.
func invalid(at int, format string, args ...any) error {
	return &module.Error{Check: "translation", Offset: at, Msg: "the module is not valid: " + fmt.Sprintf(format, args...)}
}

// run looks at a function of type t.
func (a *analysis) run(body *module.Body, t module.FuncType) error {
	a.regions, a.frames = append(a.regions[:0], region{at: body.Offset, cost: entryCost + uint32((body.LocalValues+body.WideLocals)/4)}), a.frames[:0]
	a.highest, a.height, a.seq, a.calls, a.tails = 0, 0, 0, false, false
	a.locals = len(t.Params) + int(body.LocalValues)
	a.ands, a.splits = a.ands[:0], a.splits[:0]
	a.andLocal = slices.Grow(a.andLocal[:0], a.locals)[:a.locals]
	clear(a.andLocal)
	a.push(frame{op: module.OpBlock, results: len(t.Results)})
	it := module.NewInstructions(body.Code, body.Offset, 1<<30)
	for it.Next() {
		top := len(a.ands) > 0 && a.ands[len(a.ands)-1]
		if err := a.step(&it.Instruction); err != nil {
			return err
		}
		a.follow(&it.Instruction, top)
		a.highest = max(a.highest, a.height)
	}
	return it.Err()
}

func (a *analysis) top() *frame { return &a.frames[len(a.frames)-1] }

func (a *analysis) push(f frame) {
	f.base = a.height - f.params
	f.outward = len(a.frames)
	f.born = f.dead
	a.frames = append(a.frames, f)
}

// begin makes a region that is charged before the instruction at offset at.
func (a *analysis) begin(at int) int {
	a.regions = append(a.regions, region{at: at, calls: a.seq, seen: a.seq})
	return len(a.regions) - 1
}

// charge adds the cost of the instruction at offset at to the region that grows.
func (a *analysis) charge(f *frame, at int, cost uint32) {
	if f.dead || cost == 0 {
		return
	}
	r := &a.regions[f.region]
	if r.seen != a.seq {
		r.seen, r.after = a.seq, 0
	}
	if r.cost > 0 && r.cost+cost > regionCost || r.calls != a.seq && r.after+cost > returnCost || a.each {
		f.region = a.begin(at)
		r = &a.regions[f.region]
	}
	r.cost += cost
	if r.calls != a.seq {
		r.after += cost
	}
}

// move changes the height of the operand stack: pop values, then push others.
func (a *analysis) move(in *module.Instruction, pop, push int) error {
	f := a.top()
	if a.height -= pop; a.height < f.base {
		if !f.dead {
			return invalid(in.Offset, "the operand stack is empty")
		}
		a.height = f.base
	}
	a.settle(a.height)
	a.settle(a.height + push)
	return nil
}

// settle makes the operand stack h values high. What is new there was made by no and.
func (a *analysis) settle(h int) {
	a.height = h
	a.ands = a.ands[:min(h, len(a.ands))]
	for len(a.ands) < h {
		a.ands = append(a.ands, false)
	}
}

// leave notes a branch to a label.
func (a *analysis) leave(in *module.Instruction, label uint64) error {
	if label >= uint64(len(a.frames)) {
		return invalid(in.Offset, "there is no label %d", label)
	}
	if f := a.top(); !f.dead {
		f.outward = min(f.outward, len(a.frames)-1-int(label))
	}
	return nil
}

// end says that what follows cannot be reached.
func (a *analysis) end() {
	f := a.top()
	f.dead = true
	a.settle(f.base)
}

func (a *analysis) step(in *module.Instruction) error {
	f := a.top()
	a.charge(f, in.Offset, cost(in.Op))
	switch in.Op {
	case module.OpBlock, module.OpLoop, module.OpIf:
		return a.open(in)
	case module.OpElse:
		if a.height != f.base+f.results && !f.dead {
			return invalid(in.Offset, "%d values where %d are wanted", a.height-f.base, f.results)
		}
		f.dead = f.born
		a.settle(f.base)
		a.settle(f.base + f.params)
		f.op = module.OpElse
		if !f.dead {
			f.region = a.begin(in.End)
			f.second = f.region
		}
	case module.OpEnd:
		return a.close(in)
	case module.OpUnreachable:
		a.end()
	case module.OpBr, module.OpReturn:
		label := in.A
		if in.Op == module.OpReturn {
			label = uint64(len(a.frames) - 1)
		}
		if err := a.leave(in, label); err != nil {
			return err
		}
		a.end()
	case module.OpBrIf:
		if err := a.move(in, 1, 0); err != nil {
			return err
		}
		if err := a.leave(in, in.A); err != nil {
			return err
		}
		if !f.dead {
			f.region = a.begin(in.End)
		}
	case module.OpBrTable:
		if err := a.move(in, 1, 0); err != nil {
			return err
		}
		pos := 0
		for range in.Labels {
			if err := a.leave(in, uint64(in.Label(&pos))); err != nil {
				return err
			}
		}
		if err := a.leave(in, in.A); err != nil {
			return err
		}
		a.end()
	case module.OpCall, module.OpReturnCall:
		if in.A >= uint64(len(a.source.Functions)) {
			return invalid(in.Offset, "there is no function %d", in.A)
		}
		return a.call(in, a.source.Types[a.source.Functions[in.A]], in.A >= uint64(a.imports()))
	case module.OpCallIndirect, module.OpReturnCallIndirect:
		if in.A >= uint64(len(a.source.Types)) || in.B >= uint64(len(a.source.Tables)) {
			return invalid(in.Offset, "there is no type %d or table %d", in.A, in.B)
		}
		if err := a.move(in, 1, 0); err != nil {
			return err
		}
		return a.call(in, a.source.Types[in.A], true)
	default:
		if err := a.exists(in); err != nil {
			return err
		}
		n := effect(in.Op)
		return a.move(in, max(0, -n), max(0, n))
	}
	return nil
}

// exists checks that what an instruction names is the module's own: what translation adds must be out of its reach even if
// an engine's validation let it pass.
func (a *analysis) exists(in *module.Instruction) error {
	b := a.source
	check := func(what string, i uint64, n int) error {
		if i >= uint64(n) {
			return invalid(in.Offset, "there is no %s %d", what, i)
		}
		return nil
	}
	switch in.Op {
	case module.OpLocalGet, module.OpLocalSet, module.OpLocalTee:
		return check("local", in.A, a.locals)
	case module.OpGlobalGet, module.OpGlobalSet:
		return check("global", in.A, len(b.Globals))
	case module.OpRefFunc:
		return check("function", in.A, len(b.Functions))
	case module.OpTableGet, module.OpTableSet, module.OpTableGrow, module.OpTableSize, module.OpTableFill:
		return check("table", in.A, len(b.Tables))
	case module.OpTableCopy:
		return errors.Join(check("table", in.A, len(b.Tables)), check("table", in.B, len(b.Tables)))
	case module.OpTableInit:
		return errors.Join(check("element segment", in.A, len(b.Elements)), check("table", in.B, len(b.Tables)))
	case module.OpElemDrop:
		return check("element segment", in.A, len(b.Elements))
	case module.OpMemoryInit, module.OpDataDrop:
		return check("data segment", in.A, len(b.Data))
	}
	return nil
}

// imports is the number of imported functions.
func (a *analysis) imports() int { return len(a.source.Functions) - len(a.source.Bodies) }

// call is a call of a function of type t, which may run code of the module or not.
func (a *analysis) call(in *module.Instruction, t module.FuncType, inside bool) error {
	if err := a.move(in, len(t.Params), len(t.Results)); err != nil {
		return err
	}
	if in.Op == module.OpReturnCall || in.Op == module.OpReturnCallIndirect {
		a.tails = true
		if err := a.leave(in, uint64(len(a.frames)-1)); err != nil {
			return err
		}
		a.end()
		return nil
	}
	if inside {
		a.calls = true
		a.seq++
	}
	return nil
}

func (a *analysis) open(in *module.Instruction) error {
	n := frame{op: in.Op, fork: -1}
	switch {
	case in.Block >= int64(len(a.source.Types)):
		return invalid(in.Offset, "there is no type %d", in.Block)
	case in.Block >= 0:
		t := a.source.Types[in.Block]
		n.params, n.results = len(t.Params), len(t.Results)
	case in.Block != module.BlockEmpty:
		n.results = 1
	}
	pop := n.params
	if in.Op == module.OpIf {
		pop++
	}
	if err := a.move(in, pop, n.params); err != nil {
		return err
	}
	f := a.top()
	n.region, n.dead = f.region, f.dead
	if !f.dead && in.Op != module.OpBlock {
		n.region = a.begin(in.End)
		n.first, n.second = n.region, n.region
		if r := &a.regions[f.region]; r.calls == a.seq {
			n.fork = f.region
		}
		if in.Op == module.OpLoop {
			a.regions[n.region].loop = true
			a.regions[n.region].cost = turnCost
		}
	}
	a.push(n)
	return nil
}

func (a *analysis) close(in *module.Instruction) error {
	c := *a.top()
	if a.height != c.base+c.results && !c.dead {
		return invalid(in.Offset, "%d values where %d are wanted", a.height-c.base, c.results)
	}
	a.frames = a.frames[:len(a.frames)-1]
	a.settle(min(a.height, c.base))
	a.settle(c.base + c.results)
	if len(a.frames) == 0 {
		return nil
	}
	f := a.top()
	f.turns = f.turns || c.turns || c.op == module.OpLoop
	if c.op == module.OpLoop && !c.born {
		a.regions[c.first].apart = !c.turns && c.params == 0
	}
	if f.dead {
		return nil
	}
	if c.op == module.OpElse && c.fork >= 0 && !a.each {
		// What both arms begin with costs the same wherever it goes: charge that with the condition.
		r := &a.regions[c.fork]
		if m := min(a.regions[c.first].cost, a.regions[c.second].cost); r.cost+m <= regionCost {
			r.cost += m
			a.regions[c.first].cost -= m
			a.regions[c.second].cost -= m
		}
	}
	if c.outward < len(a.frames) {
		f.outward = min(f.outward, c.outward)
		f.region = a.begin(in.End)
	}
	return nil
}
