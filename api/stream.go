package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// Bounds of a log's tail, in lines; how often a quiet stream says that it lives (an empty line), so that a client or
// proxy that is gone is noticed; and how often the follower's token is looked at again.
const (
	defaultTail = 100
	maxTail     = 10_000
	heartbeat   = 15 * time.Second
	recheck     = 5 * time.Second
)

// ReadLogs implements ServerInterface.
func (s *Server) ReadLogs(c echo.Context, name model.JobName, params model.ReadLogsParams) error {
	tail := defaultTail
	if params.Tail != nil {
		tail = *params.Tail
	}
	if tail < 0 || tail > maxTail {
		return newProblem(http.StatusBadRequest, "bad-parameter", "Bad parameter", "tail is %d; it may be 0 to %d", tail, maxTail)
	}
	if _, _, err := s.opts.Control.Job(c.Request().Context(), name); err != nil {
		return err
	}
	backlog, live, stop := s.opts.Hub.Logs(name, tail)
	defer stop()
	if params.Follow == nil || !*params.Follow {
		live = nil
	}
	return s.stream(c, backlog, live, live != nil, func(r wire.Report) any {
		return model.LogLine{Time: r.Time, Job: r.Job, Version: r.Version, Invocation: r.Invocation, Stream: r.Stream, Level: r.Level, Text: r.Text}
	})
}

// FollowTrace implements ServerInterface.
func (s *Server) FollowTrace(c echo.Context, name model.JobName) error {
	if _, _, err := s.opts.Control.Job(c.Request().Context(), name); err != nil {
		return err
	}
	live, stop := s.opts.Hub.Traces(name)
	defer stop()
	return s.stream(c, nil, live, true, func(r wire.Report) any {
		record := r.Trace
		if len(record) == 0 {
			record = json.RawMessage("{}")
		}
		return model.TraceLine{Time: r.Time, Job: r.Job, Version: r.Version, Invocation: r.Invocation, Record: record, Missing: r.Omitted}
	})
}

// stream writes reports as lines of JSON: backlog first, then, if follow, what comes in live, until the client leaves,
// its token is revoked or expires, the hub ends or the server stops.
func (s *Server) stream(c echo.Context, backlog []wire.Report, live <-chan wire.Report, follow bool, line func(wire.Report) any) error {
	w := c.Response()
	w.Header().Set(echo.HeaderContentType, "application/x-ndjson")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold lines back
	w.WriteHeader(http.StatusOK)
	ctl := http.NewResponseController(w.Writer)
	write := func(r wire.Report) error {
		b, err := json.Marshal(line(r))
		if err != nil {
			return fmt.Errorf("write report: %w", err)
		}
		s.limitWriting(c)
		_, err = w.Write(append(b, '\n'))
		return err
	}
	for _, r := range backlog {
		if err := write(r); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	if err := ctl.Flush(); err != nil {
		return err
	}
	tick := s.opts.Clock.NewTicker(heartbeat)
	defer tick.Stop()
	check := s.opts.Clock.NewTicker(recheck)
	defer check.Stop()
	for {
		select {
		case <-c.Request().Context().Done():
			return nil
		case <-s.stopping:
			return nil
		case <-check.C():
			if !s.stillAllowed(c) {
				return nil
			}
			continue
		case r, ok := <-live:
			if !ok {
				return nil
			}
			if err := write(r); err != nil {
				return err
			}
			// What has piled up goes out with one flush.
			for n := len(live); n > 0; n-- {
				if r, ok = <-live; !ok {
					break
				}
				if err := write(r); err != nil {
					return err
				}
			}
		case <-tick.C():
			s.limitWriting(c)
			if _, err := w.Write([]byte("\n")); err != nil {
				return err
			}
		}
		if err := ctl.Flush(); err != nil {
			return err
		}
	}
}
