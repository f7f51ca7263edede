package translate

import "github.com/ripstop-vm/ripstop/runtime/module"

// follow keeps account of what an and made. top says whether it made the value on top before the instruction.
func (a *analysis) follow(in *module.Instruction, top bool) {
	if in.Op == module.OpLocalSet {
		a.andLocal[in.A] = top
	}
	last := len(a.ands) - 1
	if len(a.frames) == 0 || a.top().dead || last < 0 { // the last is for modules that are not valid
		return
	}
	switch op := in.Op; {
	case op == opI32And || op == opI64And:
		a.ands[last] = true
	case op == module.OpLocalTee:
		a.andLocal[in.A], a.ands[last] = top, top
	case op == module.OpLocalGet:
		a.ands[last] = a.andLocal[in.A]
	case top && ordered(op):
		a.splits = append(a.splits, in.Offset)
	}
}

// ordered reports whether op compares integers otherwise than for equality.
func ordered(op module.Opcode) bool {
	return op >= opI32LtS && op <= opI32GeU || op >= opI64LtS && op <= opI64GeU
}

// split changes nothing of the value on top, which an and made and op compares another one with, to which it is less, greater or equal: wazero
// 1.12.0 makes a test of the two that looks at the sign of the wrong one if the other one is known to be 0 (tryLowerBandToFlag), and would go the
// other way at what branches on it than the specification says, and than other engines do, with other fuel. An or in between keeps it from that.
func (f *function) split(op module.Opcode) {
	if op <= opI32GeU {
		f.out.i32(0)
		f.out.op(opI32Or)
	} else {
		f.out.i64(0)
		f.out.op(opI64Or)
	}
}
