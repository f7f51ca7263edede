// Package brokertest is what package broker promises, as tests. Every backend runs the suites, and so does every wrapper
// around one. They call only the interfaces.
package brokertest

import (
	"iter"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// epoch is when the suites' clocks begin.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

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
