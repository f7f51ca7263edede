package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/spf13/cobra"
)

// maxTail is how many recent lines a server can be asked for.
const maxTail = 10_000

func newLogsCommand() *cobra.Command {
	var follow, asJSON bool
	var tail int
	var invocation string
	cmd := &cobra.Command{
		Use:   "logs JOB",
		Short: "Show what a job's guests wrote and what happened to them",
		Long: "Each line has the last 8 characters of its invocation's id. --invocation takes these or the whole id, as a response's\n" +
			"Ripstop-Invocation and the error of a failed request name it. The server keeps a job's last 2000 lines, 1 MiB at most, until it stops.",
		Example: "  ripstop logs hello\n  ripstop logs hello --invocation 1fb1477c\n  ripstop logs -f hello         # and what is to come\n  ripstop logs --tail 0 -f --json hello",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is to come, until Ctrl-C")
	cmd.Flags().IntVarP(&tail, "tail", "n", 100, "how many recent lines to begin with, 0 to 10000")
	cmd.Flags().StringVar(&invocation, "invocation", "", "only lines of this invocation, of all lines that are kept unless --tail says how many")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		if tail < 0 || tail > maxTail {
			return usageError(cmd, fmt.Errorf("--tail %d is not between 0 and 10000", tail))
		}
		if invocation != "" && !cmd.Flags().Changed("tail") {
			tail = maxTail
		}
		found := false
		err := c.Logs(cmd.Context(), args[0], tail, follow, func(l model.LogLine) error {
			if !strings.HasSuffix(l.Invocation, invocation) {
				return nil
			}
			found = true
			if asJSON {
				return printLine(cmd.OutOrStdout(), l)
			}
			label := l.Stream
			if l.Level != "" {
				label += "/" + l.Level
			}
			// Each line of a text, such as a backtrace, has all of this before it, so that no guest makes one look like another's.
			before := fmt.Sprintf("%s %s %-10s ", l.Time.UTC().Format("2006-01-02 15:04:05.000Z"), shortID(l.Invocation), escapeLine(label))
			for text := range strings.SplitSeq(strings.TrimRight(l.Text, "\n"), "\n") {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), before+escapeText(text)); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil && follow {
			tellEnded(cmd)
		}
		if err == nil && invocation != "" && !found {
			among := "those that are kept"
			if cmd.Flags().Changed("tail") {
				among = fmt.Sprintf("the last %d", tail)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "no lines of an invocation %s among %s of %s\n", escapeLine(invocation), among, escapeLine(args[0]))
		}
		return err
	})
}

// tellEnded says that a server ended what goes on until Ctrl-C.
func tellEnded(cmd *cobra.Command) {
	fmt.Fprintln(cmd.ErrOrStderr(), "the server ended this: it stops, or lines came faster than they were read; what comes now is missed")
}

// shortID is an invocation's last 8 characters, its random part, which tells those of one screen apart.
func shortID(id string) string {
	if id == "" {
		return "--------"
	}
	if len(id) > 8 {
		id = id[len(id)-8:]
	}
	return escapeLine(id)
}

// printLine writes v as one line of JSON.
func printLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
