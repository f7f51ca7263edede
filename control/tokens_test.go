package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var readOnly = Scope{Verbs: []Verb{VerbRead}}

func TestATokenAuthenticatesUntilItExpires(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	token, secret, err := w.CreateToken(ctx, "ann", "ci", time.Hour, Scope{Verbs: []Verb{VerbRead, VerbDeploy, VerbRead}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(secret, "rst_") || len(secret) != 4+43 {
		t.Errorf("the secret is %q", secret)
	}
	if token.Name != "ci" || token.By != "ann" || !token.Expires.Equal(epoch.Add(time.Hour)) || token.Scope.Entitlement != "default" || len(token.Scope.Verbs) != 2 {
		t.Errorf("the token is %+v", token)
	}
	for _, c := range []struct {
		verb Verb
		want bool
	}{{VerbRead, true}, {VerbDeploy, true}, {VerbInvoke, false}, {VerbAdmin, false}} {
		if token.Scope.Allows(c.verb) != c.want {
			t.Errorf("the token allows %s: %v", c.verb, !c.want)
		}
	}
	if got, err := w.Authenticate(ctx, secret); err != nil || got.ID != token.ID {
		t.Errorf("Authenticate answers %+v, %v", got, err)
	}
	w.clock.Advance(time.Hour - time.Second)
	if _, err := w.Authenticate(ctx, secret); err != nil {
		t.Errorf("a second before the end: %v", err)
	}
	w.clock.Advance(time.Second)
	_, err = w.Authenticate(ctx, secret)
	wantProblem(t, err, 401, "token-denied")
	if !errors.Is(err, ErrDenied) {
		t.Errorf("%v is no ErrDenied", err)
	}
	if _, _, err := w.CreateToken(ctx, "ann", "ci", 0, readOnly); err != nil {
		t.Errorf("the name of an expired token is not free: %v", err)
	}
	if list, err := w.Tokens(ctx); err != nil || len(list) != 1 || !list[0].Expires.IsZero() {
		t.Errorf("the tokens are %+v, %v", list, err)
	}
}

func TestWhatIsNoTokenIsDenied(t *testing.T) {
	w := newWorld(t)
	_, secret, err := w.CreateToken(t.Context(), "ann", "ci", 0, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "rst_", secret[:len(secret)-1], secret + "x", strings.ToUpper(secret), secret[4:], "rst_" + strings.Repeat("x", 1<<20)} {
		_, err := w.Authenticate(t.Context(), bad)
		wantProblem(t, err, 401, "token-denied")
	}
}

func TestTokensThatCannotBeAreRefused(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for name, c := range map[string]struct {
		name  string
		ttl   time.Duration
		scope Scope
	}{
		"no name":             {"", 0, readOnly},
		"long name":           {strings.Repeat("a", 65), 0, readOnly},
		"name with a space":   {"a b", 0, readOnly},
		"name with a slash":   {"a/b", 0, readOnly},
		"already expired":     {"a", -time.Second, readOnly},
		"no verb":             {"a", 0, Scope{}},
		"unknown verb":        {"a", 0, Scope{Verbs: []Verb{"fly"}}},
		"unknown entitlement": {"a", 0, Scope{Entitlement: "other", Verbs: []Verb{VerbRead}}},
	} {
		_, secret, err := w.CreateToken(ctx, "ann", c.name, c.ttl, c.scope)
		if secret != "" {
			t.Errorf("%s: there is a secret", name)
		}
		wantProblem(t, err, 400, "token-invalid")
	}
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() { _, _, errs[i] = w.CreateToken(ctx, "ann", "ci", 0, readOnly) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else {
			wantProblem(t, err, 409, "token-exists", "ci")
		}
	}
	if list, _ := w.Tokens(ctx); made != 1 || len(list) != 1 {
		t.Errorf("%d tokens of one name were made, %d are there", made, len(list))
	}
}

func TestARevokedTokenIsDenied(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	byName, one, err := w.CreateToken(ctx, "ann", "one", 0, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	byID, two, err := w.CreateToken(ctx, "ann", "two", 0, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, which := range []string{byName.Name, byID.ID} {
		if err := w.RevokeToken(ctx, "ann", which); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, w.RevokeToken(ctx, "ann", which), 404, "token-unknown", which)
	}
	for _, secret := range []string{one, two} {
		_, err := w.Authenticate(ctx, secret)
		wantProblem(t, err, 401, "token-denied")
	}
	if _, _, err := w.CreateToken(ctx, "ann", "one", 0, readOnly); err != nil {
		t.Errorf("the name of a revoked token is not free: %v", err)
	}
}

func TestTheFirstStartMakesATokenOnce(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	path := filepath.Join(w.dir, "token")
	if err := w.Bootstrap(ctx, w.dir); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	token, err := w.Authenticate(ctx, strings.TrimSpace(string(first)))
	if err != nil || token.Name != BootstrapToken || !token.Scope.Allows(VerbDeploy) || !token.Expires.IsZero() {
		t.Errorf("the token is %+v, %v", token, err)
	}
	_ = w.broker.Close()
	w.open()
	if err := w.Bootstrap(ctx, w.dir); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(path); err != nil || string(second) != string(first) {
		t.Errorf("a second start wrote another token, %v", err)
	}
}

func TestTheLastAdminTokenStays(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	if err := w.Bootstrap(ctx, w.dir); err != nil {
		t.Fatal(err)
	}
	admin := Scope{Verbs: []Verb{VerbAdmin}}
	if _, _, err := w.CreateToken(ctx, "ann", "short", time.Hour, admin); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, w.RevokeToken(ctx, "ann", BootstrapToken), 409, "token-last")
	if _, _, err := w.CreateToken(ctx, "ann", "new", 0, admin); err != nil {
		t.Fatal(err)
	}
	if err := w.RevokeToken(ctx, "ann", BootstrapToken); err != nil {
		t.Error(err)
	}
	wantProblem(t, w.RevokeToken(ctx, "ann", "new"), 409, "token-last")
}

func TestAFirstStartCutOffBeforeItsTokenWasStoredMakesAnother(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "token")
	if err := os.WriteFile(path, []byte("rst_of-a-start-that-ended\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.Bootstrap(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authenticate(t.Context(), strings.TrimSpace(string(b))); err != nil {
		t.Errorf("the token in the file: %v", err)
	}
}
