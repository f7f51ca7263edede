package main

import (
	"encoding/binary"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// hello is what every server of a comparison answers.
const hello = "Hello, world!\n"

// tinyTask is a task of one page by hand (sdk/ABI.md): it answers hello to everything, as text.
func tinyTask() []byte {
	str := func(s string) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...) }
	u32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	response := w.Cat(u32(200), u32(1), str("Content-Type"), str("text/plain; charset=utf-8"), str(hello))
	const buffer, at = 8192, 1024
	i32, i64 := []byte{w.I32}, []byte{w.I64}
	return (&w.Module{
		Memory: []uint32{1, 1}, Data: []w.Data{{Offset: at, Bytes: response}},
		Funcs: []w.Func{
			{Export: "ripstop_buffer", Type: w.Type{Results: i64}, Body: w.I64Const(buffer<<32 | 32<<10)},
			{Export: "ripstop_handle", Type: w.Type{Params: i32, Results: i64}, Body: w.I64Const(at<<32 | int64(len(response)))},
		},
	}).Bytes()
}

// endlessTask is a task that never ends by itself.
func endlessTask() []byte {
	i32, i64 := []byte{w.I32}, []byte{w.I64}
	return (&w.Module{
		Memory: []uint32{1, 1},
		Funcs: []w.Func{
			{Export: "ripstop_buffer", Type: w.Type{Results: i64}, Body: w.I64Const(8192<<32 | 32<<10)},
			{Export: "ripstop_handle", Type: w.Type{Params: i32, Results: i64}, Body: w.Cat(w.Loop(w.Br(0)), w.I64Const(0))},
		},
	}).Bytes()
}
