package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/runtime/trace"
	"github.com/spf13/cobra"
)

func newTraceCommand() *cobra.Command {
	var asJSON bool
	var invocation string
	cmd := &cobra.Command{
		Use:   "trace JOB",
		Short: "Show a job's host calls as they happen, like strace",
		Long: "Tracing is on while this command runs, and slows the job a little. Calls that a rule refused are marked with\n" +
			"it; those that no capability grants fail with ENOTCAPABLE, or EBADF where the guest has no files. Of secrets only the\n" +
			"length is shown. Each line has the last 8 characters of its invocation's id; --invocation takes these or the whole id.",
		Example: "  ripstop trace nosy\n  ripstop trace nosy --invocation 1fb1477c\n  ripstop trace --json nosy | jq 'select(.record.denied or .record.errno == \"ENOTCAPABLE\")'",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&invocation, "invocation", "", "only calls of this invocation")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		found := false
		err := c.Trace(cmd.Context(), args[0], func(l model.TraceLine) error {
			if l.Missing > 0 && !asJSON {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s --- %d calls are missing here ---\n", l.Time.UTC().Format("15:04:05.000000"), l.Missing)
				return err
			}
			if l.Missing == 0 && !strings.HasSuffix(l.Invocation, invocation) { // what is missing may be of any
				return nil
			}
			found = found || l.Missing == 0
			if asJSON {
				return printLine(cmd.OutOrStdout(), l)
			}
			var r trace.Record
			if err := json.Unmarshal(l.Record, &r); err != nil {
				return fmt.Errorf("read trace: %w", err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", l.Time.UTC().Format("15:04:05.000000"), shortID(l.Invocation), r.String())
			return err
		})
		if err == nil {
			tellEnded(cmd)
			if invocation != "" && !found {
				fmt.Fprintf(cmd.ErrOrStderr(), "no calls of an invocation %s were seen of %s\n", escapeLine(invocation), escapeLine(args[0]))
			}
		}
		return err
	})
}
