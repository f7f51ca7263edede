package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// backupSummary is what `ripstop backup` and `ripstop restore` print with --json.
type backupSummary struct {
	File        string    `json:"file"`
	Data        string    `json:"data,omitempty"`  // of a restore
	Aside       string    `json:"aside,omitempty"` // where a restore put what was there before
	Taken       time.Time `json:"taken"`
	Incarnation string    `json:"incarnation"` // of the store that it was taken of
	Revision    uint64    `json:"revision"`
	Files       int       `json:"files"`
	Bytes       int64     `json:"bytes"`
}

func summaryOf(file string, b embedded.Backup) backupSummary {
	return backupSummary{File: file, Taken: b.Taken, Incarnation: b.Incarnation, Revision: b.Revision, Files: b.Files, Bytes: b.Bytes}
}

func newBackupCommand() *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a backup of a running server to a file",
		Long: "Write a backup of a running server to a file: jobs, versions, modules, tokens, secrets, guests' data, queued invocations, and the\n" +
			"keys in the data directory, so keep it as safe as that. The server goes on meanwhile. The file appears whole or not at all, and\n" +
			"what was received is checked. It needs a token that allows backup. For a server whose state is in Redis, back up Redis.",
		Example: "  ripstop backup /backups/ripstop-$(date +%F).tar\n  ripstop token create nightly --allow backup --ttl 365d",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		b, err := backUp(cmd.Context(), c, args[0], force, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		s := summaryOf(args[0], b)
		if asJSON {
			return printJSON(cmd.OutOrStdout(), s)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %s, revision %d of %s\n", escapeLine(s.File), s.Files, sizeText(s.Bytes), s.Revision, escapeLine(s.Incarnation))
		return err
	})
}

// backUp receives a backup and checks it on the way.
func backUp(ctx context.Context, c *client.Client, path string, force bool, progressTo io.Writer) (b embedded.Backup, err error) {
	if _, err := os.Lstat(path); !force && !errors.Is(err, fs.ErrNotExist) {
		return b, exitError{exitUsage, fmt.Errorf("%s is there already; name another file, or give --force", path)}
	}
	f, err := createPending(path)
	if err != nil {
		return b, exitError{exitUsage, fmt.Errorf("backup: %w", err)}
	}
	defer f.abandon()
	body, err := c.Backup(ctx)
	if err != nil {
		return b, err
	}
	defer body.Close()
	p := startProgress(progressTo, isTerminal(progressTo), backingUp, 0, clock.System)
	in := p.reader(body)
	checked, sent := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(f, sent), in)
		if err == nil {
			err = io.EOF
		}
		done <- sent.CloseWithError(err)
	}()
	b, err = embedded.CheckBackup(ctx, checked)
	if err == nil {
		_, err = io.Copy(io.Discard, checked) // what pads the end
	}
	_ = checked.CloseWithError(err)
	_ = body.Close() // ends the copy, if the check did before
	<-done
	p.stop()
	switch {
	case ctx.Err() != nil:
		return b, context.Cause(ctx)
	case err != nil:
		return b, fmt.Errorf("backup: %w", err)
	}
	if err := f.publish(force); err != nil {
		return b, fmt.Errorf("backup: %w", err)
	}
	return b, nil
}
