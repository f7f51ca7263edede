package faulty

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

// ErrInjected is what a call fails with that was made to fail.
var ErrInjected = errors.New("injected fault")

// Options configures Faults. The zero value never fails.
type Options struct {
	Seed uint64  // print it with whatever fails
	Rate float64 // of calls that fail, 0 to 1
	Max  int     // failures after which there are no more; 0 means no bound
}

// Faults decides which calls fail. It is safe for concurrent use, and shared by all that wraps one broker.
type Faults struct {
	opts Options

	mu    sync.Mutex
	rng   *rand.Rand
	off   bool
	count int
}

// New makes faults from a seed.
func New(opts Options) *Faults {
	return &Faults{opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x6661756c74))}
}

// Stop ends the failures: later calls all go through.
func (f *Faults) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
}

// Count is how many calls were made to fail.
func (f *Faults) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// draw decides on one call. It draws the same amount of randomness whatever it decides.
func (f *Faults) draw(what string) (before, after error) {
	f.mu.Lock()
	fails, first := f.rng.Float64() < f.opts.Rate, f.rng.IntN(2) == 0
	fails = fails && !f.off && (f.opts.Max == 0 || f.count < f.opts.Max)
	if fails {
		f.count++
	}
	n := f.count
	f.mu.Unlock()
	if !fails {
		return nil, nil
	}
	if first {
		return fmt.Errorf("%s: %w %d of seed %d, before it took effect", what, ErrInjected, n, f.opts.Seed), nil
	}
	return nil, fmt.Errorf("%s: %w %d of seed %d, after it took effect", what, ErrInjected, n, f.opts.Seed)
}

// call does a call that answers a value, or makes it fail.
func call[T any](f *Faults, what string, do func() (T, error)) (T, error) {
	var none T
	before, after := f.draw(what)
	if before != nil {
		return none, before
	}
	v, err := do()
	if after != nil {
		return none, after
	}
	return v, err
}

// act does a call that answers no value, or makes it fail.
func act(f *Faults, what string, do func() error) error {
	_, err := call(f, what, func() (struct{}, error) { return struct{}{}, do() })
	return err
}
