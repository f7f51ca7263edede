package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/spf13/cobra"
)

func newAuditCommand() *cobra.Command {
	var job, since string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Show changes, refused API calls and refused host calls",
		Example: "  ripstop audit\n  ripstop audit --job hello --since 1h\n  ripstop audit --since 2026-01-31T12:00:00Z --json",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&job, "job", "", "only about this job")
	cmd.Flags().StringVar(&since, "since", "", "only this recent (1h30m, 7d), or at or after this time (RFC 3339)")
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "the most entries to show, 1 to 10000")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		if limit < 1 || limit > 10_000 {
			return usageError(cmd, fmt.Errorf("--limit %d is not between 1 and 10000", limit))
		}
		var from time.Time
		if since != "" {
			if d, err := manifest.ParseDuration(since); err == nil && d >= 0 {
				from = clock.System.Now().Add(-time.Duration(d))
			} else if from, err = time.Parse(time.RFC3339, since); err != nil {
				return usageError(cmd, fmt.Errorf("--since %q is neither a duration (1h30m, 7d) nor a time (2026-01-31T12:00:00Z)", since))
			}
		}
		l, err := c.Audit(cmd.Context(), job, from, limit)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), l)
		}
		if len(l.Entries) == 0 && job != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "no entries about a job %s\n", escapeLine(job))
		}
		rows := [][]string{{"TIME", "KIND", "BY", "JOB", "VERSION", "DETAIL"}}
		for _, e := range l.Entries {
			version := "-"
			if e.Version != 0 {
				version = strconv.FormatUint(e.Version, 10)
			}
			rows = append(rows, []string{when(e.Time), e.Kind, orDash(e.By), orDash(e.Job), version, orDash(auditDetail(e))})
		}
		return table(cmd.OutOrStdout(), rows)
	})
}

// auditDetail is an entry's detail with what was left out before it, of which an entry of its own says nothing else.
func auditDetail(e model.AuditEntry) string {
	switch {
	case e.Omitted == 0:
		return e.Detail
	case e.Detail == "":
		return fmt.Sprintf("%d more, which are not listed", e.Omitted)
	}
	return fmt.Sprintf("%s (and %d before it that were left out)", e.Detail, e.Omitted)
}
