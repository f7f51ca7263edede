package redis

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/brokertest"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// prefixes keeps stores apart that share a server.
var prefixes atomic.Int64

func mustOpen(t testing.TB, url string, opts Options) *Store {
	t.Helper()
	opts.URL = url
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// fresh opens an empty store on a server that may have others.
func fresh(t testing.TB, url string, opts Options) *Store {
	opts.Prefix = fmt.Sprintf("test%d", prefixes.Add(1))
	return mustOpen(t, url, opts)
}

func suites(t *testing.T, url string) {
	t.Run("records", func(t *testing.T) {
		brokertest.Records(t, func(t *testing.T) broker.Records { return fresh(t, url, Options{}).Records() })
	})
	t.Run("blobs", func(t *testing.T) {
		brokertest.Blobs(t, func(t *testing.T, c clock.Clock) broker.Blobs { return fresh(t, url, Options{Clock: c}).Blobs() })
	})
	t.Run("leases", func(t *testing.T) {
		brokertest.Leases(t, func(t *testing.T, c clock.Clock) broker.Leases { return fresh(t, url, Options{Clock: c}).Leases() })
	})
	t.Run("queue", func(t *testing.T) {
		brokertest.Queue(t, func(t *testing.T, c clock.Clock) broker.Queue { return fresh(t, url, Options{Clock: c}).Queue() })
	})
	t.Run("buckets", func(t *testing.T) {
		brokertest.Buckets(t, func(t *testing.T) broker.Buckets { return fresh(t, url, Options{}).Buckets() })
	})
}

func TestASingleServerPassesTheSuites(t *testing.T) {
	t.Parallel()
	suites(t, redistest.Start(t, "appendonly yes", "appendfsync no").URL())
}
