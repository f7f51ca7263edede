package guest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/processor"
)

func TestARequestMayHaveItsTurnBeforeASandbox(t *testing.T) {
	tokens := oneToken(t)
	share := tokens.Job("job", 1)
	p := shared(t, hiAfter(counting(50_000)), Options{Share: share})
	s := sandbox(t, p)
	r := httptest.NewRequest("GET", "/", nil)
	for _, given := range []bool{true, false, true, true} {
		var turn Turn
		if given {
			var err error
			if turn, err = p.Turn(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if u := share.Usage(); u.Running != 1 {
				t.Errorf("%d run with a turn", u.Running)
			}
		}
		w := httptest.NewRecorder()
		res, err := s.ServeInTurn(t.Context(), w, r, ServeInfo{}, &turn)
		if err != nil || w.Body.String() != "hi" || res.CPU <= 0 {
			t.Errorf("%q, %v of processor time: %v", w.Body, res.CPU, err)
		}
		idle(t, tokens)
		turn.End() // it is over
	}
	turn, err := p.Turn(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancelCause(t.Context())
	left := errors.New("the client left")
	cancel(left)
	if _, err := p.Turn(over, r); !errors.Is(err, left) {
		t.Errorf("waiting for a turn ended with %v", err)
	}
	turn.End()
	turn.End()
	idle(t, tokens)
}

func TestASandboxThatCannotServeGivesTheTurnBack(t *testing.T) {
	tokens := oneToken(t)
	p := shared(t, hiAfter(nil), Options{Share: tokens.Job("job", 1)})
	s := sandbox(t, p)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	turn, err := p.Turn(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ServeInTurn(t.Context(), httptest.NewRecorder(), r, ServeInfo{}, &turn); !errors.Is(err, ErrUsed) {
		t.Errorf("a closed sandbox: %v", err)
	}
	turn.End()
	idle(t, tokens)
}

func TestARequestThatHasToWaitForSomethingElseGetsNoTurn(t *testing.T) {
	tokens := oneToken(t)
	p := shared(t, hiAfter(nil), Options{Share: tokens.Job("job", 1)})
	holder := tokens.Job("holder", processor.MaxWeight).Run()
	if err := holder.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer holder.Leave()
	turn, err := p.Turn(t.Context(), httptest.NewRequest(http.MethodPost, "/", strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	turn.End()
	unshared := shared(t, hiAfter(nil), Options{})
	if turn, err = unshared.Turn(t.Context(), httptest.NewRequest("GET", "/", nil)); err != nil {
		t.Fatal(err)
	}
	turn.End()
}
