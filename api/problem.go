package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// problemType is what a problem's type begins with; its code follows. A URN, as there is no page behind it to fetch.
const problemType = "urn:ripstop:problem:"

// writeTimeout bounds how long a client may take to read an answer that has been written to it.
const writeTimeout = 30 * time.Second

var errInternal = &wire.Problem{Code: "internal", Status: http.StatusInternalServerError, Title: "Internal error",
	Detail: "the server failed; its log says more"}

func newProblem(status int, code, title, format string, args ...any) *wire.Problem {
	return &wire.Problem{Code: code, Status: status, Title: title, Detail: fmt.Sprintf(format, args...)}
}

// fail answers with err as a problem. An answer that has begun is cut off instead.
func (s *Server) fail(c echo.Context, err error) {
	if c.Response().Committed {
		s.opts.Log.Debug("answer was cut off", "path", c.Path(), "error", err)
		return
	}
	p := s.problem(c, err)
	if p.Status == http.StatusUnauthorized {
		c.Response().Header().Set("WWW-Authenticate", `Bearer realm="ripstop"`)
	}
	body, err := json.Marshal(model.Problem{Type: problemType + p.Code, Title: p.Title, Status: p.Status, Detail: p.Detail, Code: p.Code})
	if err != nil {
		s.opts.Log.Error("problem cannot be written", "error", err)
		return
	}
	leaveBody(c)
	s.limitWriting(c)
	if err := c.Blob(p.Status, "application/problem+json", append(body, '\n')); err != nil {
		s.opts.Log.Debug("answer was not read", "error", err)
	}
}

// problem puts err into words for the user. What is ours is logged and not shown.
func (s *Server) problem(c echo.Context, err error) *wire.Problem {
	var p *wire.Problem
	if errors.As(err, &p) {
		q := *p
		if q.Status < 400 || q.Status > 599 {
			q.Status = http.StatusInternalServerError
		}
		if q.Title == "" {
			q.Title = http.StatusText(q.Status)
		}
		if q.Code == "" {
			q.Code = "failed"
		}
		return &q
	}
	if p := control.StorageProblem(err); p != nil {
		s.opts.Log.Error("api request failed", "method", c.Request().Method, "path", c.Path(), "error", err)
		return p
	}
	var e *echo.HTTPError
	switch {
	case errors.As(err, &e):
		return echoProblem(c, e)
	case errors.Is(err, control.ErrNotFound):
		return newProblem(http.StatusNotFound, "not-found", "Not found", "%s", err)
	case errors.Is(err, control.ErrConflict):
		return newProblem(http.StatusConflict, "conflict", "Changed at the same time", "someone else changed this at the same time; look at it and try again")
	case errors.Is(err, control.ErrDenied):
		return newProblem(http.StatusForbidden, "forbidden", "Not allowed", "%s", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		s.opts.Log.Error("disk is full", "error", err)
		return newProblem(http.StatusInsufficientStorage, "disk-full", "Disk full", "the server's disk is full; nothing was changed")
	case errors.Is(err, syscall.EROFS):
		s.opts.Log.Error("disk is read-only", "error", err)
		return newProblem(http.StatusInsufficientStorage, "disk-read-only", "Disk is read-only", "the server's disk is read-only; nothing was changed")
	case errors.Is(err, context.Canceled) && c.Request().Context().Err() != nil:
		// The client left; nobody reads this.
		return newProblem(http.StatusRequestTimeout, "client-left", "Client left", "the client ended the request; nothing was changed")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return newProblem(http.StatusServiceUnavailable, "timeout", "Took too long", "the server did not finish in time; try again")
	}
	s.opts.Log.Error("api request failed", "method", c.Request().Method, "path", c.Path(), "error", err)
	return errInternal
}

// echoProblem translates the errors of routing and of the generated parameter checks.
func echoProblem(c echo.Context, e *echo.HTTPError) *wire.Problem {
	r := c.Request()
	switch e.Code {
	case http.StatusNotFound:
		return newProblem(e.Code, "no-such-path", "No such path", "there is no %s here; /v1/openapi.yaml lists what there is", r.URL.Path)
	case http.StatusMethodNotAllowed:
		return newProblem(e.Code, "method-not-allowed", "Method not allowed", "%s takes %s, not %s", r.URL.Path,
			c.Response().Header().Get(echo.HeaderAllow), r.Method)
	}
	code := strings.ToLower(strings.ReplaceAll(http.StatusText(e.Code), " ", "-"))
	if code == "" {
		code = "failed"
	}
	return newProblem(e.Code, code, http.StatusText(e.Code), "%v", e.Message)
}

// answer writes v as JSON.
func (s *Server) answer(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	s.limitWriting(c)
	return c.Blob(status, echo.MIMEApplicationJSON, append(body, '\n'))
}

// limitWriting gives the client until writeTimeout from now to take what is written next.
func (s *Server) limitWriting(c echo.Context) {
	// Only test recorders have no deadlines; there is nobody slow behind them.
	_ = http.NewResponseController(c.Response().Writer).SetWriteDeadline(s.opts.Clock.Now().Add(writeTimeout))
}
