package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control/vault"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Options configures a Store. DataDir is required.
type Options struct {
	DataDir      string          // where secret.key is, or is made (mode 0600)
	MaxModule    int64           // bytes of an upload; 0 means 64 MiB
	KeepVersions int             // of a job, the current one aside; 0 means 20
	KeepAudit    int             // entries of the audit log; 0 means 10,000
	Grace        time.Duration   // how long a blob that nothing refers to is kept; 0 means one hour
	Quota        int64           // bytes of a bucket; 0 means broker.DefaultQuota
	Table        *hostcall.Table // what rules are compiled against; nil leaves rules unchecked
	Clock        clock.Clock     // nil means the system clock
	Log          *slog.Logger    // nil means slog.Default()
}

// Store is what users change. Its methods are safe for concurrent use. Errors that are the caller's to fix have a
// *wire.Problem in them (errors.As), those for an unknown name match ErrNotFound, and for a lost race ErrConflict, too.
type Store struct {
	records broker.Records
	blobs   broker.Blobs
	buckets broker.Buckets
	queue   broker.Queue
	runner  Runner
	opts    Options
	vault   *vault.Vault
	jobs    keyedLocks
	sampled map[string]*limiter // by kind: AuditDenied, AuditObserved
	behind  chan struct{}       // has one in it for each upload that has a thread

	mu      sync.Mutex
	entries int    // in the audit log, about
	mark    string // of the records' revisions, once known
	served  served
	known   map[string]Token // by key: those that there were when the store could be read last
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
	VerbBackup Verb = "backup" // what a backup has in it opens everything: it is for whoever keeps backups
	VerbAdmin  Verb = "admin"
)

// Verbs are all that there are.
func Verbs() []Verb { return []Verb{VerbRead, VerbDeploy, VerbInvoke, VerbBackup, VerbAdmin} }

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
	AuditAdopt        = "broker.adopt"
	AuditBackup       = "backup"
	AuditRequeue      = "queue.requeue"
	AuditDiscard      = "queue.discard"
	AuditCancel       = "queue.cancel"
	AuditDenied       = "denied"      // a host call that policy refused; sampled
	AuditObserved     = "observed"    // a host call that a rule would have refused, did it not only observe; sampled
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
	Detail     string    `json:"detail,omitempty"` // empty where an entry says only how many were left out
	// Function is what was called: of entries of AuditDenied and AuditObserved the first of each is not left out for others. It is not stored.
	Function string `json:"-"`
	// Omitted counts entries like this one (same kind and job) that were left out before it, so that no guest fills the log.
	Omitted uint64 `json:"omitted,omitempty"`
}

// AuditFilter selects entries. A zero field selects all.
type AuditFilter struct {
	Job, Kind, By string
	Since, Until  time.Time // Since is included, Until is not
	Limit         int       // the newest so many; 0 means 1000
}

// schema is the version of the documents that the store writes.
const schema = 1

// entitlement is the one that every job belongs to.
const entitlement = "default"

// New makes a Store. It reads or makes DataDir/secret.key, and fails if the key is gone while secrets are there.
func New(records broker.Records, blobs broker.Blobs, buckets broker.Buckets, queue broker.Queue, runner Runner, opts Options) (*Store, error) {
	if opts.DataDir == "" {
		return nil, errors.New("open control: no data folder")
	}
	if opts.MaxModule < 0 || opts.KeepVersions < 0 || opts.KeepAudit < 0 || opts.Grace < 0 || opts.Quota < 0 {
		return nil, errors.New("open control: a negative option")
	}
	setDefault(&opts.MaxModule, 64<<20)
	setDefault(&opts.KeepVersions, 20)
	setDefault(&opts.KeepAudit, 10_000)
	setDefault(&opts.Grace, time.Hour)
	setDefault(&opts.Quota, broker.DefaultQuota)
	setDefault(&opts.Clock, clock.System)
	setDefault(&opts.Log, slog.Default())
	s := &Store{records: records, blobs: blobs, buckets: buckets, queue: queue, runner: runner, opts: opts, sampled: map[string]*limiter{AuditDenied: newLimiter(), AuditObserved: newLimiter()},
		behind: make(chan struct{}, uploadsBehind)}
	ctx := context.Background() // local reads; nothing to cancel them for
	stored, _, err := records.List(ctx, broker.Range{Prefix: secretsPrefix, Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("open control: %w", err)
	}
	if s.vault, err = vault.Open(filepath.Join(opts.DataDir, "secret.key"), len(stored) == 0); err != nil {
		return nil, fmt.Errorf("open control: %w", err)
	}
	entries, at, err := records.List(ctx, broker.Range{Prefix: auditPrefix})
	if err != nil {
		return nil, fmt.Errorf("open control: %w", err)
	}
	s.entries, s.mark = len(entries), at.Mark
	return s, s.learnTokens(ctx)
}

func setDefault[T comparable](field *T, value T) {
	if zero := *new(T); *field == zero {
		*field = value
	}
}
