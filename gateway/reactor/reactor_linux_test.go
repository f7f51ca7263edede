package reactor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/internal/loop"
)

// patience is how long a test waits for what happens at once.
const patience = 20 * time.Second

// world is a server around a handler.
type world struct {
	*testing.T
	s     *Server
	addr  string
	inAll atomic.Int64 // requests that the loop answers in place
	ended chan error
}

func quiet(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
}

func start(t *testing.T, h http.HandlerFunc, change ...func(*Options)) *world {
	t.Helper()
	w := &world{T: t, ended: make(chan error, 1)}
	opts := Options{Runners: 2, Log: slog.New(slog.DiscardHandler), HTTP: quiet(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if loop.In(r.Context()) {
			w.inAll.Add(1)
		}
		h(rw, r)
	}))}
	for _, c := range change {
		c(&opts)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	w.s = New(opts)
	go func() { w.ended <- w.s.Serve(l) }()
	t.Cleanup(func() {
		_ = w.s.Close()
		if err := <-w.ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving ended with %v", err)
		}
		w.until("all places are free", func() bool { return len(w.s.slots) == 0 })
	})
	return w
}

// open is how many connections are; one place is that of the next.
func (w *world) open() int { return len(w.s.slots) - 1 }

func (w *world) until(what string, ok func() bool) {
	w.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			w.Fatalf("not so: %s", what)
		}
	}
}

// client is a connection that a test writes to by hand.
type client struct {
	net.Conn
	w *world
	r *bufio.Reader
}

func (w *world) dial() *client {
	w.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{c, w, bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.w.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.w.Fatal(err)
	}
}

// answer reads an answer to a request of that method.
func (c *client) answer(method string) (*http.Response, string) {
	c.w.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.w.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.w.Fatal(err)
	}
	return resp, string(body)
}

func (c *client) get(want string) {
	c.w.Helper()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if resp, body := c.answer("GET"); resp.StatusCode != http.StatusOK || body != want {
		c.w.Fatalf("the answer is %d %q, want %q", resp.StatusCode, body, want)
	}
}

// over reports that the server ends the connection, and sends no more.
func (c *client) over() bool {
	c.w.Helper()
	rest, err := io.ReadAll(c.r)
	var late net.Error
	return len(rest) == 0 && !(errors.As(err, &late) && late.Timeout())
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func TestPlainRequestsAreAnsweredInPlace(t *testing.T) {
	w := start(t, hello)
	a, b := w.dial(), w.dial()
	for range 100 {
		a.get("hello")
		b.get("hello")
	}
	if n := w.inAll.Load(); n != 200 {
		t.Errorf("%d of 200 were", n)
	}
}

// answers is how a handler may answer: what net/http sends of it is what the loop sends.
var answers = map[string]http.HandlerFunc{
	"nothing":       func(http.ResponseWriter, *http.Request) {},
	"a body":        hello,
	"two writes":    func(w http.ResponseWriter, r *http.Request) { hello(w, r); hello(w, r) },
	"a status":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
	"two":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(202) },
	"an odd status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(299) },
	"no content":    func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204); hello(w, r) },
	"not modified":  func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Etag", "x"); w.WriteHeader(304) },
	"a 204's length": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(204)
	},
	"early hints": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); hello(w, r) },
	"a length":    func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "5"); hello(w, r) },
	"a type":      func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Type", "a/b"); hello(w, r) },
	"no type":     func(w http.ResponseWriter, r *http.Request) { w.Header()["Content-Type"] = nil; hello(w, r) },
	"HTML":        func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") },
	"an encoding": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Encoding", "x"); hello(w, r) },
	"a date":      func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Date", "x"); hello(w, r) },
	"no date":     func(w http.ResponseWriter, r *http.Request) { w.Header()["Date"] = nil; hello(w, r) },
	"fields":      func(w http.ResponseWriter, r *http.Request) { w.Header()["X"] = []string{"a", "b"}; hello(w, r) },
	"odd fields":  func(w http.ResponseWriter, r *http.Request) { w.Header()["X y"] = []string{"a"}; hello(w, r) },
	"odd values":  func(w http.ResponseWriter, r *http.Request) { w.Header()["X"] = []string{" a\r\nb: c "}; hello(w, r) },
	"a close":     func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Connection", "close"); hello(w, r) },
	"a trailer": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X")
		hello(w, r)
		w.Header().Set("X", "y")
	},
	"a trailer after": func(w http.ResponseWriter, r *http.Request) { hello(w, r); w.Header().Set(http.TrailerPrefix+"X", "y") },
	"a short body":    func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "9"); hello(w, r) },
	"a long body":     func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "2"); hello(w, r) },
	"a bad length":    func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "x"); hello(w, r) },
	"the most at once": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(maxBody)) // without it net/http sends chunks from 2 KiB on
		_, _ = w.Write(make([]byte, maxBody))
	},
	"more":            func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, maxBody+1)) },
	"more in the end": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, maxBody)); hello(w, r) },
	"a flush":         func(w http.ResponseWriter, r *http.Request) { hello(w, r); flush(w); hello(w, r) },
	"a flush of all":  func(w http.ResponseWriter, r *http.Request) { hello(w, r); flush(w) },
	"a flush first":   func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", "y"); flush(w); hello(w, r) },
	"a break":         func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	"a break amid":    func(w http.ResponseWriter, r *http.Request) { hello(w, r); flush(w); panic(http.ErrAbortHandler) },
	"a panic":         func(w http.ResponseWriter, r *http.Request) { hello(w, r); panic("a defect") },
	"deadlines": func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		c := http.NewResponseController(w)
		if err := errors.Join(c.SetReadDeadline(time.Now().Add(time.Hour)), c.SetWriteDeadline(time.Now().Add(time.Hour)), c.EnableFullDuplex()); err != nil {
			panic(err)
		}
		hello(w, r)
	},
	"the request": func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, r.Method, r.URL, r.Host, r.Header, r.ContentLength, string(body), err, r.TLS == nil, r.Proto, r.Context().Err())
	},
	"the request, flushed": func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			panic(err)
		}
		flush(w)
		body, err := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, string(body), err)
	},
}

