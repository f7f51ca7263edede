package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/spf13/cobra"
)

// maxJSONBody bounds the body that --json holds in memory, in bytes.
const maxJSONBody = 64 << 20

// invoked is a response as --json prints it. Exactly one of Body and BodyBase64 is there, unless the body is empty.
type invoked struct {
	Status     int                 `json:"status"`
	Headers    map[string][]string `json:"headers"`
	Body       string              `json:"body,omitempty"`
	BodyBase64 string              `json:"body_base64,omitempty"`
}

func newInvokeCommand() *cobra.Command {
	var method, data string
	var headers []string
	var include, fail, asJSON bool
	var queue asyncOptions
	cmd := &cobra.Command{
		Use:   "invoke JOB [PATH]",
		Short: "Send a request to a job, like curl",
		Long:  "PATH is what follows the job's own URL, query included. The response's body goes to stdout.",
		Example: "  ripstop invoke hello\n" +
			"  ripstop invoke hello 'greet?name=Ada'\n" +
			"  ripstop invoke guestbook entries -d '{\"text\":\"hi\"}' -H 'Content-Type: application/json'\n" +
			"  ripstop invoke guestbook upload -X PUT -d @photo.jpg\n" +
			"  ripstop invoke mailer send -d @mail.json --async          # prints the invocation's id\n" +
			"  ripstop invoke mailer send -d @mail.json --async --wait --key mail-17",
		Args: cobra.RangeArgs(1, 2),
	}
	f := cmd.Flags()
	f.StringVarP(&method, "request", "X", "", "method (default GET, or POST with -d)")
	completeWith(cmd, "request", http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions)
	f.StringVarP(&data, "data-body", "d", "", "body; @FILE is read from a file, @- from stdin")
	f.StringArrayVarP(&headers, "header", "H", nil, "header, 'Name: value'; may be repeated")
	f.BoolVarP(&include, "include", "i", false, "print the status line and headers, too")
	f.BoolVar(&fail, "fail", false, "exit 1 when the status is 400 or more")
	queue.addFlags(cmd)
	jsonFlag(cmd, &asJSON)
	return remoteCommand(cmd, func(cmd *cobra.Command, c *client.Client, args []string) error {
		if err := queue.check(cmd); err != nil {
			return err
		}
		path, target := "", "http://job.invalid/" // what is queued has a path of its own
		if len(args) == 2 {
			path = args[1]
		}
		if !queue.async {
			j, err := c.Job(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			target = j.Url
			if len(args) == 2 {
				if target, err = below(j.Url, path); err != nil {
					return usageError(cmd, err)
				}
			}
		}
		body, err := requestBody(cmd, data)
		if err != nil {
			return err
		}
		if method == "" {
			method = http.MethodGet
			if cmd.Flags().Changed("data-body") {
				method = http.MethodPost
			}
		}
		req, err := http.NewRequestWithContext(cmd.Context(), method, target, body)
		if err != nil {
			return usageError(cmd, err)
		}
		if closer, ok := body.(io.Closer); ok {
			defer closer.Close()
		}
		req.Header.Set("User-Agent", "ripstop/"+readBuildInfo().Version)
		for _, h := range headers {
			name, value, ok := strings.Cut(h, ":")
			if !ok || strings.TrimSpace(name) == "" {
				return usageError(cmd, fmt.Errorf("header %q is not written as 'Name: value'", h))
			}
			if value = strings.TrimSpace(value); textproto.CanonicalMIMEHeaderKey(name) == "Host" {
				req.Host = value
			} else {
				req.Header.Add(strings.TrimSpace(name), value)
			}
		}
		if queue.async {
			return queueRequest(cmd, c, args[0], path, req, queue, include, fail, asJSON)
		}
		return doInvoke(cmd, req, include, fail, asJSON)
	})
}

// below puts path, with an optional query, under a job's URL. A route without a slash at its end has nothing below it,
// but may have a query.
func below(job, path string) (string, error) {
	u, err := url.Parse(job)
	if err != nil {
		return "", fmt.Errorf("the job's URL %q: %w", job, err)
	}
	p, query, _ := strings.Cut(path, "?")
	p = strings.TrimPrefix(p, "/")
	if p != "" {
		if !strings.HasSuffix(u.Path, "/") {
			return "", fmt.Errorf("the job answers at %s alone, nothing is below it", job)
		}
		decoded, err := url.PathUnescape(p)
		if err != nil {
			return "", fmt.Errorf("path %q: %w", path, err)
		}
		u.RawPath = u.EscapedPath() + p
		u.Path += decoded
	}
	u.RawQuery = query
	return u.String(), nil
}

// requestBody opens what -d asks for. A file's reader is an io.Closer.
func requestBody(cmd *cobra.Command, data string) (io.Reader, error) {
	name, isFile := strings.CutPrefix(data, "@")
	switch {
	case !isFile:
		return strings.NewReader(data), nil
	case name == "-":
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, exitError{exitUsage, fmt.Errorf("read body: %w", err)}
	}
	return f, nil
}

func doInvoke(cmd *cobra.Command, req *http.Request, include, fail, asJSON bool) error {
	// What a job answers is shown as it is: redirects and encodings are not followed or undone, nor is a proxy used.
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := hc.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return fmt.Errorf("the job does not answer at %s: %w", req.URL, err)
	}
	defer res.Body.Close()
	if err := printResponse(cmd.OutOrStdout(), res, include, asJSON); err != nil {
		return err
	}
	if fail && res.StatusCode >= 400 {
		return exitError{exitFailed, fmt.Errorf("the job answered %s", res.Status)}
	}
	return nil
}

