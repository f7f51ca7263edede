//go:build soak

package simulate

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestSimulationSoak runs 1,000 seeds with 20 workers, 500 invocations and 10 faults each.
func TestSimulationSoak(t *testing.T) {
	const seeds = 1000
	var next, ended, attempts, faults atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for seed := next.Add(1); seed <= seeds && !t.Failed(); seed = next.Add(1) {
				r := Run(Options{Seed: uint64(seed)})
				clean(t, r)
				ended.Add(int64(r.Ended))
				attempts.Add(int64(r.Attempts))
				faults.Add(int64(r.Faults))
			}
		})
	}
	wg.Wait()
	t.Logf("%d invocations ended with %d attempts and %d faults", ended.Load(), attempts.Load(), faults.Load())
	if ended.Load() < 500*seeds || faults.Load() < 10*seeds {
		t.Error("the simulations did less than they should")
	}
}

// TestEmbeddedSimulationSoak runs the same machines on the embedded broker.
func TestEmbeddedSimulationSoak(t *testing.T) {
	for seed := range uint64(20) {
		clean(t, Run(Options{Seed: seed, Open: onEmbedded(t)}))
	}
}
