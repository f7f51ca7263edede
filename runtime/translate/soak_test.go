//go:build soak

package translate_test

import (
	"testing"

	"github.com/ripstop-vm/ripstop/internal/soaktest"
)

// TestSoakDifferential has generated modules do the same on every engine.
func TestSoakDifferential(t *testing.T) {
	seed, more := soaktest.Start(t)
	n := 0
	for ; more(n); n++ {
		differ(t, seed, uint64(n))
	}
	t.Logf("%d modules, in %d ways each", n, len(variants()))
}
