// Package soaktest runs long tests from a seed.
package soaktest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Start tells how a long test runs: its seed, which it prints, and whether it goes on: for half an hour, or RIPSTOP_SOAK_TIME, and for
// as much time at the processor, which a machine that is shared may give it late. RIPSTOP_SOAK_SEED sets the seed.
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
	began, had := time.Now(), atProcessor(t)
	t.Cleanup(func() { t.Logf("%v, of it %v at the processor", time.Since(began), atProcessor(t)-had) })
	return seed, func(int) bool { return time.Since(began) < length || atProcessor(t)-had < length }
}

// atProcessor is what this process has had of the processor.
func atProcessor(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
