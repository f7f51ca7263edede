package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/ids"
	"github.com/ripstop-vm/ripstop/internal/secretfile"
)

// tokenPrefix begins every token's secret, so that scanners for leaked credentials can find it.
const tokenPrefix = "rst_"

// BootstrapToken is the name of the token made at the first start.
const BootstrapToken = "bootstrap"

// Allows reports whether the scope has a verb.
func (s Scope) Allows(v Verb) bool {
	return slices.Contains(s.Verbs, v) || slices.Contains(s.Verbs, VerbAdmin)
}

// tokenKey is where a token is kept: by the hash of its secret, which is 256 random bits and so needs no slow hash.
func tokenKey(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return tokensPrefix + hex.EncodeToString(h[:])
}

// nameClaim is the record that keeps a token's name to one token.
type nameClaim struct {
	Schema int    `json:"schema"`
	Token  string `json:"token"` // key of its record
}

func checkToken(name string, ttl time.Duration, scope *Scope) error {
	bad := func(format string, args ...any) error {
		return refuse(http.StatusBadRequest, "token-invalid", "Invalid token", format, args...)
	}
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._@-", r)
	}) {
		return bad("a token's name has 1 to 64 letters, digits, '.', '_', '@' and '-'")
	}
	if ttl < 0 {
		return bad("a token cannot have expired before it is made: %s", ttl)
	}
	if scope.Entitlement == "" {
		scope.Entitlement = entitlement
	}
	if scope.Entitlement != entitlement {
		return bad("there is no entitlement %q; there is %q", scope.Entitlement, entitlement)
	}
	if len(scope.Verbs) == 0 {
		return bad("a token needs a verb: read, deploy, invoke, backup or admin")
	}
	for _, v := range scope.Verbs {
		if !slices.Contains(Verbs(), v) {
			return bad("there is no verb %q; there are read, deploy, invoke, backup and admin", string(v))
		}
	}
	slices.Sort(scope.Verbs)
	scope.Verbs = slices.Compact(scope.Verbs)
	return nil
}

// CreateToken makes a token and answers its secret, which is kept nowhere. A ttl of 0 means that it does not expire.
func (s *Store) CreateToken(ctx context.Context, by, name string, ttl time.Duration, scope Scope) (Token, string, error) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	secret := tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
	t, err := s.storeToken(ctx, by, name, ttl, scope, secret)
	if err != nil {
		return Token{}, "", err
	}
	return t, secret, nil
}

func (s *Store) storeToken(ctx context.Context, by, name string, ttl time.Duration, scope Scope, secret string) (Token, error) {
	scope.Verbs = slices.Clone(scope.Verbs)
	if err := checkToken(name, ttl, &scope); err != nil {
		return Token{}, err
	}
	now := s.opts.Clock.Now().UTC()
	t := Token{Schema: schema, ID: ids.New(), Name: name, Scope: scope, Created: now, By: by}
	if ttl > 0 {
		t.Expires = now.Add(ttl)
	}
	taken := refuse(http.StatusConflict, "token-exists", "Token exists", "there is a token %s already; choose another name, or revoke that one first", name)
	claimed := broker.Condition{Key: namesPrefix + name}
	var writes []broker.Write
	if r, err := s.records.Get(ctx, claimed.Key); err == nil {
		// The name of a token that has expired is free.
		c, err := decode[nameClaim](r)
		if err != nil {
			return Token{}, err
		}
		if old, err := s.token(ctx, c.Token); err == nil && !expired(old, now) {
			return Token{}, taken
		} else if err != nil && !errors.Is(err, broker.ErrNotFound) {
			return Token{}, err
		}
		claimed.Revision = r.Revision
		writes = append(writes, remove(c.Token))
	} else if !errors.Is(err, broker.ErrNotFound) {
		return Token{}, err
	}
	w, err := put(tokenKey(secret), t)
	if err != nil {
		return Token{}, err
	}
	c, err := put(claimed.Key, nameClaim{schema, tokenKey(secret)})
	if err != nil {
		return Token{}, err
	}
	err = s.commitAudited(ctx, AuditEntry{Kind: AuditTokenCreate, By: by, Detail: fmt.Sprintf("token %s (%s) for %v", name, t.ID, scope.Verbs)},
		[]broker.Condition{claimed}, append(writes, w, c)...)
	if errors.Is(err, broker.ErrConflict) {
		return Token{}, taken
	}
	if err != nil {
		return Token{}, fmt.Errorf("create token %s: %w", name, err)
	}
	s.knowToken(tokenKey(secret), t, true)
	return t, nil
}

func expired(t Token, now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

func (s *Store) token(ctx context.Context, key string) (Token, error) {
	r, err := s.records.Get(ctx, key)
	if err != nil {
		return Token{}, err
	}
	return decode[Token](r)
}

// Tokens answers all tokens, expired ones too, in order of their names.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	tokens, _, err := s.listTokens(ctx)
	return tokens, err
}