func flush(w http.ResponseWriter) {
	if err := http.NewResponseController(w).Flush(); err != nil {
		panic(err)
	}
}

// told is all that a client is told in answer to some text.
func told(t *testing.T, addr, method, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			_, _ = fmt.Fprintf(&out, "no answer\n")
			return out.String()
		}
		body, err := io.ReadAll(resp.Body)
		if d := resp.Header.Get("Date"); len(d) == len(http.TimeFormat) {
			resp.Header.Set("Date", "now")
		}
		_, _ = fmt.Fprintln(&out, resp.Status, resp.Header, resp.ContentLength, resp.TransferEncoding, resp.Close, resp.Trailer, len(body), string(body[:min(len(body), 200)]), err)
		if resp.StatusCode < 200 {
			continue
		}
		// Whether it goes on says more than a field.
		if err == nil {
			_, err = io.WriteString(c, "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		}
		if err == nil {
			_, err = http.ReadResponse(r, nil)
		}
		_, _ = fmt.Fprintln(&out, "it goes on:", err == nil)
		return out.String()
	}
}

func TestAnswersAreThoseOfNetHTTP(t *testing.T) {
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, answer)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			plain := quiet(answer)
			go func() { _ = plain.Serve(l) }()
			defer plain.Close()
			for _, method := range []string{"GET", "HEAD", "POST"} {
				for _, text := range []string{
					method + " /a?b HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
					method + " /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
					method + " /a?b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
				} {
					if got, want := told(t, w.addr, method, text), told(t, l.Addr().String(), method, text); got != want {
						t.Errorf("to %q the answer is\n%snet/http's is\n%s", text, got, want)
					}
				}
			}
			if w.inAll.Load() < 9 {
				t.Errorf("only %d were begun in place", w.inAll.Load())
			}
		})
	}
}

