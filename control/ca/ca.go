// Package ca is a cluster's certificate authority: it says who is who. Its certificate and its key are a record of the broker, the key
// encrypted by a vault, whose own key the broker does not have.
//
// Hosts and gateways join with a token, and get a certificate that is good for a day and renewed in time. A certificate is judged at each
// call: an identity that was revoked is refused at once, on connections that are open already as well, and gets no other certificate.
//
// What somebody may do is not decided here, but by package scope.
package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/control/vault"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// schema is the version of the records.
const schema = 1

// rootLife is for how long an authority's own certificate is in force.
const rootLife = 20 * 365 * 24 * time.Hour

// keyUse is what the vault encrypts the authority's key for.
const keyUse = "ripstop authority"

// Options configures a CA. The zero value is ready to use.
type Options struct {
	Life  time.Duration // of a certificate; 0 means 24 h
	Skew  time.Duration // by how much clocks may differ: so much before and after its life a certificate is taken, too; 0 means 5 min
	Clock clock.Clock   // nil means the system clock
	Log   *slog.Logger  // nil means slog.Default()
}

// CA is an open authority. Its methods are safe for concurrent use.
type CA struct {
	opts    Options
	records broker.Records
	root    *x509.Certificate
	key     *ecdsa.PrivateKey
	secret  []byte

	mu      sync.Mutex
	revoked map[identity.Identity]bool
	at      broker.Revision             // of the records that revoked was read at
	good    map[[sha256.Size]byte]bool  // certificates that were signed by root
	own     map[string]*tls.Certificate // of control processes, by ID
}

// document is the record of an authority.
type document struct {
	Schema      int       `json:"schema"`
	Certificate []byte    `json:"certificate"` // DER
	Key         []byte    `json:"key"`         // PKCS #8, encrypted
	Created     time.Time `json:"created"`
}

// Open opens the cluster's authority, and makes it if there is none. It fails with broker.ErrCorrupt if the vault is not the one that its key
// was encrypted by.
func Open(ctx context.Context, records broker.Records, v *vault.Vault, opts Options) (*CA, error) {
	if opts.Life < 0 || opts.Skew < 0 {
		return nil, fmt.Errorf("open the authority: negative option: %w", broker.ErrInvalid)
	}
	if opts.Life == 0 {
		opts.Life = 24 * time.Hour
	}
	if opts.Skew == 0 {
		opts.Skew = 5 * time.Minute
	}
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	a := &CA{opts: opts, records: records, good: map[[sha256.Size]byte]bool{}, own: map[string]*tls.Certificate{}}
	rec, err := records.Get(ctx, keys.Authority)
	if errors.Is(err, broker.ErrNotFound) {
		if err = a.found(ctx, v); err == nil || errors.Is(err, broker.ErrConflict) { // another process may have been first
			rec, err = records.Get(ctx, keys.Authority)
		}
	}
	if err == nil {
		err = a.load(rec, v)
	}
	if err == nil {
		err = a.readRevoked(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open the authority: %w", err)
	}
	return a, nil
}

// found makes a key and a certificate, and commits them if there are none.
func (a *CA) found(ctx context.Context, v *vault.Vault) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := a.opts.Clock.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "ripstop cluster " + rand.Text()[:8]},
		NotBefore: now.Add(-a.opts.Skew), NotAfter: now.Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return put(ctx, a.records, keys.Authority, 0, document{schema, der, v.Seal(keyUse, plain), now.UTC()})
}

