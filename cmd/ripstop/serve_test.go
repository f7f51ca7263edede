//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/freeport"
	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// binary builds the program once for all tests that run it as processes.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ripstop-test-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "ripstop")
	if b, err := exec.Command("go", "build", "-tags", buildTags(), "-o", out, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, b)
	}
	return out, nil
})

// serverProcess is `ripstop serve` as a process.
type serverProcess struct {
	t            *testing.T
	program, dir string
	api, ingress string
	token        string
	cmd          *exec.Cmd
	args         []string
	log          lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func freePort(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", freeport.Take(t))
}

func startServer(t *testing.T, args ...string) *serverProcess {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &serverProcess{t: t, program: program, args: args, dir: filepath.Join(t.TempDir(), "data"), api: freePort(t), ingress: freePort(t)}
	s.start()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the server said:\n%s", s.log.String())
		}
	})
	return s
}

// launch starts the program, in a process group of its own, and waits for nothing.
func (s *serverProcess) launch() {
	s.t.Helper()
	s.cmd = exec.Command(s.program, append([]string{"serve", "--data", s.dir, "--api", s.api, "--ingress", s.ingress}, s.args...)...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { _, _ = io.Copy(&s.log, out) }()
}

// start starts the program and waits until it is ready.
func (s *serverProcess) start() {
	s.t.Helper()
	s.launch()
	s.until("the server to be ready", func() bool {
		resp, err := http.Get("http://" + s.api + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	b, err := os.ReadFile(filepath.Join(s.dir, "token"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.token = strings.TrimSpace(string(b))
}

func (s *serverProcess) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			s.t.Errorf("the server ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		s.t.Error("the server did not end")
		_ = s.cmd.Process.Kill()
		<-done
	}
	s.cmd = nil
}

// until polls what other processes do; there is nothing to wait on.
func (s *serverProcess) until(what string, f func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	s.t.Fatalf("waited for %s in vain\n%s", what, s.log.String())
}

func (s *serverProcess) call(method, path string, body io.Reader, contentType string) (int, []byte) {
	s.t.Helper()
	status, b, err := s.try(http.DefaultClient, method, path, body, contentType)
	if err != nil {
		s.t.Fatal(err)
	}
	return status, b
}

// try is call for a server that may be gone before it has answered.
func (s *serverProcess) try(client *http.Client, method, path string, body io.Reader, contentType string) (int, []byte, error) {
	r, err := http.NewRequest(method, "http://"+s.api+path, body)
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

func (s *serverProcess) deploy(job string, wasm []byte, manifest string) {
	s.t.Helper()
	if status, body := s.tryDeploy(job, wasm, manifest); status != 201 && status != 200 {
		s.t.Fatalf("deploy %s: %d %s", job, status, body)
	}
}

func (s *serverProcess) tryDeploy(job string, wasm []byte, manifest string) (int, []byte) {
	s.t.Helper()
	if manifest == "" {
		return s.call("PUT", "/v1/jobs/"+job+"/module", bytes.NewReader(wasm), "application/wasm")
	}
	body, kind := form(wasm, manifest)
	return s.call("PUT", "/v1/jobs/"+job, body, kind)
}

// form is a module and its manifest as one upload.
func form(wasm []byte, manifest string) (body io.Reader, contentType string) {
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	part, _ := m.CreateFormField("manifest")
	_, _ = io.WriteString(part, manifest)
	part, _ = m.CreateFormFile("module", "m.wasm")
	_, _ = part.Write(wasm)
	_ = m.Close()
	return &b, m.FormDataContentType()
}

func (s *serverProcess) get(path string) (int, http.Header, string) {
	s.t.Helper()
	resp, err := http.Get("http://" + s.ingress + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func (s *serverProcess) workerPID() int {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.cmd.Process.Pid, s.cmd.Process.Pid))
	if err != nil {
		b = nil
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	for _, f := range tasks {
		c, _ := os.ReadFile(f)
		b = append(append(b, ' '), c...)
	}
	for _, field := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil {
			return pid
		}
	}
	return 0
}

var void = w.Type{}

// command is a WASI command with body as its _start, after a look at its environment: what it does is done for its request.
func command(body ...[]byte) []byte {
	m := w.Module{
		Imports: []w.Import{
			{Module: "wasi_snapshot_preview1", Name: "fd_write", Type: w.Type{Params: []byte{w.I32, w.I32, w.I32, w.I32}, Results: []byte{w.I32}}},
			{Module: "wasi_snapshot_preview1", Name: "proc_exit", Type: w.Type{Params: []byte{w.I32}}},
			{Module: "wasi_snapshot_preview1", Name: "environ_sizes_get", Type: w.Type{Params: []byte{w.I32, w.I32}, Results: []byte{w.I32}}},
		},
		Funcs: []w.Func{{Name: "start", Export: "_start", Type: void, Body: w.Cat(append([][]byte{
			w.I32Const(16), w.I32Const(20), w.Call(2), {w.Drop}}, body...)...)}},
		Memory: []uint32{1},
	}
	return m.Bytes()
}

// saying is a command that prints text.
func saying(text string, more ...[]byte) []byte {
	m := w.Module{
		Imports: []w.Import{{Module: "wasi_snapshot_preview1", Name: "fd_write", Type: w.Type{Params: []byte{w.I32, w.I32, w.I32, w.I32}, Results: []byte{w.I32}}}},
		Funcs: []w.Func{{Name: "start", Export: "_start", Type: void, Body: w.Cat(append([][]byte{
			w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(int32(len(text))), w.Store(0),
			w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), {w.Drop}}, more...)...)}},
		Memory: []uint32{1}, Data: []w.Data{{Offset: 64, Bytes: []byte(text)}},
	}
	return m.Bytes()
}

// complaining is a command that writes text on its standard error, before it asks for anything, and traps.
func complaining(text string) []byte {
	m := w.Module{
		Imports: []w.Import{{Module: "wasi_snapshot_preview1", Name: "fd_write", Type: w.Type{Params: []byte{w.I32, w.I32, w.I32, w.I32}, Results: []byte{w.I32}}}},
		Funcs: []w.Func{{Name: "start", Export: "_start", Type: void, Body: w.Cat(
			w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(int32(len(text))), w.Store(0),
			w.I32Const(2), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), []byte{w.Drop, w.Unreachable})}},
		Memory: []uint32{1}, Data: []w.Data{{Offset: 64, Bytes: []byte(text)}},
	}
	return m.Bytes()
}

func TestAModuleThatDoesNotStartIsRefusedWithWhatItWrote(t *testing.T) {
	s := startServer(t)
	status, b := s.tryDeploy("new", complaining("no database at FOO\nno hope"), "")
	if status != 422 || !strings.Contains(string(b), "trap: unreachable") || !strings.Contains(string(b), `\nit had written:\n  no database at FOO\n  no hope`) {
		t.Errorf("a deploy answers %d %s", status, b)
	}
}

func looping() []byte { return command(w.Loop(w.Br(0))) }

// loggingAndLooping is looping that says "go" on its standard error first, so that one can wait for it.
func loggingAndLooping() []byte {
	return command(w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(3), w.Store(0),
		w.I32Const(64), w.I32Const('g'|'o'<<8|'\n'<<16), w.Store(0),
		w.I32Const(2), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), []byte{w.Drop}, w.Loop(w.Br(0)))
}

func TestAFileBecomesAURLAndFailuresStayTheirOwn(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/x\n\nhello"), "")
	if status, header, body := s.get("/hello/"); status != 200 || body != "hello" || header.Get("Content-Type") != "text/x" || header.Get("Ripstop-Invocation") == "" {
		t.Errorf("%d %v %q", status, header, body)
	}
	s.deploy("trap", command([]byte{w.Unreachable}), "")
	s.deploy("exit", command(w.I32Const(3), w.Call(1)), "")
	s.deploy("bad", saying("Status: 9000\n\n"), "")
	s.deploy("slow", looping(), "limits: {time: 200ms}\n")
	s.deploy("one", looping(), "limits: {time: 1s, concurrency: 1, queue: -1}\n")
	for _, c := range []struct {
		path   string
		status int
	}{{"/nope", 404}, {"/trap/", 502}, {"/exit/", 502}, {"/bad/", 502}, {"/slow/", 504}} {
		status, header, body := s.get(c.path)
		var p struct{ Invocation, Type string }
		if status != c.status || json.Unmarshal([]byte(body), &p) != nil || p.Invocation == "" || p.Invocation != header.Get("Ripstop-Invocation") {
			t.Errorf("%s: %d %s, want %d", c.path, status, body, c.status)
		}
		if strings.Contains(body, "unreachable") {
			t.Errorf("%s: the response holds the trap: %s", c.path, body)
		}
	}
	if status, body := s.call("GET", "/v1/jobs/trap/logs?tail=10", nil, ""); status != 200 || !strings.Contains(string(body), "unreachable") || !strings.Contains(string(body), "start") {
		t.Errorf("the log of trap: %d %s", status, body)
	}

	busy := make(chan int, 2)
	for range 2 {
		go func() { status, _, _ := s.get("/one/"); busy <- status }()
	}
	first, second := <-busy, <-busy
	if first != 429 || second != 504 {
		t.Errorf("two requests for one slot: %d and %d", first, second)
	}

	if status, body := s.tryDeploy("none", []byte("no module"), ""); status != 422 && status != 400 {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := s.call("GET", "/v1/jobs/none", nil, ""); status != 404 {
		t.Errorf("a refused module left a job: %d", status)
	}
	resp, err := http.Post("http://"+s.ingress+"/hello/", "text/plain", io.LimitReader(zeros{}, 11<<20))
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != 413 && resp.StatusCode != 200 {
			t.Errorf("a body over the limit: %d", resp.StatusCode)
		}
	}
	r, _ := http.NewRequest("POST", "http://"+s.ingress+"/hello/", bytes.NewReader(make([]byte, 11<<20)))
	if resp, err := http.DefaultClient.Do(r); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != 413 {
			t.Errorf("a body known to be over the limit: %d", resp.StatusCode)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAKilledWorkerIsBackWithinASecondAndItsJobsAreNamed(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhi"), "")
	s.deploy("spin", looping(), "limits: {time: 30s}\n")
	pid := s.workerPID()
	if pid == 0 {
		t.Skip("this platform does not list a process's children")
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := http.Get("http://" + s.ingress + "/spin/"); err == nil {
			_ = resp.Body.Close()
		}
	}()
	s.until("the job to be running", func() bool {
		_, b := s.call("GET", "/metrics", nil, "")
		return strings.Contains(string(b), `ripstop_task_inflight{job="spin"} 1`)
	})
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	s.until("an answer", func() bool {
		resp, err := http.Get("http://" + s.ingress + "/hello/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	if took := time.Since(killed); took > 2*time.Second {
		t.Errorf("the worker was back after %s", took)
	} else {
		t.Logf("back after %s", took)
	}
	<-left
	s.until("the jobs to be ready", func() bool {
		_, b := s.call("GET", "/v1/jobs", nil, "")
		return strings.Count(string(b), `"status":"ready"`) == 2
	})
	if _, body := s.call("GET", "/v1/jobs/spin/logs?tail=10", nil, ""); !strings.Contains(string(body), "died") {
		t.Errorf("the log of spin: %s", body)
	}
	if _, body := s.call("GET", "/v1/audit?job=spin", nil, ""); !strings.Contains(string(body), "worker.died") {
		t.Errorf("the audit log: %s", body)
	}
}

func TestDeploysAndRollbacksUnderLoadFailNoRequest(t *testing.T) {
	s := startServer(t)
	version := func(n int) []byte { return saying("Content-Type: text/plain\n\nversion " + strconv.Itoa(n)) }
	s.deploy("hello", version(1), "")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var served, failed atomic.Int64
	var last atomic.Pointer[string]
	for range 4 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				resp, err := client.Get("http://" + s.ingress + "/hello/")
				if err != nil {
					failed.Add(1)
					continue
				}
				b, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if text := string(b); err != nil || resp.StatusCode != 200 || !strings.HasPrefix(text, "version ") {
					failed.Add(1)
					last.Store(&text)
				}
				served.Add(1)
			}
		})
	}
	for n := 2; n <= 8; n++ {
		s.deploy("hello", version(n), "")
		if _, _, body := s.get("/hello/"); body != "version "+strconv.Itoa(n) {
			t.Errorf("after the deploy of version %d: %q", n, body)
		}
	}
	if status, body := s.call("POST", "/v1/jobs/hello/rollback", strings.NewReader(`{"version":1}`), "application/json"); status != 200 {
		t.Errorf("rollback: %d %s", status, body)
	}
	if _, _, body := s.get("/hello/"); body != "version 1" {
		t.Errorf("after the rollback: %q", body)
	}
	cancel()
	wg.Wait()
	if failed.Load() > 0 || served.Load() == 0 {
		text := ""
		if p := last.Load(); p != nil {
			text = *p
		}
		t.Errorf("%d of %d requests failed: %s", failed.Load(), served.Load(), text)
	}
}

func TestWhatKeepsAServerFromStartingIsOneLineAndExit2(t *testing.T) {
	s := startServer(t)
	other := filepath.Join(t.TempDir(), "other")
	corrupt := t.TempDir()
	readOnly := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(readOnly, []byte("x"), 0o400); err != nil {
		t.Fatal(err)
	}
	s2 := &serverProcess{t: t, program: s.program, dir: corrupt, api: freePort(t), ingress: freePort(t)}
	s2.start()
	s2.stop()
	files, _ := filepath.Glob(filepath.Join(corrupt, "*.db"))
	if len(files) == 0 {
		t.Fatal("no database files")
	}
	for _, f := range files {
		if err := os.WriteFile(f, bytes.Repeat([]byte("damaged "), 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, args := range map[string][]string{
		"a directory in use":     {"--data", s.dir, "--api", "127.0.0.1:0", "--ingress", "127.0.0.1:0"},
		"an API port in use":     {"--data", other, "--api", s.api, "--ingress", "127.0.0.1:0"},
		"an ingress port in use": {"--data", other, "--api", "127.0.0.1:0", "--ingress", s.ingress},
		"a corrupt store":        {"--data", corrupt, "--api", "127.0.0.1:0", "--ingress", "127.0.0.1:0"},
		"a file in the way":      {"--data", readOnly, "--api", "127.0.0.1:0", "--ingress", "127.0.0.1:0"},
		"a volume that is none":  {"--data", other, "--volume", "x"},
		"a size that is none":    {"--data", other, "--max-upload", "much"},
		"a drain of less than 0": {"--data", other, "--drain", "-5s"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var stderr bytes.Buffer
			cmd := exec.CommandContext(ctx, s.program, append([]string{"serve"}, args...)...)
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Errorf("%v, want exit code 2", err)
			}
			lines := 0
			for sc := bufio.NewScanner(&stderr); sc.Scan(); lines++ {
				t.Log(sc.Text())
				if strings.Contains(name, "port in use") && !strings.Contains(sc.Text(), "; give another with --"+strings.ToLower(strings.Fields(name)[1])) {
					t.Errorf("it does not say what to do: %s", sc.Text())
				}
			}
			if lines != 1 {
				t.Errorf("%d lines on stderr", lines)
			}
		})
	}
	if _, err := os.Stat(other); !os.IsNotExist(err) {
		t.Error("a start that could not work made a data directory")
	}
}

func TestAJobThatCannotBeStartedAnyMoreSaysWhy(t *testing.T) {
	s := startServer(t, "--volume", "shared="+t.TempDir())
	s.deploy("files", saying("Content-Type: text/plain\n\nhello"), "capabilities: {files: [{guest: /data, source: shared}]}\n")
	type job struct{ Name, Status, Reason string }
	status := func() job {
		var j job
		if code, b := s.call("GET", "/v1/jobs/files", nil, ""); code != 200 || json.Unmarshal(b, &j) != nil {
			t.Fatalf("%d %s", code, b)
		}
		return j
	}
	if j := status(); j.Status != "ready" || j.Reason != "" {
		t.Errorf("deployed: %+v", j)
	}
	s.stop()
	s.args = nil
	s.start()
	s.until("the start to have failed", func() bool { return status().Status == "failed" })
	if j := status(); !strings.Contains(j.Reason, "shared") {
		t.Errorf("without its volume: %+v", j)
	}
	if code, _, body := s.get("/files/"); code != 503 || !strings.Contains(body, "not-running") {
		t.Errorf("%d %s", code, body)
	}
}

// reading is a command that reads its body once and answers.
func reading() []byte {
	t := w.Type{Params: []byte{w.I32, w.I32, w.I32, w.I32}, Results: []byte{w.I32}}
	text := "Content-Type: text/plain\n\nread"
	m := w.Module{
		Imports: []w.Import{{Module: "wasi_snapshot_preview1", Name: "fd_write", Type: t}, {Module: "wasi_snapshot_preview1", Name: "fd_read", Type: t}},
		Funcs: []w.Func{{Name: "start", Export: "_start", Type: void, Body: w.Cat(
			w.I32Const(0), w.I32Const(1024), w.Store(0), w.I32Const(4), w.I32Const(1024), w.Store(0),
			w.I32Const(0), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(1), []byte{w.Drop},
			w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(int32(len(text))), w.Store(0),
			w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), []byte{w.Drop})}},
		Memory: []uint32{1}, Data: []w.Data{{Offset: 64, Bytes: []byte(text)}},
	}
	return m.Bytes()
}

func TestAClientThatSendsNothingHoldsASlotNoLongerThanTheDeadline(t *testing.T) {
	s := startServer(t)
	s.deploy("read", reading(), "limits: {time: 300ms, concurrency: 1}\n")
	conn, err := net.Dial("tcp", s.ingress)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /read/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 504 {
		t.Errorf("%v %v", resp, err)
	}
	s.until("the slot to be free", func() bool {
		resp, err := http.Post("http://"+s.ingress+"/read/", "text/plain", strings.NewReader("body"))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
}

func TestAHeaderThatIsTooLargeIs431(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	for name, c := range map[string]struct {
		address string
		fields  int
		size    int // of each, in bytes
		status  int
	}{
		"as many fields as ingress takes": {s.ingress, 98, 16, 200}, // User-Agent and Accept-Encoding come with them
		"one field more":                  {s.ingress, 99, 16, 431},
		"fields almost too large":         {s.ingress, 60, 1000, 200},
		"fields too large for ingress":    {s.ingress, 60, 1200, 431},
		"one field that is too large":     {s.ingress, 1, 80 << 10, 431},
		"fields too large for the API":    {s.api, 60, 1500, 431},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+c.address+"/hello/", nil)
			for i := range c.fields {
				r.Header.Set("X-"+strconv.Itoa(i), strings.Repeat("x", c.size))
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.status {
				t.Errorf("%d, want %d", resp.StatusCode, c.status)
			}
		})
	}
	if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
		t.Errorf("afterwards: %d %q", status, body)
	}
}

func TestWhatRunsWhenTheServerStopsIsAnswered(t *testing.T) {
	s := startServer(t)
	s.deploy("slow", loggingAndLooping(), "limits: {time: 3s}\n")
	got := make(chan int, 1)
	go func() {
		resp, err := http.Get("http://" + s.ingress + "/slow/")
		if err != nil {
			got <- 0
			return
		}
		defer resp.Body.Close()
		got <- resp.StatusCode
	}()
	s.until("the job to be running", func() bool {
		_, b := s.call("GET", "/v1/jobs/slow/logs", nil, "")
		return strings.Contains(string(b), `"text":"go"`)
	})
	s.stop()
	if status := <-got; status != 504 {
		t.Errorf("the invocation under way was answered with %d", status)
	}
}
