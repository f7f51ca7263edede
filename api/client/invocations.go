package client

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/ripstop-vm/ripstop/api/model"
)

// NewInvocation is a request to queue. Zero fields are left to the server.
type NewInvocation struct {
	Params model.EnqueueInvocationParams
	Header http.Header // for the guest
	Body   io.Reader   // nil: none
}

// Enqueue queues a request for a job; it is durable when this returns.
func (c *Client) Enqueue(ctx context.Context, job string, v NewInvocation) (model.Enqueued, error) {
	kind := v.Header.Get("Content-Type")
	if kind == "" {
		kind = "application/octet-stream"
	}
	var e model.Enqueued
	res, err := c.raw.EnqueueInvocationWithBody(ctx, job, &v.Params, kind, v.Body, func(_ context.Context, r *http.Request) error {
		for name, vs := range v.Header {
			if strings.EqualFold(name, "Content-Type") {
				continue
			}
			r.Header["Guest-"+http.CanonicalHeaderKey(name)] = vs
		}
		return nil
	})
	return e, c.read(ctx, &e, res, err)
}

// Invocation answers where an invocation is.
func (c *Client) Invocation(ctx context.Context, job, id string) (model.Invocation, error) {
	var v model.Invocation
	res, err := c.raw.GetInvocation(ctx, job, id)
	return v, c.read(ctx, &v, res, err)
}

// Invocations answers a page of a job's invocations that wait or are under way; after is the Next of the page before, or empty.
func (c *Client) Invocations(ctx context.Context, job, after string, limit int) (model.InvocationList, error) {
	params := &model.ListInvocationsParams{Limit: &limit}
	if after != "" {
		params.After = &after
	}
	var l model.InvocationList
	res, err := c.raw.ListInvocations(ctx, job, params)
	return l, c.read(ctx, &l, res, err)
}

// Cancel cancels an invocation that waits.
func (c *Client) Cancel(ctx context.Context, job, id string) error {
	res, err := c.raw.CancelInvocation(ctx, job, id)
	return c.read(ctx, nil, res, err)
}

// Result answers what the guest answered, with whatever status it has; the caller closes its body. The server's own refusals are errors.
func (c *Client) Result(ctx context.Context, job, id string) (*http.Response, error) {
	res, err := c.raw.GetResult(ctx, job, id)
	if err == nil && res.Header.Get("Ripstop-Outcome") != "" {
		return res, nil
	}
	return c.check(ctx, res, err)
}

// Queue counts a job's invocations.
func (c *Client) Queue(ctx context.Context, job string) (model.QueueCounts, error) {
	var n model.QueueCounts
	res, err := c.raw.GetQueue(ctx, job)
	return n, c.read(ctx, &n, res, err)
}

// DeadLetters answers a job's dead letters in order of their IDs: those after an ID, at most limit.
func (c *Client) DeadLetters(ctx context.Context, job, after string, limit int) (model.InvocationList, error) {
	params := &model.ListDeadLettersParams{Limit: &limit}
	if after != "" {
		params.After = &after
	}
	var l model.InvocationList
	res, err := c.raw.ListDeadLetters(ctx, job, params)
	return l, c.read(ctx, &l, res, err)
}

// DeadLetter answers a dead letter and its request.
func (c *Client) DeadLetter(ctx context.Context, job, id string) (model.DeadLetter, error) {
	var d model.DeadLetter
	res, err := c.raw.GetDeadLetter(ctx, job, id)
	return d, c.read(ctx, &d, res, err)
}

// Requeue lets a dead letter wait again.
func (c *Client) Requeue(ctx context.Context, job, id string) error {
	res, err := c.raw.RequeueDeadLetter(ctx, job, id)
	return c.read(ctx, nil, res, err)
}

// Discard stops the keeping of a dead letter.
func (c *Client) Discard(ctx context.Context, job, id string) error {
	res, err := c.raw.DiscardDeadLetter(ctx, job, id)
	return c.read(ctx, nil, res, err)
}
