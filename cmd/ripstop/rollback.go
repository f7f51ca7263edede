package main

import (
	"fmt"
	"strconv"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/spf13/cobra"
)

func newRollbackCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "rollback JOB [VERSION]",
		Short:   "Make an earlier version current; no request fails in between",
		Long:    "Without VERSION, the version before the current one becomes current. `ripstop ps JOB` lists them.",
		Example: "  ripstop rollback hello\n  ripstop rollback hello 3",
		Args:    cobra.RangeArgs(1, 2),
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		var to uint64
		if len(args) == 2 {
			var err error
			if to, err = strconv.ParseUint(args[1], 10, 64); err != nil || to == 0 {
				return usageError(cmd, fmt.Errorf("version %q is no number from 1", args[1]))
			}
		}
		j, err := c.Rollback(cmd.Context(), args[0], to)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), j)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is at version %d\n", escapeLine(j.Name), j.Version)
		return err
	})
}
