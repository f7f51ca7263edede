package main

import (
	"errors"
	"fmt"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/spf13/cobra"
)

func newRmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rm JOB...",
		Short:   "Remove jobs with their versions, routes, secrets and state",
		Long:    "Jobs after one that cannot be removed are removed, too; the command says which were not, and exits 1.",
		Example: "  ripstop rm hello\n  ripstop rm hello other",
		Args:    cobra.MinimumNArgs(1),
	}
	var asJSON bool
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		those, err := each(cmd.Context(), args, func(job string) error {
			if err := c.Remove(cmd.Context(), job); err != nil {
				return err
			}
			if !asJSON {
				fmt.Fprintf(cmd.ErrOrStderr(), "removed %s\n", escapeLine(job))
			}
			return nil
		})
		if asJSON {
			err = errors.Join(err, printDone(cmd.OutOrStdout(), "rm", those...))
		}
		return err
	})
}
