package main

import (
	"runtime/debug"
	"testing"
)

func TestTheHeapGrowsByMuchIfItIsSmallOrMuchGarbageIsMade(t *testing.T) {
	const ballast = collectLate
	for _, c := range []struct {
		live, ballast, rate uint64
		want                int
	}{
		{0, 0, 0, mostPercent},
		{1 << 20, 0, 0, mostPercent},
		{16 << 20, 0, 0, 400},
		{64 << 20, 0, 0, 100},
		{128 << 20, 0, 0, leastPercent},
		{8 << 30, 0, 0, leastPercent},
		{16 << 20, 0, 128 << 20, 400},
		{16 << 20, 0, 256 << 20, 800},
		{64 << 20, 0, 8 << 30, 400},
		{8 << 20, 0, 8 << 30, mostPercent},
		{8 << 30, 0, 8 << 30, leastPercent},
		{ballast + 8<<20, ballast, 8 << 30, 96},
		{ballast + 8<<20, ballast, 0, 24},
		{ballast + 256<<20, ballast, 8 << 30, leastPercent},
		{ballast + 256<<20, ballast, 0, leastPercent / 2},
		{8 << 20, ballast, 8 << 30, 100}, // it was not counted yet
	} {
		if got := percentage(c.live, c.ballast, growth(c.rate)); got != c.want {
			t.Errorf("of %d bytes, %d of them ballast, with %d more a second: %d%%, want %d%%", c.live, c.ballast, c.rate, got, c.want)
		}
	}
}

func TestAHeapThatFillsQuicklyIsCollectedByItsBallast(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	var p pace
	p.set(8<<20, 1<<30)
	p.set(8<<20, 1<<30+1<<20)
	if p.ballast != nil || p.percent != 800 {
		t.Errorf("with little garbage %d bytes are ballast, and the heap grows by %d%%", len(p.ballast), p.percent)
	}
	p.set(8<<20, 3<<30)
	if len(p.ballast) != collectLate || p.percent != 96 {
		t.Errorf("with much garbage %d bytes are ballast, and the heap grows by %d%%", len(p.ballast), p.percent)
	}
	for range 200 {
		p.set(collectLate+8<<20, p.before)
	}
	if p.percent > 30 {
		t.Errorf("without garbage the heap still grows by %d%%", p.percent)
	}
}

func TestThereIsNoBallastWhereMemoryHasALimit(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(4 << 30))
	var p pace
	p.set(8<<20, 0)
	p.set(8<<20, 3<<30)
	if p.ballast != nil || p.percent != mostPercent {
		t.Errorf("%d bytes are ballast, and the heap grows by %d%%", len(p.ballast), p.percent)
	}
}
