package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes that do not belong to a guest.
const (
	exitFailed      = 1   // what was asked for did not work
	exitUsage       = 2   // the command line, the data directory or an address is wrong; nothing was changed
	exitInterrupted = 130 // Ctrl-C: 128 and SIGINT's number
)

// newRoot makes the whole command tree. Every verb has a constructor of its own in a file of its own.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "ripstop",
		Short: "WebAssembly tasks in process virtual machines",
		Long: "Ripstop runs WebAssembly tasks in process virtual machines. Upload a .wasm file, get a URL; every call that\n" +
			"a task makes on the world passes one door, where it can be inspected, changed or refused.",
		Example: "  ripstop serve                       # start the server\n" +
			"  ripstop deploy hello.wasm           # in another terminal: upload, and print the URL\n" +
			"  ripstop run --trace hello.wasm      # or run a module here, without a server",
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version:       readBuildInfo().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(readBuildInfo().line())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, flagError(err)) })
	root.AddCommand(
		newDeployCommand(), newInvokeCommand(), newResultCommand(), newQueueCommand(), newDeadLettersCommand(), newLogsCommand(), newTraceCommand(), newPsCommand(), newRollbackCommand(), newRmCommand(),
		newSecretCommand(), newTokenCommand(), newAuditCommand(), newVersionCommand(),
		newRunCommand(),
		newInspectCommand(), newDoctorCommand(),
		newServeCommand(), newBackupCommand(), newRestoreCommand(), newAdoptCommand(),
		newWorkerCommand(),
		newCompileCommand(),
	)
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			refuseUnknownTopics(c)
		}
		markArgumentErrors(c)
	}
	return root
}

// refuseUnknownTopics has `ripstop help X` fail where there is no X: cobra's own prints a line among the help of all and exits 0.
func refuseUnknownTopics(help *cobra.Command) {
	show := help.Run
	help.Run, help.RunE = nil, func(cmd *cobra.Command, args []string) error {
		if _, _, err := cmd.Root().Find(args); err != nil {
			return err
		}
		show(cmd, args)
		return nil
	}
}

// execute runs root with args and answers the exit code. An error is printed on stderr: as one line, or with --json as a document.
func execute(ctx context.Context, root *cobra.Command, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	tell := func(code int, err error) {
		if wantsJSON(cmd, args) {
			printErrorJSON(stderr, code, err)
		} else {
			printError(stderr, err)
		}
	}
	var exit exitError
	if errors.As(err, &exit) {
		if exit.err != nil {
			tell(exit.code, exit.err)
		}
		return exit.code
	}
	// An interrupted command's own error ("context canceled") says nothing that the user does not know.
	if ctx.Err() != nil {
		return exitInterrupted
	}
	code := exitFailed
	// Cobra's own "unknown command" has no type; everything else that is a usage error was marked where it arose.
	if strings.HasPrefix(err.Error(), "unknown command ") {
		code = exitUsage
		// Cobra's guesses, if it has any, come on lines of their own.
		what, guesses, guessed := strings.Cut(err.Error(), "\n\nDid you mean this?")
		if guessed {
			what += ": did you mean " + strings.Join(strings.Fields(guesses), ", ") + "?"
		}
		err = fmt.Errorf("%s; see `%s --help`", strings.TrimSpace(what), root.CommandPath())
	}
	tell(code, err)
	return code
}

func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "ripstop: %s\n", escapeText(err.Error()))
}

// exitError ends the process with code. err is printed when it is not nil; a guest's own exit code needs no words.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

// flagError says of a flag's value that is no number what it has to be, and not which function of Go's library refused it.
func flagError(err error) error {
	n, ok := errors.AsType[*strconv.NumError](err)
	if !ok || n.Func == "ParseBool" {
		return err
	}
	wants := "it takes a whole number"
	if n.Func == "ParseUint" {
		wants += " from 0"
	}
	if errors.Is(n.Err, strconv.ErrRange) {
		wants += ", and not one as large"
	}
	return errors.New(strings.Replace(err.Error(), n.Error(), wants, 1))
}

// usageError marks err as a mistake on the command line: exit 2, with a pointer to the command's help.
func usageError(cmd *cobra.Command, err error) error {
	return exitError{exitUsage, fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
}

// markArgumentErrors makes wrong positional arguments of c and its subcommands usage errors, which say what is wanted.
func markArgumentErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			// What follows a command that has subcommands was meant for one of them, which cobra's own words say.
			if err != nil && (!cmd.HasSubCommands() || strings.Contains(cmd.Use, " ")) {
				err = wantedArguments(cmd, len(args))
			}
			if err != nil {
				return usageError(cmd, err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		markArgumentErrors(sub)
	}
}

// wantedArguments says what cmd takes, when that is not what it was given.
func wantedArguments(cmd *cobra.Command, given int) error {
	_, wanted, _ := strings.Cut(strings.Replace(cmd.Use, " [flags]", "", 1), " ")
	if wanted == "" {
		wanted = "no arguments"
	}
	count := fmt.Sprintf("%d arguments were given", given)
	switch given {
	case 0:
		count = "no argument was given"
	case 1:
		count = "one argument was given"
	}
	return fmt.Errorf("%s takes %s; %s", cmd.CommandPath(), wanted, count)
}
