package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync/atomic"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Credentials are a certificate with its key, and the authority that control processes' certificates have to be signed by. The certificate
// may be replaced while clients use it. Methods are safe for concurrent use.
type Credentials struct {
	roots *x509.CertPool
	print string // SHA-256 of the authority's certificate in hex, in place of roots
	clock clock.Clock
	cert  atomic.Pointer[tls.Certificate]
}

// NewCredentials makes credentials. roots is the cluster's authority, in DER. cert has its Leaf. c is what tells whether a
// server's certificate is in force; nil means the system's.
func NewCredentials(root []byte, cert *tls.Certificate, c clock.Clock) (*Credentials, error) {
	ca, err := x509.ParseCertificate(root)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w: %w", broker.ErrInvalid, err)
	}
	if c == nil {
		c = clock.System
	}
	k := &Credentials{roots: x509.NewCertPool(), clock: c}
	k.roots.AddCert(ca)
	k.Replace(cert)
	return k, nil
}

// Replace lets new connections have another certificate.
func (k *Credentials) Replace(cert *tls.Certificate) { k.cert.Store(cert) }

func (k *Credentials) certificate() *tls.Certificate { return k.cert.Load() }

// config is that of connections with a certificate. The server has to be a control process of the cluster.
func (k *Credentials) config(cert *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    k.roots,
		ServerName: protocol.ServerName,
		NextProtos: []string{"h2"},
		Time:       k.clock.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		},
		InsecureSkipVerify: k.print != "", // then it is verified by this:
		VerifyConnection:   k.verify,
	}
}

// verify checks a server while only the hash of the authority's certificate is known, which the server sends along.
func (k *Credentials) verify(s tls.ConnectionState) error {
	if k.print == "" {
		return nil
	}
	roots := x509.NewCertPool()
	for _, c := range s.PeerCertificates {
		if sum := sha256.Sum256(c.Raw); hex.EncodeToString(sum[:]) == k.print {
			roots.AddCert(c)
		}
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: protocol.ServerName, CurrentTime: k.clock.Now()})
	return err
}

// keyPair makes a key and a request for a certificate for it.
func keyPair() (key *ecdsa.PrivateKey, request []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return key, request, err
}

// issued makes a certificate of an answer, which has to be for the key.
func issued(chain [][]byte, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	if len(chain) < 2 {
		return nil, short("certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("certificate: %w: %w", broker.ErrInvalid, err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("certificate: it is for another key: %w", broker.ErrInvalid)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// Join gets a certificate from a control process for a token, and answers credentials with it. The last certificate of the chain is the
// authority's. A token whose use was taken may be used up, though no answer came: it takes another one then.
func Join(ctx context.Context, addrs []string, token string, c clock.Clock) (*Credentials, *tls.Certificate, error) {
	_, print, ok := strings.Cut(token, ".")
	if !ok || len(print) != hex.EncodedLen(sha256.Size) {
		return nil, nil, fmt.Errorf("join: the token is not whole: %w", broker.ErrInvalid)
	}
	if c == nil {
		c = clock.System
	}
	client, err := Open(Options{Addrs: addrs, Credentials: &Credentials{print: print, clock: c}})
	if err != nil {
		return nil, nil, err
	}
	defer client.Close()
	key, request, err := keyPair()
	if err != nil {
		return nil, nil, err
	}
	rep, err := client.call(ctx, protocol.Join, &protocol.Call{Token: token, Request: request})
	if err != nil {
		return nil, nil, err
	}
	cert, err := issued(rep.Chain, key)
	if err != nil {
		return nil, nil, err
	}
	k, err := NewCredentials(rep.Chain[len(rep.Chain)-1], cert, c)
	return k, cert, err
}

// Renew gets another certificate, with another key, while the present one is in force. Calls that begin later have it.
func (c *Client) Renew(ctx context.Context) (*tls.Certificate, error) {
	key, request, err := keyPair()
	if err != nil {
		return nil, err
	}
	rep, err := c.call(ctx, protocol.Renew, &protocol.Call{Request: request})
	if err != nil {
		return nil, err
	}
	cert, err := issued(rep.Chain, key)
	if err != nil {
		return nil, err
	}
	c.opts.Credentials.Replace(cert)
	return cert, nil
}

// KeepCertificate renews the certificate when two thirds of its life are over, until ctx ends. It tries again while that fails, and hands each
// certificate to kept, which may store it.
func (c *Client) KeepCertificate(ctx context.Context, kept func(*tls.Certificate)) error {
	k := c.opts.Credentials
	for failures := 0; ; {
		cert := k.certificate()
		if cert == nil {
			return fmt.Errorf("renew the certificate: there is none: %w", broker.ErrInvalid)
		}
		life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
		wait := max(cert.Leaf.NotBefore.Add(life*2/3).Sub(k.clock.Now()), 0)
		if failures > 0 {
			wait = broker.Backoff{Max: life / 24}.Delay(failures, mathrand.Float64())
		}
		t := k.clock.NewTimer(wait)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		got, err := c.Renew(ctx)
		if err != nil {
			failures++
			continue
		}
		failures = 0
		kept(got)
	}
}
