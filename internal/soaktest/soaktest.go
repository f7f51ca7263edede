// Package soaktest runs long tests from a seed.
package soaktest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Start tells how a long test runs: its seed, which it prints, and whether it goes on: for half an hour, or RIPSTOP_SOAK_TIME.
// RIPSTOP_SOAK_SEED sets the seed.
func Start(t *testing.T) (seed uint64, more func(n int) bool) {
	t.Helper()
	length, seed := 30*time.Minute, rand.Uint64()
	var err error
	if s := os.Getenv("RIPSTOP_SOAK_TIME"); s != "" {
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("RIPSTOP_SOAK_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d, for %v", seed, length)
	end := time.Now().Add(length)
	return seed, func(int) bool { return time.Now().Before(end) }
}
