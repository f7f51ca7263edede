// Probe is a task that the tests of package guest ask to do one thing or another.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/sdk"
)

var (
	served  int
	initErr error
)

func init() {
	_, initErr = sdk.Secret(context.Background(), "token")
	mux := http.NewServeMux()
	mux.HandleFunc("/info", func(w http.ResponseWriter, r *http.Request) {
		served++
		greeting, _ := sdk.Config("greeting")
		d, ok := r.Context().Deadline()
		fmt.Fprintf(w, "%s %s %s %s|%s|%s|%v %v|%d|%s|%s", r.Method, r.URL.Path, r.RequestURI, r.Host, sdk.Prefix(r.Context()),
			sdk.Invocation(r.Context()), ok, time.Until(d) > time.Minute, served, greeting, r.RemoteAddr)
	})
	mux.HandleFunc("/init", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, errors.Is(initErr, sdk.ErrStarting))
	})
	mux.HandleFunc("/hash", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil)[:4], err)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				if _, err := w.Write(buf[:n]); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
			if err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		line := strings.Repeat("x", 1023) + "\n"
		for i := 0; i < n; i += len(line) {
			if _, err := io.WriteString(w, line); err != nil {
				sdk.Log(sdk.Warn, "write: "+err.Error())
				return
			}
		}
	})
	mux.HandleFunc("/forever", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, "%d\n", i); err != nil {
				sdk.Log(sdk.Warn, "write: "+err.Error())
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	})
	mux.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Hour) })
	mux.HandleFunc("/spin", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; ; i++ {
			if i < 0 {
				return
			}
		}
	})
	mux.HandleFunc("/panic", func(w http.ResponseWriter, r *http.Request) { panic("at the disco") })
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) { os.Exit(3) })
	mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "begun")
		w.(http.Flusher).Flush()
		os.Exit(3)
	})
	mux.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		fmt.Println("to stdout")
		fmt.Fprint(os.Stderr, "to stderr, unended")
		sdk.Logger().With("a", 1).WithGroup("g").Info("hello", "b", "two words")
		for range n {
			sdk.Log(sdk.Debug, strings.Repeat("y", 1000))
		}
	})
	mux.HandleFunc("/metric", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, sdk.Count("app.requests", 1.5), sdk.Gauge("app.g", -2), sdk.Record("app.h", 1e9), " ", sdk.Count("bad name", 1) != nil,
			sdk.Count("app.c", -1) != nil)
	})
	mux.HandleFunc("/secret", func(w http.ResponseWriter, r *http.Request) {
		v, err := sdk.Secret(r.Context(), r.FormValue("name"))
		fmt.Fprintf(w, "%s %v %v", v, errors.Is(err, sdk.ErrNotFound), errors.Is(err, sdk.ErrNotGranted))
	})
	mux.HandleFunc("/kv", kv)
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if d, err := time.ParseDuration(r.FormValue("timeout")); err == nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, d)
			defer cancel()
		}
		var body io.Reader
		if r.FormValue("broken") != "" {
			body = io.MultiReader(strings.NewReader("part"), broken{})
		}
		if n, _ := strconv.Atoi(r.FormValue("n")); n > 0 {
			body = io.LimitReader(zeros{}, int64(n))
		}
		q, err := http.NewRequestWithContext(ctx, r.FormValue("method"), r.FormValue("url"), body)
		if err != nil {
			fmt.Fprint(w, err)
			return
		}
		do := http.DefaultClient.Do
		if job := r.FormValue("job"); job != "" {
			do = func(q *http.Request) (*http.Response, error) { return sdk.Invoke(job, q) }
		}
		resp, err := do(q)
		if err != nil {
			fmt.Fprintf(w, "error %v %v %v", err, errors.Is(err, sdk.ErrNotGranted), errors.Is(err, context.DeadlineExceeded))
			return
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Fprintf(w, "%d %s %d %.40s %v", resp.StatusCode, resp.Header.Get("X-Up"), len(b), b, err)
	})
	mux.HandleFunc("/enqueue", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		priority, _ := strconv.Atoi(r.FormValue("priority"))
		q, err := http.NewRequestWithContext(r.Context(), r.FormValue("method"), r.FormValue("url"), io.LimitReader(zeros{}, int64(n)))
		if err != nil {
			fmt.Fprint(w, err)
			return
		}
		for name, vs := range r.URL.Query() {
			if rest, ok := strings.CutPrefix(name, "h-"); ok {
				q.Header[rest] = vs
			}
		}
		delay, _ := time.ParseDuration(r.FormValue("delay"))
		got, err := sdk.Enqueue(r.FormValue("job"), q, sdk.EnqueueOptions{Key: r.FormValue("key"), Order: r.FormValue("order"), Callback: r.FormValue("callback"),
			Priority: priority, Delay: delay, Deadline: 2 * delay})
		fmt.Fprintf(w, "%s %v %v", got.ID, got.Known, err)
	})
	mux.HandleFunc("/pipe", func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(r.FormValue("url"))
		if err != nil {
			fmt.Fprint(w, err)
			return
		}
		io.Copy(w, resp.Body)
	})
	mux.HandleFunc("/ten", func(w http.ResponseWriter, r *http.Request) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		total := 0
		for range 10 {
			wg.Go(func() {
				resp, err := http.Get(r.FormValue("url"))
				if err != nil {
					return
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				mu.Lock()
				total += len(b)
				mu.Unlock()
			})
		}
		wg.Wait()
		fmt.Fprint(w, total)
	})
	mux.HandleFunc("/leak", func(w http.ResponseWriter, r *http.Request) {
		n := 0
		var err error
		for n < 10000 {
			var resp *http.Response
			if resp, err = http.Get(r.FormValue("url")); err != nil {
				break
			}
			_ = resp
			n++
		}
		fmt.Fprintf(w, "%d %v", n, errors.Is(err, sdk.ErrTooMany))
	})
	mux.HandleFunc("/calls", func(w http.ResponseWriter, r *http.Request) {
		for {
			sdk.Config("greeting")
		}
	})
	mux.HandleFunc("/header", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "X-Gone")
		w.Header().Set("X-Gone", "no")
		w.Header().Set("Content-Length", "999")
		w.Header().Set("Transfer-Encoding", "chunked")
		w.Header().Set("X-Kept", "yes")
		w.WriteHeader(201)
		fmt.Fprint(w, r.Header.Get("X-Client"), r.Header.Get("Proxy"), r.Header.Get("Upgrade"))
	})
	mux.HandleFunc("/badheader", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-A", "a\r\nSet-Cookie: b") })
	sdk.Handle(mux)
}

