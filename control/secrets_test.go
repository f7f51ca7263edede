package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
)

func TestSecretsAreKeptPerJobAndReadBack(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for _, s := range [][3]string{{"a", "KEY", "one"}, {"a", "OTHER", ""}, {"b", "KEY", "two"}, {"a", "KEY", "three"}} {
		if err := w.SetSecret(ctx, "ann", s[0], s[1], []byte(s[2])); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range [][3]string{{"a", "KEY", "three"}, {"a", "OTHER", ""}, {"b", "KEY", "two"}} {
		if got, err := w.Secret(ctx, s[0], s[1]); err != nil || string(got) != s[2] {
			t.Errorf("secret %s of %s is %q, %v", s[1], s[0], got, err)
		}
	}
	if names, err := w.Secrets(ctx, "a"); err != nil || !slices.Equal(names, []string{"KEY", "OTHER"}) {
		t.Errorf("the names are %q, %v", names, err)
	}
	if err := w.RemoveSecret(ctx, "ann", "a", "KEY"); err != nil {
		t.Fatal(err)
	}
	_, err := w.Secret(ctx, "a", "KEY")
	wantProblem(t, err, 404, "secret-unknown", "KEY")
	wantProblem(t, w.RemoveSecret(ctx, "ann", "a", "KEY"), 404, "secret-unknown")
	if got, err := w.Secret(ctx, "b", "KEY"); err != nil || string(got) != "two" {
		t.Errorf("the other job's secret is %q, %v", got, err)
	}
}

func TestSecretsOutOfBoundsAreRefused(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	wantProblem(t, w.SetSecret(ctx, "ann", "Bad_Job", "KEY", nil), 400, "name-invalid")
	for _, name := range []string{"", "a/b", "1", strings.Repeat("a", 129), "a b"} {
		wantProblem(t, w.SetSecret(ctx, "ann", "a", name, nil), 400, "secret-name-invalid")
	}
	wantProblem(t, w.SetSecret(ctx, "ann", "a", "KEY", make([]byte, MaxSecret+1)), 413, "secret-too-large")
	if err := w.SetSecret(ctx, "ann", "a", "KEY", make([]byte, MaxSecret)); err != nil {
		t.Errorf("the largest secret: %v", err)
	}
	for i := range MaxSecrets - 1 {
		if err := w.SetSecret(ctx, "ann", "a", fmt.Sprint("k", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	wantProblem(t, w.SetSecret(ctx, "ann", "a", "more", nil), 409, "secrets-too-many")
	if err := w.SetSecret(ctx, "ann", "a", "KEY", []byte("again")); err != nil {
		t.Errorf("setting one of the most there may be: %v", err)
	}
}

func TestNoSecretIsOnTheDiskInTheClear(t *testing.T) {
	w := newWorld(t)
	const value = "correct horse battery staple"
	if err := w.SetSecret(t.Context(), "ann", "a", "KEY", []byte(value)); err != nil {
		t.Fatal(err)
	}
	if err := w.Bootstrap(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	_, token, err := w.CreateToken(t.Context(), "ann", "ci", 0, Scope{Verbs: []Verb{VerbRead}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(w.dir, "records.db"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(w.dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"secret": value, "token": token, "first token": strings.TrimSpace(string(raw))} {
		if bytes.Contains(b, []byte(text)) {
			t.Errorf("the %s is in records.db", name)
		}
	}
}

func TestAMovedSecretDoesNotOpen(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	if err := w.SetSecret(ctx, "ann", "a", "KEY", []byte("value")); err != nil {
		t.Fatal(err)
	}
	r, err := w.records.Get(ctx, secretKey("a", "KEY"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{secretKey("b", "KEY"), secretKey("a", "OTHER")} {
		if _, err := w.records.Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: key, Value: r.Value}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range [][2]string{{"b", "KEY"}, {"a", "OTHER"}} {
		if got, err := w.Secret(ctx, s[0], s[1]); !errors.Is(err, broker.ErrCorrupt) {
			t.Errorf("secret %s of %s opens as %q, %v", s[1], s[0], got, err)
		}
	}
}

func TestSecretsOutliveARestartAndNeedTheirKey(t *testing.T) {
	w := newWorld(t)
	if err := w.SetSecret(t.Context(), "ann", "a", "KEY", []byte("value")); err != nil {
		t.Fatal(err)
	}
	_ = w.broker.Close()
	w.open()
	if got, err := w.Secret(t.Context(), "a", "KEY"); err != nil || string(got) != "value" {
		t.Errorf("the secret is %q, %v", got, err)
	}
	_ = w.broker.Close()
	path := filepath.Join(w.dir, "secret.key")
	for name, spoil := range map[string]func() error{
		"gone":    func() error { return os.Remove(path) },
		"damaged": func() error { return os.WriteFile(path, []byte("bm9uZQ==\n"), 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		b, err := embedded.Open(w.dir, embedded.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = New(b.Records(), b.Blobs(), b.Buckets(), b.Queue(), w.runner, Options{DataDir: w.dir})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore") || !strings.Contains(err.Error(), name) {
			t.Errorf("with a key that is %s, New answers %v", name, err)
		}
		_ = b.Close()
	}
}

func TestAWaitForALockEndsWithItsContext(t *testing.T) {
	var k keyedLocks
	unlock, err := k.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("lock answers %v", err)
	}
	unlock()
	unlock, err = k.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if len(k.locks) != 0 {
		t.Errorf("%d locks are left", len(k.locks))
	}
}
