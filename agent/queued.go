package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/guest"
)

// errUnwanted is the cause of a queued invocation's context when nobody waits for it any more.
var errUnwanted = errors.New("the invocation is not wanted any more")

// notStarted are the problems with which an invocation is refused before a guest has seen anything of it.
var notStarted = []string{"draining", "no-route", "not-running", "starting"}

// hopeless are the problems that another attempt would meet, too.
var hopeless = []string{"request-too-large", "header-too-large"}

// invoke runs a queued invocation in the background, and tells what came of it.
func (a *Agent) invoke(id, job string) {
	ctx, cancel := context.WithCancelCause(a.life)
	a.mu.Lock()
	if a.draining {
		a.mu.Unlock()
		cancel(errUnwanted)
		return // the control process knows, and gives it to others
	}
	a.inflight.Add(1)
	a.queued[id] = cancel
	a.mu.Unlock()
	a.background.Go(func() {
		defer func() {
			a.mu.Lock()
			delete(a.queued, id)
			a.mu.Unlock()
			cancel(nil)
			a.inflight.Done()
		}()
		work, err := a.opts.Link.Work(ctx, id)
		if err != nil {
			if ctx.Err() == nil {
				a.opts.Log.Warn("a queued invocation could not be read", "job", job, "error", err)
			}
			return
		}
		if work == nil {
			return
		}
		outcome := a.attempt(ctx, job, work)
		if err := a.opts.Link.Done(context.WithoutCancel(ctx), id, outcome); err != nil && a.life.Err() == nil {
			a.opts.Log.Warn("what came of a queued invocation could not be told", "job", job, "invocation", work.invocation, "error", err)
		}
	})
}

// cancel ends a queued invocation that nobody waits for.
func (a *Agent) cancel(id string) {
	a.mu.RLock()
	end := a.queued[id]
	a.mu.RUnlock()
	if end != nil {
		end(errUnwanted)
	}
}

// work is an invocation of the queue as it is handed over.
type work struct {
	invocation string
	attempt    string
	payload    []byte // package envelope's request
}

// outcome is what came of it.
type outcome struct {
	kind       string // one of wire's outcomes
	body       []byte // the response, or why there is none
	retryAfter string // seconds, or empty
}

func ended(kind, why string) outcome { return outcome{kind: kind, body: []byte(why)} }

// attempt has a task of the job answer a queued invocation.
func (a *Agent) attempt(ctx context.Context, job string, w *work) outcome {
	q, err := envelope.DecodeRequest(w.payload)
	if err != nil {
		return ended(wire.OutcomeHopeless, err.Error())
	}
	whole := ctx
	if q.Hops > 0 {
		ctx = context.WithValue(ctx, hopsKey{}, q.Hops)
	}
	if !q.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, q.Deadline, errDeadline)
		defer cancel()
	}
	r, err := http.NewRequestWithContext(ctx, q.Method, "http://"+job+q.Target, bytes.NewReader(q.Body))
	if err != nil {
		return ended(wire.OutcomeHopeless, fmt.Sprintf("there is no such request: %v", err))
	}
	r.Header = q.Header
	r.Header.Set(wire.HeaderAttempt, w.attempt)
	r.Header.Set(wire.HeaderInvocation, w.invocation)
	r.RequestURI = q.Target
	out := &kept{header: http.Header{}}
	_, err = a.serve(job, guest.ServeInfo{Scheme: "http", RemoteAddr: "127.0.0.1:0", Invocation: w.invocation}, out, r, true)
	return a.judgeQueued(whole, ctx, out, err)
}

