package embedded

import (
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/brokertest"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

func mustOpen(t *testing.T, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestRecords(t *testing.T) {
	brokertest.Records(t, func(t *testing.T) broker.Records { return mustOpen(t, t.TempDir(), Options{}).Records() })
}

func TestBlobs(t *testing.T) {
	brokertest.Blobs(t, func(t *testing.T, c clock.Clock) broker.Blobs {
		return mustOpen(t, t.TempDir(), Options{Clock: c}).Blobs()
	})
}

func TestBuckets(t *testing.T) {
	brokertest.Buckets(t, func(t *testing.T) broker.Buckets { return mustOpen(t, t.TempDir(), Options{}).Buckets() })
}

func TestLeases(t *testing.T) {
	brokertest.Leases(t, func(t *testing.T, c clock.Clock) broker.Leases {
		return mustOpen(t, t.TempDir(), Options{Clock: c}).Leases()
	})
}

func TestQueue(t *testing.T) {
	brokertest.Queue(t, func(t *testing.T, c clock.Clock) broker.Queue {
		return mustOpen(t, t.TempDir(), Options{Clock: c}).Queue()
	})
}
