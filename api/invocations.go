package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/manifest"
)

// guestPrefix begins the name of a header that is meant for the guest; the rest is its name there.
const guestPrefix = "Guest-"

// plainHeaders go to the guest under their own name: what says how to read the body, and where a trace goes on.
var plainHeaders = []string{"Content-Type", "Content-Encoding", "Content-Language", "Accept", "Accept-Language", "Traceparent", "Tracestate", "Baggage"}

// noGuestHeaders are a connection's own, or made from the request: no guest is given any.
var noGuestHeaders = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// guestHeader is what the guest gets of a request's headers: nothing that was meant for this API, such as its token.
func guestHeader(h http.Header) (http.Header, error) {
	out := http.Header{}
	for _, name := range plainHeaders {
		if vs := h.Values(name); len(vs) > 0 {
			out[name] = vs
		}
	}
	for name, vs := range h {
		rest, ok := strings.CutPrefix(name, guestPrefix)
		if !ok {
			continue
		}
		rest = http.CanonicalHeaderKey(rest)
		for _, no := range noGuestHeaders {
			if rest == no {
				return nil, newProblem(http.StatusBadRequest, "bad-header", "Bad header", "%s%s: a guest gets no %s", guestPrefix, rest, rest)
			}
		}
		if strings.HasPrefix(rest, "Ripstop-") {
			return nil, newProblem(http.StatusBadRequest, "bad-header", "Bad header", "%s%s: names that begin with Ripstop- are this server's", guestPrefix, rest)
		}
		out[rest] = vs
	}
	return out, nil
}

// span reads a duration that a query parameter gives; 0 if it is left out.
func span(name string, text *string) (time.Duration, error) {
	if text == nil {
		return 0, nil
	}
	d, err := manifest.ParseDuration(*text)
	if err != nil || d <= 0 {
		return 0, newProblem(http.StatusBadRequest, "bad-parameter", "Bad parameter", "%s %q is no duration; write it with units, such as 90s, 1h or 2d", name, shorten(*text))
	}
	return time.Duration(d), nil
}

func valueOf[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

func orNil[T comparable](v T) *T {
	if zero := *new(T); v == zero {
		return nil
	}
	return &v
}

// EnqueueInvocation implements ServerInterface.
func (s *Server) EnqueueInvocation(c echo.Context, name model.JobName, params model.EnqueueInvocationParams) error {
	v := control.NewInvocation{Key: valueOf(params.IdempotencyKey, ""), Order: valueOf(params.Order, ""), Priority: valueOf(params.Priority, 0),
		Attempts: valueOf(params.Attempts, 0), Callback: valueOf(params.Callback, "")}
	if params.Attempts != nil && *params.Attempts < 1 {
		return newProblem(http.StatusBadRequest, "bad-parameter", "Bad parameter", "attempts is %d; it may be 1 to %d", *params.Attempts, broker.MaxAttempts)
	}
	var err error
	if v.Delay, err = span("delay", params.Delay); err != nil {
		return err
	}
	if v.ResultTTL, err = span("ttl", params.Ttl); err != nil {
		return err
	}
	deadline, err := span("deadline", params.Deadline)
	if err != nil {
		return err
	}
	v.Request = envelope.Request{Method: strings.ToUpper(valueOf(params.Method, http.MethodPost)), Target: valueOf(params.Path, "/")}
	if deadline > 0 {
		v.Request.Deadline = s.opts.Clock.Now().Add(deadline).UTC()
	}
	if v.Request.Header, err = guestHeader(c.Request().Header); err != nil {
		return err
	}
	b, err := s.open(c, "request", envelope.MaxBody, 0)
	if err != nil {
		return err
	}
	if v.Request.Body, err = b.all(); err != nil {
		return err
	}
	got, err := s.opts.Control.Enqueue(c.Request().Context(), name, v)
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, "/v1/jobs/"+name+"/invocations/"+string(got.ID))
	return s.answer(c, http.StatusAccepted, model.Enqueued{Id: string(got.ID), Job: name, Known: orNil(got.Known)})
}

// pageLimit reads how many a page may have.
func pageLimit(given *int) (int, error) {
	limit := valueOf(given, 100)
	if limit < 1 || limit > broker.MaxBatch {
		return 0, newProblem(http.StatusBadRequest, "bad-parameter", "Bad parameter", "limit is %d; it may be 1 to %d", limit, broker.MaxBatch)
	}
	return limit, nil
}

func invocations(job string, list []broker.Status) []model.Invocation {
	out := make([]model.Invocation, len(list))
	for i, st := range list {
		out[i] = invocation(job, st)
	}
	return out
}

// ListInvocations implements ServerInterface.
func (s *Server) ListInvocations(c echo.Context, name model.JobName, params model.ListInvocationsParams) error {
	limit, err := pageLimit(params.Limit)
	if err != nil {
		return err
	}
	list, next, err := s.opts.Control.Invocations(c.Request().Context(), name, valueOf(params.After, ""), limit)
	if err != nil {
		return err
	}
	return s.answer(c, http.StatusOK, model.InvocationList{Invocations: invocations(name, list), Next: orNil(next)})
}

// CancelInvocation implements ServerInterface.
func (s *Server) CancelInvocation(c echo.Context, name model.JobName, id model.InvocationID) error {
	if err := s.opts.Control.Cancel(c.Request().Context(), caller(c).Name, name, id); err != nil {
		return err
	}
	s.limitWriting(c)
	return c.NoContent(http.StatusNoContent)
}

