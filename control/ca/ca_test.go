package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/broker/remote/remotetest"
	"github.com/ripstop-vm/ripstop/control/ca"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/control/vault"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

var hostA = identity.Identity{Role: identity.Host, ID: "a"}

func request(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newVault(t *testing.T) *vault.Vault {
	t.Helper()
	v, err := vault.Open(filepath.Join(t.TempDir(), "secret.key"), true)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func wantDenied(t *testing.T, err error, words string) {
	t.Helper()
	if !errors.Is(err, broker.ErrAccess) || !strings.Contains(err.Error(), words) {
		t.Errorf("the error is %v, want one that says %q", err, words)
	}
}

func TestProcessesOfAClusterHaveOneAuthority(t *testing.T) {
	records, v := model.New(model.Options{}).Records(), newVault(t)
	cas := make([]*ca.CA, 8)
	var wg sync.WaitGroup
	for i := range cas {
		wg.Go(func() {
			a, err := ca.Open(t.Context(), records, v, ca.Options{})
			if err != nil {
				t.Error(err)
			}
			cas[i] = a
		})
	}
	wg.Wait()
	cert := remotetest.Certificate(t, cas[0], hostA)
	for _, a := range cas {
		if string(a.Root()) != string(cas[0].Root()) || string(a.Secret()) != string(cas[0].Secret()) {
			t.Error("there are two authorities")
		}
		if who, err := a.Identify(cert.Leaf); err != nil || who != hostA {
			t.Errorf("another process identifies %s, %v", who, err)
		}
	}
}

func TestTheKeyIsOfNoUseWithoutTheVaults(t *testing.T) {
	records := model.New(model.Options{}).Records()
	if _, err := ca.Open(t.Context(), records, newVault(t), ca.Options{}); err != nil {
		t.Fatal(err)
	}
	rec, err := records.Get(t.Context(), keys.Authority)
	if err != nil || strings.Contains(string(rec.Value), "PRIVATE") {
		t.Fatalf("the record is %s, %v", rec.Value, err)
	}
	if _, err := ca.Open(t.Context(), records, newVault(t), ca.Options{}); !errors.Is(err, broker.ErrCorrupt) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("with another vault, open answers %v", err)
	}
	if again, err := records.Get(t.Context(), keys.Authority); err != nil || again.Revision != rec.Revision {
		t.Errorf("the record was changed: %v", err)
	}
	if _, err := records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: keys.Authority, Value: []byte(`{"schema":2}`)}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Open(t.Context(), records, newVault(t), ca.Options{}); !errors.Is(err, broker.ErrNewer) {
		t.Errorf("of a newer program's record, open answers %v", err)
	}
}

