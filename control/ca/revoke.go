package ca

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// revocation is the record of an identity that is not trusted any more.
type revocation struct {
	Schema int       `json:"schema"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	Time   time.Time `json:"time"`
}

// Revoke lets all certificates of an identity be refused from now on, here at once and by other control processes as soon as they hear of it
// (Run). It cannot be undone: the machine joins again under another name. Doing it twice is no error.
func (a *CA) Revoke(ctx context.Context, who identity.Identity, by, reason string) error {
	if err := who.Check(); err != nil {
		return fmt.Errorf("revoke: %w: %w", broker.ErrInvalid, err)
	}
	err := put(ctx, a.records, keys.RevokedIdentity(who), 0, revocation{schema, by, reason, a.opts.Clock.Now().UTC()})
	if err != nil && !errors.Is(err, broker.ErrConflict) {
		return fmt.Errorf("revoke %s: %w", who, err)
	}
	a.revoke(who)
	return nil
}

func (a *CA) revoke(who identity.Identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[who] = true
}

func (a *CA) isRevoked(who identity.Identity) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.revoked[who]
}

// checkRevoked asks the broker, so that who was revoked elsewhere a moment ago gets no certificate.
func (a *CA) checkRevoked(ctx context.Context, who identity.Identity) error {
	_, err := a.records.Get(ctx, keys.RevokedIdentity(who))
	switch {
	case err == nil:
		return denied("%s was revoked; join the cluster under another name", who)
	case errors.Is(err, broker.ErrNotFound):
		return nil
	}
	return fmt.Errorf("certificate for %s: %w", who, err)
}

// readRevoked reads who was revoked.
func (a *CA) readRevoked(ctx context.Context) error {
	list, at, err := a.records.List(ctx, broker.Range{Prefix: keys.Revoked})
	if err != nil {
		return err
	}
	revoked := make(map[identity.Identity]bool, len(list))
	for _, r := range list {
		if who, err := identity.Parse(strings.TrimPrefix(r.Key, keys.Revoked)); err == nil {
			revoked[who] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked, a.at = revoked, at
	return nil
}

// followRetry is how long Run waits before it asks again, when the broker does not answer. What cannot be heard of then cannot be done
// either: all that a caller may ask for is the broker's.
const followRetry = time.Second

// Run hears of who is revoked by other control processes, until ctx ends.
func (a *CA) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.follow(ctx); err != nil && ctx.Err() == nil {
			a.opts.Log.Warn("watching revocations failed", "err", err)
		}
		t := a.opts.Clock.NewTimer(followRetry)
		select {
		case <-t.C():
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() == nil {
			_ = a.readRevoked(ctx) // the watch says what is wrong
		}
	}
	return nil
}

func (a *CA) follow(ctx context.Context) error {
	a.mu.Lock()
	at := a.at
	a.mu.Unlock()
	for e, err := range a.records.Watch(ctx, keys.Revoked, at) {
		if err != nil {
			return err
		}
		for _, c := range e.Changes {
			if who, err := identity.Parse(strings.TrimPrefix(c.Key, keys.Revoked)); err == nil && !c.Deleted {
				a.revoke(who)
			}
		}
	}
	return nil
}
