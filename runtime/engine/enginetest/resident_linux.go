package enginetest

import (
	"fmt"
	"os"
	"testing"
)

// resident is how much memory this process holds, in bytes.
func resident(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var all, held uint64
	if _, err := fmt.Sscan(string(b), &all, &held); err != nil {
		t.Fatal(err)
	}
	return held * uint64(os.Getpagesize())
}