func printResponse(out io.Writer, res *http.Response, include, asJSON bool) error {
	if asJSON {
		body, err := io.ReadAll(io.LimitReader(res.Body, maxJSONBody+1))
		if err != nil {
			return fmt.Errorf("read response: %w", err)
		}
		if len(body) > maxJSONBody {
			return fmt.Errorf("the response is larger than %s; leave out --json", sizeText(maxJSONBody))
		}
		r := invoked{Status: res.StatusCode, Headers: res.Header}
		if utf8.Valid(body) {
			r.Body = string(body)
		} else {
			r.BodyBase64 = base64.StdEncoding.EncodeToString(body)
		}
		return printJSON(out, r)
	}
	if include {
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s\n", res.Proto, escapeLine(res.Status))
		names := make([]string, 0, len(res.Header))
		for n := range res.Header {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			for _, v := range res.Header[n] {
				fmt.Fprintf(&b, "%s: %s\n", escapeLine(n), escapeLine(v))
			}
		}
		if _, err := io.WriteString(out, b.String()+"\n"); err != nil {
			return err
		}
	}
	if !isTerminal(out) {
		if _, err := io.Copy(out, res.Body); err != nil {
			return fmt.Errorf("read response: %w", err)
		}
		return nil
	}
	return copyEscaped(out, res.Body)
}

// copyEscaped copies a guest's text to a terminal. A character is never cut in two, and a line without end is written in pieces.
func copyEscaped(out io.Writer, in io.Reader) error {
	r := bufio.NewReaderSize(in, 32<<10)
	for {
		if _, err := r.Peek(1); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read response: %w", err)
		}
		p, _ := r.Peek(r.Buffered())
		n := len(p)
		if !endsWhole(p) {
			// Wait for the rest of the last character, if there is one.
			if more, err := r.Peek(min(n+utf8.UTFMax, r.Size())); err == nil || len(more) > n {
				p = more
			}
			n = len(p)
			for cut := 1; cut < utf8.UTFMax && cut < n; cut++ {
				if endsWhole(p[:n-cut]) && !endsWhole(p) {
					n -= cut
					break
				}
			}
		}
		if _, err := io.WriteString(out, escapeText(string(p[:n]))); err != nil {
			return err
		}
		if _, err := r.Discard(n); err != nil {
			return err
		}
	}
}

// endsWhole says whether p does not end within a character.
func endsWhole(p []byte) bool {
	for i := 1; i <= utf8.UTFMax && i <= len(p); i++ {
		if c := p[len(p)-i]; utf8.RuneStart(c) {
			return utf8.FullRune(p[len(p)-i:])
		}
	}
	return true
}
