package sdk

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestRehearsalsReachTheHandler(t *testing.T) {
	var got []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || len(b) > 0 {
			t.Errorf("a body: %q, %v", b, err)
		}
		got = append(got, r.Method+" "+r.URL.String()+" "+r.Header.Get("Accept"))
		w.Write(make([]byte, inlineResponse+1)) // it streams, and goes nowhere
	})
	r := httptest.NewRequest("POST", "/search?q=a%20b", nil)
	r.Header.Set("Accept", "text/html")
	if err := rehearse(h, []*http.Request{r}); err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 {
		t.Fatal("the handler was not asked")
	}
	for _, g := range got {
		if want := "POST /search?q=a%20b text/html"; g != want {
			t.Errorf("%s, want %s", g, want)
		}
	}
}