// listTokens answers tokens in order of their names, and the records by ID.
func (s *Store) listTokens(ctx context.Context) ([]Token, map[string]broker.Record, error) {
	records, _, err := s.records.List(ctx, broker.Range{Prefix: tokensPrefix})
	if err != nil {
		return nil, nil, err
	}
	tokens, by := make([]Token, 0, len(records)), make(map[string]broker.Record)
	for _, r := range records {
		t, err := decode[Token](r)
		if err != nil {
			return nil, nil, err
		}
		tokens, by[t.ID] = append(tokens, t), r
	}
	slices.SortFunc(tokens, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return tokens, by, nil
}

// RevokeToken deletes a token, by name or ID. The last one that may do everything for ever stays, as nobody could make
// another.
func (s *Store) RevokeToken(ctx context.Context, by, nameOrID string) error {
	// One at a time, so that two who revoke each other's tokens leave one.
	unlock, err := s.jobs.lock(ctx, "/tokens")
	if err != nil {
		return err
	}
	defer unlock()
	tokens, records, err := s.listTokens(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(tokens, func(t Token) bool { return t.ID == nameOrID || t.Name == nameOrID })
	if i < 0 {
		return refuse(http.StatusNotFound, "token-unknown", "Unknown token", "there is no token %.80q", nameOrID)
	}
	t := tokens[i]
	master := func(t Token) bool { return t.Scope.Allows(VerbAdmin) && t.Expires.IsZero() }
	if master(t) && !slices.ContainsFunc(tokens, func(o Token) bool { return o.ID != t.ID && master(o) }) {
		return refuse(http.StatusConflict, "token-last", "Last admin token", "%s is the last token with the verb admin that does not expire; create another one first", t.Name)
	}
	r := records[t.ID]
	err = s.commitAudited(ctx, AuditEntry{Kind: AuditTokenRevoke, By: by, Detail: fmt.Sprintf("token %s (%s)", t.Name, t.ID)},
		[]broker.Condition{{Key: r.Key, Revision: r.Revision}}, remove(r.Key), remove(namesPrefix+t.Name))
	if errors.Is(err, broker.ErrConflict) {
		return refuse(http.StatusNotFound, "token-unknown", "Unknown token", "token %s was revoked at the same time", t.Name)
	}
	if err == nil {
		s.knowToken(r.Key, Token{}, false)
	}
	return err
}

// Authenticate finds the token of a secret. It fails with ErrDenied (and a Problem with status 401) if there is none or
// it has expired.
func (s *Store) Authenticate(ctx context.Context, secret string) (Token, error) {
	denied := refuse(http.StatusUnauthorized, "token-denied", "Not authenticated", "the token is unknown, revoked or expired; `ripstop token` prints the server's first one")
	if !strings.HasPrefix(secret, tokenPrefix) || len(secret) > 100 {
		return Token{}, denied
	}
	key := tokenKey(secret)
	t, err := s.token(ctx, key)
	if lost(err) {
		if known, ok := s.knownToken(key); ok {
			t, err = known, nil
		}
	} else if err == nil || errors.Is(err, broker.ErrNotFound) {
		s.knowToken(key, t, err == nil)
	}
	if errors.Is(err, broker.ErrNotFound) || err == nil && expired(t, s.opts.Clock.Now()) {
		return Token{}, denied
	}
	return t, err
}

// lost says that the store is not there, or is another one.
func lost(err error) bool {
	for _, known := range []error{broker.ErrUnavailable, broker.ErrIncarnation, broker.ErrRewound, broker.ErrAccess} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// learnTokens notes all tokens, so that operators can look at a server, and tell it what to do, whose store is lost. It is the
// one server that changes them, so that what it knows is what there was.
func (s *Store) learnTokens(ctx context.Context) error {
	records, _, err := s.records.List(ctx, broker.Range{Prefix: tokensPrefix})
	if err != nil {
		return err
	}
	known := make(map[string]Token, len(records))
	for _, r := range records {
		if known[r.Key], err = decode[Token](r); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = known
	return nil
}

func (s *Store) knownToken(key string) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.known[key]
	return t, ok
}

func (s *Store) knowToken(key string, t Token, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if there {
		s.known[key] = t
	} else {
		delete(s.known, key)
	}
}

// Adopted has the server go on with another store in the place of its own: what it knew of that one is forgotten, and the change is
// written down. what says what happened.
func (s *Store) Adopted(ctx context.Context, by, what string) error {
	// Without a token there is none that could look at the log; Bootstrap comes first.
	if err := s.Bootstrap(ctx, s.opts.DataDir); err != nil {
		return err
	}
	entries, at, err := s.records.List(ctx, broker.Range{Prefix: auditPrefix})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.entries, s.mark = len(entries), at.Mark
	s.mu.Unlock()
	if err := s.learnTokens(ctx); err != nil {
		return err
	}
	return s.Audit(ctx, AuditEntry{Kind: AuditAdopt, By: by, Detail: what})
}

// Bootstrap makes a token for everything if the store has no token yet, and writes its secret to DIR/token (mode 0600).
func (s *Store) Bootstrap(ctx context.Context, dir string) error {
	have, _, err := s.records.List(ctx, broker.Range{Prefix: tokensPrefix, Limit: 1})
	if err != nil || len(have) > 0 {
		return err
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	secret := tokenPrefix + base64.RawURLEncoding.EncodeToString(raw)
	// The file first: after a crash in between there is still no token, and the next start writes both anew.
	if err := secretfile.Write(filepath.Join(dir, "token"), []byte(secret+"\n")); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	_, err = s.storeToken(ctx, "ripstop", BootstrapToken, 0, Scope{Entitlement: entitlement, Verbs: []Verb{VerbAdmin}}, secret)
	return err
}
