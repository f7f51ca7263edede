// Probe is a guest for tests: it does what the path asks and says how it went.
package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/ripstop-vm/ripstop/sdk"
)

var served int

func init() {
	sdk.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served++
		say := func(v any, err error) { fmt.Fprintf(w, "%v %v\n", v, err) }
		q := r.URL.Query()
		switch strings.Trim(r.URL.Path, "/") {
		case "count":
			fmt.Fprint(w, served)
		case "invoke":
			out, _ := http.NewRequestWithContext(r.Context(), "GET", q.Get("path"), nil)
			resp, err := sdk.Invoke(q.Get("job"), out)
			if err != nil {
				say(nil, err)
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			fmt.Fprintf(w, "%d %s %v\n", resp.StatusCode, b, err)
		case "fetch":
			out, _ := http.NewRequestWithContext(r.Context(), "POST", q.Get("url"), strings.NewReader("payload"))
			resp, err := sdk.Transport{}.RoundTrip(out)
			if err != nil {
				say(nil, err)
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			fmt.Fprintf(w, "%d %s %s %v\n", resp.StatusCode, resp.Header.Get("X-From"), b, err)
		case "secret":
			b, err := sdk.Secret(r.Context(), q.Get("name"))
			say(len(b), err)
		case "config":
			v, ok := sdk.Config("greeting")
			say(v, fmt.Errorf("%v", ok))
		case "kv":
			kv := sdk.KV("things")
			v, err := kv.Put(r.Context(), "k", []byte("v"))
			say(v > 0, err)
			_, err = kv.PutIf(r.Context(), "k", []byte("w"), v+1000)
			say("conflict", err)
			b, _, err := kv.Get(r.Context(), "k")
			say(string(b), err)
			list, err := kv.List(r.Context(), "", "", 10)
			say(len(list), err)
			say("deleted", kv.Delete(r.Context(), "k"))
		case "tally": // adds one; an answer of 200 says that it did
			kv := sdk.KV("things")
			b, version, _ := kv.Get(r.Context(), "tally") // a version of 0 asks for there to be none
			n, _ := strconv.Atoi(string(b))
			if _, err := kv.PutIf(r.Context(), "tally", []byte(strconv.Itoa(n+1)), version); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprint(w, n+1)
		case "metric":
			say("metric", sdk.Count("probed", 2))
		case "trace":
			fmt.Fprint(w, r.Header.Get("Traceparent"))
		}
	}))
}

func main() {}
