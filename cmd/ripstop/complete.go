package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
)

// completeWith has shells complete a flag of cmd with the values that it takes.
func completeWith[T ~string](cmd *cobra.Command, flag string, values ...T) {
	var texts []cobra.Completion
	for _, v := range values {
		texts = append(texts, string(v))
	}
	register(cmd, flag, cobra.FixedCompletions(texts, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
}

// completeListWith is completeWith for a flag that takes several values with commas between them. A value is offered once.
func completeListWith[T ~string](cmd *cobra.Command, flag string, values ...T) {
	register(cmd, flag, func(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		given := strings.Split(typed, ",")
		before := strings.Join(given[:len(given)-1], ",")
		if before != "" {
			before += ","
		}
		var lists []cobra.Completion
		for _, v := range values {
			if !slices.Contains(given[:len(given)-1], string(v)) {
				lists = append(lists, before+string(v))
			}
		}
		return lists, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveKeepOrder
	})
}

func register(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // the flag is there, and has no other
	}
}

// completeWithin is how long a shell waits for a server, when somebody presses Tab.
const completeWithin = time.Second

// asker asks a server for the values of an argument, each with what tells it from the others after a tab. args are those before it.
type asker func(ctx context.Context, c *client.Client, args []string) ([]cobra.Completion, error)

// completions is who knows the values of an argument of cmd, by how its use names it; nil if nobody does.
func completions(cmd *cobra.Command, place string) asker {
	switch strings.TrimSuffix(strings.Trim(place, "[]"), "...") {
	case "JOB":
		return jobNames
	case "VERSION":
		return versionNumbers
	case "NAME|ID":
		return tokenNames
	case "NAME":
		// Of a secret, which is told by the command's parent. A token that is made has a new name.
		if cmd.HasParent() && cmd.Parent().Name() == "secret" {
			return secretNames
		}
	case "ID":
		if cmd.HasParent() && cmd.Parent().Name() == "dead-letters" {
			return deadLetterIDs
		}
		return invocationIDs
	}
	return nil
}

// complete asks the server; the shell shows those values that fit.
func (r *remote) complete(cmd *cobra.Command, ask asker, args []string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	c, err := r.open(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError | cobra.ShellCompDirectiveNoFileComp
	}
	values, err := ask(ctx, c, args)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError | cobra.ShellCompDirectiveNoFileComp
	}
	return values, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

func jobNames(ctx context.Context, c *client.Client, _ []string) (names []cobra.Completion, err error) {
	l, err := c.Jobs(ctx)
	for _, j := range l.Jobs {
		names = append(names, escapeLine(j.Name))
	}
	return names, err
}

// versionNumbers are the versions of a job that are not current, the newest first.
func versionNumbers(ctx context.Context, c *client.Client, args []string) (numbers []cobra.Completion, err error) {
	l, err := c.Versions(ctx, args[0])
	slices.SortFunc(l.Versions, func(a, b model.Version) int { return cmp.Compare(b.Version, a.Version) })
	for _, v := range l.Versions {
		if !v.Current {
			numbers = append(numbers, cobra.CompletionWithDesc(strconv.FormatUint(v.Version, 10), when(v.Created)))
		}
	}
	return numbers, err
}

func secretNames(ctx context.Context, c *client.Client, args []string) (names []cobra.Completion, err error) {
	l, err := c.Secrets(ctx, args[0])
	for _, s := range l.Secrets {
		names = append(names, escapeLine(s.Name))
	}
	return names, err
}

func tokenNames(ctx context.Context, c *client.Client, _ []string) (names []cobra.Completion, err error) {
	l, err := c.Tokens(ctx)
	for _, t := range l.Tokens {
		names = append(names, escapeLine(t.Name))
	}
	return names, err
}

// completeMost is how many invocations are offered: more than that nobody reads.
const completeMost = 100

// invocationIDs are those that wait or run. Ones that have ended are not listed anywhere.
func invocationIDs(ctx context.Context, c *client.Client, args []string) ([]cobra.Completion, error) {
	l, err := c.Invocations(ctx, args[0], "", completeMost)
	return describeInvocations(l), err
}

func deadLetterIDs(ctx context.Context, c *client.Client, args []string) ([]cobra.Completion, error) {
	l, err := c.DeadLetters(ctx, args[0], "", completeMost)
	return describeInvocations(l), err
}

func describeInvocations(l model.InvocationList) (ids []cobra.Completion) {
	for _, v := range l.Invocations {
		about := fmt.Sprintf("%s since %s", v.State, when(v.Enqueued))
		if v.Reason != nil {
			about = *v.Reason
		}
		ids = append(ids, cobra.CompletionWithDesc(v.Id, escapeLine(about)))
	}
	return ids
}
