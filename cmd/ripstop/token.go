package main

import (
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/spf13/cobra"
)

func newTokenCommand() *cobra.Command {
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print the server's first token, or manage tokens",
		Long: "Without a subcommand, prints the token that `ripstop serve` made when it first started, from the data directory\n" +
			"of this machine. It allows everything; make tokens that allow less with `ripstop token create`.",
		Example: "  ripstop token\n" +
			"  curl -H \"Authorization: Bearer $(ripstop token)\" http://127.0.0.1:7070/v1/jobs\n" +
			"  ripstop token create ci --allow read,deploy --ttl 30d",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := dataDir(data)
			if err != nil {
				return exitError{exitUsage, err}
			}
			token, err := readToken(dir)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"token": token})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", dataDirHelp)
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(newTokenCreateCommand(), newTokenListCommand(), newTokenRevokeCommand())
	return cmd
}

func newTokenCreateCommand() *cobra.Command {
	var ttl, entitlement string
	var allow []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and print its secret, once",
		Example: "  ripstop token create ci\n" +
			"  ripstop token create dashboard --allow read --ttl 365d",
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&ttl, "ttl", "90d", "how long it lives, as in 12h or 30d; 0: until it is revoked")
	cmd.Flags().StringSliceVar(&allow, "allow", []string{"read", "deploy", "invoke"}, "what it allows: read, deploy, invoke, backup, admin")
	completeListWith(cmd, "allow", control.Verbs()...)
	cmd.Flags().StringVar(&entitlement, "entitlement", "", "whose jobs it is for (default: as the token that makes it)")
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		if d, err := manifest.ParseDuration(ttl); err != nil || d < 0 {
			return usageError(cmd, fmt.Errorf("--ttl %q is no duration; write 720h or 30d, or 0", ttl))
		}
		t, err := c.CreateToken(cmd.Context(), model.NewToken{Name: args[0], Ttl: ttl, Verbs: allow, Entitlement: entitlement})
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), t)
		}
		expires := "does not expire"
		if t.Token.Expires != nil {
			expires = "expires " + when(*t.Token.Expires)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "token %s (%s) allows %s and %s; its secret is shown only now:\n", escapeLine(t.Token.Name),
			escapeLine(t.Token.Id), escapeLine(strings.Join(t.Token.Scope.Verbs, ", ")), expires)
		_, err = fmt.Fprintln(cmd.OutOrStdout(), escapeLine(t.Secret))
		return err
	})
}

func newTokenListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List tokens, without their secrets",
		Example: "  ripstop token list\n  ripstop token list --json",
		Args:    cobra.NoArgs,
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, _ []string) error {
		l, err := c.Tokens(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), l)
		}
		rows := [][]string{{"NAME", "ID", "ALLOWS", "CREATED", "EXPIRES"}}
		for _, t := range l.Tokens {
			expires := "never"
			if t.Expires != nil {
				expires = when(*t.Expires)
			}
			rows = append(rows, []string{t.Name, t.Id, strings.Join(t.Scope.Verbs, ","), when(t.Created), expires})
		}
		return table(cmd.OutOrStdout(), rows)
	})
}

func newTokenRevokeCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "revoke NAME|ID",
		Short:   "Revoke a token at once",
		Example: "  ripstop token revoke ci",
		Args:    cobra.ExactArgs(1),
	}
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		if err := c.RevokeToken(cmd.Context(), args[0]); err != nil {
			return err
		}
		if asJSON {
			return printDone(cmd.OutOrStdout(), "revoke", args[0])
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "revoked %s\n", escapeLine(args[0]))
		return nil
	})
}
