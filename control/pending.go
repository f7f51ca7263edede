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

var errUnfinished = errors.New("not built yet")

// New makes a Store. It reads or makes DataDir/secret.key, and fails if the key is gone while secrets are there.
func New(records broker.Records, blobs broker.Blobs, buckets broker.Buckets, runner Runner, opts Options) (*Store, error) {
	return nil, errUnfinished
}

// Run sweeps what nothing refers to, now and then, until ctx ends.
func (s *Store) Run(ctx context.Context) error { return errUnfinished }

// Sweep deletes blobs that no version refers to and that are older than the grace period, and the buckets of removed
// jobs. It answers how many blobs went.
func (s *Store) Sweep(ctx context.Context) (int, error) { return 0, errUnfinished }

// Deploy makes a new version of a job current, and the job if there is none. A nil module keeps the current one, a nil m
// the current manifest (or the default). It returns once the workers serve it. Before the commit, an error leaves
// nothing behind; if only the workers have not confirmed in time, the job and version come with the error.
func (s *Store) Deploy(ctx context.Context, by, job string, module io.Reader, m *manifest.Manifest) (Job, Version, error) {
	return Job{}, Version{}, errUnfinished
}

// Rollback makes an earlier version current: number to, or with 0 the one before the current one.
func (s *Store) Rollback(ctx context.Context, by, job string, to uint64) (Job, Version, error) {
	return Job{}, Version{}, errUnfinished
}

// Remove deletes a job with its versions, routes and secrets. Its buckets are swept later; a new job of the same name
// does not see them.
func (s *Store) Remove(ctx context.Context, by, job string) error { return errUnfinished }

// Job answers a job and its current version.
func (s *Store) Job(ctx context.Context, name string) (Job, Version, error) {
	return Job{}, Version{}, errUnfinished
}

// Jobs answers all jobs in order of their names.
func (s *Store) Jobs(ctx context.Context) ([]JobVersion, error) { return nil, errUnfinished }

// Versions answers the versions of a job that are kept, the newest first.
func (s *Store) Versions(ctx context.Context, job string) ([]Version, error) {
	return nil, errUnfinished
}

// Module opens a module's bytes and answers their number. The caller closes the reader.
func (s *Store) Module(ctx context.Context, digest string) (io.ReadCloser, int64, error) {
	return nil, 0, errUnfinished
}

// Assignments answers what is to be served, and the revision at which it was so.
func (s *Store) Assignments(ctx context.Context) ([]wire.Assignment, uint64, error) {
	return nil, 0, errUnfinished
}

// WatchAssignments sends what changes after revision from, until ctx ends; then the channel is closed. It is also
// closed if the store cannot be read any more. With from 0 a Reset comes first.
func (s *Store) WatchAssignments(ctx context.Context, from uint64) <-chan Change {
	panic(errUnfinished)
}

// CreateToken makes a token and answers its secret, which is kept nowhere. A ttl of 0 means that it does not expire.
func (s *Store) CreateToken(ctx context.Context, by, name string, ttl time.Duration, scope Scope) (Token, string, error) {
	return Token{}, "", errUnfinished
}

// Tokens answers all tokens, expired ones too, in order of their names.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) { return nil, errUnfinished }

// RevokeToken deletes a token, by name or ID.
func (s *Store) RevokeToken(ctx context.Context, by, nameOrID string) error { return errUnfinished }

// Authenticate finds the token of a secret. It fails with ErrDenied (and a Problem with status 401) if there is none or
// it has expired.
func (s *Store) Authenticate(ctx context.Context, secret string) (Token, error) {
	return Token{}, errUnfinished
}

// Bootstrap makes a token for everything if the store has no token yet, and writes its secret to DIR/token (mode 0600).
func (s *Store) Bootstrap(ctx context.Context, dir string) error { return errUnfinished }

// SetSecret stores a secret of a job, encrypted. The job need not exist yet.
func (s *Store) SetSecret(ctx context.Context, by, job, name string, value []byte) error {
	return errUnfinished
}

// Secrets answers the names of a job's secrets, in order.
func (s *Store) Secrets(ctx context.Context, job string) ([]string, error) { return nil, errUnfinished }

// RemoveSecret deletes a secret of a job.
func (s *Store) RemoveSecret(ctx context.Context, by, job, name string) error { return errUnfinished }

// Secret answers a secret in the clear.
func (s *Store) Secret(ctx context.Context, job, name string) ([]byte, error) {
	return nil, errUnfinished
}

// Audit adds an entry to the log. Entries of AuditDenied are bounded in rate, per job and over all; what is left out is counted.
func (s *Store) Audit(ctx context.Context, e AuditEntry) error { return errUnfinished }

// AuditLog answers entries, the newest first.
func (s *Store) AuditLog(ctx context.Context, f AuditFilter) ([]AuditEntry, error) {
	return nil, errUnfinished
}

// KVGet, KVPut, KVDelete and KVList are a job's buckets; see broker.Buckets for what they promise. They fail with
// ErrNotFound if there is no such job.
func (s *Store) KVGet(ctx context.Context, job, bucket, key string) (broker.Item, error) {
	return broker.Item{}, errUnfinished
}

// KVPut stores a value; expect is the version the key must have, 0 for none, nil for any.
func (s *Store) KVPut(ctx context.Context, job, bucket, key string, value []byte, expect *uint64) (uint64, error) {
	return 0, errUnfinished
}

// KVDelete removes a key.
func (s *Store) KVDelete(ctx context.Context, job, bucket, key string, expect *uint64) error {
	return errUnfinished
}

// KVList lists keys and values.
func (s *Store) KVList(ctx context.Context, job, bucket, prefix, after string, limit int) ([]broker.Item, error) {
	return nil, errUnfinished
}
