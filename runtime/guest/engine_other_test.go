//go:build !(wasmtime && cgo)

package guest

import "github.com/ripstop-vm/ripstop/runtime"

// testEngine is what guests of these tests run on.
const testEngine = runtime.Wazero
