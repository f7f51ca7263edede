package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What a worker's heap may grow by before it is collected. Guests' memory is mapped, so that little lives in the heap itself, and by Go's rule of
// doubling it would be collected a dozen times a second under load. While the heap is marked others wait for their core, so one
// that much garbage is made in may grow further, as far as its live bytes allow.
const (
	collectAfter = 64 << 20  // bytes
	collectLate  = 256 << 20 // bytes; of a worker that makes much garbage
	collectEach  = 500 * time.Millisecond
	mostPercent  = 1600 // of a heap that is next to empty
	leastPercent = 50   // of one that is large: then memory is dearer than time
	forgotten    = 20   // the part of what was made in a second that is forgotten in the next: garbage is made in bursts
)

// growth is the percentage of live bytes of heap (debug.SetGCPercent) at which one to which so many bytes come in a second is collected.
func growth(live, rate uint64) int {
	after := min(max(uint64(float64(rate)*collectEach.Seconds()), collectAfter), collectLate)
	return int(min(max(after*100/max(live, 1), leastPercent), mostPercent))
}

// paceCollector has the collector run as often as the heap's size and the garbage make sensible, until ctx ends.
func paceCollector(ctx context.Context) {
	const each = time.Second
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(each)
	defer tick.Stop()
	now, before, rate := 0, uint64(0), uint64(0)
	for {
		metrics.Read(sample)
		live, made := sample[0].Value.Uint64(), sample[1].Value.Uint64()
		if rate -= rate / forgotten; now > 0 { // else it is all that was ever made
			rate = max(rate, uint64(float64(made-before)/each.Seconds()))
		}
		before = made
		// Each change stops the world for a moment.
		if want := growth(live, rate); want > now+now/4 || want < now-now/4 {
			debug.SetGCPercent(want)
			now = want
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
