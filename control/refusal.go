package control

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/tenure"
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
	if err == nil || errors.As(err, &p) {
		return err
	}
	if p := StorageProblem(err); p != nil {
		return &refusal{p, err}
	}
	return err
}

// StorageProblem puts an error of the broker into words for a user; nil if it is not about how the storage is. Nothing was changed
// wherever the text says so.
func StorageProblem(err error) *wire.Problem {
	for _, known := range []struct {
		err    error
		status int
		code   string
		title  string
	}{
		{broker.ErrFull, http.StatusInsufficientStorage, "storage-full", "The server's storage is full"},
		{broker.ErrReadOnly, http.StatusInsufficientStorage, "storage-read-only", "The server's storage is read-only"},
		{broker.ErrTooLarge, http.StatusRequestEntityTooLarge, "too-large", "Too large"},
		{broker.ErrIncarnation, http.StatusServiceUnavailable, "storage-replaced", "The broker holds another store"},
		{broker.ErrRewound, http.StatusServiceUnavailable, "storage-rewound", "The broker lost changes"},
		{broker.ErrAccess, http.StatusServiceUnavailable, "storage-denied", "The broker denies access"},
		{broker.ErrUnavailable, http.StatusServiceUnavailable, "storage-unavailable", "The broker is not available"},
		{tenure.ErrTaken, http.StatusServiceUnavailable, "storage-taken", "Another server has the store"},
		{broker.ErrCorrupt, http.StatusInternalServerError, "storage-corrupt", "The server's storage is corrupt"},
	} {
		if errors.Is(err, known.err) {
			return &wire.Problem{Code: known.code, Status: known.status, Title: known.title, Detail: err.Error()}
		}
	}
	return nil
}
