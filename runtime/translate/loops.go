package translate

import "github.com/ripstop-vm/ripstop/runtime/module"

// A loop without others in it calls the host from outside of it:
//
//	block $done t
//	  loop $again t
//	    block $tick
//	      loop t
//	        (charge; if the fuel is below zero, branch to $tick)
//	        ...
//	      end
//	      br $done
//	    end
//	    (call the host; give back what the head charged, which charges again)
//	    br $again
//	  end
//	end
//
// Engines keep values in memory for the sake of a call, and fetch them again on every way on from it. With the call in the loop this is in
// each turn: wazero lost the register from which it addresses the fuel, and a processor that follows values through memory by
// register and offset could no longer.

const (
	apartBlocks = 3 // more around such a loop
	// maxApart bounds such loops in a function, so that its blocks stay about as many as they were: engines take time by their square.
	maxApart = 32
)

// loop begins a loop of type t that is charged by r.
func (f *function) loop(t int64, r *region) {
	l := f.opened(module.OpLoop)
	if r.apart && f.apart < maxApart {
		f.apart++
		l.extra += apartBlocks
		l.refund = r.cost
		f.out.block(module.OpBlock, t)
		f.out.block(module.OpLoop, t)
		f.out.block(module.OpBlock, module.BlockEmpty)
	}
	f.labels = append(f.labels, l)
	f.out.block(module.OpLoop, t)
}

// turned ends such a loop, after its own end.
func (f *function) turned(refund uint32) {
	f.out.index(module.OpBr, 2)
	f.out.op(module.OpEnd)
	f.out.index(module.OpCall, f.check)
	f.out.add(f.fuel, int64(refund))
	f.out.index(module.OpBr, 0)
	f.out.op(module.OpEnd)
	f.out.op(module.OpEnd)
}

// opened is the label of a block that begins here.
func (f *function) opened(op module.Opcode) label {
	l := label{op: op, before: f.since}
	if n := len(f.labels); n > 0 {
		l.extra = f.labels[n-1].extra
	}
	return l
}

// target is what a label of the original is called here: there are more blocks between here and its own.
func (f *function) target(to uint32) uint32 {
	n := len(f.labels)
	if n == 0 {
		return to
	}
	extra := f.labels[n-1].extra
	if int64(to) < int64(n) {
		extra -= f.labels[n-1-int(to)].extra
	}
	return to + uint32(extra)
}

// head is the region of the loop that begins at offset at, or nil if there is none because the loop cannot be reached.
func (f *function) head(at int) *region {
	if len(f.regions) > 0 && f.regions[0].at == at && f.regions[0].loop {
		return &f.regions[0]
	}
	return nil
}