// judgeQueued tells what came of an attempt. ctx is whole with the invocation's own deadline.
func (a *Agent) judgeQueued(whole, ctx context.Context, out *kept, err error) outcome {
	var problem *wire.Problem
	switch {
	case out.tooLarge:
		return ended(wire.OutcomeHopeless, fmt.Sprintf("the response has more than %d bytes, which is the most that is kept", envelope.MaxBody))
	case whole.Err() == nil && ctx.Err() != nil:
		return ended(wire.OutcomeHopeless, "its deadline passed before it was done")
	case err == nil:
		return out.outcome()
	case errors.As(err, &problem) && slices.Contains(notStarted, problem.Code):
		return ended(wire.OutcomeUnstarted, problem.Detail)
	case errors.As(err, &problem) && slices.Contains(hopeless, problem.Code):
		return ended(wire.OutcomeHopeless, problem.Detail)
	case errors.As(err, &problem):
		return ended(wire.OutcomeFailed, problem.Detail)
	case whole.Err() != nil:
		return ended(wire.OutcomeFailed, "the worker stopped while it ran")
	}
	return ended(wire.OutcomeFailed, "the server failed while it ran")
}

// kept is a response that is kept whole.
type kept struct {
	header   http.Header
	sent     http.Header
	status   int
	body     bytes.Buffer
	tooLarge bool
}

func (k *kept) Header() http.Header { return k.header }

func (k *kept) WriteHeader(status int) {
	if status >= 200 && k.status == 0 {
		k.status, k.sent = status, k.header.Clone()
	}
}

// Write fails once there is more than can be kept.
func (k *kept) Write(b []byte) (int, error) {
	k.WriteHeader(http.StatusOK)
	if k.body.Len()+len(b) > envelope.MaxBody {
		k.tooLarge = true
		return 0, envelope.ErrTooLarge
	}
	return k.body.Write(b)
}

// Flush does nothing: the response is read once it is whole.
func (k *kept) Flush() {}

// outcome is the response, unless it says that another attempt may do better: a status of 5xx or 429.
func (k *kept) outcome() outcome {
	k.WriteHeader(http.StatusOK)
	if k.status >= 500 || k.status == http.StatusTooManyRequests {
		o := ended(wire.OutcomeFailed, fmt.Sprintf("the job answered %d %s", k.status, http.StatusText(k.status)))
		if after := k.sent.Get("Retry-After"); len(after) < 10 {
			if _, err := strconv.ParseUint(after, 10, 31); err == nil {
				o.retryAfter = after
			}
		}
		return o
	}
	for name := range k.sent {
		if strings.HasPrefix(name, "Ripstop-") { // they are the server's to set
			delete(k.sent, name)
		}
	}
	b, err := envelope.Response{Status: k.status, Header: k.sent, Body: k.body.Bytes()}.Encode()
	if err != nil {
		return ended(wire.OutcomeHopeless, err.Error())
	}
	return outcome{kind: wire.OutcomeDone, body: b}
}

// Work reads a queued invocation; nil if it is not to be run any more.
func (l *Link) Work(ctx context.Context, id string) (*work, error) {
	r, err := request(ctx, http.MethodGet, wire.PathWork+id, nil)
	if err != nil {
		return nil, err
	}
	resp, err := l.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusGone:
		return nil, nil
	default:
		return nil, fmt.Errorf("read a queued invocation: %s", resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read a queued invocation: %w", err)
	}
	return &work{invocation: resp.Header.Get(wire.HeaderInvocation), attempt: resp.Header.Get(wire.HeaderAttempt), payload: b}, nil
}

// Done tells what came of a queued invocation.
func (l *Link) Done(ctx context.Context, id string, o outcome) error {
	r, err := request(ctx, http.MethodPost, wire.PathWork+id, bytes.NewReader(o.body))
	if err != nil {
		return err
	}
	r.Header.Set(wire.HeaderOutcome, o.kind)
	if o.retryAfter != "" {
		r.Header.Set(wire.HeaderRetryAfter, o.retryAfter)
	}
	resp, err := l.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusGone {
		return fmt.Errorf("tell what came of a queued invocation: %s", resp.Status)
	}
	return nil
}
