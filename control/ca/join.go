package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// tokenPrefix begins every join token, so that scanners for leaked credentials can find it.
const tokenPrefix = "rsj_"

// MaxTokenLife bounds how long a join token may be good for.
const MaxTokenLife = 30 * 24 * time.Hour

// Invitation says what a join token is good for.
type Invitation struct {
	Role identity.Role // Host or Gateway
	ID   string        // who joins with it; empty: a new one each time
	Uses int           // 0 means 1
	Life time.Duration // 0 means one hour; at most MaxTokenLife
	By   string        // who made it; for people
}

// joinToken is the record of a token. Its key has the hash of the secret: whoever reads the records cannot join with them.
type joinToken struct {
	Schema  int           `json:"schema"`
	Role    identity.Role `json:"role"`
	ID      string        `json:"id,omitempty"`
	Uses    int           `json:"uses"` // that are left
	Expires time.Time     `json:"expires"`
	Created time.Time     `json:"created"`
	By      string        `json:"by,omitempty"`
}

// Invite makes a token, which is shown once and not kept. It ends with the hash of the authority's certificate, so that who joins knows whom
// to trust. Tokens that have expired are deleted.
func (a *CA) Invite(ctx context.Context, in Invitation) (token string, err error) {
	if in.Uses == 0 {
		in.Uses = 1
	}
	if in.Life == 0 {
		in.Life = time.Hour
	}
	check := identity.Identity{Role: in.Role, ID: in.ID}
	if in.ID == "" {
		check.ID = "new"
	}
	err = check.Check()
	switch {
	case err != nil:
		return "", fmt.Errorf("invite: %w: %w", broker.ErrInvalid, err)
	case in.Role == identity.Control:
		return "", fmt.Errorf("invite: control processes have the broker's credentials and need no token: %w", broker.ErrInvalid)
	case in.Uses < 1 || in.Life < 0 || in.Life > MaxTokenLife:
		return "", fmt.Errorf("invite: %d uses within %s (at least 1, at most %s): %w", in.Uses, in.Life, MaxTokenLife, broker.ErrInvalid)
	}
	if err := a.sweep(ctx); err != nil {
		return "", fmt.Errorf("invite: %w", err)
	}
	now := a.opts.Clock.Now().UTC()
	secret := tokenPrefix + rand.Text()
	if err := put(ctx, a.records, keys.JoinToken(hash(secret)), 0, joinToken{schema, in.Role, in.ID, in.Uses, now.Add(in.Life), now, in.By}); err != nil {
		return "", fmt.Errorf("invite: %w", err)
	}
	return secret + "." + hash(string(a.root.Raw)), nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// sweep deletes tokens that have expired.
func (a *CA) sweep(ctx context.Context) error {
	list, _, err := a.records.List(ctx, broker.Range{Prefix: keys.JoinTokens})
	if err != nil {
		return err
	}
	var c broker.Commit
	for _, r := range list {
		if t, err := decode[joinToken](r); err == nil && a.opts.Clock.Now().After(t.Expires) && len(c.Writes) < broker.MaxCommitItems {
			c.Writes = append(c.Writes, broker.Write{Key: r.Key, Delete: true})
		}
	}
	if len(c.Writes) == 0 {
		return nil
	}
	_, err = a.records.Commit(ctx, c)
	return err
}

// Join answers a certificate for who has a token. A use is taken off the token first: if the answer is lost, so is the use.
func (a *CA) Join(ctx context.Context, token string, request []byte) ([][]byte, error) {
	key, err := public(request)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	secret, _, _ := strings.Cut(token, ".")
	who, err := a.redeem(ctx, secret)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	return a.issue(who, key)
}

// redeem takes a use off a token, and answers who joins with it.
func (a *CA) redeem(ctx context.Context, secret string) (identity.Identity, error) {
	for {
		rec, err := a.records.Get(ctx, keys.JoinToken(hash(secret)))
		if errors.Is(err, broker.ErrNotFound) {
			return identity.Identity{}, denied("the token is not known, or used up; make another")
		}
		if err != nil {
			return identity.Identity{}, err
		}
		t, err := decode[joinToken](rec)
		if err != nil {
			return identity.Identity{}, err
		}
		if a.opts.Clock.Now().After(t.Expires) {
			return identity.Identity{}, denied("the token was good until %s; make another", t.Expires.Format(time.RFC3339))
		}
		who := identity.Identity{Role: t.Role, ID: t.ID}
		if who.ID == "" {
			who.ID = strings.ToLower(rand.Text())
		}
		if err := who.Check(); err != nil {
			return identity.Identity{}, fmt.Errorf("%w: %w", broker.ErrCorrupt, err)
		}
		if err := a.checkRevoked(ctx, who); err != nil {
			return identity.Identity{}, err
		}
		if t.Uses--; t.Uses > 0 {
			err = put(ctx, a.records, rec.Key, rec.Revision, t)
		} else {
			_, err = a.records.Commit(ctx, broker.Commit{
				Conditions: []broker.Condition{{Key: rec.Key, Revision: rec.Revision}},
				Writes:     []broker.Write{{Key: rec.Key, Delete: true}},
			})
		}
		if !errors.Is(err, broker.ErrConflict) { // else somebody else has used it at the same time
			return who, err
		}
	}
}