func TestAConnectionGoesOnWhateverItsAnswersAre(t *testing.T) {
	w := start(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		switch r.URL.Path {
		case "/flush":
			flush(w)
		case "/long":
			_, _ = w.Write(bytes.Repeat([]byte("x"), 100_000))
		}
		_, _ = w.Write(b)
	})
	long := strings.Repeat("x", 100_000)
	requests := []struct{ text, want string }{
		{"POST /plain HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", "body"},
		{"POST /flush HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", "body"},
		{"POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", long + "body"},
		{"POST /plain HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + long, long},
		{"POST /plain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "body"},
	}
	for first := range requests {
		c := w.dial()
		for i := range 2 * len(requests) {
			r := requests[(first+i)%len(requests)]
			c.send(r.text)
			if _, body := c.answer("POST"); body != r.want {
				t.Fatalf("%.40q is answered by %.20q (%d bytes)", r.text, body, len(body))
			}
		}
	}
}

func TestRequestsInPiecesAndInARowAreAnswered(t *testing.T) {
	w := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })
	c := w.dial()
	for _, b := range []byte("GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n") {
		c.send(string(b))
	}
	if _, body := c.answer("GET"); body != "/pieces" {
		t.Errorf("in pieces: %q", body)
	}
	c = w.dial()
	var all strings.Builder
	for i := range 500 {
		_, _ = fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
	}
	go func() { _, _ = io.WriteString(c, all.String()) }()
	for i := range 500 {
		if _, body := c.answer("GET"); body != fmt.Sprintf("/%d", i) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
}

// A client that sends its next request before the answer to the last one is there has it answered after that.
func TestARequestThatComesWhileTheLastIsServedIsServedNext(t *testing.T) {
	hold := make(chan struct{})
	w := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			loop.Leave(r.Context())
			<-hold
		}
		_, _ = io.WriteString(w, r.URL.Path)
	})
	for range 50 {
		c := w.dial()
		c.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
		c.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
		hold <- struct{}{}
		for _, want := range []string{"/hold", "/next"} {
			if _, body := c.answer("GET"); body != want {
				t.Fatalf("%q is answered where %q is due", body, want)
			}
		}
	}
}

func TestHandlersThatWaitDoNotStopTheLoop(t *testing.T) {
	const held = 100
	for how, leave := range map[string]func(context.Context){"they say so": loop.Leave, "they do not": func(context.Context) {}} {
		t.Run(how, func(t *testing.T) {
			hold := make(chan struct{})
			var waiting atomic.Int64
			w := start(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "POST" {
					leave(r.Context())
					waiting.Add(1)
					<-hold
				}
				hello(w, r)
			})
			var all []*client
			for range held {
				c := w.dial()
				c.send("POST / HTTP/1.1\r\nHost: a\r\n\r\n")
				all = append(all, c)
			}
			w.until("all wait", func() bool { return waiting.Load() == held })
			c := w.dial()
			for range 10 {
				c.get("hello")
			}
			close(hold)
			for _, c := range all {
				if _, body := c.answer("POST"); body != "hello" {
					t.Fatal(body)
				}
			}
			for range 10 {
				c.get("hello")
			}
			w.until("the others wait to be needed", func() bool {
				w.s.mu.Lock()
				defer w.s.mu.Unlock()
				return len(w.s.runners) == 2 && len(w.s.spare) >= held-2 // the last may not have been found, and others may
			})
		})
	}
}

// A handler that computes has a processor, so that nobody takes its place unless nobody else is there. It is found like others if it goes on for long.
func TestAHandlerThatComputesIsReplacedIfNobodyElseIsThere(t *testing.T) {
	type places struct{ runners, computing int }
	var w *world
	now := func() places {
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		return places{len(w.s.runners), len(w.s.computing)}
	}
	briefly := make(chan []places, 1)
	hold := make(chan struct{})
	var held atomic.Int64
	w = start(t, func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/brief":
			var seen []places
			for _, say := range []func(context.Context){loop.Compute, loop.Compute, loop.Leave, loop.Compute} {
				say(r.Context())
				seen = append(seen, now())
			}
			briefly <- seen
		case "/long":
			loop.Compute(r.Context())
			held.Add(1)
			<-hold
		}
		hello(rw, r)
	})
	c := w.dial()
	ask := func(c *client, path string) { c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n") }
	hears := func(c *client) {
		t.Helper()
		if _, body := c.answer("GET"); body != "hello" {
			t.Fatal(body)
		}
	}
	var seen []places
	want := []places{{1, 1}, {1, 1}, {2, 0}, {2, 0}}
	for tries := 0; tries < 10 && !slices.Equal(seen, want); tries++ { // the watch may come in between
		w.until("two are there", func() bool { return now() == places{2, 0} })
		ask(c, "/brief")
		hears(c)
		seen = <-briefly
	}
	if !slices.Equal(seen, want) {
		t.Errorf("the places were %v", seen)
	}
	all := []*client{w.dial(), w.dial(), w.dial()}
	for i, c := range all {
		ask(c, "/long")
		w.until("it computes", func() bool { return held.Load() == int64(i)+1 })
	}
	for range 10 {
		c.get("hello")
	}
	w.until("they are found", func() bool { return now().computing == 0 && now().runners == 2 })
	close(hold)
	for _, c := range all {
		hears(c)
	}
	w.until("all are back", func() bool { return now().computing == 0 && now().runners == 2 })
	for range 10 {
		c.get("hello")
	}
}

