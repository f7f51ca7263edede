// Package hostcall is the door between a guest and the world.
//
// Every import of every guest is a Func in a Table, and every call of one passes Door.Dispatch: pointers are
// checked and what they point at is copied, the interposers that watch the function judge it, the function takes
// effect, the interposers see what came of it. There is no second way out of a sandbox.
//
// The package knows no ABI and no engine. An ABI is a Library (package wasi has one); an engine hands each call to
// Dispatch with the function's number. Guests are hostile: no argument of theirs may panic, block or grow the host
// here, and what was judged is what is used.
package hostcall
