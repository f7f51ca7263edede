package control

import (
	"log/slog"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
)

// Options configures a Store. DataDir is required.
type Options struct {
	DataDir      string        // where secret.key is, or is made (mode 0600)
	MaxModule    int64         // bytes of an upload; 0 means 64 MiB
	KeepVersions int           // of a job, the current one aside; 0 means 20
	KeepAudit    int           // entries of the audit log; 0 means 10,000
	Grace        time.Duration // how long a blob that nothing refers to is kept; 0 means one hour
	Quota        int64         // bytes of a bucket; 0 means broker.DefaultQuota
	// CheckManifest fills in what a manifest leaves open for a module of kind and refuses what cannot work, as a
	// *wire.Problem or an error to show to the user. nil means that names and routes alone are checked.
	CheckManifest func(m *manifest.Manifest, job, kind string) error
	Clock         clock.Clock  // nil means the system clock
	Log           *slog.Logger // nil means slog.Default()
}

// Store is what users change. Its methods are safe for concurrent use. Errors that are the caller's to fix have a
// *wire.Problem in them (errors.As), those for an unknown name match ErrNotFound, and for a lost race ErrConflict, too.
type Store struct {
	records broker.Records
	blobs   broker.Blobs
	buckets broker.Buckets
	runner  Runner
	opts    Options
}

// Change says how the assignments changed. Reset asks the reader to forget all it knew and to take All instead. Else, an
// Assignment is to be served from now on in place of the job's earlier version; without one, Job is to be served no
// more; and without a Job nothing changed but the revision.
type Change struct {
	Revision   uint64
	Reset      bool
	All        []wire.Assignment
	Job        string
	Assignment *wire.Assignment
}

// JobVersion is a job with its current version.
type JobVersion struct {
	Job     Job
	Version Version
}

// Verb is something a token may allow.
type Verb string

// The verbs. VerbAdmin includes the others, and everything that concerns tokens, secrets and the audit log.
const (
	VerbRead   Verb = "read"
	VerbDeploy Verb = "deploy"
	VerbInvoke Verb = "invoke"
	VerbAdmin  Verb = "admin"
)

// Scope is what a token allows, and for which entitlement.
type Scope struct {
	Entitlement string `json:"entitlement"` // "default"
	Verbs       []Verb `json:"verbs"`
}

// Token is a credential without its secret.
type Token struct {
	Schema  int       `json:"schema"`
	ID      string    `json:"id"` // names it in the API; not secret
	Name    string    `json:"name"`
	Scope   Scope     `json:"scope"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	By      string    `json:"by"`
}

// The kinds of AuditEntry that the store writes itself. Others may add their own.
const (
	AuditDeploy       = "deploy"
	AuditRollback     = "rollback"
	AuditRemove       = "remove"
	AuditSecretSet    = "secret.set"
	AuditSecretRemove = "secret.remove"
	AuditTokenCreate  = "token.create"
	AuditTokenRevoke  = "token.revoke"
	AuditDenied       = "denied"      // a host call that policy refused; sampled
	AuditWorkerDied   = "worker.died" // Job was running in it
)

// AuditEntry is a line of the audit log. ID and Time are set by the store when they are empty.
type AuditEntry struct {
	Schema     int       `json:"schema"`
	ID         string    `json:"id"` // UUID v7: sorts by time
	Time       time.Time `json:"time"`
	Kind       string    `json:"kind"`
	By         string    `json:"by,omitempty"` // name of the token; empty for what guests did
	Job        string    `json:"job,omitempty"`
	Version    uint64    `json:"version,omitempty"`
	Invocation string    `json:"invocation,omitempty"`
	Detail     string    `json:"detail,omitempty"`
	// Omitted counts entries like this one (same kind and job) that were left out before it, so that no guest fills the log.
	Omitted uint64 `json:"omitted,omitempty"`
}

// AuditFilter selects entries. A zero field selects all.
type AuditFilter struct {
	Job, Kind, By string
	Since, Until  time.Time // Since is included, Until is not
	Limit         int       // the newest so many; 0 means 1000
}
