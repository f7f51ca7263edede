package remote_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/broker/remote"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
	"github.com/ripstop-vm/ripstop/broker/remote/remotetest"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/control/ca"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

var hostA = identity.Identity{Role: identity.Host, ID: "a"}

func wantDenied(t *testing.T, err error, words string) {
	t.Helper()
	if !errors.Is(err, broker.ErrAccess) || !strings.Contains(err.Error(), words) {
		t.Errorf("the error is %v, want one that says %q", err, words)
	}
}

func get(c *remote.Client) error {
	_, err := c.Records().Get(context.Background(), "k")
	return err
}

// forAuthority serves with an authority of a clock that can be moved.
func forAuthority(t *testing.T) (*remotetest.Cluster, *ca.CA, *clock.Manual) {
	c := clock.NewManual(time.Now())
	a := remotetest.NewCA(t, ca.Options{Clock: c, Life: time.Hour, Skew: time.Minute})
	return remotetest.Start(t, modelParts(nil), server.Options{Authority: a}), a, c
}

func TestACertificateThatIsNotInForceIsRefusedAtEachCall(t *testing.T) {
	cluster, a, c := forAuthority(t)
	client := cluster.ClientWith(remotetest.Certificate(t, a, hostA))
	if err := get(client); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("in force, get answers %v", err)
	}
	c.Advance(time.Hour + 2*time.Minute) // the connection stays
	wantDenied(t, get(client), "was in force until")
	young := cluster.ClientWith(remotetest.Certificate(t, a, hostA))
	c.Advance(-2 * time.Minute)
	if err := get(young); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("within the difference of clocks, get answers %v", err)
	}
	c.Advance(-time.Hour)
	wantDenied(t, get(young), "in force from")
}

func TestARevokedCallerIsRefusedOnAConnectionThatIsOpen(t *testing.T) {
	cluster, a, _ := forAuthority(t)
	client := cluster.ClientWith(remotetest.Certificate(t, a, hostA))
	if err := get(client); !errors.Is(err, broker.ErrNotFound) {
		t.Fatal(err)
	}
	_, from, err := client.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	watch := make(chan error, 1)
	go func() {
		for e, err := range client.Records().Watch(t.Context(), "", from) {
			if err != nil {
				watch <- err
			} else if e.Changes[0].Key != "k" {
				t.Errorf("after it was revoked a watcher is told of %+v", e)
			} else {
				watch <- nil
			}
		}
	}()
	other := cluster.ClientWith(remotetest.Certificate(t, a, identity.Identity{Role: identity.Host, ID: "b"}))
	put := func(key string) {
		if _, err := other.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: key}}}); err != nil {
			t.Fatal(err)
		}
	}
	put("k")
	if err := <-watch; err != nil {
		t.Fatal(err)
	}
	if err := a.Revoke(t.Context(), hostA, "operator", ""); err != nil {
		t.Fatal(err)
	}
	put("l")
	wantDenied(t, <-watch, "was revoked")
	wantDenied(t, get(client), "was revoked")
	_, err = client.Renew(t.Context())
	wantDenied(t, err, "was revoked")
}

// homemade makes a certificate by a key of its own.
func homemade(t *testing.T, usage x509.ExtKeyUsage) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{hostA.URI()}, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestStrangersAreRefusedAndToldWhy(t *testing.T) {
	cluster := remotetest.Start(t, modelParts(nil), server.Options{})
	wantDenied(t, get(cluster.ClientWith(nil)), "no certificate")
	wantDenied(t, get(cluster.ClientWith(homemade(t, x509.ExtKeyUsageClientAuth))), "not signed by this cluster's authority")
	other := remotetest.NewCA(t, ca.Options{})
	wantDenied(t, get(cluster.ClientWith(remotetest.Certificate(t, other, hostA))), "not signed by this cluster's authority")
	// A caller that trusts another cluster does not speak to this one.
	k, err := remote.NewCredentials(other.Root(), remotetest.Certificate(t, other, hostA), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := remote.Open(remote.Options{Addrs: cluster.Addrs, Credentials: k})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wantDenied(t, get(c), "not one of this cluster's control processes")
	// A host's certificate is not one for a server.
	fallen := remotetest.Certificate(t, cluster.CA, hostA)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*fallen}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	wantDenied(t, get(cluster.Client(hostA, l.Addr().String())), "not one of this cluster's control processes")
}

