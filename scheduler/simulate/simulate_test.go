package simulate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

func TestEventsRunInOrderOfTimeAndThenOfMaking(t *testing.T) {
	l := NewLoop(1)
	var ran []string
	note := func(s string) func() {
		return func() { ran = append(ran, fmt.Sprint(s, " ", l.Now().Sub(Epoch))) }
	}
	l.After(2*time.Second, note("c"))
	l.After(time.Second, note("a"))
	l.After(time.Second, func() { note("b")(); l.After(time.Second, note("d")); l.After(-time.Second, note("now")) })
	l.After(time.Hour, note("late"))
	if l.Run(time.Minute, func() bool { return false }) {
		t.Error("it is over though nothing says so")
	}
	if want := []string{"a 1s", "b 1s", "now 1s", "c 2s", "d 2s"}; !slices.Equal(ran, want) {
		t.Errorf("%q ran, want %q", ran, want)
	}
	if !l.Run(2*time.Hour, func() bool { return len(ran) == 6 }) {
		t.Error("it is not over though it was told so")
	}
}

func TestASeedGivesTheSameTraceAgain(t *testing.T) {
	one, again, other := Run(Options{Seed: 7}), Run(Options{Seed: 7}), Run(Options{Seed: 8})
	if one.Digest != again.Digest || !slices.Equal(one.Trace, again.Trace) {
		for i := range one.Trace {
			if i >= len(again.Trace) || one.Trace[i] != again.Trace[i] {
				t.Fatalf("the traces differ from line %d: %s", i, one.Trace[i])
			}
		}
		t.Fatal("the traces differ")
	}
	bad := Options{Seed: 1, Bugs: []model.Bug{model.BlobSweptEarly}}
	if one, again := Run(bad), Run(bad); one.Digest != again.Digest || !slices.Equal(one.Violations, again.Violations) {
		t.Errorf("what was found is %q, and then %q", one.Violations, again.Violations)
	}
	if one.Digest == other.Digest {
		t.Error("two seeds give one trace")
	}
}

// clean fails the test if a simulation found something, and shows the end of its trace.
func clean(t *testing.T, r Report) {
	t.Helper()
	if len(r.Violations) > 0 {
		t.Errorf("seed %d:\n%s\nits trace ends with\n%s", r.Seed, strings.Join(r.Violations, "\n"), strings.Join(r.Trace[max(0, len(r.Trace)-40):], "\n"))
	}
}

func TestNothingIsFoundWithoutMistakes(t *testing.T) {
	first := rand.Uint64N(1 << 40)
	for i := range uint64(4) {
		r := Run(Options{Seed: first + i})
		clean(t, r)
		if r.Ended < 500 || r.Attempts < r.Ended || r.Faults < 10 {
			t.Errorf("seed %d: %d invocations ended, with %d attempts and %d faults", r.Seed, r.Ended, r.Attempts, r.Faults)
		}
	}
}

// bugs are the mistakes that must be found, and a text of what finds each.
var bugs = map[model.Bug]string{
	model.ResultBeforeLeaseCheck: "result of",
	model.RevisionReused:         "",
	model.ConditionsForgotten:    "though another has led since",
	NoEpochCondition:             "though another has led since",
	model.BlobSweptEarly:         "names a blob that is gone",
	model.DelayedForgotten:       "have not ended",
	model.LateRenewalAccepted:    "seen to be over",
	model.ForeignExtension:       "was extended",
	model.ReasonLost:             "was given up",
	model.KeyForgotten:           "stands for",
	model.RetryLimitIgnored:      "is at attempt",
	model.CallbackTwice:          "after it was done",
	model.OrderIgnored:           "of the same order runs",
}

func TestEachMistakeIsFound(t *testing.T) {
	const seeds = 60
	for bug, text := range bugs {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				r := Run(Options{Seed: seed + 1, Bugs: []model.Bug{bug}})
				if len(r.Violations) == 0 {
					continue
				}
				if !strings.Contains(r.Violations[0], text) {
					t.Errorf("what was found is another thing: %s", r.Violations[0])
				}
				t.Logf("found with seed %d after %s: %s", r.Seed, r.Took, r.Violations[0])
				return
			}
			t.Errorf("it was not found with %d seeds", seeds)
		})
	}
}

func onEmbedded(t *testing.T) func(clock.Clock) Parts {
	return func(c clock.Clock) Parts {
		s, err := embedded.Open(t.TempDir(), embedded.Options{Clock: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return Parts{s.Records(), s.Leases(), s.Blobs(), s.Queue()}
	}
}

func TestNothingIsFoundInTheEmbeddedBroker(t *testing.T) {
	r := Run(Options{Seed: rand.Uint64N(1 << 40), Workers: 8, Invocations: 100, Open: onEmbedded(t)})
	clean(t, r)
	if r.Ended < 100 {
		t.Errorf("%d invocations ended", r.Ended)
	}
}
