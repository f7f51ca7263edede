package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/spf13/cobra"
)

// remote are the flags that say which server a verb talks to.
type remote struct {
	server, token, data string
}

func (r *remote) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.server, "server", "", "the API's URL (default $RIPSTOP_SERVER, else http://"+defaultAPIAddress+")")
	f.StringVar(&r.token, "token", "", "API token (default $RIPSTOP_TOKEN, else the token file in the data directory)")
	f.StringVar(&r.data, "data", "", dataDirHelp)
}

// open makes the client that the flags ask for.
func (r *remote) open(cmd *cobra.Command) (*client.Client, error) {
	server := r.server
	if server == "" {
		server = os.Getenv("RIPSTOP_SERVER")
	}
	if server == "" {
		server = "http://" + defaultAPIAddress
	}
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	server = strings.TrimRight(server, "/")
	if body := cmd.Flags().Lookup("data-body"); body != nil && r.data != "" {
		if info, err := os.Stat(r.data); err != nil || !info.IsDir() {
			return nil, usageError(cmd, fmt.Errorf("--data %q is no directory, and names the server's data directory; a request's body is given with -%s", r.data, body.Shorthand))
		}
	}
	token := r.token
	if token == "" {
		token = os.Getenv("RIPSTOP_TOKEN")
	}
	if token == "" {
		var err error
		if token, err = r.localToken(server); err != nil {
			return nil, err
		}
	}
	c, err := client.New(client.Options{Server: server, Token: token, Agent: "ripstop/" + readBuildInfo().Version})
	if err != nil {
		return nil, usageError(cmd, err)
	}
	return c, nil
}

// localToken reads the bootstrap token. It opens everything, so it is not sent to another machine unless the user names
// the data directory on purpose.
func (r *remote) localToken(server string) (string, error) {
	if r.data == "" && !isLoopbackURL(server) {
		return "", exitError{exitUsage, fmt.Errorf("%s is another machine: give its token with --token or RIPSTOP_TOKEN", server)}
	}
	dir, err := dataDir(r.data)
	if err != nil {
		return "", exitError{exitUsage, err}
	}
	return readToken(dir)
}

func isLoopbackURL(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.Unmap().IsLoopback()
}

// readToken reads the bootstrap token from a data directory.
func readToken(dir string) (string, error) {
	path := filepath.Join(dir, tokenFile)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", exitError{exitUsage, fmt.Errorf("there is no token at %s: the first `ripstop serve` makes one there (is it running with another --data?)", path)}
	case err != nil:
		return "", exitError{exitUsage, fmt.Errorf("read token: %w", err)}
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", exitError{exitUsage, fmt.Errorf("the token file %s is empty", path)}
	}
	return token, nil
}

// explain adds to an error of the client what to do about it.
func explain(err error) error {
	var unreachable *client.UnreachableError
	var p *model.Problem
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*failuresError)):
		return err // each of them is explained
	case errors.As(err, &unreachable):
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("%w; start it with `ripstop serve`, or name another with --server", &client.UnreachableError{Server: unreachable.Server, Err: op.Err})
		}
		return err
	case errors.As(err, &p):
		switch {
		case p.Status == http.StatusUnauthorized:
			return fmt.Errorf("%w; is --token, RIPSTOP_TOKEN or --data that of this server?", err)
		case p.Code == "no-route":
			return fmt.Errorf("%w; is --server or RIPSTOP_SERVER the address of ingress? The API has another", err)
		}
	}
	return err
}

// remoteCommand gives cmd the flags of a remote and the run function, whose errors are explained. If its first argument is a job,
// shells complete it.
func remoteCommand(cmd *cobra.Command, run func(cmd *cobra.Command, c *client.Client, args []string) error) *cobra.Command {
	var r remote
	r.addFlags(cmd)
	if _, first, _ := strings.Cut(cmd.Use, " "); strings.HasPrefix(strings.TrimPrefix(first, "["), "JOB") {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 && !strings.HasPrefix(first, "JOB...") {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names, directive := r.jobNames(cmd)
			// Of several jobs, each is named once.
			return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) }), directive
		}
	}
	for _, flag := range []string{"job", "name"} {
		if cmd.Flags().Lookup(flag) != nil {
			register(cmd, flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
				return r.jobNames(cmd)
			})
		}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.open(cmd)
		if err != nil {
			return err
		}
		return explain(run(cmd, c, args))
	}
	return cmd
}

// completeWithin is how long a shell waits for job names, when somebody presses Tab.
const completeWithin = time.Second

// jobNames asks the server for the names of its jobs; the shell shows those that fit.
func (r *remote) jobNames(cmd *cobra.Command) ([]string, cobra.ShellCompDirective) {
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
	l, err := c.Jobs(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError | cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, j := range l.Jobs {
		names = append(names, escapeLine(j.Name))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// when writes a time for a table.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// orDash is for a cell that has nothing to say.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