func TestPlainAndOlderClientsAreRefused(t *testing.T) {
	cluster := remotetest.Start(t, modelParts(nil), server.Options{})
	resp, err := http.Get("http://" + cluster.Addrs[0] + "/v1/records/get")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "HTTPS") {
		t.Errorf("over plain HTTP it answers %s: %s", resp.Status, text)
	}
	roots := x509.NewCertPool()
	root, _ := x509.ParseCertificate(cluster.CA.Root())
	roots.AddCert(root)
	cert := remotetest.Certificate(t, cluster.CA, hostA)
	with := func(http2 bool) *http.Client {
		tr := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: protocol.ServerName, Certificates: []tls.Certificate{*cert}}}
		tr.Protocols.SetHTTP1(!http2)
		tr.Protocols.SetHTTP2(http2)
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	post := func(c *http.Client, path, schema, timeout string, body []byte) (*http.Response, *protocol.Reply) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+cluster.Addrs[0]+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", protocol.ContentType)
		req.Header.Set(protocol.HeaderSchema, schema)
		req.Header.Set(protocol.HeaderTimeout, timeout)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		rep, err := protocol.ReadFrame(resp.Body)
		if err != nil {
			rep = &protocol.Reply{}
		}
		return resp, rep
	}
	if resp, _ := post(with(false), "/v1/records/get", "1", "", nil); resp.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("over HTTP/1.1 it answers %s", resp.Status)
	}
	two := with(true)
	if resp, err := two.Get("https://" + cluster.Addrs[0] + "/"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("a browser is answered %v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	good := (&protocol.Call{Key: "k"}).Marshal()
	for name, c := range map[string]struct {
		path, schema, timeout string
		body                  []byte
		want                  error
	}{
		"a newer schema":     {"/v1/records/get", "2", "", good, broker.ErrNewer},
		"no schema":          {"/v1/records/get", "", "", good, broker.ErrInvalid},
		"an unknown method":  {"/v1/records/guess", "1", "", good, broker.ErrInvalid},
		"a bad timeout":      {"/v1/records/get", "1", "soon", good, broker.ErrInvalid},
		"a body of no form":  {"/v1/records/get", "1", "", []byte{0xff}, broker.ErrInvalid},
		"a body too large":   {"/v1/records/get", "1", "", make([]byte, protocol.MaxMessage+1), broker.ErrTooLarge},
		"two leases for one": {"/v1/leases/acquire", "1", "", (&protocol.Call{Holds: make([]broker.Hold, 2)}).Marshal(), broker.ErrInvalid},
		"no lease":           {"/v1/queue/complete", "1", "", nil, broker.ErrInvalid},
		"a stranger's flood": {"/v1/join", "1", "", make([]byte, 64<<10), broker.ErrInvalid},
	} {
		if _, rep := post(two, c.path, c.schema, c.timeout, c.body); !rep.End || !errors.Is(rep.Err, c.want) {
			t.Errorf("%s: the answer is %v", name, rep.Err)
		}
	}
}

func TestAHostJoinsWithATokenAndRenewsItsCertificate(t *testing.T) {
	c := clock.NewManual(time.Now())
	a := remotetest.NewCA(t, ca.Options{Clock: c, Life: time.Hour})
	own, err := server.New(server.Options{Parts: modelParts(nil), Authority: a, Policy: server.Everything{}, Certificate: func() (*tls.Certificate, error) { return a.Certificate("c") }, Log: remotetest.Quiet})
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, own)
	token, err := a.Invite(t.Context(), ca.Invitation{Role: identity.Host, ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	forged := token[:len(token)-1] + "g"
	if _, _, err := remote.Join(t.Context(), []string{addr}, forged, c); !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, broker.ErrAccess) {
		t.Errorf("who expects another authority joins: %v", err)
	}
	if _, _, err := remote.Join(t.Context(), []string{addr}, "half", c); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("half a token: %v", err)
	}
	k, first, err := remote.Join(t.Context(), []string{addr}, token, c)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = remote.Join(t.Context(), []string{addr}, token, c)
	wantDenied(t, err, "used up")
	client, err := remote.Open(remote.Options{Addrs: []string{addr}, Credentials: k})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := get(client); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("who has joined gets %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	renewed, done := make(chan *tls.Certificate), make(chan error, 1)
	go func() { done <- client.KeepCertificate(ctx, func(cert *tls.Certificate) { renewed <- cert }) }()
	last := first
	for range 4 { // for four times two thirds of a life, more than two lives
		var next *tls.Certificate
		for next == nil {
			select {
			case next = <-renewed:
			default:
				c.Advance(10 * time.Second)
				time.Sleep(100 * time.Microsecond) // the other goroutine has to get to its timer
			}
		}
		if next.Leaf.SerialNumber.Cmp(last.Leaf.SerialNumber) == 0 || next.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(last.Leaf.PublicKey) {
			t.Error("it is the same certificate, or the same key")
		}
		if err := get(client); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("with another certificate, get answers %v", err)
		}
		last = next
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCallsOfOneCallerAreBounded(t *testing.T) {
	cluster := remotetest.Start(t, modelParts(nil), server.Options{MaxStreams: 2, MaxBlob: 1000})
	c, other := cluster.Client(hostA), cluster.Client(identity.Identity{Role: identity.Host, ID: "b"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := make(chan error, 2)
	for range 2 {
		go func() {
			_, from, err := c.Records().List(ctx, broker.Range{})
			if err != nil {
				begun <- err
				return
			}
			for _, err := range c.Records().Watch(ctx, "", from) {
				begun <- err
				<-ctx.Done() // one event is enough
			}
		}()
	}
	// Both have begun when they are told of a commit.
	told := 0
	for told < 2 {
		if _, err := c.Records().Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "k"}}}); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-begun:
			if err != nil {
				t.Fatal(err)
			}
			told++
		case <-time.After(time.Millisecond):
		}
	}
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if err := c.Queue().Wait(short, want()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third stream: %v", err)
	}
	if err := get(c); err != nil {
		t.Errorf("other calls of the same caller: %v", err)
	}
	if _, err := other.Queue().Enqueue(ctx, broker.Batch{Job: job, Invocations: []broker.Invocation{{ID: "i"}}}); err != nil {
		t.Fatal(err)
	}
	if err := other.Queue().Wait(ctx, want()); err != nil {
		t.Errorf("a stream of another caller: %v", err)
	}
	if _, err := c.Blobs().Put(ctx, strings.NewReader(strings.Repeat("x", 1000))); err != nil {
		t.Errorf("a blob at the bound: %v", err)
	}
	if _, err := c.Blobs().Put(ctx, strings.NewReader(strings.Repeat("x", 1001))); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("a blob over the bound: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	k := &remote.Credentials{}
	for _, o := range []remote.Options{{}, {Addrs: []string{"x:1"}}, {Addrs: []string{"x"}, Credentials: k}, {Addrs: []string{"x:1"}, Credentials: k, Dial: -1}} {
		if _, err := remote.Open(o); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%+v: open answers %v", o, err)
		}
	}
	if _, err := server.New(server.Options{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("without anything, new answers %v", err)
	}
	if _, err := remote.NewCredentials([]byte("x"), nil, nil); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("credentials of no authority: %v", err)
	}
	m := model.New(model.Options{})
	if _, err := server.New(server.Options{Parts: server.Parts{Records: m.Records(), Leases: m.Leases(), Blobs: m.Blobs(), Queue: m.Queue(), Buckets: m.Buckets()},
		Authority: remotetest.NewCA(t, ca.Options{}), Policy: server.Everything{}, Certificate: func() (*tls.Certificate, error) { return nil, nil }, MaxCalls: -1}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("with a negative option, new answers %v", err)
	}
}