func main() {}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the tape tore") }

func kv(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	b := sdk.KV("data")
	_, _, err := b.Get(ctx, "k")
	fmt.Fprintln(w, "missing", errors.Is(err, sdk.ErrNotFound))
	v1, err := b.PutIf(ctx, "k", []byte("one"), 0)
	fmt.Fprintln(w, "created", err)
	_, err = b.PutIf(ctx, "k", []byte("two"), 0)
	fmt.Fprintln(w, "again", errors.Is(err, sdk.ErrVersion))
	_, err = b.Put(ctx, "k", make([]byte, 300<<10))
	fmt.Fprintln(w, "large", err)
	v, v2, err := b.Get(ctx, "k")
	fmt.Fprintln(w, "read", len(v), v2 > v1, err)
	_, err = b.Put(ctx, "k", make([]byte, 2<<20))
	fmt.Fprintln(w, "too large", errors.Is(err, sdk.ErrTooLong))
	for i := range 5 {
		b.Put(ctx, fmt.Sprint("l/", i), nil)
	}
	items, err := b.List(ctx, "l/", "l/1", 2)
	fmt.Fprintln(w, "list", len(items), items[0].Key, items[1].Key, err)
	err = b.DeleteIf(ctx, "k", v1)
	fmt.Fprintln(w, "stale", errors.Is(err, sdk.ErrVersion))
	err = b.Delete(ctx, "k")
	fmt.Fprintln(w, "deleted", err)
	_, _, err = sdk.KV("other").Get(ctx, "k")
	fmt.Fprintln(w, "other", errors.Is(err, sdk.ErrNotGranted))
	_, _, err = b.Get(ctx, "")
	fmt.Fprintln(w, "empty", errors.Is(err, sdk.ErrInvalid))
}
