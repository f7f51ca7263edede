package guest

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAGuestCannotForgeWhatTheHostSays(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Ripstop-Invocation", "the host's")
	r := &responder{w: w, control: http.NewResponseController(w), most: 1000}
	err := r.whole(200, http.Header{"Ripstop-Invocation": {"forged"}, "X-Mine": {"guest"}, "Content-Length": {"3"}, "Transfer-Encoding": {"chunked"}, "Connection": {"X-Gone"}, "X-Gone": {"1"}}, []byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Ripstop-Invocation": "the host's", "X-Mine": "guest", "Content-Length": "4", "Transfer-Encoding": "", "Connection": "", "X-Gone": ""} {
		if got := w.Header()[name]; len(got) > 1 || w.Header().Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