func (a *CA) load(rec broker.Record, v *vault.Vault) error {
	doc, err := decode[document](rec)
	if err != nil {
		return err
	}
	plain, err := v.Open(keyUse, doc.Key)
	if err != nil {
		return fmt.Errorf("its key: restore the file of the key from a backup: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return fmt.Errorf("its key: %w: %w", broker.ErrCorrupt, err)
	}
	if a.root, err = x509.ParseCertificate(doc.Certificate); err != nil {
		return fmt.Errorf("its certificate: %w: %w", broker.ErrCorrupt, err)
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || !k.PublicKey.Equal(a.root.PublicKey) {
		return fmt.Errorf("its key is not that of its certificate: %w", broker.ErrCorrupt)
	}
	a.key = k
	a.secret, err = hkdf.Key(sha256.New, plain, nil, "ripstop secret of control processes", 32)
	return err
}

// serial is a random number of 127 bits.
func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// put commits one document, on condition of its revision.
func put(ctx context.Context, records broker.Records, key string, revision uint64, doc any) error {
	b, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	_, err = records.Commit(ctx, broker.Commit{
		Conditions: []broker.Condition{{Key: key, Revision: revision}},
		Writes:     []broker.Write{{Key: key, Value: b}},
	})
	return err
}

// decode reads a document, and refuses one that a newer program wrote.
func decode[T any](r broker.Record) (T, error) {
	var head struct {
		Schema int `json:"schema"`
	}
	var doc T
	if err := json.Unmarshal(r.Value, &head); err != nil {
		return doc, fmt.Errorf("read record %s: %w: %w", r.Key, broker.ErrCorrupt, err)
	}
	if head.Schema > schema {
		return doc, fmt.Errorf("read record %s: schema %d: %w", r.Key, head.Schema, broker.ErrNewer)
	}
	if err := json.Unmarshal(r.Value, &doc); err != nil {
		return doc, fmt.Errorf("read record %s: %w: %w", r.Key, broker.ErrCorrupt, err)
	}
	return doc, nil
}

// Root is the authority's certificate, in DER.
func (a *CA) Root() []byte { return bytes.Clone(a.root.Raw) }

// Secret is one that all control processes of the cluster have, and nobody else.
func (a *CA) Secret() []byte { return bytes.Clone(a.secret) }

// issue signs a certificate.
func (a *CA) issue(who identity.Identity, public crypto.PublicKey) ([][]byte, error) {
	now := a.opts.Clock.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: who.String()}, URIs: []*url.URL{who.URI()},
		NotBefore: now.Add(-a.opts.Skew), NotAfter: now.Add(a.opts.Life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if who.Role == identity.Control {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames = []string{protocol.ServerName}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", who, err)
	}
	return [][]byte{der, a.root.Raw}, nil
}

// Certificate answers the certificate of a control process of this cluster, which is this one. It is renewed at half its life.
func (a *CA) Certificate(id string) (*tls.Certificate, error) {
	who := identity.Identity{Role: identity.Control, ID: id}
	if err := who.Check(); err != nil {
		return nil, fmt.Errorf("certificate: %w: %w", broker.ErrInvalid, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.own[id]; c != nil && a.opts.Clock.Now().Before(c.Leaf.NotAfter.Add(-a.opts.Life/2)) {
		return c, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, err := a.issue(who, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	a.own[id] = &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
	return a.own[id], nil
}

// public answers the key that a request (PKCS #10) is for. Nothing else in it is believed.
func public(request []byte) (crypto.PublicKey, error) {
	r, err := x509.ParseCertificateRequest(request)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("the request for a certificate: %w: %w", broker.ErrInvalid, err)
	}
	switch k := r.PublicKey.(type) {
	case ed25519.PublicKey:
		return k, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, fmt.Errorf("the request for a certificate: its key is neither of P-256 nor Ed25519: %w", broker.ErrInvalid)
}

// denied is an error of who has no certificate that is in force.
func denied(what string, args ...any) error {
	return fmt.Errorf("%w: "+what, append([]any{broker.ErrAccess}, args...)...)
}

// Identify answers whom a certificate is of, if it is in force. It fails with broker.ErrAccess and says why.
func (a *CA) Identify(cert *x509.Certificate) (identity.Identity, error) {
	if err := a.signed(cert); err != nil {
		return identity.Identity{}, err
	}
	now, form := a.opts.Clock.Now(), time.RFC3339
	switch {
	case now.Before(cert.NotBefore.Add(-a.opts.Skew)):
		return identity.Identity{}, denied("the certificate is in force from %s on, and it is %s here; do the clocks agree?", cert.NotBefore.Format(form), now.UTC().Format(form))
	case now.After(cert.NotAfter.Add(a.opts.Skew)):
		return identity.Identity{}, denied("the certificate was in force until %s, and it is %s here; join the cluster again, or see to the clocks", cert.NotAfter.Format(form), now.UTC().Format(form))
	}
	who, err := identity.Of(cert)
	if err != nil {
		return identity.Identity{}, denied("%s", err)
	}
	if a.isRevoked(who) {
		return identity.Identity{}, denied("%s was revoked; join the cluster under another name", who)
	}
	return who, nil
}

// maxGood bounds how many certificates are known to be good.
const maxGood = 1 << 14

// signed says whether the authority has signed a certificate, and for callers.
func (a *CA) signed(cert *x509.Certificate) error {
	sum := sha256.Sum256(cert.Raw)
	a.mu.Lock()
	good := a.good[sum]
	a.mu.Unlock()
	if good {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.root)
	// Whether it is in force is for Identify to say, with room for clocks that differ.
	when := cert.NotBefore
	if when.Before(a.root.NotBefore) {
		when = a.root.NotBefore
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: when, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	var stranger x509.UnknownAuthorityError
	switch {
	case errors.As(err, &stranger):
		return denied("the certificate was not signed by this cluster's authority")
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return denied("the certificate is not one for callers")
	case err != nil:
		return denied("the certificate: %s", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.good) >= maxGood {
		clear(a.good)
	}
	a.good[sum] = true
	return nil
}

// Renew answers another certificate for who has one that is in force.
func (a *CA) Renew(ctx context.Context, who identity.Identity, request []byte) ([][]byte, error) {
	key, err := public(request)
	if err != nil {
		return nil, err
	}
	if err := a.checkRevoked(ctx, who); err != nil {
		return nil, err
	}
	return a.issue(who, key)
}
