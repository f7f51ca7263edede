package main

import (
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

// remoteCommand gives cmd the flags of a remote and the run function, whose errors are explained. Shells complete its arguments as
// far as its use names something that completions knows, in this order.
func remoteCommand(cmd *cobra.Command, run func(cmd *cobra.Command, c *client.Client, args []string) error) *cobra.Command {
	var r remote
	r.addFlags(cmd)
	if places := strings.Fields(cmd.Use)[1:]; len(places) > 0 && completions(cmd, places[0]) != nil {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			place := min(len(args), len(places)-1)
			if len(args) >= len(places) && !strings.HasSuffix(places[place], "...") {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			ask := completions(cmd, places[place])
			if ask == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			values, directive := r.complete(cmd, ask, args)
			// Of several, each is named once. The job before them may have the name of one.
			given := args[min(place, len(args)):]
			return slices.DeleteFunc(values, func(v string) bool {
				v, _, _ = strings.Cut(v, "\t")
				return slices.Contains(given, v)
			}), directive
		}
	}
	for _, flag := range []string{"job", "name"} {
		if cmd.Flags().Lookup(flag) != nil {
			register(cmd, flag, func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
				return r.complete(cmd, jobNames, args)
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
