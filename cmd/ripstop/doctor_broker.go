package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/redis"
)

// brokerChecks say how the state is: of a running server as that tells it, else of the data directory, in which nothing is changed.
func brokerChecks(cmd *cobra.Command, r *remote, f *brokerFlags) []wall.Measure {
	dir, err := dataDir(r.data)
	if err != nil {
		return []wall.Measure{check("broker", "", "there is nowhere to keep the state", err)}
	}
	// A directory that is named goes before a server that only the environment names, which may well have another.
	if r.server != "" || r.data == "" && os.Getenv("RIPSTOP_SERVER") != "" || running(dir) {
		return runningChecks(cmd, r)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return []wall.Measure{check("broker", fmt.Sprintf("%s is not there yet; the first start makes it", dir), "", nil)}
	}
	list, err := stoppedChecks(cmd.Context(), dir, f)
	if err != nil {
		list = append(list, check("broker", "", "the server does not start", err))
	}
	return append(list, check("data directory", dir, "the server does not start", writable(dir)))
}

// runningChecks ask a server.
func runningChecks(cmd *cobra.Command, r *remote) []wall.Measure {
	const cost = "what the server's state is cannot be said"
	c, err := r.open(cmd)
	if err != nil {
		return []wall.Measure{check("broker", "", cost, err)}
	}
	report, err := c.Broker(cmd.Context())
	if err != nil {
		return []wall.Measure{check("broker", "", cost, explain(err))}
	}
	if report.State != "ready" {
		err = fmt.Errorf("%s since %s: %s", report.State, when(report.Since), report.Problem)
	}
	list := []wall.Measure{check("broker", fmt.Sprintf("%s, incarnation %s, modules in %s", report.Kind, report.Incarnation, report.Blobs), "what is ready is served; nothing can be changed", err)}
	return append(list, storeChecks(report.Stores)...)
}

// stoppedChecks look at the state of a server that does not run.
func stoppedChecks(ctx context.Context, dir string, f *brokerFlags) ([]wall.Measure, error) {
	c, err := f.config()
	if err != nil {
		return nil, err
	}
	mark, err := readMark(dir)
	if err != nil {
		return nil, err
	}
	switch {
	case c.redis == nil && mark.Incarnation != "":
		return nil, fmt.Errorf("%s belongs to a store in Redis; give its URL with --broker", dir)
	case c.redis == nil && !embedded.Has(dir):
		return []wall.Measure{check("broker", "embedded; there is no store yet, and the first start makes it", "", nil)}, nil
	case c.redis == nil:
		sum, err := embedded.Check(dir)
		if err != nil {
			return nil, err
		}
		detail := fmt.Sprintf("embedded, incarnation %s, revision %d, %s; every page and value is as it was written", sum.Incarnation, sum.Revision, sizeText(sum.Bytes))
		return append([]wall.Measure{check("broker", detail, "", nil)}, storeChecks([]model.BrokerStore{embeddedStore(dir)})...), nil
	}
	have, found, err := redis.Look(ctx, *c.redis)
	if err != nil {
		return nil, err
	}
	switch {
	case mark.Incarnation != "" && have == "":
		err = fmt.Errorf("%w: there is none any more, and %s belongs to %s; restore it, or run ripstop adopt", broker.ErrIncarnation, dir, mark.Incarnation)
	case mark.Incarnation != "" && have != mark.Incarnation:
		err = fmt.Errorf("%w: it is %s, and %s belongs to %s; is the URL right? to go on with it, run ripstop adopt", broker.ErrIncarnation, have, dir, mark.Incarnation)
	case have == "":
		have = "to be made at the first start"
	}
	list := []wall.Measure{check("broker", "redis, incarnation "+have, "the server does not start", err)}
	var stores []model.BrokerStore
	for _, d := range found {
		stores = append(stores, redisStore(d))
	}
	return append(list, storeChecks(stores)...), nil
}

// storeChecks say what each store promises. One that may lose what it acknowledged does not hold.
func storeChecks(stores []model.BrokerStore) (list []wall.Measure) {
	for i, s := range stores {
		name := "durability"
		if i > 0 {
			name = fmt.Sprintf("durability %d", i+1)
		}
		detail := s.Name
		if s.Version != "" {
			detail += ", version " + s.Version
		}
		detail += ": " + s.Promise
		var err error
		if s.Level != string(redis.LevelAlways) {
			err = errors.New(detail)
		}
		list = append(list, check(name, detail, "what was acknowledged can be lost", err))
	}
	return list
}
