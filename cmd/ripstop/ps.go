package main

import (
	"fmt"
	"strconv"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/spf13/cobra"
)

func newPsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ps [JOB]",
		Short:   "List jobs, or the versions of one",
		Example: "  ripstop ps\n  ripstop ps hello          # its versions\n  ripstop ps --json",
		Args:    cobra.MaximumNArgs(1),
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		if len(args) == 1 {
			return printVersions(cmd, c, args[0], asJSON)
		}
		l, err := c.Jobs(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), l)
		}
		rows := [][]string{{"JOB", "VERSION", "KIND", "STATUS", "UPDATED", "URL"}}
		for _, j := range l.Jobs {
			rows = append(rows, []string{j.Name, strconv.FormatUint(j.Version, 10), j.Kind, j.Status, when(j.Updated), j.Url})
		}
		if err := table(cmd.OutOrStdout(), rows); err != nil {
			return err
		}
		for _, j := range l.Jobs {
			if j.Reason != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s: %s\n", escapeLine(j.Name), escapeLine(j.Status), escapeLine(*j.Reason))
			}
		}
		return nil
	})
}

func printVersions(cmd *cobra.Command, c *client.Client, job string, asJSON bool) error {
	l, err := c.Versions(cmd.Context(), job)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), l)
	}
	rows := [][]string{{"VERSION", "", "KIND", "MODULE", "SIZE", "CREATED", "BY"}}
	for _, v := range l.Versions {
		mark := ""
		if v.Current {
			mark = "current"
		}
		rows = append(rows, []string{strconv.FormatUint(v.Version, 10), mark, v.Kind, v.Module[:min(12, len(v.Module))], sizeText(v.Size), when(v.Created), orDash(v.By)})
	}
	return table(cmd.OutOrStdout(), rows)
}
