//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// bomb is a command within the bounds on form that takes a compiler long, some seconds: values by the hundred thousand on its operand stack.
func bomb() []byte {
	const values, functions = 900_000, 4
	f := w.Func{Body: w.Cat(bytes.Repeat(w.Cat(w.I32Const(1), []byte{0xc0}), values), bytes.Repeat([]byte{w.Drop}, values))} // i32.extend8_s
	m := w.Module{Funcs: []w.Func{{Export: "_start"}}, Memory: []uint32{1}}
	for range functions {
		m.Funcs = append(m.Funcs, f)
	}
	return m.Bytes()
}

// files lists what lies beneath a directory of the data directory.
func (s *serverProcess) files(part string) []string {
	s.t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Join(s.dir, part), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while it was listed
		}
		if err == nil && !e.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// compiled is how many modules the server says it had compiled, in all of its starts.
func (s *serverProcess) compiled() int { return strings.Count(s.log.String(), "module compiled") }

func (s *serverProcess) answers(job, want string) {
	s.t.Helper()
	s.until(job+" to answer", func() bool {
		resp, err := http.Get("http://" + s.ingress + "/" + job + "/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
	if status, _, body := s.get("/" + job + "/"); status != 200 || body != want {
		s.t.Errorf("%s: %d %q", job, status, body)
	}
}

func TestACompileBombEndsByTheLimitAndHurtsNobody(t *testing.T) {
	s := startServer(t, "--compile-time", "1s")
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	seals := len(s.files("cache/seals"))
	var requests, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := http.Get("http://" + s.ingress + "/hello/")
			if requests.Add(1); err != nil || resp.StatusCode != 200 {
				failed.Add(1)
			}
			if err == nil {
				_ = resp.Body.Close()
			}
		}
	})
	pid := s.workerPID()
	status, body := s.tryDeploy("bomb", bomb(), "")
	close(stop)
	wg.Wait()
	var p struct{ Type, Detail string }
	if err := json.Unmarshal(body, &p); err != nil || status != 422 || !strings.HasSuffix(p.Type, "module-too-costly") || !strings.Contains(p.Detail, "more than 1 s of processor time") {
		t.Errorf("%d %s %v", status, body, err)
	}
	if failed.Load() > 0 || requests.Load() == 0 {
		t.Errorf("%d of %d requests to a neighbour failed", failed.Load(), requests.Load())
	}
	if status, body := s.call("GET", "/v1/jobs/bomb", nil, ""); status != 404 {
		t.Errorf("the bomb left a job: %d %s", status, body)
	}
	if n := len(s.files("cache/seals")); n != seals || len(s.files("cache/work")) != 0 {
		t.Errorf("the bomb left %v and %v", s.files("cache/seals"), s.files("cache/work"))
	}
	if now := s.workerPID(); now != pid && pid != 0 {
		t.Errorf("the worker was %d and is %d", pid, now)
	}
}

