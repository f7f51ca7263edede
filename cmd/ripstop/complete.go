package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
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
