package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What a worker's heap may grow by before it is collected. Guests' memory is mapped, so that little lives in the heap itself, and by Go's rule of
// doubling it would be collected a dozen times a second under load.
const (
	collectAfter = 64 << 20 // bytes
	mostPercent  = 1600     // of a heap that is next to empty
	leastPercent = 50       // of one that is large: then memory is dearer than time
)

// growth is the percentage of live bytes of heap (debug.SetGCPercent) that comes to collectAfter.
func growth(live uint64) int {
	return int(min(max(collectAfter*100/max(live, 1), leastPercent), mostPercent))
}

// paceCollector has the collector run as often as the heap's size makes sensible, until ctx ends.
func paceCollector(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	now := 0
	for {
		metrics.Read(sample)
		// Each change stops the world for a moment.
		if want := growth(sample[0].Value.Uint64()); want > now+now/4 || want < now-now/4 {
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
