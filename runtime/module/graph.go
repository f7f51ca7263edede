package module

// graph counts what a compiler makes of a function: blocks, the ways between them, and the values that ways carry. It follows
// wazero (internal/engine/wazevo/ssa), whose time for a function is not in proportion to it in three places:
//
//   - From each block, and from where each way to it begins, it goes up to the entry, from dominator to dominator, to find loops.
//   - The value of a local that was not set in the same block is looked up in the block before, and so on, up to where ways meet.
//     There each way brings a value of its own, which is looked up in the same manner.
//   - Of the values that ways bring to a block, those that are the same are found by looking at all of a way's for each of them. What a loop
//     brings round is known a round after what is in the loop.
//
// All of it is counted in one pass over the code. A function that is not valid is counted somehow.
type graph struct {
	climbs uint64 // steps from dominator to dominator
	reads  uint64 // steps of the lookups of instructions
	steps  uint64 // steps of a lookup on every way
	ways   uint64
	values uint64 // locals that are read in blocks that did not set them
	loops  uint64 // open now
	around uint64 // open at once, at most

	open  []joint
	chain uint64 // blocks up to where ways meet
	depth uint64 // dominators of the block, or more
	block uint32 // at hand, counted from 1
	dead  bool   // it cannot be reached
	local []localUse
}

// joint is an open block and the ways to its end, or to the head of a loop.
type joint struct {
	loop         bool
	dead         bool   // it cannot be reached
	chain, depth uint64 // where it begins
	ways         uint64
	longest      uint64 // chain of a way
	least        uint64 // depth of a way
}

// localUse is what is known of a local.
type localUse struct {
	set   uint32 // block that set it last
	value bool   // it is among the graph's values
}

// begin begins a function with locals, all of which its first block sets.
func (g *graph) begin(locals int) {
	if cap(g.local) < locals {
		g.local = make([]localUse, locals)
	}
	local := g.local[:locals]
	for i := range local {
		local[i] = localUse{set: 1}
	}
	*g = graph{block: 1, local: local, open: append(g.open[:0], joint{})}
}

// step counts an instruction.
func (g *graph) step(in *Instruction) {
	switch in.Op {
	case OpLocalGet:
		if in.A >= uint64(len(g.local)) {
			return
		}
		if l := &g.local[in.A]; l.set != g.block && !g.dead {
			g.reads += 1 + g.chain
			if !l.value {
				l.value = true
				g.values++
			}
		}
	case OpLocalSet, OpLocalTee:
		if in.A < uint64(len(g.local)) && !g.dead {
			g.local[in.A].set = g.block
		}
	case OpGlobalGet:
		g.reads += 1 + g.chain // it is known until the next call
	case OpBlock:
		g.push(false)
	case OpLoop:
		g.push(true)
		g.loops++
		g.around = max(g.around, g.loops)
		g.ways++
		g.steps += 1 + g.chain
		g.enter(0, g.depth+1)
	case OpIf:
		g.push(false)
		g.leave(0) // the way past the first arm
		g.enter(g.chain+1, g.depth+1)
	case OpElse:
		j := &g.open[len(g.open)-1]
		if !j.dead {
			j.ways-- // it leads to the second
		}
		g.leave(0)
		g.dead = j.dead
		g.enter(j.chain+1, j.depth+1)
	case OpEnd:
		g.end()
	case OpBrIf:
		g.leave(in.A)
		g.enter(g.chain+1, g.depth+1)
	case OpBrTable:
		g.chain, g.depth = g.chain+1, g.depth+1 // each label has a block that leads there
		for pos, i := 0, 0; i < in.Labels; i++ {
			g.leave(uint64(in.Label(&pos)))
		}
		g.leave(in.A)
		g.dead = true
	case OpBr:
		g.leave(in.A)
		g.dead = true
	case OpReturn, OpUnreachable, OpReturnCall, OpReturnCallIndirect:
		g.dead = true
	}
}

// emptyLoop counts a loop that LoopOften puts before an instruction.
func (g *graph) emptyLoop() {
	for _, op := range []Opcode{OpLoop, OpEnd} {
		g.step(&Instruction{Op: op})
	}
}

// enter goes on in another block.
func (g *graph) enter(chain, depth uint64) {
	g.chain, g.depth, g.block = chain, depth, g.block+1
	if !g.dead {
		g.climbs += depth
	}
}

// leave counts a way to a label.
func (g *graph) leave(label uint64) {
	if g.dead || label >= uint64(len(g.open)) {
		return
	}
	j := &g.open[len(g.open)-1-int(label)]
	if j.ways == 0 || g.depth < j.least {
		j.least = g.depth
	}
	j.longest = max(j.longest, g.chain)
	j.ways++
	g.ways++
	g.steps += 1 + g.chain
	g.climbs += g.depth
}

func (g *graph) push(loop bool) {
	g.open = append(g.open, joint{loop: loop, dead: g.dead, chain: g.chain, depth: g.depth})
}

func (g *graph) end() {
	j := &g.open[len(g.open)-1]
	if j.loop {
		g.loops--
		if j.ways == 0 {
			g.chain += j.chain // ways do not meet at its head
		}
		g.enter(g.chain+1, g.depth+1)
	} else {
		g.leave(0)
		g.dead = j.ways == 0
		if j.ways > 1 {
			g.enter(0, j.least+1)
		} else {
			g.enter(j.longest+1, j.least+1)
		}
	}
	g.open = g.open[:len(g.open)-1]
}

// lookups is how many blocks are looked at for values.
func (g *graph) lookups() uint64 { return g.reads + g.steps*g.values }

// comparisons is how many values are looked at for others. With the bounds on code, locals and nesting it is below 2⁶⁴.
func (g *graph) comparisons() uint64 { return g.ways * g.values * g.values * (1 + g.around) }
