// Package control is the state that users change: jobs and their versions, tokens, secrets, the audit log. It keeps all
// of it in package broker's records and blobs, and every change is one commit: it is there whole or not at all.
//
// Running guests is not its business: a Runner, which packages agent and cmd provide, checks modules and gets versions ready.
package control

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
)

// Job is what a user deployed.
type Job struct {
	Schema      int       `json:"schema"`
	ID          string    `json:"id"` // stays with it from the first deploy to its removal
	Name        string    `json:"name"`
	Entitlement string    `json:"entitlement"`
	Current     uint64    `json:"current"` // the version that is served
	Latest      uint64    `json:"latest"`  // the highest number ever given out
	Created     time.Time `json:"created"`
	Updated     time.Time `json:"updated"`
	Revision    uint64    `json:"-"` // of the record
}

// Version is an immutable, numbered deploy of a job.
type Version struct {
	Schema   int               `json:"schema"`
	Job      string            `json:"job"`
	Number   uint64            `json:"number"`
	Module   string            `json:"module"` // digest, lower-case hex
	Size     int64             `json:"size"`   // of the module, in bytes
	Kind     string            `json:"kind"`   // "command" or "task"
	Manifest manifest.Manifest `json:"manifest"`
	Created  time.Time         `json:"created"`
	By       string            `json:"by"` // name of the token
}

// Errors that callers branch on.
var (
	ErrNotFound = broker.ErrNotFound
	ErrConflict = broker.ErrConflict
	ErrDenied   = errors.New("not allowed")
	// ErrUnconfirmed is in the error of a change that is stored and stands, but that no worker has confirmed in time.
	ErrUnconfirmed = errors.New("no worker has confirmed it yet")
)

// Runner checks modules and gets versions ready, before they are committed.
type Runner interface {
	// Check validates a module in a process of its own, compiles it there for an engine, and answers its kind. digest names the bytes
	// that module gives. Refusals, of an engine that this program does not have too, are *wire.Problem.
	Check(ctx context.Context, engine, digest string, module io.Reader, size int64) (kind string, err error)
	// Prepare has a worker get a ready to serve. done is called once a was committed (true) or given up (false). Refusals are *wire.Problem.
	Prepare(ctx context.Context, a wire.Assignment) (done func(committed bool), err error)
	// Applied waits until the workers serve what was committed at revision.
	Applied(ctx context.Context, revision uint64) error
}
