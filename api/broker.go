package api

import (
	"context"
	"io"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/control"
)

// Broker is where the server keeps its state. Package cmd provides it.
type Broker interface {
	// Report says how it is. It waits for nobody.
	Report() model.BrokerReport
	// Adopt goes on with the store that is there now, and answers what that did.
	Adopt(ctx context.Context, by string) (string, error)
	// Backup writes a backup of everything. Errors before the first byte are for the user.
	Backup(ctx context.Context, w io.Writer) error
}

var errNoBroker = newProblem(http.StatusNotFound, "no-broker", "No broker", "this server tells nothing of its broker")

// GetBroker implements ServerInterface.
func (s *Server) GetBroker(c echo.Context) error {
	if s.opts.Broker == nil {
		return errNoBroker
	}
	return s.answer(c, http.StatusOK, s.opts.Broker.Report())
}

// AdoptBroker implements ServerInterface.
func (s *Server) AdoptBroker(c echo.Context) error {
	if s.opts.Broker == nil {
		return errNoBroker
	}
	what, err := s.opts.Broker.Adopt(c.Request().Context(), caller(c).Name)
	if err != nil {
		return err
	}
	report := s.opts.Broker.Report()
	report.Adopted = what
	return s.answer(c, http.StatusOK, report)
}

// ReadBackup implements ServerInterface.
func (s *Server) ReadBackup(c echo.Context) error {
	if s.opts.Broker == nil {
		return errNoBroker
	}
	ctx := c.Request().Context()
	// Before the first byte: who took a copy of all keys is written down, even if it was cut off.
	if err := s.opts.Control.Audit(ctx, control.AuditEntry{Kind: control.AuditBackup, By: caller(c).Name, Detail: "from " + c.Request().RemoteAddr}); err != nil {
		return err
	}
	if err := s.opts.Broker.Backup(ctx, &backupWriter{s, c}); err != nil {
		if !c.Response().Committed {
			return err
		}
		s.opts.Log.Error("a backup was cut off", "error", err)
		panic(http.ErrAbortHandler) // without this the client would take the answer for whole
	}
	return nil
}

// backupWriter gives the client a while for each part.
type backupWriter struct {
	server *Server
	c      echo.Context
}

func (w *backupWriter) Write(p []byte) (int, error) {
	if !w.c.Response().Committed { // until here a problem may be the answer
		w.c.Response().Header().Set(echo.HeaderContentType, "application/x-tar")
	}
	w.server.limitWriting(w.c)
	return w.c.Response().Write(p)
}
