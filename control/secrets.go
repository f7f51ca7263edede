package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// secretUse is what a ciphertext is for. A secret moved to another job or name does not open.
func secretUse(job, name string) string {
	return "ripstop secret\x00" + entitlement + "\x00" + job + "\x00" + name
}

// Bounds of secrets.
const (
	MaxSecret  = 64 << 10 // bytes of a value
	MaxSecrets = 256      // of a job
)

// storedSecret is the record of a secret.
type storedSecret struct {
	Schema  int       `json:"schema"`
	Sealed  []byte    `json:"sealed"`
	Updated time.Time `json:"updated"`
	By      string    `json:"by"`
}

func checkSecret(job, name string) error {
	if err := checkName(job); err != nil {
		return err
	}
	if err := policy.CheckSecret(name); err != nil {
		return refuse(http.StatusBadRequest, "secret-name-invalid", "Invalid name", "%v", err)
	}
	return nil
}

// SetSecret stores a secret of a job, encrypted. The job need not exist yet.
func (s *Store) SetSecret(ctx context.Context, by, job, name string, value []byte) error {
	if err := checkSecret(job, name); err != nil {
		return err
	}
	if len(value) > MaxSecret {
		return refuse(http.StatusRequestEntityTooLarge, "secret-too-large", "Secret too large", "a secret has at most %d bytes, this one has %d", MaxSecret, len(value))
	}
	unlock, err := s.jobs.lock(ctx, job)
	if err != nil {
		return err
	}
	defer unlock()
	names, err := s.Secrets(ctx, job)
	if err != nil {
		return err
	}
	known := false
	for _, n := range names {
		known = known || n == name
	}
	if !known && len(names) >= MaxSecrets {
		return refuse(http.StatusConflict, "secrets-too-many", "Too many secrets", "job %s has %d secrets, which is the most a job may have", job, len(names))
	}
	w, err := put(secretKey(job, name), storedSecret{schema, s.vault.Seal(secretUse(job, name), value), s.opts.Clock.Now().UTC(), by})
	if err != nil {
		return err
	}
	if err := s.commitAudited(ctx, AuditEntry{Kind: AuditSecretSet, By: by, Job: job, Detail: "secret " + name}, nil, w); err != nil {
		return fmt.Errorf("set secret %s of job %s: %w", name, job, err)
	}
	return nil
}

// Secrets answers the names of a job's secrets, in order.
func (s *Store) Secrets(ctx context.Context, job string) ([]string, error) {
	if err := checkName(job); err != nil {
		return nil, err
	}
	records, _, err := s.records.List(ctx, broker.Range{Prefix: secretsOf(job)})
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(records))
	for _, r := range records {
		names = append(names, r.Key[len(secretsOf(job)):])
	}
	return names, nil
}

func unknownSecret(job, name string) error {
	return refuse(http.StatusNotFound, "secret-unknown", "Unknown secret", "job %s has no secret %s", job, name)
}

// RemoveSecret deletes a secret of a job.
func (s *Store) RemoveSecret(ctx context.Context, by, job, name string) error {
	if err := checkSecret(job, name); err != nil {
		return err
	}
	r, err := s.records.Get(ctx, secretKey(job, name))
	if errors.Is(err, broker.ErrNotFound) {
		return unknownSecret(job, name)
	}
	if err != nil {
		return err
	}
	err = s.commitAudited(ctx, AuditEntry{Kind: AuditSecretRemove, By: by, Job: job, Detail: "secret " + name},
		[]broker.Condition{{Key: r.Key, Revision: r.Revision}}, remove(r.Key))
	if errors.Is(err, broker.ErrConflict) {
		return refuse(http.StatusConflict, "secret-changed", "Secret has changed", "secret %s of job %s was changed at the same time; try again", name, job)
	}
	return err
}

// Secret answers a secret in the clear.
func (s *Store) Secret(ctx context.Context, job, name string) ([]byte, error) {
	if err := checkSecret(job, name); err != nil {
		return nil, err
	}
	r, err := s.records.Get(ctx, secretKey(job, name))
	if errors.Is(err, broker.ErrNotFound) {
		return nil, unknownSecret(job, name)
	}
	if err != nil {
		return nil, err
	}
	stored, err := decode[storedSecret](r)
	if err != nil {
		return nil, err
	}
	value, err := s.vault.Open(secretUse(job, name), stored.Sealed)
	if err != nil {
		return nil, fmt.Errorf("secret %s of job %s: set it again: %w", name, job, err)
	}
	return value, nil
}