func TestMoreGoroutinesThanAreKeptEnd(t *testing.T) {
	hold := make(chan struct{})
	var waiting atomic.Int64
	w := start(t, func(_ http.ResponseWriter, r *http.Request) {
		loop.Leave(r.Context())
		loop.Leave(r.Context())
		waiting.Add(1)
		<-hold
	})
	for range maxSpare + 20 {
		w.dial().send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	}
	w.until("all wait", func() bool { return waiting.Load() == maxSpare+20 })
	before := goruntime.NumGoroutine()
	close(hold)
	w.until("some end", func() bool { return goruntime.NumGoroutine() <= before-20 })
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if len(w.s.spare) != maxSpare || len(w.s.runners) != 2 {
		t.Errorf("%d are kept, %d in the loop", len(w.s.spare), len(w.s.runners))
	}
}

// Each of a client's ways to leave ends the context of its request, while the loop has it and once net/http has.
func TestAClientThatLeavesEndsItsRequest(t *testing.T) {
	for name, first := range map[string]func(http.ResponseWriter){"in place": func(http.ResponseWriter) {}, "after a flush": flush} {
		for how, leave := range map[string]func(*net.TCPConn) error{
			"close": (*net.TCPConn).Close, "end of what it sends": (*net.TCPConn).CloseWrite,
			"reset": func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				begun, ended := make(chan struct{}), make(chan error)
				w := start(t, func(w http.ResponseWriter, r *http.Request) {
					first(w)
					loop.Leave(r.Context())
					close(begun)
					select {
					case <-r.Context().Done():
						ended <- r.Context().Err()
					case <-time.After(patience):
						ended <- nil
					}
				})
				c := w.dial()
				c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				<-begun
				if err := leave(c.Conn.(*net.TCPConn)); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("its context ended with %v", err)
				}
				w.until("its place is free", func() bool { return w.open() == 0 })
			})
		}
	}
}

func TestTheContextEndsWithTheHandler(t *testing.T) {
	contexts := make(chan context.Context, 1)
	w := start(t, func(w http.ResponseWriter, r *http.Request) { contexts <- r.Context(); hello(w, r) })
	w.dial().get("hello")
	select {
	case <-(<-contexts).Done():
	case <-time.After(patience):
		t.Error("it goes on")
	}
}

func TestAClientThatEndsItsSideAtOnceIsAnswered(t *testing.T) {
	w := start(t, hello)
	for range 50 {
		c := w.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, body := c.answer("GET"); body != "hello" || !c.over() {
			t.Fatalf("the answer is %q", body)
		}
	}
}

