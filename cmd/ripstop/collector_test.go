package main

import "testing"

func TestTheHeapGrowsByMuchIfItIsSmall(t *testing.T) {
	for live, want := range map[uint64]int{0: mostPercent, 1 << 20: mostPercent, 16 << 20: 400, 64 << 20: 100, 128 << 20: 50, 8 << 30: leastPercent} {
		if got := growth(live); got != want {
			t.Errorf("of %d bytes: %d%%, want %d%%", live, got, want)
		}
	}
}
