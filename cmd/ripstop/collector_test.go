package main

import "testing"

func TestTheHeapGrowsByMuchIfItIsSmallOrMuchGarbageIsMade(t *testing.T) {
	for _, c := range []struct {
		live, rate uint64
		want       int
	}{
		{0, 0, mostPercent},
		{1 << 20, 0, mostPercent},
		{16 << 20, 0, 400},
		{64 << 20, 0, 100},
		{128 << 20, 0, 50},
		{8 << 30, 0, leastPercent},
		{16 << 20, 128 << 20, 400},
		{16 << 20, 256 << 20, 800},
		{16 << 20, 8 << 30, 1600},
		{64 << 20, 8 << 30, 400},
		{8 << 20, 8 << 30, mostPercent},
		{8 << 30, 8 << 30, leastPercent},
	} {
		if got := growth(c.live, c.rate); got != c.want {
			t.Errorf("of %d bytes, with %d more a second: %d%%, want %d%%", c.live, c.rate, got, c.want)
		}
	}
}
