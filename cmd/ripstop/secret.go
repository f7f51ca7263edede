package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// maxSecretBytes bounds what is read before it is sent; the server's own bound is what counts.
const maxSecretBytes = 1 << 20

func newSecretCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Set, list and remove a job's secrets",
		Long: "Secrets are encrypted where they are stored, shown to nobody, and redacted in logs and traces. A job's guests may\n" +
			"read those that its manifest names under capabilities.secrets.",
		Example: "  printf %s \"$KEY\" | ripstop secret set weather api-key\n  ripstop secret list weather",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSecretSetCommand(), newSecretListCommand(), newSecretRemoveCommand())
	return cmd
}

func newSecretSetCommand() *cobra.Command {
	var file, value string
	var keepNewline, asJSON bool
	cmd := &cobra.Command{
		Use:   "set JOB NAME",
		Short: "Set a secret, from stdin or a file",
		Long: "The value is read from stdin (asked for without echo on a terminal) or from --file. One newline at its end is\n" +
			"dropped unless --keep-newline is given.",
		Example: "  ripstop secret set weather api-key                 # asks for it\n" +
			"  printf %s \"$KEY\" | ripstop secret set weather api-key\n" +
			"  ripstop secret set weather tls-key --file key.pem --keep-newline",
		Args: cobra.ExactArgs(2),
	}
	cmd.Flags().StringVar(&file, "file", "", "read the value from this file")
	cmd.Flags().StringVar(&value, "value", "", "the value itself; other users of this machine can see it while the command runs")
	cmd.Flags().BoolVar(&keepNewline, "keep-newline", false, "keep a newline at the value's end")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		given := cmd.Flags().Changed("value")
		if given && file != "" {
			return usageError(cmd, errors.New("give --file or --value, not both"))
		}
		secret := []byte(value)
		if !given {
			var err error
			if secret, err = readSecret(cmd, file, keepNewline); err != nil {
				return err
			}
		}
		if len(secret) == 0 {
			return usageError(cmd, errors.New("the value is empty"))
		}
		if err := c.SetSecret(cmd.Context(), args[0], args[1], secret); err != nil {
			return err
		}
		// Setting a secret before its job is deployed is fine, but a mistyped job should be seen.
		_, err := c.Job(cmd.Context(), args[0])
		missing := isUnknownJob(err)
		if asJSON {
			return printJSON(cmd.OutOrStdout(), struct {
				Missing bool     `json:"job_missing,omitempty"`
				Set     []string `json:"set"`
			}{missing, args[1:]})
		}
		note := ""
		if missing {
			note = fmt.Sprintf("; there is no job %s yet", escapeLine(args[0]))
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "set secret %s of %s%s\n", escapeLine(args[1]), escapeLine(args[0]), note)
		return nil
	})
}

func isUnknownJob(err error) bool {
	p, ok := errors.AsType[*model.Problem](err)
	return ok && p.Code == "job-unknown"
}

// readSecret reads a value from file, or from stdin when file is empty.
func readSecret(cmd *cobra.Command, file string, keepNewline bool) ([]byte, error) {
	in := cmd.InOrStdin()
	if file == "" && isTerminal(in) {
		fmt.Fprint(cmd.ErrOrStderr(), "value: ")
		value, err := readPassword(cmd.Context(), int(in.(*os.File).Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		if err != nil {
			return nil, fmt.Errorf("read secret: %w", err)
		}
		return value, nil
	}
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, exitError{exitUsage, fmt.Errorf("read secret: %w", err)}
		}
		defer f.Close()
		in = f
	}
	value, err := io.ReadAll(io.LimitReader(in, maxSecretBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	if len(value) > maxSecretBytes {
		return nil, exitError{exitUsage, fmt.Errorf("the value is larger than %s", sizeText(maxSecretBytes))}
	}
	if !keepNewline {
		value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	}
	return value, nil
}

// readPassword reads a line from a terminal without showing it. When ctx ends it leaves the terminal as it was; what reads goes on, and the process is
// about to end.
func readPassword(ctx context.Context, fd int) ([]byte, error) {
	before, err := term.GetState(fd)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		time.Sleep(10 * time.Millisecond) // what reads may be about to turn the echo off
		return nil, errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

func newSecretListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list JOB",
		Short:   "List the names of a job's secrets",
		Example: "  ripstop secret list weather",
		Args:    cobra.ExactArgs(1),
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		l, err := c.Secrets(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), l)
		}
		if len(l.Secrets) == 0 {
			note := ""
			// As where one is set: a mistyped job should be seen.
			if _, err := c.Job(cmd.Context(), args[0]); isUnknownJob(err) {
				note = fmt.Sprintf("; there is no job %s", escapeLine(args[0]))
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "no secrets of %s%s\n", escapeLine(args[0]), note)
		}
		for _, s := range l.Secrets {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), escapeLine(s.Name)); err != nil {
				return err
			}
		}
		return nil
	})
}

func newSecretRemoveCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "rm JOB NAME",
		Short:   "Remove a secret",
		Example: "  ripstop secret rm weather api-key",
		Args:    cobra.ExactArgs(2),
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		if err := c.RemoveSecret(cmd.Context(), args[0], args[1]); err != nil {
			return err
		}
		if asJSON {
			return printDone(cmd.OutOrStdout(), "rm", args[1])
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "removed secret %s of %s\n", escapeLine(args[1]), escapeLine(args[0]))
		return nil
	})
}
