package main

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What a worker's heap may grow by before it is collected. Guests' memory is mapped, so that little lives in the heap itself, and by Go's rule of
// doubling it would be collected a dozen times a second under load. While the heap is marked others wait for their core, so one
// that much garbage is made in may grow further.
const (
	collectAfter = 64 << 20  // bytes
	collectLate  = 256 << 20 // bytes; of a worker that makes much garbage
	collectEach  = 500 * time.Millisecond
	mostPercent  = 1600 // of a heap that is next to empty
	leastPercent = 50   // of what lives in one that is large: then memory is dearer than time
	forgotten    = 20   // the part of what was made in a second that is forgotten in the next: garbage is made in bursts
)

// growth is how many bytes a heap to which so many come in a second grows by before it is collected, as far as that does not depend on what lives.
func growth(rate uint64) uint64 {
	return min(max(uint64(float64(rate)*collectEach.Seconds()), collectAfter), collectLate)
}

// percentage is debug.SetGCPercent's of a heap of live bytes, of which ballast are, that is to grow by after bytes.
func percentage(live, ballast, after uint64) int {
	live = max(live, ballast) // it may not have been counted yet
	after = max(after, (live-ballast)*leastPercent/100)
	return int(min(after*100/max(live, 1), mostPercent))
}

// pace is how often the collector runs.
type pace struct {
	percent      int
	rate, before uint64 // bytes made in a second, and ever
	// Nobody reads or writes it, so that no page of it is there. By a percentage of next to nothing a heap can grow by much only if that is so large that one
	// of which suddenly more lives would grow to gigabytes before anybody saw it.
	ballast []byte
}

// set sets the percentage for a heap of live bytes to which made bytes ever came, a second after it was last called.
func (p *pace) set(live, made uint64) {
	if p.rate -= p.rate / forgotten; p.percent > 0 { // else it is all that was ever made
		p.rate = max(p.rate, made-p.before)
	}
	p.before = made
	after := growth(p.rate)
	if after > collectAfter && p.ballast == nil && debug.SetMemoryLimit(-1) == math.MaxInt64 { // a limit counts what is not there as well
		p.ballast = make([]byte, collectLate)
		p.before += collectLate
		live += collectLate
	}
	// Each change stops the world for a moment.
	if want := percentage(live, uint64(len(p.ballast)), after); want > p.percent+p.percent/4 || want < p.percent-p.percent/4 {
		debug.SetGCPercent(want)
		p.percent = want
	}
}

// paceCollector has the collector run as often as the heap's size and the garbage make sensible, until ctx ends.
func paceCollector(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var p pace
	for {
		metrics.Read(sample)
		p.set(sample[0].Value.Uint64(), sample[1].Value.Uint64())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
