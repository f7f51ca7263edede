package processor

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The queue alone, under any sequence of events, on a clock that the test moves.
func TestTheQueueKeepsItsInvariantsWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.IntRange(1, 4).Draw(t, "tokens")
		longs := rapid.IntRange(1, tokens).Draw(t, "longs")
		q := &queue{slice: time.Millisecond, long: 3, free: tokens, longs: longs, overlap: rapid.IntRange(0, tokens).Draw(t, "overlap")}
		var shares []*Share
		for range rapid.IntRange(1, 5).Draw(t, "shares") {
			shares = append(shares, &Share{account: account{weight: float64(rapid.IntRange(1, 8).Draw(t, "weight")), index: -1, late: -1}})
		}
		var all []*Run
		for range rapid.IntRange(1, 12).Draw(t, "runs") {
			all = append(all, &Run{share: rapid.SampledFrom(shares).Draw(t, "share")})
		}
		var now, computed time.Duration
		pick := func(want state) *Run {
			var of []*Run
			for _, r := range all {
				if r.state == want {
					of = append(of, r)
				}
			}
			if len(of) == 0 {
				t.Skip("none")
			}
			return rapid.SampledFrom(of).Draw(t, "run")
		}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(0, 3000).Draw(t, "µs")) * time.Microsecond
				now += d
				computed += d * time.Duration(len(q.running))
			},
			"one arrives": func(t *rapid.T) {
				r := pick(out)
				free := q.free
				may := free > 0 && (!r.old || q.olds < longs)
				granted, victim := q.arrive(r, now)
				stolen := granted && victim != nil
				if granted != (may || stolen) || may && victim != nil || stolen != (victim != nil && victim.evicted) || victim != nil && !stolen && victim.state != running || stolen && r.old {
					t.Fatalf("granted %v with %d free, victim %+v", granted, free, victim)
				}
			},
			"one sees that its token was taken": func(t *rapid.T) {
				i := slices.IndexFunc(all, func(r *Run) bool { return r.evicted })
				if i < 0 {
					t.Skip("none")
				}
				all[i].evicted = false
				q.evicted--
			},
			"one stops": func(*rapid.T) {
				r := pick(running)
				q.stop(r, now, out)
				q.next(now)
			},
			"a slice ends": func(t *rapid.T) {
				r := pick(running)
				next := q.turn(r, now)
				if next == nil && r.old && r.state == waiting && q.olds == longs {
					return // it has become old, and as many run as may
				}
				if next == nil || next.state != running || r.state != running && r.state != waiting {
					t.Fatalf("the token went to %+v", next)
				}
			},
			"one waits no more": func(*rapid.T) { q.leave(pick(waiting), now) },
			"the host works": func(t *rapid.T) {
				q.charge(rapid.SampledFrom(shares).Draw(t, "share"), time.Duration(rapid.IntRange(1, 2000).Draw(t, "µs"))*time.Microsecond)
			},
			"": func(t *rapid.T) {
				runs, waits, youngs, olds := 0, 0, 0, 0
				weights := 0.0
				for _, s := range shares {
					young, old := 0, 0
					for r := s.young.first; r != nil; r = r.after {
						young++
					}
					for r := s.old.first; r != nil; r = r.after {
						old++
					}
					mine := 0
					for _, r := range all {
						if r.share == s && r.state == running {
							if mine++; r.old {
								olds++
							}
						}
					}
					if s.active != mine+young+old || (s.index >= 0) != (young+old > 0) || (s.late >= 0) != (s.index >= 0) {
						t.Fatalf("a share has %d active, %d run, %d and %d wait, at %d and %d", s.active, mine, young, old, s.index, s.late)
					}
					if s.index >= 0 && (q.ready[s.index] != s || q.late[s.late] != s) {
						t.Fatal("a share is not where it says")
					}
					if s.active > 0 {
						weights += s.weight
					}
					runs, waits, youngs = runs+mine, waits+young+old, youngs+young
				}
				if runs != len(q.running) || runs+q.free != tokens || youngs > 0 && q.free > 0 || weights != q.weights {
					t.Fatalf("%d run, %d wait, %d of %d tokens are free, weights %v of %v", runs, waits, q.free, tokens, q.weights, weights)
				}
				if olds != q.olds || olds > longs || youngs != q.youngs || waits > 0 && q.free > 0 && olds < longs {
					t.Fatalf("%d and %d old runs of %d run, %d and %d young ones wait, %d tokens are free", olds, q.olds, longs, youngs, q.youngs, q.free)
				}
				for i, s := range q.ready {
					if up := (i - 1) / 2; i > 0 && q.ready.Less(i, up) {
						t.Fatalf("the share at %d is due before the one above it: %v, %v", i, s.virtual, q.ready[up].virtual)
					}
				}
				for i := range q.late {
					if i > 0 && q.late.Less(i, (i-1)/2) {
						t.Fatalf("the share at %d has less patience than the one above it", i)
					}
				}
				evicted := 0
				for _, r := range all {
					if r.evicted {
						evicted++
					}
				}
				if evicted != q.evicted || evicted > q.overlap {
					t.Fatalf("%d runs lost their token and do not know, %d of at most %d are counted", evicted, q.evicted, q.overlap)
				}
				var used time.Duration
				for _, s := range shares {
					used += s.used
				}
				for _, r := range q.running {
					used += now - r.started
				}
				if used != computed {
					t.Fatalf("%v were computed and %v charged", computed, used)
				}
			},
		})
	})
}

// Newcomers begin at the front, and come one after another: each arrives a tick after the one before it has left, and takes the token of whoever has
// just begun. For a job of little weight that was not its turn.
func TestATickIsNotATurn(t *testing.T) {
	const tick, slice, long = 50 * time.Microsecond, time.Millisecond, 3 * time.Second
	q := &queue{slice: slice, long: 10, longs: 1, free: 1}
	run := func(weight float64) *Run {
		return &Run{share: &Share{account: account{weight: weight, index: -1, late: -1}}}
	}
	heavy, light := run(100), run(1)
	q.arrive(heavy, 0)
	q.arrive(light, 0)
	var newcomer *Run
	var leaves time.Duration
	cut := 0
	for now := tick; now < long; now += tick {
		switch r := q.running[0]; {
		case newcomer == nil:
			newcomer, leaves = run(10), now+23*tick
			if _, victim := q.arrive(newcomer, now); victim != nil {
				q.turn(victim, now)
				if victim == light {
					cut++
				}
			}
		case now >= leaves && newcomer == r:
			q.stop(r, now, out)
			q.next(now)
			newcomer = nil
		case now >= leaves:
			q.leave(newcomer, now)
			newcomer = nil
		case now >= time.Duration(r.end.Load()):
			q.turn(r, now)
		}
	}
	// Its turn by weight comes every 111 slices, and is kept at least every fourth time.
	if want := long / (111 * patience) * 9 / 10; light.share.used < want || cut == 0 {
		t.Errorf("it had %v of %v and was cut short %d times, want %v", light.share.used, long, cut, want)
	}
}
