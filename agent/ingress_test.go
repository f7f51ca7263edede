package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/gateway"
	"github.com/ripstop-vm/ripstop/gateway/reactor"
	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// echoing is a command that answers what it reads as it comes. At a piece that begins with '!' it traps, and at one with '@' it computes for ever.
func echoing() []byte {
	const head = "Content-Type: text/plain\n\n"
	io := w.Type{Params: []byte{w.I32, w.I32, w.I32, w.I32}, Results: []byte{w.I32}}
	wasi := func(name string, t w.Type) w.Import {
		return w.Import{Module: "wasi_snapshot_preview1", Name: name, Type: t}
	}
	iff := func(body ...byte) []byte { return w.Cat([]byte{0x04, 0x40}, body, []byte{w.End}) }
	begins := func(with byte) []byte { // is the piece's first byte that?
		return w.Cat(w.I32Const(1024), []byte{0x2d, 0, 0}, w.I32Const(int32(with)), []byte{0x46})
	}
	place := func(at, n int32) []byte { // what is read or written next
		return w.Cat(w.I32Const(0), w.I32Const(at), w.Store(0), w.I32Const(4), w.I32Const(n), w.Store(0))
	}
	drop, loadCount := []byte{w.Drop}, w.Cat(w.I32Const(8), w.Load(0))
	m := w.Module{
		Imports: []w.Import{wasi("fd_write", io), wasi("fd_read", io), wasi("environ_sizes_get", w.Type{Params: []byte{w.I32, w.I32}, Results: []byte{w.I32}})},
		Funcs: []w.Func{{Name: "start", Export: "_start", Body: w.Cat(
			w.I32Const(16), w.I32Const(20), w.Call(2), drop, // waits for its request
			place(64, int32(len(head))), w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), drop,
			w.Loop(
				place(1024, 4096), w.I32Const(0), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(1), iff(w.Unreachable),
				loadCount, []byte{0x45}, iff(0x0f), // the end
				begins('!'), iff(w.Unreachable), begins('@'), iff(w.Loop(w.Br(0))...),
				w.I32Const(4), loadCount, w.Store(0), w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), drop,
				w.Br(0)))}},
		Memory: []uint32{1}, Data: []w.Data{{Offset: 64, Bytes: []byte(head)}},
	}
	return m.Bytes()
}

// outcomes is a recorder that tells how invocations end, and fails for one job.
type outcomes struct {
	nobody
	ended chan string
}

func (o outcomes) Job(name string) JobRecorder { return outcomesOf{o, name} }

type outcomesOf struct {
	outcomes
	job string
}

func (o outcomesOf) Invocation(outcome string, _ bool, _ time.Duration) { o.ended <- outcome }

func (o outcomesOf) CPU(time.Duration) {
	if o.job == "defect" {
		panic("a defect of ours")
	}
}

// exchange is a request whose body and answer are under way: a first piece has come back.
type exchange struct {
	t      *testing.T
	body   *io.PipeWriter
	answer *http.Response
	leave  func()
}

func begin(t *testing.T, client *http.Client, url string) *exchange {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, body := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "POST", url, r)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(body, "first") }() // the answer begins once there is something in it
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	leave := func() {
		cancel()
		_ = body.CloseWithError(errors.New("the client leaves")) // a client that waits for more of its own body sees nothing else
	}
	e := &exchange{t, body, resp, leave}
	e.back("first")
	return e
}

// echo sends text, and wants it back before any more is sent.
func (e *exchange) echo(text string) {
	e.t.Helper()
	if _, err := io.WriteString(e.body, text); err != nil {
		e.t.Fatal(err)
	}
	e.back(text)
}

func (e *exchange) back(text string) {
	e.t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(e.answer.Body, got); err != nil || string(got) != text {
		e.t.Fatalf("sent %q, and got back %q, %v", text, got, err)
	}
}

// servers are what may serve ingress, and the version of HTTP that they speak.
var servers = map[string]int{"HTTP/1": 1, "HTTP/2": 2, "reactor": 1}

// Guests stream, are left and fail in the middle of an answer, whatever serves them, in the handler's goroutine and in one of their own.
func TestIngressStreamsIsLeftAndBreaksOff(t *testing.T) {
	for server := range servers {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, apart %t", server, apart), func(t *testing.T) { ingress(t, server, apart) })
		}
	}
}

// listen has h served, until close, to the client.
func listen(t *testing.T, server string, h http.Handler, apart func() bool, log *slog.Logger) (url string, client *http.Client, close func()) {
	t.Helper()
	config := gateway.NewServer(h, log)
	if server != "reactor" {
		s := httptest.NewUnstartedServer(nil)
		s.Config, s.EnableHTTP2 = config, servers[server] == 2
		s.StartTLS()
		return s.URL, s.Client(), s.Close
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := reactor.New(reactor.Options{HTTP: config, Runners: 2, Spoiled: apart, Log: log})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	transport := new(http.Transport)
	return "http://" + l.Addr().String(), &http.Client{Transport: transport}, func() {
		transport.CloseIdleConnections()
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving ended with %v", err)
		}
	}
}

