package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

func newRestoreCommand() *cobra.Command {
	var data string
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a data directory out of a backup",
		Long: "Make a data directory out of a backup. The directory is empty or not there, and no server uses it; with --force one that has\n" +
			"something in it is moved aside first, and stays. Everything is checked before anything is changed. The store is a new incarnation:\n" +
			"what came after the backup is lost, and no number of it comes again.",
		Example: "  ripstop restore /backups/ripstop-2026-11-25.tar\n  ripstop restore --data /var/lib/ripstop --force backup.tar",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := dataDir(data)
			if err == nil {
				dir, err = filepath.Abs(dir)
			}
			if err != nil {
				return exitError{exitUsage, err}
			}
			b, aside, err := restore(cmd.Context(), args[0], dir, force, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			s := summaryOf(args[0], b)
			s.Data, s.Aside = dir, aside
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %s, revision %d of %s, as it was %s\n", escapeLine(dir), s.Files, sizeText(s.Bytes), s.Revision, escapeLine(s.Incarnation), when(s.Taken))
			if err == nil && aside != "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "what was there is in %s\n", escapeLine(aside))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", dataDirHelp)
	cmd.Flags().BoolVar(&force, "force", false, "move aside what the data directory has")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// restore makes dir out of a backup. With force, what dir has is moved to aside.
func restore(ctx context.Context, file, dir string, force bool, progressTo io.Writer) (b embedded.Backup, aside string, err error) {
	refuse := func(err error) (embedded.Backup, string, error) { return b, "", exitError{exitUsage, err} }
	f, err := os.Open(file)
	if err != nil {
		return refuse(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return refuse(err)
	}
	if running(dir) {
		return refuse(fmt.Errorf("a server uses %s; stop it first, or give another --data", dir))
	}
	made := dir
	entries, err := os.ReadDir(dir)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return refuse(err)
	case len(entries) > 0 && force:
		if made, err = os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restore-*"); err != nil {
			return refuse(err)
		}
		defer os.RemoveAll(made) // it has been renamed, or is of no use
	case len(entries) == 1 && entries[0].Name() == "lock":
		// What a start that was refused leaves.
		if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
			return refuse(err)
		}
	case len(entries) > 0:
		return refuse(fmt.Errorf("%s has something in it; give another --data, or --force to have it moved aside; nothing was changed", dir))
	}
	p := startProgress(progressTo, isTerminal(progressTo), restoring, info.Size(), clock.System)
	b, err = embedded.Restore(ctx, made, p.reader(f))
	p.stop()
	switch {
	case ctx.Err() != nil:
		return b, "", context.Cause(ctx)
	case err != nil:
		return refuse(err)
	}
	if made == dir {
		return b, "", nil
	}
	aside = dir + ".before-" + clock.System.Now().UTC().Format("20060102T150405Z")
	if err := os.Rename(dir, aside); err != nil {
		return refuse(fmt.Errorf("move %s aside: %w; nothing was changed", dir, err))
	}
	if err := os.Rename(made, dir); err != nil {
		return refuse(errors.Join(err, os.Rename(aside, dir)))
	}
	return b, aside, nil
}
