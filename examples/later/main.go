// Later takes notes that are to be remembered at another time: a request queues one, which the job is given back when its time has come.
package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/sdk"
)

func init() {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", take)
	mux.HandleFunc("POST /due", remind)
	sdk.Handle(mux)
}

func main() {}

// take queues a note for ?in=DURATION from now. A client that is not sure whether it was taken sends it again under the same Idempotency-Key.
func take(w http.ResponseWriter, r *http.Request) {
	in, err := time.ParseDuration(r.URL.Query().Get("in"))
	if err != nil || in < 0 {
		http.Error(w, "say when, as in ?in=90s", http.StatusBadRequest)
		return
	}
	note, err := io.ReadAll(io.LimitReader(r.Body, 10<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	due, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "/due", strings.NewReader(string(note)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	got, err := sdk.Enqueue("later", due, sdk.EnqueueOptions{Delay: in, Key: r.Header.Get("Idempotency-Key")})
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintln(w, got.ID)
}

// remind is what a queued note comes back to. Only a queued request has an attempt: a client cannot send one.
func remind(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Ripstop-Attempt") == "" {
		http.NotFound(w, r)
		return
	}
	note, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	sdk.Log(sdk.Info, string(note))
	fmt.Fprintf(w, "reminded of %q\n", note)
}
