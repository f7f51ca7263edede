package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/redis"
)

func newAdoptCommand() *cobra.Command {
	var r remote
	var f brokerFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Go on with the store that the broker holds now",
		Long: "Go on with the store that the broker holds now, after a Redis came back without its data, with an earlier state of it, or with\n" +
			"those of another store. Until then a server changes nothing and serves what it has. What the store does not have is gone:\n" +
			"restore the Redis first, if there is a backup. A running server is told; for one that is stopped, give its --broker.",
		Example: "  ripstop adopt\n  ripstop adopt --data /var/lib/ripstop --broker redis://127.0.0.1:6379",
		Args:    cobra.NoArgs,
	}
	r.addFlags(cmd)
	f.addURL(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := dataDir(r.data)
		if err != nil {
			return exitError{exitUsage, err}
		}
		var report model.BrokerReport
		if r.server == "" && os.Getenv("RIPSTOP_SERVER") == "" && !running(dir) {
			report, err = adoptStopped(cmd.Context(), &f, dir)
		} else {
			c, e := r.open(cmd)
			if e != nil {
				return e
			}
			report, err = c.Adopt(cmd.Context())
			err = explain(err)
		}
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), report)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), escapeLine(report.Adopted))
		return err
	}
	return cmd
}

// running says whether a server holds a data directory.
func running(dir string) bool {
	if _, err := os.Stat(dir); err != nil {
		return false
	}
	lock, err := embedded.Lock(dir)
	if err == nil {
		_ = lock.Close()
	}
	return errors.Is(err, broker.ErrInUse)
}

// adoptStopped has the next start of a server take the store that its broker has now.
func adoptStopped(ctx context.Context, f *brokerFlags, dir string) (report model.BrokerReport, err error) {
	refuse := func(err error) (model.BrokerReport, error) { return report, exitError{exitUsage, err} }
	c, err := f.config()
	if err != nil {
		return refuse(err)
	}
	mark, err := readMark(dir)
	if err != nil {
		return refuse(err)
	}
	switch {
	case mark.Incarnation == "":
		return refuse(fmt.Errorf("%s does not belong to a store in Redis; there is nothing to adopt", dir))
	case c.redis == nil:
		return refuse(errors.New("no server runs here; give the --broker that it will have"))
	}
	lock, err := embedded.Lock(dir)
	if err != nil {
		return refuse(err)
	}
	defer lock.Close()
	s, err := redis.Open(ctx, *c.redis)
	if err != nil {
		return refuse(err)
	}
	defer s.Close()
	before := mark.Incarnation
	mark.Incarnation = s.Incarnation()
	if err := mark.write(dir); err != nil {
		return report, err
	}
	report = model.BrokerReport{Kind: "redis", Incarnation: mark.Incarnation, State: "stopped", Adopted: fmt.Sprintf("the store %s is used in place of %s from the next start on", mark.Incarnation, before)}
	if mark.Incarnation == before {
		report.Adopted = "the broker has the store that this data directory belongs to; nothing was changed"
	}
	for _, d := range s.Durability() {
		report.Stores = append(report.Stores, redisStore(d))
	}
	return report, nil
}