func TestAVaultsFileThatIsGoneOrDamagedIsNotMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	if _, err := vault.Open(path, false); err == nil {
		t.Error("a key was made though one should be there")
	}
	if _, err := vault.Open(path, true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Open(path, true); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestACertificateIsTakenWithinItsLifeAndALittleAround(t *testing.T) {
	epoch := time.Now().Truncate(time.Second)
	c := clock.NewManual(epoch)
	a := remotetest.NewCA(t, ca.Options{Clock: c, Life: time.Hour, Skew: time.Minute})
	cert := remotetest.Certificate(t, a, hostA).Leaf
	for _, at := range []time.Duration{0, time.Hour, time.Hour + time.Minute} {
		c.Advance(epoch.Add(at).Sub(c.Now()))
		if who, err := a.Identify(cert); err != nil || who != hostA {
			t.Errorf("after %s it is %s, %v", at, who, err)
		}
	}
	c.Advance(time.Second)
	_, err := a.Identify(cert)
	wantDenied(t, err, "was in force until")

	behind := clock.NewManual(epoch)
	records, v := model.New(model.Options{}).Records(), newVault(t)
	ahead, err := ca.Open(t.Context(), records, v, ca.Options{Clock: clock.NewManual(epoch.Add(2 * time.Minute)), Skew: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	late, err := ca.Open(t.Context(), records, v, ca.Options{Clock: behind, Skew: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	young := remotetest.Certificate(t, ahead, hostA).Leaf
	if _, err := late.Identify(young); err != nil {
		t.Errorf("a clock that is two minutes behind: %v", err)
	}
	behind.Advance(-time.Minute)
	_, err = late.Identify(young)
	wantDenied(t, err, "in force from")
}

func TestOnlyCertificatesOfThisClusterForCallersAreTaken(t *testing.T) {
	a, other := remotetest.NewCA(t, ca.Options{}), remotetest.NewCA(t, ca.Options{})
	_, err := a.Identify(remotetest.Certificate(t, other, hostA).Leaf)
	wantDenied(t, err, "not signed by this cluster's authority")
	root, err := x509.ParseCertificate(a.Root())
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Identify(root)
	wantDenied(t, err, "")
}

func TestWhoIsRevokedIsRefusedAndGetsNothingMore(t *testing.T) {
	records, v := model.New(model.Options{}).Records(), newVault(t)
	open := func() *ca.CA {
		a, err := ca.Open(t.Context(), records, v, ca.Options{Log: remotetest.Quiet})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, b := open(), open()
	cert := remotetest.Certificate(t, a, hostA).Leaf
	token, err := a.Invite(t.Context(), ca.Invitation{Role: identity.Host, ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Run(t.Context()) }()
	for range 2 { // twice is no error
		if err := a.Revoke(t.Context(), hostA, "operator", "it fell"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = a.Identify(cert)
	wantDenied(t, err, "was revoked")
	for { // until the other process has heard of it
		if _, err = b.Identify(cert); err != nil {
			break
		}
	}
	wantDenied(t, err, "was revoked")
	_, err = b.Renew(t.Context(), hostA, request(t))
	wantDenied(t, err, "was revoked")
	_, err = b.Join(t.Context(), token, request(t))
	wantDenied(t, err, "was revoked")
	_, err = open().Identify(cert)
	wantDenied(t, err, "was revoked")
	if _, err := a.Identify(remotetest.Certificate(t, a, identity.Identity{Role: identity.Host, ID: "b"}).Leaf); err != nil {
		t.Errorf("another host is refused: %v", err)
	}
}

func TestATokenIsGoodForItsUsesAndItsTime(t *testing.T) {
	c := clock.NewManual(time.Now())
	records := model.New(model.Options{}).Records()
	a, err := ca.Open(t.Context(), records, newVault(t), ca.Options{Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	once, err := a.Invite(t.Context(), ca.Invitation{Role: identity.Gateway, ID: "edge"})
	if err != nil {
		t.Fatal(err)
	}
	list, _, _ := records.List(t.Context(), broker.Range{Prefix: keys.JoinTokens})
	secret, _, _ := strings.Cut(once, ".")
	if len(list) != 1 || strings.Contains(list[0].Key+string(list[0].Value), secret) {
		t.Errorf("the token is kept as %+v", list)
	}
	chain, err := a.Join(t.Context(), once, request(t))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if who, err := a.Identify(leaf); err != nil || who.String() != "gateway/edge" {
		t.Errorf("who joined is %s, %v", who, err)
	}
	_, err = a.Join(t.Context(), once, request(t))
	wantDenied(t, err, "used up")
	_, err = a.Join(t.Context(), "rsj_guess", request(t))
	wantDenied(t, err, "not known")

	many, err := a.Invite(t.Context(), ca.Invitation{Role: identity.Host, Uses: 5})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var joined atomic.Int32
	var names sync.Map
	for range 12 {
		wg.Go(func() {
			chain, err := a.Join(t.Context(), many, request(t))
			if err != nil {
				wantDenied(t, err, "used up")
				return
			}
			joined.Add(1)
			leaf, _ := x509.ParseCertificate(chain[0])
			if who, err := a.Identify(leaf); err != nil || who.Role != identity.Host {
				t.Errorf("%s, %v", who, err)
			} else if _, twice := names.LoadOrStore(who, true); twice {
				t.Errorf("two have the name %s", who)
			}
		})
	}
	wg.Wait()
	if joined.Load() != 5 {
		t.Errorf("%d joined with 5 uses", joined.Load())
	}

	brief, err := a.Invite(t.Context(), ca.Invitation{Role: identity.Host, Life: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(time.Minute + time.Second)
	_, err = a.Join(t.Context(), brief, request(t))
	wantDenied(t, err, "was good until")
	if _, err := a.Invite(t.Context(), ca.Invitation{Role: identity.Host}); err != nil {
		t.Fatal(err)
	}
	if list, _, _ := records.List(t.Context(), broker.Range{Prefix: keys.JoinTokens}); len(list) != 1 {
		t.Errorf("%d tokens are kept, the expired one among them", len(list))
	}
}

func TestBadInvitationsAndRequestsAreRefused(t *testing.T) {
	a := remotetest.NewCA(t, ca.Options{})
	for _, in := range []ca.Invitation{{}, {Role: identity.Control, ID: "x"}, {Role: "root"}, {Role: identity.Host, ID: "a/b"}, {Role: identity.Host, Uses: -1}, {Role: identity.Host, Life: ca.MaxTokenLife + 1}} {
		if _, err := a.Invite(t.Context(), in); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%+v: %v", in, err)
		}
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	forged := request(t)
	forged[len(forged)-1] ^= 1
	for _, r := range [][]byte{nil, []byte("x"), other, forged} {
		if _, err := a.Renew(t.Context(), hostA, r); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("a bad request: %v", err)
		}
	}
}

func TestACertificateOfAControlProcessIsRenewedInTime(t *testing.T) {
	c := clock.NewManual(time.Now())
	a := remotetest.NewCA(t, ca.Options{Clock: c, Life: time.Hour})
	first, err := a.Certificate("c")
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(20 * time.Minute)
	if again, err := a.Certificate("c"); err != nil || again != first {
		t.Errorf("before half of its life it is another one, %v", err)
	}
	c.Advance(20 * time.Minute)
	if again, err := a.Certificate("c"); err != nil || again == first || !again.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Errorf("after half of its life it is the same, %v", err)
	}
}

func FuzzJoin(f *testing.F) {
	f.Add("rsj_x", []byte("x"))
	v, err := vault.Open(filepath.Join(f.TempDir(), "secret.key"), true)
	if err != nil {
		f.Fatal(err)
	}
	a, err := ca.Open(f.Context(), model.New(model.Options{}).Records(), v, ca.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string, request []byte) {
		if _, err := a.Join(t.Context(), token, request); !errors.Is(err, broker.ErrAccess) && !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("join answers %v", err)
		}
	})
}
