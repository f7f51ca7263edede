// Package client speaks to a Ripstop server. Requests are generated from the API's description; Client adds the token, turns
// refusals into errors and streams uploads, logs and traces. It imports nothing of the server.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"time"

	"github.com/ripstop-vm/ripstop/api/model"
)

// maxAnswer bounds an answer that is read whole, in bytes; maxLine one line of a log or a trace.
const (
	maxAnswer = 64 << 20
	maxLine   = 4 << 20
)

// UnreachableError says that no server answered.
type UnreachableError struct {
	Server string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no server answers at %s: %s", e.Server, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// Options configures New.
type Options struct {
	Server string       // base URL, such as http://127.0.0.1:7070; required
	Token  string       // sent with every request
	HTTP   *http.Client // nil means one that follows no redirects, as they would carry the token elsewhere
	Agent  string       // User-Agent; empty means ripstop
}

// Client makes requests. It is safe for concurrent use.
type Client struct {
	opts Options
	raw  *Requester
}

// New makes a Client. It connects to nothing.
func New(opts Options) (*Client, error) {
	u, err := url.Parse(opts.Server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("server %q is no URL; write http://HOST:PORT", opts.Server)
	}
	if opts.HTTP == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		opts.HTTP = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if opts.Agent == "" {
		opts.Agent = "ripstop"
	}
	raw, err := NewClient(opts.Server, WithHTTPClient(opts.HTTP), WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("User-Agent", opts.Agent)
		if opts.Token != "" {
			r.Header.Set("Authorization", "Bearer "+opts.Token)
		}
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("set up client: %w", err)
	}
	return &Client{opts: opts, raw: raw}, nil
}

// check answers res if it was a success, else its problem as an error, with the body closed.
func (c *Client) check(ctx context.Context, res *http.Response, err error) (*http.Response, error) {
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, &UnreachableError{Server: c.opts.Server, Err: err}
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20)) // what was read of a refusal is worth showing
	p := &model.Problem{}
	if kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); kind == "application/problem+json" && json.Unmarshal(body, p) == nil {
		p.Status = res.StatusCode
		return nil, p
	}
	return nil, &model.Problem{Type: "about:blank", Code: "not-ripstop", Title: http.StatusText(res.StatusCode), Status: res.StatusCode,
		Detail: fmt.Sprintf("%s answered %s and is perhaps no Ripstop API", c.opts.Server, res.Status)}
}

// read decodes an answer's JSON into out; a nil out means that there is nothing to read.
func (c *Client) read(ctx context.Context, out any, res *http.Response, err error) error {
	res, err = c.check(ctx, res, err)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read answer of %s: %w", c.opts.Server, err)
	}
	return nil
}

// Upload is bytes to deploy.
type Upload struct {
	Module io.Reader // nil keeps the job's current module
	Size   int64     // of Module, in bytes; exact
	// Manifest is YAML or JSON; nil keeps the current one or, for a new job, the default.
	Manifest []byte
}

// Deploy makes a new version of a job current and answers once it serves.
func (c *Client) Deploy(ctx context.Context, job string, u Upload) (model.Job, error) {
	var head bytes.Buffer
	form := multipart.NewWriter(&head)
	if u.Manifest != nil {
		part, err := form.CreateFormFile("manifest", "ripstop.yaml")
		if err != nil {
			return model.Job{}, fmt.Errorf("write upload: %w", err)
		}
		if _, err := part.Write(u.Manifest); err != nil {
			return model.Job{}, fmt.Errorf("write upload: %w", err)
		}
	}
	kind := form.FormDataContentType()
	if u.Module != nil {
		if _, err := form.CreateFormFile("module", "module.wasm"); err != nil {
			return model.Job{}, fmt.Errorf("write upload: %w", err)
		}
	}
	// Head and tail are written out around the module, so that the request's length is known.
	before := bytes.Clone(head.Bytes())
	head.Reset()
	if err := form.Close(); err != nil {
		return model.Job{}, fmt.Errorf("write upload: %w", err)
	}
	parts := []io.Reader{bytes.NewReader(before)}
	size := int64(len(before) + head.Len())
	if u.Module != nil {
		parts = append(parts, u.Module)
		size += u.Size
	}
	parts = append(parts, &head)
	var j model.Job
	res, err := c.raw.DeployJobWithBody(ctx, job, kind, io.MultiReader(parts...), func(_ context.Context, r *http.Request) error {
		r.ContentLength = size
		// A refusal (no token, too large) comes before the bytes are sent.
		r.Header.Set("Expect", "100-continue")
		return nil
	})
	return j, c.read(ctx, &j, res, err)
}

// Jobs answers all jobs, by name.
func (c *Client) Jobs(ctx context.Context) (model.JobList, error) {
	var l model.JobList
	res, err := c.raw.ListJobs(ctx)
	return l, c.read(ctx, &l, res, err)
}

// Job answers one job.
func (c *Client) Job(ctx context.Context, name string) (model.Job, error) {
	var j model.Job
	res, err := c.raw.GetJob(ctx, name)
	return j, c.read(ctx, &j, res, err)
}

