// Probe is a guest for tests: it does what the path asks and says how it went.
package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

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
		case "enqueue": // POST body of n bytes to path of job, times times
			n, _ := strconv.Atoi(q.Get("n"))
			times, _ := strconv.Atoi(q.Get("times"))
			for range max(times, 1) {
				out, _ := http.NewRequestWithContext(r.Context(), "POST", q.Get("path"), strings.NewReader(strings.Repeat("x", n)))
				out.Header.Set("X-Token", "from a guest")
				got, err := sdk.Enqueue(q.Get("job"), out, sdk.EnqueueOptions{Key: q.Get("key"), Callback: q.Get("callback")})
				say(got.ID, err)
			}
		case "chain": // enqueues itself, and another one from the third step on; notes what came of it by the step, which the body has
			b, _ := io.ReadAll(r.Body)
			step, _ := strconv.Atoi(string(b))
			out, _ := http.NewRequestWithContext(r.Context(), "POST", "/chain", strings.NewReader(strconv.Itoa(step+1)))
			_, err := sdk.Enqueue("probe", out, sdk.EnqueueOptions{})
			note := fmt.Sprint(err)
			if step >= 3 {
				out, _ := http.NewRequestWithContext(r.Context(), "POST", "/count", nil)
				_, err := sdk.Enqueue("probe", out, sdk.EnqueueOptions{})
				note += ", " + fmt.Sprint(err)
			}
			_, err = sdk.KV("things").Put(r.Context(), "chain/"+strconv.Itoa(step), []byte(note))
			say(note, err)
		case "ours": // what only the server may say
			say(r.Header.Get("Ripstop-Invocation")+r.Header.Get("Ripstop-Attempt")+r.Header.Get("Ripstop-Schedule")+r.Header.Get("Ripstop-Scheduled"), nil)
		case "value":
			b, _, err := sdk.KV("things").Get(r.Context(), q.Get("key"))
			say(string(b), err)
		case "metric":
			say("metric", sdk.Count("probed", 2))
		case "echo":
			b, err := io.ReadAll(r.Body)
			w.Header().Set("X-Token", r.Header.Get("X-Token"))
			w.WriteHeader(http.StatusCreated)
			say(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Content-Type")+" "+r.Header.Get("Authorization")+r.Header.Get("Ripstop-Attempt")+" "+string(b), err)
		case "flaky": // until=N: attempts before the Nth fail
			attempt, _ := strconv.Atoi(r.Header.Get("Ripstop-Attempt"))
			if until, _ := strconv.Atoi(q.Get("until")); attempt < until {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			say(attempt, nil)
		case "attempt": // notes each attempt of each invocation for itself; fail=1: and then fails
			kv := sdk.KV("things")
			_, err := kv.Put(r.Context(), "run/"+r.Header.Get("Ripstop-Invocation")+"/"+r.Header.Get("Ripstop-Attempt"), nil)
			if ms, _ := strconv.Atoi(q.Get("ms")); ms > 0 {
				time.Sleep(time.Duration(ms) * time.Millisecond)
			}
			if err != nil || q.Get("fail") != "" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			b, _ := io.ReadAll(r.Body)
			say(string(b), err)
		case "attempts":
			list, err := sdk.KV("things").List(r.Context(), "run/", q.Get("after"), 1000)
			for _, it := range list {
				fmt.Fprintln(w, it.Key)
			}
			if err != nil {
				say(nil, err)
			}
		case "large":
			_, _ = w.Write(make([]byte, 1<<20))
		case "trap":
			panic("on purpose")
		case "trace":
			fmt.Fprint(w, r.Header.Get("Traceparent"))
		}
	}))
}

func main() {}
