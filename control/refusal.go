package control

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// refusal is an error that is the caller's to fix: a problem to show, and what kind of error it is for programs.
type refusal struct {
	problem *wire.Problem
	kind    error // may be nil
}

func (r *refusal) Error() string { return r.problem.Detail }

// Unwrap gives the problem and the kind.
func (r *refusal) Unwrap() []error {
	if r.kind == nil {
		return []error{r.problem}
	}
	return []error{r.problem, r.kind}
}

// refuse makes a refusal. The format may wrap an error, which becomes its kind.
func refuse(status int, code, title, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	r := &refusal{problem: &wire.Problem{Code: code, Status: status, Title: title, Detail: err.Error()}}
	switch {
	case status == http.StatusNotFound:
		r.kind = ErrNotFound
	case status == http.StatusConflict:
		r.kind = ErrConflict
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		r.kind = ErrDenied
	default:
		r.kind = errors.Unwrap(err)
	}
	return r
}

func unknownJob(name string) error {
	return refuse(http.StatusNotFound, "job-unknown", "Unknown job", "there is no job %s; `ripstop ps` lists those there are, and uploading a module makes one", strconv.Quote(name))
}

// storage turns errors of the broker that a user can do something about into problems.
func storage(err error) error {
	var p *wire.Problem
	switch {
	case err == nil || errors.As(err, &p):
		return err
	case errors.Is(err, broker.ErrFull):
		return &refusal{&wire.Problem{Code: "storage-full", Status: http.StatusInsufficientStorage, Title: "The server's disk is full", Detail: err.Error()}, err}
	case errors.Is(err, broker.ErrReadOnly):
		return &refusal{&wire.Problem{Code: "storage-read-only", Status: http.StatusInsufficientStorage, Title: "The server's disk is read-only", Detail: err.Error()}, err}
	case errors.Is(err, broker.ErrTooLarge):
		return &refusal{&wire.Problem{Code: "too-large", Status: http.StatusRequestEntityTooLarge, Title: "Too large", Detail: err.Error()}, err}
	}
	return err
}