func TestARestartCompilesNothingAndWhatWasTamperedWithIsCompiledAgain(t *testing.T) {
	s := startServer(t)
	modules := map[string][]byte{"one": saying("Content-Type: text/plain\n\none"), "second": saying("Content-Type: text/plain\n\nsecond"),
		"third": saying("Content-Type: text/plain\n\nthird")} // of the same length they would have the same code
	all := func() {
		for job := range modules {
			s.answers(job, job)
		}
	}
	for job, module := range modules {
		s.deploy(job, module, "")
	}
	s.deploy("one", modules["one"], "")
	all()
	if n := s.compiled(); n != 3 {
		t.Errorf("three modules were compiled %d times", n)
	}
	restart := func() { s.stop(); s.start() }
	restart()
	all()
	if n := s.compiled(); n != 3 {
		t.Errorf("after a restart there were %d compilations", n)
	}

	code := s.files("cache/code")
	if len(code) != 3 {
		t.Fatalf("the code of three modules: %v", code)
	}
	b, err := os.ReadFile(code[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := errors.Join(os.WriteFile(code[0], b, 0o600), os.Remove(code[1])); err != nil {
		t.Fatal(err)
	}
	restart()
	all()
	if n := s.compiled(); n != 5 {
		t.Errorf("with one changed and one missing there were %d compilations", n)
	}
	if n := strings.Count(s.log.String(), "compiling it again"); n != 2 {
		t.Errorf("it was said %d times", n)
	}

	// Seals of another key are not of this host: all is compiled again, as it is after an upgrade.
	s.stop()
	if err := os.WriteFile(filepath.Join(s.dir, codeKeyFile), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	all()
	if n := s.compiled(); n != 8 {
		t.Errorf("with another key there were %d compilations", n)
	}

	// A worker that starts anew while the server runs finds what was tampered with meanwhile, too.
	if err := os.WriteFile(s.files("cache/code")[0], []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid := s.workerPID(); pid == 0 || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Fatal("the worker cannot be killed")
	}
	s.until("it to be compiled again", func() bool { return s.compiled() == 9 })
	all()
}

func TestConcurrentDeploysOfOneModuleCompileItOnce(t *testing.T) {
	s := startServer(t)
	module := saying("Content-Type: text/plain\n\nsame")
	var wg sync.WaitGroup
	for _, job := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			if status, body := s.tryDeploy(job, module, ""); status >= 300 {
				t.Errorf("%s: %d %s", job, status, body)
			}
		})
	}
	wg.Wait()
	for _, job := range []string{"a", "b", "c", "d"} {
		s.answers(job, "same")
	}
	if n := s.compiled(); n != 1 {
		t.Errorf("one module was compiled %d times", n)
	}
}

func TestAServerThatIsKilledWhileItCompilesLeavesNothingHalfDone(t *testing.T) {
	s := startServer(t)
	done := make(chan struct{})
	go func() { defer close(done); s.attempt("bomb", bomb()) }()
	s.until("the compiler to be at work", func() bool {
		dirs, _ := os.ReadDir(filepath.Join(s.dir, "cache", "work"))
		return len(dirs) == 1
	})
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait() // it was killed
	<-done
	began := time.Now()
	s.start()
	t.Logf("ready after %s", time.Since(began))
	dirs, err := os.ReadDir(filepath.Join(s.dir, "cache", "work"))
	if err != nil || len(dirs) != 0 {
		t.Errorf("what the compiler left: %v %v", dirs, err)
	}
	if seals, code := s.files("cache/seals"), s.files("cache/code"); len(seals) != 0 || len(code) != 0 {
		t.Errorf("%v %v", seals, code)
	}
	if status, body := s.call("GET", "/v1/jobs/bomb", nil, ""); status != 404 {
		t.Errorf("%d %s", status, body)
	}
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	s.answers("hello", "hello")
}

// attempt uploads a module and takes any end, that of the server included.
func (s *serverProcess) attempt(job string, module []byte) {
	r, err := http.NewRequest("PUT", "http://"+s.api+"/v1/jobs/"+job+"/module", bytes.NewReader(module))
	if err != nil {
		s.t.Error(err)
		return
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	if resp, err := http.DefaultClient.Do(r); err == nil {
		_ = resp.Body.Close()
	}
}

func TestAModuleIsReadIntoAsMuchMemoryAsItIsLong(t *testing.T) {
	module := bytes.Repeat([]byte("module"), 10_000)
	for _, size := range []int{0, 1, len(module) - 1, len(module), len(module) + 1} { // what is said of it is a hint
		got, err := readAll(bytes.NewReader(module), size)
		if err != nil || !bytes.Equal(got, module) {
			t.Errorf("%d bytes of %d are read if they are said to be %d: %v", len(got), len(module), size, err)
		}
		if size == len(module) && cap(got) != size+1 {
			t.Errorf("it takes %d bytes", cap(got))
		}
	}
	if _, err := readAll(io.MultiReader(bytes.NewReader(module), iotest.ErrReader(errTorn)), 0); !errors.Is(err, errTorn) {
		t.Errorf("a module that cannot be read: %v", err)
	}
}

var errTorn = errors.New("torn")