func ingress(t *testing.T, server string, apart bool) {
	const slots = 8
	recorder := outcomes{ended: make(chan string, 100)}
	log := slog.New(slog.DiscardHandler)
	opts := Options{Recorder: recorder, Log: log}
	if apart {
		opts.Apart = func() bool { return true }
	}
	a, _ := tinyAgent(t, opts, 1)
	code, err := a.engines.first.Compile(t.Context(), echoing())
	if err != nil {
		t.Fatal(err)
	}
	echo, defect := serveTiny(t, a, code, "echo", slots), serveTiny(t, a, code, "defect", slots)
	routes, err := gateway.NewRoutes([]gateway.Route{{Path: "/echo/", Job: "echo"}, {Path: "/defect/", Job: "defect"}})
	if err != nil {
		t.Fatal(err)
	}
	h := gateway.New(gateway.Options{Agent: a, Log: log})
	h.SetRoutes(routes)
	base, client, end := listen(t, server, h, opts.Apart, log)
	end = sync.OnceFunc(end)
	defer end()
	url := base + "/echo/"
	ends := func(want string) {
		t.Helper()
		select {
		case got := <-recorder.ended:
			if got != want {
				t.Errorf("it ended with %q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("it did not end; want %q", want)
		}
	}
	whole := func() error {
		text := bytes.Repeat([]byte("text"), 50_000)
		resp, err := client.Post(url, "text/plain", bytes.NewReader(text))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || resp.ProtoMajor != servers[server] || !bytes.Equal(got, text) {
			return fmt.Errorf("%d by HTTP/%d, %d bytes, %w", resp.StatusCode, resp.ProtoMajor, len(got), err)
		}
		return nil
	}

	e := begin(t, client, url)
	for range 3 {
		e.echo("in the middle")
	}
	if err := e.body.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(e.answer.Body); err != nil || len(rest) > 0 {
		t.Errorf("behind the end is %q, %v", rest, err)
	}
	ends("ok")

	var all sync.WaitGroup
	for range slots {
		all.Go(func() {
			if err := whole(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for range slots {
		ends("ok")
	}

	// The client leaves while the guest waits for more, and while it computes. Over HTTP/1 nobody looks after a client before the guest has read all
	// that it sent.
	e = begin(t, client, url)
	e.leave()
	ends("cancelled")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan error)
	go func() {
		r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader("@"))
		if err == nil {
			_, err = client.Do(r)
		}
		left <- err
	}()
	for echo.pool.busy.Load() == 0 {
		goruntime.Gosched()
	}
	if leave(); !errors.Is(<-left, context.Canceled) {
		t.Error("a guest that computes for ever has answered")
	}
	ends("cancelled")

	e = begin(t, client, url)
	if _, err := io.WriteString(e.body, "!"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(e.answer.Body); err == nil {
		t.Errorf("after the guest trapped, the answer seems whole, with %q", rest)
	}
	ends("error")

	// A short answer that the guest began before it trapped is not on its way yet where the loop keeps it, and what comes instead says what happened.
	// Elsewhere it comes, and breaks off.
	began, err := client.Post(url, "text/plain", strings.NewReader("!"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(began.Body)
	_ = began.Body.Close()
	if id := began.Header.Get(gateway.HeaderInvocation); id == "" || server == "reactor" && (err != nil || began.StatusCode != 502 || !strings.Contains(string(text), id) ||
		began.Header.Get("Content-Type") != "application/problem+json") || server != "reactor" && (err == nil || began.StatusCode != 200) {
		t.Errorf("a guest that began to answer and trapped: %s, %v, %q, %v", began.Status, began.Header, text, err)
	}
	ends("error")

	resp, err := client.Post(base+"/defect/", "text/plain", bytes.NewReader([]byte("x")))
	if err == nil { // the head was out
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("an answer is whole although the server failed")
	}

	for range 2 * slots { // nobody holds a slot
		if err := whole(); err != nil {
			t.Fatal(err)
		}
		ends("ok")
	}
	end()
	for name, task := range map[string]*task{"echo": echo, "defect": defect} {
		task.slots.mu.Lock()
		if busy, free := task.pool.busy.Load(), task.slots.free; free != slots || busy != 0 {
			t.Errorf("%s has %d of %d slots, and %d sandboxes in use", name, free, slots, busy)
		}
		task.slots.mu.Unlock()
		a.background.Wait()
		if alive, ready := task.pool.alive.Load(), task.pool.ready.Load(); alive != ready {
			t.Errorf("%s has %d sandboxes, of which %d wait", name, alive, ready)
		}
	}
}
