//go:build soak && wasmtime && cgo

package wasi

import (
	"testing"

	"github.com/ripstop-vm/ripstop/internal/soaktest"
)

// TestSoakCallSequences makes random sequences of calls on ours and on wasmtime's own WASI.
func TestSoakCallSequences(t *testing.T) {
	seed, more := soaktest.Start(t)
	compareSequences(t, seed, more)
}
