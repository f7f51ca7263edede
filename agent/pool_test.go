package agent

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/guest"
)

func testPool(b *budget) *pool { return &pool{budget: b} }

func TestAPoolGivesEachSandboxToOneAtATime(t *testing.T) {
	b := &budget{mostCount: 100, mostBytes: 1 << 30}
	p := testPool(b)
	held := map[*guest.Sandbox]*atomic.Bool{}
	for range 8 {
		s := new(guest.Sandbox)
		held[s] = new(atomic.Bool)
		if !p.push(made{sandbox: s, bytes: 10}) {
			t.Fatal("there was no room")
		}
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				p.begin()
				if m, ok := p.pop(); ok {
					if held[m.sandbox].Swap(true) {
						t.Error("a sandbox was given to two")
					}
					held[m.sandbox].Store(false)
					if !p.push(m) {
						t.Error("there was no room for what came from it")
					}
				}
				p.end()
			}
		})
	}
	wg.Wait()
	if n := p.ready.Load(); n != 8 || b.count.Load() != 8 || b.bytes.Load() != 80 || p.busy.Load() != 0 {
		t.Errorf("%d wait; %d with %d bytes are booked; %d in use", n, b.count.Load(), b.bytes.Load(), p.busy.Load())
	}
	seen := map[*guest.Sandbox]bool{}
	for m, ok := p.pop(); ok; m, ok = p.pop() {
		seen[m.sandbox] = true
	}
	if len(seen) != 8 || b.count.Load() != 0 || b.bytes.Load() != 0 {
		t.Errorf("%d sandboxes came out; %d with %d bytes are booked", len(seen), b.count.Load(), b.bytes.Load())
	}
}

func TestAllPoolsShareOneBound(t *testing.T) {
	for name, c := range map[string]struct {
		budget *budget
		sizes  []int64
		room   []bool
	}{
		"of sandboxes": {&budget{mostCount: 2, mostBytes: 100}, []int64{1, 1, 1}, []bool{true, true, false}},
		"of bytes":     {&budget{mostCount: 9, mostBytes: 100}, []int64{60, 60, 40}, []bool{true, false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			pools := []*pool{testPool(c.budget), testPool(c.budget)}
			for i, n := range c.sizes {
				if got := pools[i%2].push(made{sandbox: new(guest.Sandbox), bytes: n}); got != c.room[i] {
					t.Errorf("sandbox %d: %t, want %t", i, got, c.room[i])
				}
			}
			for _, p := range pools {
				for _, ok := p.pop(); ok; _, ok = p.pop() {
				}
			}
			if c.budget.count.Load() != 0 || c.budget.bytes.Load() != 0 {
				t.Errorf("%d with %d bytes stayed booked", c.budget.count.Load(), c.budget.bytes.Load())
			}
		})
	}
}

func TestAPoolFollowsWhatIsInUse(t *testing.T) {
	p := testPool(&budget{mostCount: 100, mostBytes: 100})
	for range 20 {
		p.begin()
	}
	if got := p.wanted(64); got != 21 {
		t.Errorf("%d wanted while 20 are in use, want 21", got)
	}
	if got := p.wanted(20); got != 20 {
		t.Errorf("%d wanted while 20 are in use of at most 20", got)
	}
	for range 20 {
		p.end()
	}
	if got := p.wanted(64); got != 21 {
		t.Errorf("%d wanted after 20 were in use, want 21", got)
	}
	for range 3 { // it comes again before each look
		for range 20 {
			p.begin()
		}
		for range 20 {
			p.end()
		}
		if p.decay(forgetting); p.peak.Load() != 20 {
			t.Errorf("a peak that came again is %d", p.peak.Load())
		}
	}
	looks := 0
	for last := p.peak.Load(); last > 0; looks++ {
		p.decay(forgetting)
		now := p.peak.Load()
		if now >= last {
			t.Fatalf("a peak of %d became %d", last, now)
		}
		last = now
	}
	if looks != 20 { // one at a time, as it is less than the part
		t.Errorf("forgotten after %d looks", looks)
	}
	p.peak.Store(6400)
	p.decay(forgetting)
	if got := p.peak.Load(); got != 6300 {
		t.Errorf("a peak of 6400 became %d", got)
	}
}

func TestSandboxesOfAnOlderGenerationLeave(t *testing.T) {
	p := testPool(&budget{mostCount: 100, mostBytes: 100})
	old := made{sandbox: new(guest.Sandbox)}
	p.push(old)
	p.generation.Add(1)
	fresh := made{sandbox: new(guest.Sandbox), generation: 1}
	p.push(fresh)
	if p.push(old) {
		t.Error("an old one was put back")
	}
	if gone := p.stale(); len(gone) != 1 || gone[0].sandbox != old.sandbox {
		t.Errorf("%d left", len(gone))
	}
	if m, ok := p.pop(); !ok || m.sandbox != fresh.sandbox {
		t.Error("the one of this generation is gone")
	}
}

// BenchmarkPool is a sandbox taken and put back, from all processors at once.
func BenchmarkPool(b *testing.B) {
	p := testPool(&budget{mostCount: 1000, mostBytes: 1 << 30})
	for range 64 {
		p.push(made{sandbox: new(guest.Sandbox), bytes: 10})
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.begin()
			if m, ok := p.pop(); ok {
				p.push(m)
			}
			p.end()
		}
	})
}