// A client that does not read holds up nobody, has its answer once it reads, and is given up after a while.
func TestAClientThatDoesNotReadIsWaitedForElsewhere(t *testing.T) {
	for name, limit := range map[string]time.Duration{"for a while": time.Hour, "for too long": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, maxBody)) }, func(o *Options) { o.HTTP.WriteTimeout = limit })
			c := w.dial()
			const most = 5000 // the kernel keeps some megabytes at first
			sent, over := 0, false
			for ; sent < most && !over; sent++ {
				before := w.inAll.Load()
				c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				for until := time.Now().Add(2 * time.Second); w.inAll.Load() == before && !over; over = time.Now().After(until) {
					goruntime.Gosched()
				}
			}
			if !over {
				t.Fatal("the kernel keeps whatever is sent")
			}
			w.dial().get(string(make([]byte, maxBody)))
			if limit != time.Hour {
				w.until("its place is free", func() bool { return w.open() <= 1 })
				return
			}
			for range sent {
				if _, body := c.answer("GET"); len(body) != maxBody {
					t.Fatalf("%d bytes", len(body))
				}
			}
		})
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	w := start(t, hello, func(o *Options) { o.HTTP.IdleTimeout, o.HTTP.ReadHeaderTimeout = 6*time.Second, time.Nanosecond })
	fresh, used, part := w.dial(), w.dial(), w.dial()
	used.get("hello")
	part.send("GET / HT")
	if !fresh.over() {
		t.Error("one without a request goes on")
	}
	if resp, err := http.ReadResponse(part.r, nil); err == nil && resp.StatusCode < 400 {
		t.Errorf("one with a part of a request is answered %v", resp)
	}
	used.get("hello") // looked at once at least, and not idle for long enough
	if !used.over() {
		t.Error("one without another request goes on")
	}
}

func TestOnlySoManyConnectionsAreOpenAtOnce(t *testing.T) {
	w := start(t, hello, func(o *Options) { o.Connections = 2 })
	a, b, c := w.dial(), w.dial(), w.dial()
	a.get("hello")
	b.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n") // net/http's
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, body := b.answer("GET"); body != "hello" {
		t.Fatal(body)
	}
	if _, body := c.answer("GET"); body != "hello" {
		t.Fatal(body)
	}
	a.get("hello")
	d := w.dial()
	d.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	_ = d.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := d.r.ReadByte(); !os.IsTimeout(err) {
		t.Errorf("a third is answered: %v", err)
	}
	_ = a.Close()
	_ = d.SetReadDeadline(time.Now().Add(patience))
	if _, body := d.answer("GET"); body != "hello" {
		t.Fatal(body)
	}
}

func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	begun, hold := make(chan struct{}, 3), make(chan struct{})
	w := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flush":
			flush(w)
			fallthrough
		case "/hold":
			loop.Leave(r.Context())
			begun <- struct{}{}
			<-hold
		}
		hello(w, r)
	})
	idle, held, flushed, fresh, handed := w.dial(), w.dial(), w.dial(), w.dial(), w.dial()
	idle.get("hello")
	held.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
	flushed.send("GET /flush HTTP/1.1\r\nHost: a\r\n\r\n")
	handed.send("POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
	handed.send("x")
	for range 3 {
		<-begun
	}
	w.until("all are open", func() bool { return w.open() == 5 })
	done := make(chan error, 1)
	go func() { done <- w.s.Shutdown(t.Context()) }()
	if !idle.over() {
		t.Error("an idle connection goes on")
	}
	fresh.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, body := fresh.answer("GET"); body != "hello" {
		t.Errorf("one whose first request comes just now is answered %q", body)
	}
	w.until("other connections are refused", func() bool {
		c, err := net.Dial("tcp", w.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case err := <-done:
		t.Fatalf("it does not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(hold)
	for name, c := range map[string]*client{"held": held, "flushed": flushed, "handed": handed} {
		if _, body := c.answer("GET"); body != "hello" || !c.over() {
			t.Errorf("%s: %q", name, body)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestShutdownEndsWithItsContextAndCloseEndsAll(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{}, 2)
	w := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/flush" {
			flush(w)
		}
		loop.Leave(r.Context())
		begun <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	for _, path := range []string{"/", "/flush"} {
		w.dial().send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ends with %v", err)
	}
	if err := w.s.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("a request goes on")
		}
	}
}

func TestCloseBeforeServe(t *testing.T) {
	for _, end := range []func(*Server) error{(*Server).Close, func(s *Server) error { return s.Shutdown(t.Context()) }} {
		s := New(Options{HTTP: quiet(http.HandlerFunc(hello))})
		if err := end(s); err != nil {
			t.Error(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("it ends with %v", err)
		}
	}
}

// A listener that is none of TCP's is net/http's altogether.
func TestOtherListenersAreServed(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{HTTP: quiet(http.HandlerFunc(hello)), Connections: 1})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	for range 3 {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("%v, %v", resp, err)
		}
		_ = c.Close()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("it ends with %v", err)
	}
}

// A goroutine whose thread a handler has spoiled ends with its request; others do not.
func TestSpoiledGoroutinesEnd(t *testing.T) {
	var spoiled, asked sync.Map // by thread
	w := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/spoil" {
			goruntime.LockOSThread()
			spoiled.Store(unix.Gettid(), true)
			loop.Leave(r.Context())
			time.Sleep(2 * time.Millisecond) // longer than Spoils
		}
		hello(w, r)
	}, func(o *Options) {
		o.Spoils = time.Millisecond
		o.Spoiled = func() bool {
			id := unix.Gettid()
			asked.Store(id, true)
			_, yes := spoiled.Load(id)
			return yes
		}
	})
	c := w.dial()
	for range 20 {
		c.get("hello")
		c.send("GET /spoil HTTP/1.1\r\nHost: a\r\n\r\n")
		if _, body := c.answer("GET"); body != "hello" {
			t.Fatal(body)
		}
	}
	spoiled.Range(func(id, _ any) bool {
		if id == os.Getpid() {
			return true // the first thread of a process waits instead
		}
		w.until("its thread ends", func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", id))
			return err != nil
		})
		return true
	})
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if len(w.s.runners) != 2 {
		t.Errorf("%d are in the loop", len(w.s.runners))
	}
}

