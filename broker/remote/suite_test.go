package remote_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/brokertest"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/faulty"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/broker/redis"
	"github.com/ripstop-vm/ripstop/broker/remote"
	"github.com/ripstop-vm/ripstop/broker/remote/remotetest"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func modelParts(c clock.Clock) server.Parts {
	m := model.New(model.Options{Clock: c})
	return server.Parts{Records: m.Records(), Leases: m.Leases(), Blobs: m.Blobs(), Queue: m.Queue(), Buckets: m.Buckets()}
}

func onModel(_ *testing.T, c clock.Clock) server.Parts { return modelParts(c) }

func embeddedParts(t testing.TB, c clock.Clock) server.Parts {
	s, err := embedded.Open(t.TempDir(), embedded.Options{Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return server.Parts{Records: s.Records(), Leases: s.Leases(), Blobs: s.Blobs(), Queue: s.Queue(), Buckets: s.Buckets()}
}

func onEmbedded(t *testing.T, c clock.Clock) server.Parts { return embeddedParts(t, c) }

// onRedis answers a maker of empty stores on one real server.
func onRedis(t *testing.T) func(*testing.T, clock.Clock) server.Parts {
	url := redistest.Start(t, "appendonly yes", "appendfsync no").URL()
	var next atomic.Int64
	return func(t *testing.T, c clock.Clock) server.Parts {
		s, err := redis.Open(t.Context(), redis.Options{URL: url, Clock: c, Prefix: fmt.Sprintf("test%d", next.Add(1))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return server.Parts{Records: s.Records(), Leases: s.Leases(), Blobs: s.Blobs(), Queue: s.Queue(), Buckets: s.Buckets()}
	}
}

// suites runs the suites over a broker that is served.
func suites(t *testing.T, parts func(*testing.T, clock.Clock) server.Parts) {
	open := func(t *testing.T, c clock.Clock) *remote.Client {
		return remotetest.Start(t, parts(t, c), server.Options{}).Client(remotetest.Control)
	}
	t.Run("records", func(t *testing.T) {
		brokertest.Records(t, func(t *testing.T) broker.Records { return open(t, nil).Records() })
	})
	t.Run("leases", func(t *testing.T) {
		brokertest.Leases(t, func(t *testing.T, c clock.Clock) broker.Leases { return open(t, c).Leases() })
	})
	t.Run("blobs", func(t *testing.T) {
		brokertest.Blobs(t, func(t *testing.T, c clock.Clock) broker.Blobs { return open(t, c).Blobs() })
	})
	t.Run("queue", func(t *testing.T) {
		brokertest.Queue(t, func(t *testing.T, c clock.Clock) broker.Queue { return open(t, c).Queue() })
	})
	t.Run("buckets", func(t *testing.T) {
		brokertest.Buckets(t, func(t *testing.T) broker.Buckets { return open(t, nil).Buckets() })
	})
}

func TestAModelThatIsServedPassesTheSuites(t *testing.T) { suites(t, onModel) }

func TestAnEmbeddedStoreThatIsServedPassesTheSuites(t *testing.T) { suites(t, onEmbedded) }

func TestARedisThatIsServedPassesTheSuites(t *testing.T) { suites(t, onRedis(t)) }

// With no faults to come, the wrapper on either side changes nothing.
func TestAFaultyBrokerThatIsServedPassesTheSuitesWithoutFaults(t *testing.T) {
	suites(t, func(t *testing.T, c clock.Clock) server.Parts {
		return withFaults(modelParts(c), faulty.New(faulty.Options{}))
	})
}

func withFaults(p server.Parts, f *faulty.Faults) server.Parts {
	return server.Parts{
		Records: faulty.NewRecords(p.Records, f), Leases: faulty.NewLeases(p.Leases, f), Blobs: faulty.NewBlobs(p.Blobs, f),
		Queue: faulty.NewQueue(p.Queue, f), Buckets: faulty.NewBuckets(p.Buckets, f),
	}
}
