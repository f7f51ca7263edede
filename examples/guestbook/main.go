// Guestbook keeps entries in a bucket, which outlives the sandbox. Visits are counted with a compare and swap.
package main

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/sdk"
)

var book = sdk.KV("guestbook")

const maxEntry = 1000 // bytes

var page = template.Must(template.New("page").Parse(`<!doctype html>
<title>Guestbook</title>
<h1>Guestbook</h1>
<p>Visit number {{.Visits}}.</p>
<form method="post" action="{{.Prefix}}/"><input name="text" maxlength="200" required> <button>Sign</button></form>
<ul>{{range .Entries}}<li>{{.}}</li>{{end}}</ul>
`))

func init() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", show)
	mux.HandleFunc("POST /{$}", sign)
	sdk.Handle(mux)
}

func main() {}

func show(w http.ResponseWriter, r *http.Request) {
	visits, err := count(r)
	if err != nil {
		fail(w, err)
		return
	}
	items, err := book.List(r.Context(), "entry/", "", 100)
	if err != nil {
		fail(w, err)
		return
	}
	var entries []string
	for _, it := range items {
		text, _, err := book.Get(r.Context(), it.Key)
		if errors.Is(err, sdk.ErrNotFound) {
			continue // removed since it was listed
		} else if err != nil {
			fail(w, err)
			return
		}
		entries = append(entries, string(text))
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, map[string]any{"Visits": visits, "Entries": entries, "Prefix": sdk.Prefix(r.Context())}); err != nil {
		sdk.Logger().Error("page", "err", err)
	}
}

func sign(w http.ResponseWriter, r *http.Request) {
	text := strings.TrimSpace(r.FormValue("text"))
	if text == "" || len(text) > maxEntry {
		http.Error(w, "write between 1 and 1000 bytes", http.StatusBadRequest)
		return
	}
	key := fmt.Sprintf("entry/%020d-%s", time.Now().UnixNano(), sdk.Invocation(r.Context()))
	if _, err := book.PutIf(r.Context(), key, []byte(text), 0); err != nil {
		fail(w, err)
		return
	}
	http.Redirect(w, r, sdk.Prefix(r.Context())+"/", http.StatusSeeOther)
}

// count adds one to the visits; whoever is beaten to it tries again.
func count(r *http.Request) (int, error) {
	for {
		n := 0
		old, version, err := book.Get(r.Context(), "visits")
		if err != nil && !errors.Is(err, sdk.ErrNotFound) {
			return 0, err
		}
		if err == nil {
			if n, err = strconv.Atoi(string(old)); err != nil {
				return 0, err
			}
		}
		n++
		_, err = book.PutIf(r.Context(), "visits", []byte(strconv.Itoa(n)), version)
		if !errors.Is(err, sdk.ErrVersion) {
			return n, err
		}
	}
}

func fail(w http.ResponseWriter, err error) {
	sdk.Logger().Error("guestbook", "err", err)
	http.Error(w, "the guestbook is out of order", http.StatusServiceUnavailable)
}