// Clients of all kinds at once, some of which leave: everybody who stays is answered, and nothing is left in the end.
func TestManyClientsAtOnce(t *testing.T) {
	w := start(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/flush":
			flush(w)
		case "/wait":
			loop.Leave(r.Context())
			time.Sleep(time.Millisecond)
		case "/late":
			time.Sleep(3 * time.Millisecond)
		case "/break":
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(b)
	})
	w.until("it accepts", func() bool { return w.open() == 0 })
	fds := openFDs(t)
	paths := []string{"/", "/flush", "/wait", "/late", "/break"}
	var all sync.WaitGroup
	for k := range 40 {
		all.Go(func() {
			for i := range 30 {
				c, err := net.Dial("tcp", w.addr)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				r := bufio.NewReader(c)
				for j := range 5 {
					path, n := paths[(i+j+k)%len(paths)], 1+(i*j)%3*5000
					_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", path, n, strings.Repeat("x", n))
					if (i+k)%7 == 0 && j == 2 {
						break // leaves
					}
					resp, err := http.ReadResponse(r, nil)
					if path == "/break" {
						if err == nil {
							t.Error("a broken answer is one")
						}
						break
					}
					if err != nil {
						t.Errorf("%s: %v", path, err)
						break
					}
					if b, err := io.ReadAll(resp.Body); err != nil || len(b) != n {
						t.Errorf("%s: %d bytes of %d, %v", path, len(b), n, err)
					}
				}
				_ = c.Close()
			}
		})
	}
	all.Wait()
	w.until("all places are free", func() bool { return w.open() == 0 })
	w.until("nothing is left open", func() bool { return openFDs(t) <= fds })
	w.until("no connection is kept", func() bool { return len(w.s.all()) == 0 })
}

func openFDs(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestTheClientsAddressIsKnown(t *testing.T) {
	for network, host := range map[string]string{"tcp4": "127.0.0.1", "tcp6": "::1"} {
		l, err := net.Listen(network, net.JoinHostPort(host, "0"))
		if err != nil {
			t.Logf("%s: %v", network, err) // a machine without IPv6
			continue
		}
		s := New(Options{HTTP: quiet(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }))})
		go func() { _ = s.Serve(l) }()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, _ := resp.Body.Read(b)
		if got, want := string(b[:n]), c.LocalAddr().String(); got != want {
			t.Errorf("%s: %s, want %s", network, got, want)
		}
		_ = c.Close()
		_ = s.Close()
	}
}

func TestDatesAreOfNow(t *testing.T) {
	at, err := http.ParseTime(date())
	if err != nil || time.Since(at) > 10*time.Second || time.Since(at) < -time.Second {
		t.Errorf("%v, %v", at, err)
	}
	if !reflect.DeepEqual(date(), at.UTC().Format(http.TimeFormat)) && time.Since(at) < time.Second {
		t.Errorf("%q", date())
	}
}
