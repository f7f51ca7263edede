package reactor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serves starts h behind a reactor, or behind net/http alone, and answers its address.
func serves(t *testing.T, h http.HandlerFunc, plainHTTP bool) (addr string, s *Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, WriteTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	if plainHTTP {
		go func() { _ = hs.Serve(l) }()
		t.Cleanup(func() { _ = hs.Close() })
		return l.Addr().String(), nil
	}
	s = New(Options{HTTP: hs, Runners: 2, Log: slog.New(slog.DiscardHandler)})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String(), s
}

func both(t *testing.T, f func(t *testing.T, plainHTTP bool)) {
	for _, p := range []bool{true, false} {
		name := "reactor"
		if p {
			name = "net-http"
		}
		t.Run(name, func(t *testing.T) { f(t, p) })
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func answer(t *testing.T, r *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("the answer is cut off: %v after %d bytes", err, len(b))
	}
	return resp, string(b)
}

const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
const post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"

func TestAnImpossibleStatusBreaksOnlyItsConnectionOff(t *testing.T) {
	both(t, func(t *testing.T, p bool) {
		addr, _ := serves(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(1000) }, p)
		c := dial(t, addr)
		fmt.Fprint(c, get)
		if b, err := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestABodysLastBytesComeWithItsEnd(t *testing.T) {
	both(t, func(t *testing.T, p bool) {
		addr, _ := serves(t, func(w http.ResponseWriter, r *http.Request) {
			n, err := r.Body.Read(make([]byte, r.ContentLength))
			fmt.Fprint(w, n, err)
		}, p)
		c := dial(t, addr)
		fmt.Fprint(c, post)
		if _, body := answer(t, bufio.NewReader(c), "POST"); body != "5 EOF" {
			t.Errorf("%q", body)
		}
	})
}

// What package guest does with a small body and a streamed answer.
func TestAStreamedAnswerToAPostIsSentWholeAndItsConnectionServesOn(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprintf("the body is read: %t", reads), func(t *testing.T) {
			both(t, func(t *testing.T, p bool) {
				canceled := make(chan error, 10)
				addr, _ := serves(t, func(w http.ResponseWriter, r *http.Request) {
					control := http.NewResponseController(w)
					if r.ContentLength == 0 {
						canceled <- r.Context().Err()
						return
					}
					_ = control.EnableFullDuplex()
					eof := false
					if reads {
						_, err := r.Body.Read(make([]byte, r.ContentLength))
						eof = err == io.EOF
					}
					fmt.Fprint(w, "first")
					_ = control.Flush()
					if !eof { // clientBody.interrupt, before the rest of the stream is sent
						_ = control.SetReadDeadline(time.Unix(1, 0))
					}
					time.Sleep(50 * time.Millisecond) // for who watches the connection to see a read that failed
					canceled <- r.Context().Err()
					fmt.Fprint(w, "second")
					if !eof { // clientBody.finish
						_ = r.Body.Close()
						_ = control.SetReadDeadline(time.Time{})
					}
				}, p)
				c := dial(t, addr)
				br := bufio.NewReader(c)
				fmt.Fprint(c, post)
				resp, body := answer(t, br, "POST")
				if body != "firstsecond" {
					t.Errorf("%q", body)
				}
				if err := <-canceled; err != nil {
					t.Errorf("while the answer was sent the request's context ended: %v", err)
				}
				if resp.Close {
					return // told so
				}
				fmt.Fprint(c, get)
				answer(t, br, "GET")
				if err := <-canceled; err != nil {
					t.Errorf("the next request's context began as ended: %v", err)
				}
			})
		})
	}
}

func TestAShutdownWaitsForAnAnswerThatBecomesLongMeanwhile(t *testing.T) {
	for i := range 100 {
		began, goOn := make(chan struct{}), make(chan struct{})
		var failed atomic.Value
		addr, s := serves(t, func(w http.ResponseWriter, r *http.Request) {
			close(began)
			<-goOn
			if _, err := w.Write(make([]byte, 20<<10)); err != nil {
				failed.Store(err)
			}
		}, false)
		c := dial(t, addr)
		fmt.Fprint(c, get)
		<-began
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(context.Background()) }()
		time.Sleep(2 * time.Millisecond) // for Shutdown to get as far as waiting
		close(goOn)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("shutdown %d: no answer: %v (the handler: %v)", i, err, failed.Load())
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != 20<<10 || err != nil {
			t.Fatalf("shutdown %d: %d bytes: %v", i, n, err)
		}
		if err := <-down; err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
	}
}