// Versions answers a job's versions, newest first.
func (c *Client) Versions(ctx context.Context, name string) (model.VersionList, error) {
	var l model.VersionList
	res, err := c.raw.ListVersions(ctx, name)
	return l, c.read(ctx, &l, res, err)
}

// Rollback makes version to current; 0 means the one before the current one.
func (c *Client) Rollback(ctx context.Context, name string, to uint64) (model.Job, error) {
	var j model.Job
	res, err := c.raw.RollbackJob(ctx, name, model.Rollback{Version: to})
	return j, c.read(ctx, &j, res, err)
}

// Remove removes a job.
func (c *Client) Remove(ctx context.Context, name string) error {
	res, err := c.raw.RemoveJob(ctx, name)
	return c.read(ctx, nil, res, err)
}

// SetSecret sets a job's secret.
func (c *Client) SetSecret(ctx context.Context, job, name string, value []byte) error {
	res, err := c.raw.SetSecretWithBody(ctx, job, name, "application/octet-stream", bytes.NewReader(value))
	return c.read(ctx, nil, res, err)
}

// Secrets answers the names of a job's secrets.
func (c *Client) Secrets(ctx context.Context, job string) (model.SecretList, error) {
	var l model.SecretList
	res, err := c.raw.ListSecrets(ctx, job)
	return l, c.read(ctx, &l, res, err)
}

// RemoveSecret removes a job's secret.
func (c *Client) RemoveSecret(ctx context.Context, job, name string) error {
	res, err := c.raw.RemoveSecret(ctx, job, name)
	return c.read(ctx, nil, res, err)
}

// CreateToken makes a token. Its secret is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, n model.NewToken) (model.CreatedToken, error) {
	var t model.CreatedToken
	res, err := c.raw.CreateToken(ctx, n)
	return t, c.read(ctx, &t, res, err)
}

// Tokens answers all tokens.
func (c *Client) Tokens(ctx context.Context) (model.TokenList, error) {
	var l model.TokenList
	res, err := c.raw.ListTokens(ctx)
	return l, c.read(ctx, &l, res, err)
}

// RevokeToken revokes a token by its ID or name.
func (c *Client) RevokeToken(ctx context.Context, idOrName string) error {
	res, err := c.raw.RevokeToken(ctx, idOrName)
	return c.read(ctx, nil, res, err)
}

// Audit answers entries of the audit log, newest first. An empty job and a zero since mean all.
func (c *Client) Audit(ctx context.Context, job string, since time.Time, limit int) (model.AuditList, error) {
	params := &model.ReadAuditParams{Limit: &limit}
	if job != "" {
		params.Job = &job
	}
	if !since.IsZero() {
		params.Since = &since
	}
	var l model.AuditList
	res, err := c.raw.ReadAudit(ctx, params)
	return l, c.read(ctx, &l, res, err)
}

// Server answers what the server is.
func (c *Client) Server(ctx context.Context) (model.ServerInfo, error) {
	var i model.ServerInfo
	res, err := c.raw.GetVersion(ctx)
	return i, c.read(ctx, &i, res, err)
}

// Logs calls each for up to tail recent lines of a job's log and, with follow, for those to come, until ctx ends, the
// server stops or each fails.
func (c *Client) Logs(ctx context.Context, job string, tail int, follow bool, each func(model.LogLine) error) error {
	res, err := c.raw.ReadLogs(ctx, job, &model.ReadLogsParams{Tail: &tail, Follow: &follow})
	return lines(ctx, c, res, err, each)
}

// Trace calls each for a job's host calls as they happen, until ctx ends, the server stops or each fails.
func (c *Client) Trace(ctx context.Context, job string, each func(model.TraceLine) error) error {
	res, err := c.raw.FollowTrace(ctx, job)
	return lines(ctx, c, res, err, each)
}

// lines reads an answer of one JSON object a line; empty lines only say that the server is there.
func lines[T any](ctx context.Context, c *Client, res *http.Response, err error, each func(T) error) error {
	res, err = c.check(ctx, res, err)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, maxLine)
	for in.Scan() {
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		var line T
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			return fmt.Errorf("read line of %s: %w", c.opts.Server, err)
		}
		if err := each(line); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := in.Err(); err != nil {
		return &UnreachableError{Server: c.opts.Server, Err: err}
	}
	return nil
}

// Broker says where the server keeps its state and how that is.
func (c *Client) Broker(ctx context.Context) (b model.BrokerReport, err error) {
	res, err := c.raw.GetBroker(ctx)
	return b, c.read(ctx, &b, res, err)
}

// Adopt has the server go on with the store that its broker holds now.
func (c *Client) Adopt(ctx context.Context) (b model.BrokerReport, err error) {
	res, err := c.raw.AdoptBroker(ctx)
	return b, c.read(ctx, &b, res, err)
}

// Backup opens a backup of everything. The caller closes it; a read that fails means that it is none.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	res, err := c.raw.ReadBackup(ctx)
	if res, err = c.check(ctx, res, err); err != nil {
		return nil, err
	}
	return res.Body, nil
}
