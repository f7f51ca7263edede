package wasi

import "github.com/ripstop-vm/ripstop/runtime/hostcall"

// Module is the name that guests import these functions under.
const Module = "wasi_snapshot_preview1"

// Library is the functions of WASI preview 1, in the order of its specification. Every call answers the same one; a
// sandbox binds a *System to it.
func Library() *hostcall.Library { return library }