func TestAPipelinedRequestIsAnsweredThoughTheClientSendsNoMoreAfterIt(t *testing.T) {
	both(t, func(t *testing.T, p bool) {
		began, goOn := make(chan struct{}, 2), make(chan struct{}, 2)
		addr, _ := serves(t, func(w http.ResponseWriter, r *http.Request) {
			began <- struct{}{}
			<-goOn
			fmt.Fprintf(w, "%s %v", r.URL.Path, r.Context().Err())
		}, p)
		c := dial(t, addr)
		fmt.Fprint(c, strings.Replace(get, "/", "/1", 1))
		<-began
		fmt.Fprint(c, strings.Replace(get, "/", "/2", 1))
		time.Sleep(20 * time.Millisecond) // for the server to hear of one before the other
		_ = c.CloseWrite()
		time.Sleep(20 * time.Millisecond)
		goOn <- struct{}{}
		goOn <- struct{}{}
		br := bufio.NewReader(c)
		for _, path := range []string{"/1", "/2"} {
			// The first's context goes on, as more is there to read; whether the second's has ended by then is open.
			if _, body := answer(t, br, "GET"); body != path+" <nil>" && (path == "/1" || body != path+" context canceled") {
				t.Errorf("%q", body)
			}
		}
	})
}

func TestMoreThanTheDeclaredLengthIsRefusedAsByNetHTTP(t *testing.T) {
	both(t, func(t *testing.T, p bool) {
		errs := make(chan error, 2)
		addr, _ := serves(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "3")
			_, err := io.WriteString(w, "abc")
			errs <- err
			_, err = io.WriteString(w, "def")
			errs <- err
		}, p)
		c := dial(t, addr)
		fmt.Fprint(c, get)
		<-errs
		if err := <-errs; !errors.Is(err, http.ErrContentLength) {
			t.Errorf("the second write: %v", err)
		}
		if _, body := answer(t, bufio.NewReader(c), "GET"); body != "abc" {
			t.Errorf("%q", body)
		}
	})
}

func TestAConnectionOfNetHTTPsIsClosedByAShutdownThatWaitsForOthers(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	addr, s := serves(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			close(began)
			<-goOn
		}
	}, false)
	old := dial(t, addr) // two requests at once: it is net/http's
	fmt.Fprint(old, get+get)
	br := bufio.NewReader(old)
	answer(t, br, "GET")
	answer(t, br, "GET")
	waits := dial(t, addr)
	fmt.Fprint(waits, strings.Replace(get, "/", "/wait", 1))
	<-began
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	_ = old.SetReadDeadline(time.Now().Add(patience))
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection of net/http's is still open after Shutdown began: %v", err)
	}
	close(goOn)
	<-down
}

func TestConnectionsThatComeWithTheShutdownGiveTheirPlacesBackOnce(t *testing.T) {
	for i := range 400 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := New(Options{HTTP: &http.Server{Handler: http.NotFoundHandler()}, Runners: 2, Log: slog.New(slog.DiscardHandler)})
		served := make(chan struct{})
		go func() { defer close(served); _ = s.Serve(l) }()
		stop := make(chan struct{})
		dialers := make(chan struct{}, 3)
		for range 3 {
			go func() {
				defer func() { dialers <- struct{}{} }()
				for {
					select {
					case <-stop:
						return
					default:
					}
					c, err := net.Dial("tcp", l.Addr().String())
					if err != nil {
						return
					}
					defer c.Close()
				}
			}()
		}
		time.Sleep(3 * time.Millisecond) // for some connections to be there, and others to come
		over := make(chan struct{})
		go func() {
			defer close(over)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			defer cancel()
			_ = s.Shutdown(ctx)
			close(stop)
			_ = s.Close()
			<-served
		}()
		select {
		case <-over:
		case <-time.After(patience):
			buf := make([]byte, 1<<20)
			t.Fatalf("shutdown %d hangs, %d places taken\n%s", i, len(s.slots), buf[:goruntime.Stack(buf, true)])
		}
		for range 3 {
			<-dialers
		}
		for end := time.Now().Add(patience); len(s.slots) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("shutdown %d: %d places are kept", i, len(s.slots))
			}
		}
	}
}

