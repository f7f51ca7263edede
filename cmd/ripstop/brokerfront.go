package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/ripstop-vm/ripstop/api"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/redis"
	"github.com/ripstop-vm/ripstop/broker/tenure"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// brokerFront is what the API shows of a backend.
type brokerFront struct {
	*backend
	state *control.Store
	began time.Time
	blobs string
}

var _ api.Broker = (*brokerFront)(nil)

// embeddedPromise is what the embedded broker keeps; its tests kill it and cut its power.
const embeddedPromise = "what is acknowledged survives the end of the process and a loss of power (each commit is synced)"

// Report implements api.Broker.
func (f *brokerFront) Report() model.BrokerReport {
	r := model.BrokerReport{Kind: "embedded", State: "ready", Since: f.began, Blobs: f.blobs}
	var err error
	if f.embedded != nil {
		r.Incarnation, err = f.embedded.Incarnation(), f.embedded.Failed()
		r.Stores = []model.BrokerStore{embeddedStore(f.dir)}
	} else {
		state := f.tenure.State()
		r.Kind, r.Incarnation, r.Since, err = "redis", f.redis.Incarnation(), state.Since, state.Err
		for _, d := range f.redis.Durability() {
			r.Stores = append(r.Stores, redisStore(d))
		}
	}
	if err != nil {
		r.State, r.Problem = stateOf(err), err.Error()
	}
	return r
}

func embeddedStore(dir string) model.BrokerStore {
	return model.BrokerStore{Name: "embedded in " + dir, Contracts: contracts, Level: string(redis.LevelAlways), Promise: embeddedPromise}
}

func redisStore(d redis.Durability) model.BrokerStore {
	return model.BrokerStore{Name: d.Server, Contracts: d.Contracts, Version: d.Version, Level: string(d.Level), Promise: d.Promise()}
}

// stateOf is one word for what is wrong with a broker.
func stateOf(err error) string {
	for _, known := range []struct {
		err   error
		state string
	}{
		{broker.ErrUnavailable, "unavailable"}, {broker.ErrIncarnation, "replaced"}, {broker.ErrRewound, "rewound"}, {broker.ErrAccess, "denied"}, {tenure.ErrTaken, "taken"},
	} {
		if errors.Is(err, known.err) {
			return known.state
		}
	}
	return "failed"
}

// Adopt implements api.Broker.
func (f *brokerFront) Adopt(ctx context.Context, by string) (string, error) {
	if f.embedded != nil {
		return "", &wire.Problem{Code: "nothing-to-adopt", Status: http.StatusConflict, Title: "Nothing to adopt", Detail: "the embedded broker is the one in the data directory; to go back to an earlier state, stop the server and use `ripstop restore`"}
	}
	what, err := f.adopt(ctx)
	if err != nil {
		return "", err
	}
	return what, f.state.Adopted(ctx, by, what)
}

// Backup implements api.Broker.
func (f *brokerFront) Backup(ctx context.Context, w io.Writer) error {
	if f.embedded != nil {
		_, err := f.embedded.Backup(ctx, w)
		return err
	}
	return &wire.Problem{Code: "backup-elsewhere", Status: http.StatusConflict, Title: "The state is in Redis", Detail: fmt.Sprintf(
		"Redis makes backups of its own: copy its append-only files or dump.rdb (BGSAVE), and %s, which has the keys; docs/operations.md says how", f.dir)}
}
