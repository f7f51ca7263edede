// Package remotetest serves a broker over loopback for tests, with an authority of its own.
package remotetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/broker/remote"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/control/ca"
	"github.com/ripstop-vm/ripstop/control/vault"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// Cluster is control processes that serve one broker.
type Cluster struct {
	CA    *ca.CA
	Addrs []string // of those that were started
	t     testing.TB
	opts  server.Options
}

// Quiet is a log that says nothing.
var Quiet = slog.New(slog.DiscardHandler)

// Start makes a cluster whose broker is parts, and starts one control process. Its authority has records of its own, so that parts hold only
// what a test puts there. Authority, Policy and Log of opts may be missing: then everything is allowed.
func Start(t testing.TB, parts server.Parts, opts server.Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	c.CA = NewCA(t, ca.Options{})
	opts.Parts = parts
	opts.Certificate = func() (*tls.Certificate, error) { return c.CA.Certificate("control") }
	if opts.Authority == nil {
		opts.Authority = c.CA
	}
	if opts.Policy == nil {
		opts.Policy = server.Everything{}
	}
	if opts.Secret == nil {
		opts.Secret = c.CA.Secret()
	}
	opts.Log = Quiet
	c.opts = opts
	c.Serve()
	return c
}

// NewCA makes an authority in records of its own.
func NewCA(t testing.TB, opts ca.Options) *ca.CA {
	t.Helper()
	v, err := vault.Open(filepath.Join(t.TempDir(), "secret.key"), true)
	if err != nil {
		t.Fatal(err)
	}
	opts.Log = Quiet
	a, err := ca.Open(t.Context(), model.New(model.Options{}).Records(), v, opts)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Serve starts another control process, and answers how to end it. It ends with the test anyway.
func (c *Cluster) Serve() (stop func()) {
	c.t.Helper()
	s, err := server.New(c.opts)
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.Addrs = append(c.Addrs, l.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, l); err != nil {
			c.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	c.t.Cleanup(stop)
	return stop
}

// Certificate gets a certificate from an authority, by its own means.
func Certificate(t testing.TB, a *ca.CA, who identity.Identity) *tls.Certificate {
	t.Helper()
	if who.Role == identity.Control {
		cert, err := a.Certificate(who.ID)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	token, err := a.Invite(t.Context(), ca.Invitation{Role: who.Role, ID: who.ID})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.Join(t.Context(), token, request)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
}

// Client makes a client of somebody, of all control processes or of those at addrs. It ends with the test.
func (c *Cluster) Client(who identity.Identity, addrs ...string) *remote.Client {
	c.t.Helper()
	return c.ClientWith(Certificate(c.t, c.CA, who), addrs...)
}

// ClientWith is Client for who has a certificate.
func (c *Cluster) ClientWith(cert *tls.Certificate, addrs ...string) *remote.Client {
	c.t.Helper()
	k, err := remote.NewCredentials(c.CA.Root(), cert, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(addrs) == 0 {
		addrs = c.Addrs
	}
	client, err := remote.Open(remote.Options{Addrs: addrs, Credentials: k})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}

// Control is the identity of a control process, which may do everything.
var Control = identity.Identity{Role: identity.Control, ID: "test"}
