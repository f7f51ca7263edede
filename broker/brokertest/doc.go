// Package brokertest is what package broker promises, as tests. Every backend runs the suites, and so does every wrapper
// around one. They call only the interfaces.
package brokertest

import (
	"errors"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// epoch is when the suites' clocks begin.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// suite runs cases, each on something new that open made.
func suite[T any](t *testing.T, open func(*testing.T) T, cases map[string]func(*testing.T, T)) {
	for name, check := range cases {
		t.Run(name, func(t *testing.T) { check(t, open(t)) })
	}
}

// timedSuite runs cases, each on something new that open made, and that goes by a clock of its own.
func timedSuite[T any](t *testing.T, open func(*testing.T, clock.Clock) T, cases map[string]func(*testing.T, T, *clock.Manual)) {
	for name, check := range cases {
		t.Run(name, func(t *testing.T) {
			c := clock.NewManual(epoch)
			check(t, open(t, c), c)
		})
	}
}

// compete lets workers try something at the same time, each until it has done it so many times. try answers ErrConflict,
// ErrHeld or ErrLeaseLost when somebody else was first.
func compete(t *testing.T, workers, each int, try func(worker int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				switch err := try(i); {
				case err == nil:
					done++
				case !errors.Is(err, broker.ErrConflict) && !errors.Is(err, broker.ErrHeld) && !errors.Is(err, broker.ErrLeaseLost):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// found makes no error of ErrNotFound.
func found(err error) error {
	if errors.Is(err, broker.ErrNotFound) {
		return nil
	}
	return err
}

func put(key, value string) broker.Write { return broker.Write{Key: key, Value: []byte(value)} }

func del(key string) broker.Write { return broker.Write{Key: key, Delete: true} }

func at[T any](v T) *T { return &v }

// events reads an iterator of events one by one.
func events(t *testing.T, seq iter.Seq2[broker.Event, error]) (next func() (broker.Event, error)) {
	pull, stop := iter.Pull2(seq)
	t.Cleanup(stop)
	return func() (broker.Event, error) {
		e, err, ok := pull()
		if !ok {
			t.Fatal("the watch ended without an error")
		}
		return e, err
	}
}
