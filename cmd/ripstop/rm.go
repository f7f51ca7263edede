package main

import (
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
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		_, err := each(cmd.Context(), args, func(job string) error {
			if err := c.Remove(cmd.Context(), job); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "removed %s\n", escapeLine(job))
			return nil
		})
		return err
	})
}