// A client that leaves or reads nothing while deadlines are set by others.
func TestDeadlinesMayBeSetByOthersWhileAnAnswerGoesOut(t *testing.T) {
	addr, s := serves(t, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		context.AfterFunc(r.Context(), func() { _ = c.SetWriteDeadline(time.Unix(1, 0)); _ = c.SetReadDeadline(time.Unix(1, 0)) })
		_, _ = w.Write(make([]byte, maxBody))
	}, false)
	for range 10 {
		c := dial(t, addr)
		for range 100 {
			if _, err := fmt.Fprint(c, get); err != nil {
				break // a deadline ended it
			}
		}
		_ = c.Close()
	}
	for end := time.Now().Add(patience); len(s.slots) > 1; time.Sleep(time.Millisecond) { // one is that of the next
		if time.Now().After(end) {
			t.Fatalf("%d places are kept", len(s.slots)-1)
		}
	}
}

// An empty line after a POST is forgiven by net/http.
func TestALineEndAfterAPostIsForgiven(t *testing.T) {
	both(t, func(t *testing.T, p bool) {
		addr, _ := serves(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }, p)
		c := dial(t, addr)
		br := bufio.NewReader(c)
		fmt.Fprint(c, post)
		answer(t, br, "POST")
		fmt.Fprint(c, "\r\n")
		time.Sleep(20 * time.Millisecond) // for the line to be read by itself
		fmt.Fprint(c, get)
		if resp, _ := answer(t, br, "GET"); resp.StatusCode != 200 {
			t.Error(resp.Status)
		}
	})
}

func TestALoopWhoseGoroutinesAllEndGoesOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{HTTP: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		goruntime.LockOSThread()
		switch r.URL.Path {
		case "/panic":
			panic(http.ErrAbortHandler)
		case "/flush":
			_ = http.NewResponseController(w).Flush()
		case "/slow":
			time.Sleep(5 * time.Millisecond) // longer than a handler stays in the loop
		case "/long":
			_, _ = w.Write(make([]byte, 100<<10))
		}
	})}, Runners: 1, Spoiled: func() bool { return true }, Log: slog.New(slog.DiscardHandler)})
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 40 {
				path := []string{"/", "/panic", "/flush", "/slow", "/long"}[i%5]
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				fmt.Fprint(c, strings.Replace(get, "/", path, 1))
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if (err != nil) != (path == "/panic") {
					t.Errorf("%s: %v", path, err)
				}
				if err == nil {
					resp.Body.Close()
				}
				c.Close()
			}
		})
	}
	all.Wait()
	for end := time.Now().Add(patience); len(s.all()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are kept", len(s.all()))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runners) != 1 {
		t.Errorf("%d are in the loop", len(s.runners))
	}
}

// As many descriptors as there may be are open, and connections that are there are served on.
func TestWithoutADescriptorToSpareAConnectionIsServedOn(t *testing.T) {
	both(t, func(t *testing.T, p bool) {
		addr, _ := serves(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(make([]byte, 100<<10))
		}, p)
		c := dial(t, addr)
		time.Sleep(20 * time.Millisecond) // for it to be accepted
		var old unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: old.Max})
		var open []*os.File
		defer func() {
			for _, f := range open {
				f.Close()
			}
			_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		}()
		for {
			f, err := os.Open("/dev/null")
			if err != nil {
				break
			}
			open = append(open, f)
		}
		fmt.Fprint(c, get)
		resp, body := answer(t, bufio.NewReader(c), "GET")
		if resp.StatusCode != 200 || len(body) != 100<<10 {
			t.Error(resp.Status, len(body))
		}
	})
}
