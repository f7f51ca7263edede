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
		Example: "  ripstop rm hello",
		Args:    cobra.MinimumNArgs(1),
	}
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		for _, job := range args {
			if err := c.Remove(cmd.Context(), job); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "removed %s\n", escapeLine(job))
		}
		return nil
	})
}
