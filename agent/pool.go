package agent

import (
	"sync/atomic"

	"github.com/ripstop-vm/ripstop/runtime/guest"
)

// pool holds the sandboxes of one task that wait for an invocation, the one that came last on top: its memory is warm. It takes no lock. How
// many it holds follows how many were in use at once lately.
type pool struct {
	top        atomic.Pointer[waiting]
	ready      atomic.Int64 // sandboxes that wait
	busy       atomic.Int64 // in use, or about to be
	alive      atomic.Int64 // sandboxes that wait, are in use, or are being made; unlike the sum of both it is never off while one changes hands
	peak       atomic.Int64 // of busy, lately: it decays
	high       atomic.Int64 // of busy, since the last decay
	generation atomic.Int64 // sandboxes of an older one are not put back
	budget     *budget      // of all pools
}

// waiting is a place in the stack. Each is used once, so that a place that is seen again is the same one for sure.
type waiting struct {
	made
	next *waiting
}

// made is a sandbox of a pool's generation.
type made struct {
	sandbox    *guest.Sandbox
	generation int64
	bytes      int64 // that are its own
}

// budget bounds what waits in all pools.
type budget struct {
	mostCount, mostBytes int64
	count, bytes         atomic.Int64
}

// take books one of n bytes, or says that there is no room.
func (b *budget) take(n int64) bool {
	if b.count.Add(1) > b.mostCount {
		b.count.Add(-1)
		return false
	}
	if b.bytes.Add(n) > b.mostBytes {
		b.give(n)
		return false
	}
	return true
}

func (b *budget) give(n int64) {
	b.count.Add(-1)
	b.bytes.Add(-n)
}

// full reports that there is no room, however small a sandbox is.
func (b *budget) full() bool { return b.count.Load() >= b.mostCount || b.bytes.Load() >= b.mostBytes }

// begin notes that one more is in use.
func (p *pool) begin() {
	n := p.busy.Add(1)
	raise(&p.peak, n)
	raise(&p.high, n)
}

func raise(v *atomic.Int64, to int64) {
	for is := v.Load(); to > is && !v.CompareAndSwap(is, to); {
		is = v.Load()
	}
}

func (p *pool) end() { p.busy.Add(-1) }

// wanted is how many sandboxes there should be, if the task has up to most in use at once: as many as were in use lately, and one more, so
// that none has to be made while the load grows slowly.
func (p *pool) wanted(most int64) int64 { return min(p.peak.Load()+1, most) }

// decay has the peak forgotten, by a part of what is over the sandboxes that were in use at once since the last decay, and by one at least. A
// peak that comes again and again stays.
func (p *pool) decay(part int64) {
	peak := p.peak.Load()
	if over := peak - p.high.Swap(p.busy.Load()); over > 0 {
		p.peak.CompareAndSwap(peak, peak-(over+part-1)/part) // else it has just grown
	}
}

// pop gives the sandbox that was put last.
func (p *pool) pop() (made, bool) {
	for {
		w := p.top.Load()
		if w == nil {
			return made{}, false
		}
		if p.top.CompareAndSwap(w, w.next) {
			p.ready.Add(-1)
			p.budget.give(w.bytes)
			return w.made, true
		}
	}
}

// push has m wait, unless it is too old or there is no room for it.
func (p *pool) push(m made) bool {
	if m.generation != p.generation.Load() || !p.budget.take(m.bytes) {
		return false
	}
	w := &waiting{made: m}
	p.ready.Add(1)
	for {
		w.next = p.top.Load()
		if p.top.CompareAndSwap(w.next, w) {
			return true
		}
	}
}

// stale takes those out that are of an older generation.
func (p *pool) stale() []made {
	var gone, stay []made
	for m, ok := p.pop(); ok; m, ok = p.pop() {
		if m.generation == p.generation.Load() {
			stay = append(stay, m)
		} else {
			gone = append(gone, m)
		}
	}
	for _, m := range stay {
		if !p.push(m) {
			gone = append(gone, m)
		}
	}
	return gone
}
