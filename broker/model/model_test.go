package model_test

import (
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/brokertest"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

func open(c clock.Clock) *model.Broker { return model.New(model.Options{Clock: c}) }

func TestRecords(t *testing.T) {
	brokertest.Records(t, func(*testing.T) broker.Records { return open(nil).Records() })
}

func TestLeases(t *testing.T) {
	brokertest.Leases(t, func(_ *testing.T, c clock.Clock) broker.Leases { return open(c).Leases() })
}

func TestBlobs(t *testing.T) {
	brokertest.Blobs(t, func(_ *testing.T, c clock.Clock) broker.Blobs { return open(c).Blobs() })
}

func TestQueue(t *testing.T) {
	brokertest.Queue(t, func(_ *testing.T, c clock.Clock) broker.Queue { return open(c).Queue() })
}

func TestBuckets(t *testing.T) {
	brokertest.Buckets(t, func(*testing.T) broker.Buckets { return open(nil).Buckets() })
}