// GetInvocation implements ServerInterface.
func (s *Server) GetInvocation(c echo.Context, name model.JobName, id model.InvocationID) error {
	st, err := s.opts.Control.Invocation(c.Request().Context(), name, id)
	if err != nil {
		return err
	}
	return s.answer(c, http.StatusOK, invocation(name, st))
}

// invocation is how an invocation looks from outside.
func invocation(job string, st broker.Status) model.Invocation {
	out := model.Invocation{Id: string(st.ID), Job: job, State: model.InvocationState(control.StateName(st.State)), Attempts: st.Attempts, MaxAttempts: st.MaxAttempts,
		Priority: st.Priority, Order: orNil(st.Order), IdempotencyKey: orNil(st.Key), Enqueued: st.Enqueued, Worker: orNil(st.Worker), Reason: orNil(st.Reason),
		CallbackReason: orNil(st.CallbackReason), RequestBytes: st.PayloadBytes, ResultBytes: st.ResultBytes}
	for to, t := range map[**time.Time]time.Time{&out.Due: st.Due, &out.Finished: st.Finished, &out.Expires: st.Expires} {
		if !t.IsZero() {
			*to = &t
		}
	}
	if st.Callback != broker.CallbackNone {
		state := model.InvocationCallback(st.Callback)
		out.Callback, out.CallbackAttempts = &state, &st.CallbackAttempts
	}
	return out
}

// GetResult implements ServerInterface.
func (s *Server) GetResult(c echo.Context, name model.JobName, id model.InvocationID) error {
	r, err := s.opts.Control.InvocationResult(c.Request().Context(), name, id)
	if err != nil {
		return err
	}
	h := c.Response().Header()
	for name, vs := range r.Header {
		h[name] = vs
	}
	// A page of a guest has no business on this origin.
	h.Add("Content-Security-Policy", "sandbox")
	h.Set("Ripstop-Invocation", id)
	h.Set("Ripstop-Outcome", string(broker.OutcomeDone))
	s.limitWriting(c)
	c.Response().WriteHeader(r.Status)
	if len(r.Body) == 0 {
		return nil
	}
	_, err = c.Response().Write(r.Body)
	return err
}

// GetQueue implements ServerInterface.
func (s *Server) GetQueue(c echo.Context, name model.JobName) error {
	n, err := s.opts.Control.Queued(c.Request().Context(), name)
	if err != nil {
		return err
	}
	list, err := s.opts.Control.Schedules(c.Request().Context(), name)
	if err != nil {
		return err
	}
	out := model.QueueCounts{Waiting: n.Waiting, Ready: n.Ready, Running: n.Leased, Dead: n.Dead, Callbacks: n.Callbacks, Oldest: orNil(n.Oldest)}
	if len(list) > 0 {
		schedules := make([]model.ScheduleStatus, len(list))
		for i, st := range list {
			schedules[i] = model.ScheduleStatus{Name: st.Name, Cron: st.Cron, Zone: st.Zone, Method: st.Method, Path: st.Path, Next: append([]time.Time{}, st.Next...),
				Last: orNil(st.Last), Invocation: orNil(string(st.Invocation))}
			if o := st.LeftOut; o.Count > 0 {
				schedules[i].LeftOut = &model.LeftOut{Count: o.Count, Last: o.Last, Reason: model.LeftOutReason(o.Reason)}
			}
		}
		out.Schedules = &schedules
	}
	return s.answer(c, http.StatusOK, out)
}

// ListDeadLetters implements ServerInterface.
func (s *Server) ListDeadLetters(c echo.Context, name model.JobName, params model.ListDeadLettersParams) error {
	limit, err := pageLimit(params.Limit)
	if err != nil {
		return err
	}
	all, err := s.opts.Control.DeadLetters(c.Request().Context(), name, valueOf(params.After, ""), limit)
	if err != nil {
		return err
	}
	list := model.InvocationList{Invocations: invocations(name, all)}
	if len(all) == limit {
		last := string(all[limit-1].ID)
		list.Next = &last
	}
	return s.answer(c, http.StatusOK, list)
}

// GetDeadLetter implements ServerInterface.
func (s *Server) GetDeadLetter(c echo.Context, name model.JobName, id model.InvocationID) error {
	st, r, err := s.opts.Control.DeadLetter(c.Request().Context(), name, id)
	if err != nil {
		return err
	}
	return s.answer(c, http.StatusOK, model.DeadLetter{Invocation: invocation(name, st), Method: r.Method, Path: r.Target, Headers: r.Header, Body: r.Body})
}

// RequeueDeadLetter implements ServerInterface.
func (s *Server) RequeueDeadLetter(c echo.Context, name model.JobName, id model.InvocationID) error {
	if err := s.opts.Control.Requeue(c.Request().Context(), caller(c).Name, name, id); err != nil {
		return err
	}
	s.limitWriting(c)
	return c.NoContent(http.StatusNoContent)
}

// DiscardDeadLetter implements ServerInterface.
func (s *Server) DiscardDeadLetter(c echo.Context, name model.JobName, id model.InvocationID) error {
	if err := s.opts.Control.Discard(c.Request().Context(), caller(c).Name, name, id); err != nil {
		return err
	}
	s.limitWriting(c)
	return c.NoContent(http.StatusNoContent)
}
