package wasmtest

// loops are guests that count their parameter down, with more or less in the loop.
var loops = map[string][]byte{
	// One block: a sum.
	"one block": Loop(
		LocalGet(1), LocalGet(0), []byte{I32Add}, LocalSet(1),
		LocalGet(0), I32Const(1), []byte{I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// Branchy: per turn, an if with two arms, one with one, and a block that is left.
	"branchy": Loop(
		LocalGet(0), I32Const(1), []byte{0x71, 0x04, 0x40},
		LocalGet(1), I32Const(3), []byte{I32Add}, LocalSet(1),
		[]byte{0x05},
		LocalGet(1), I32Const(5), []byte{0x73}, LocalSet(1),
		[]byte{End},
		LocalGet(1), I32Const(4), []byte{0x71, 0x04, 0x40},
		LocalGet(1), I32Const(1), []byte{0x74}, LocalSet(1),
		[]byte{End},
		Block(
			LocalGet(1), I32Const(64), []byte{0x71, 0x0d, 0},
			LocalGet(1), LocalGet(0), []byte{I32Add}, LocalSet(1)),
		LocalGet(0), I32Const(1), []byte{I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// A jump table in a loop, as Go's compiler emits functions.
	"jump table": Loop(
		Block(Block(Block(Block(
			LocalGet(0), I32Const(3), []byte{0x71, 0x0e, 3, 0, 1, 2, 3}),
			LocalGet(1), I32Const(3), []byte{I32Add}, LocalSet(1), Br(2)),
			LocalGet(1), I32Const(5), []byte{0x73}, LocalSet(1), Br(1)),
			LocalGet(1), I32Const(7), []byte{I32Add}, LocalSet(1), Br(0)),
		LocalGet(0), I32Const(1), []byte{I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// A load and a store.
	"memory": Loop(
		LocalGet(0), I32Const(0xfff8), []byte{0x71},
		LocalGet(0), I32Const(0xfff8), []byte{0x71}, Load(0), I32Const(1), []byte{I32Add}, Store(0),
		LocalGet(0), I32Const(1), []byte{I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// A call of a function that calls nothing.
	"leaf calls": Loop(
		LocalGet(1), Call(1), LocalSet(1),
		LocalGet(0), I32Const(1), []byte{I32Sub, 0x22, 0}, []byte{0x0d, 0}),
	// Recursion.
	"calls": Cat(I32Const(24), Call(2), LocalSet(1)),
}

// LoopModule has the loop of that name ("one block", "branchy", "jump table", "memory", "leaf calls", "calls") as its function "f", i32 → i32.
func LoopModule(name string) []byte {
	typ := Type{Params: []byte{I32}, Results: []byte{I32}}
	fib := Cat(LocalGet(0), I32Const(2), []byte{0x49, 0x04, I32},
		LocalGet(0), []byte{0x05},
		LocalGet(0), I32Const(1), []byte{I32Sub}, Call(2),
		LocalGet(0), I32Const(2), []byte{I32Sub}, Call(2), []byte{I32Add, End})
	return (&Module{Memory: []uint32{2}, Funcs: []Func{
		{Export: "f", Type: typ, Locals: []byte{I32}, Body: Cat(loops[name], LocalGet(1))},
		{Type: typ, Body: Cat(LocalGet(0), I32Const(3), []byte{I32Add})},
		{Type: typ, Body: fib},
	}}).Bytes()
}
