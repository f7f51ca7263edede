//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// startRedis starts a Redis that loses nothing.
func startRedis(t testing.TB) *redistest.Server {
	return redistest.StartTCP(t, "appendonly yes", "appendfsync always")
}

// refusedStart is the one line with which a start is refused, exit code 2.
func refusedStart(t *testing.T, args ...string) string {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, append([]string{"serve", "--api", "127.0.0.1:0", "--ingress", "127.0.0.1:0"}, args...)...)
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != exitUsage {
		t.Errorf("%q: %v, want exit code 2", args, err)
	}
	line, rest, _ := strings.Cut(stderr.String(), "\n")
	if rest != "" || line == "" {
		t.Errorf("%q: not one line: %q", args, stderr.String())
	}
	return line
}

func (s *serverProcess) report() (r model.BrokerReport) {
	s.t.Helper()
	status, b := s.call("GET", "/v1/broker", nil, "")
	if err := json.Unmarshal(b, &r); status != 200 || err != nil {
		s.t.Fatalf("the broker: %d %s", status, b)
	}
	return r
}

// changesNothing wants a deploy to be refused with 503 and a code, while jobs answer.
func (s *serverProcess) changesNothing(code string) {
	s.t.Helper()
	status, b := s.tryDeploy("other", saying("Content-Type: text/plain\n\nother"), "")
	if status != 503 || !strings.Contains(string(b), `"code":"`+code+`"`) {
		s.t.Errorf("a deploy answers %d %s, want 503 %s", status, b, code)
	}
	if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
		s.t.Errorf("the job answers %d %q", status, body)
	}
}

func TestAServerOnRedisOutlivesItsRedis(t *testing.T) {
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL())
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	if b := s.report(); b.Kind != "redis" || b.State != "ready" || len(b.Stores) != 1 || b.Stores[0].Level != "always" || b.Stores[0].Version == "" {
		t.Errorf("the broker is %+v", b)
	}
	r.Kill()
	s.until("the server to notice", func() bool { return s.report().State == "unavailable" })
	s.changesNothing("storage-unavailable")
	r.Restart()
	s.until("a deploy to be taken again", func() bool {
		status, _ := s.tryDeploy("again", saying("Content-Type: text/plain\n\nagain"), "")
		return status == 201
	})
	s.until("the server to be well", func() bool { return s.report().State == "ready" })
	if status, _, body := s.get("/again/"); status != 200 || body != "again" {
		t.Errorf("the new job answers %d %q", status, body)
	}

	// Killed, and started again at once: its place is its own.
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.start()
	for _, job := range []string{"hello", "again"} {
		if status, _, body := s.get("/" + job + "/"); status != 200 || body != job {
			t.Errorf("%s answers %d %q after a restart", job, status, body)
		}
	}

	// Redis comes back without its data. While it is away nothing can be adopted, and trying does no harm: below, the store that was
	// there is the one that is replaced.
	r.Kill()
	if status, b := s.call("POST", "/v1/broker/adopt", nil, ""); status != 503 {
		t.Errorf("adopting from a Redis that is away answers %d %s", status, b)
	}
	r.Wipe()
	r.Restart()
	s.until("the server to notice", func() bool { return s.report().State == "replaced" })
	s.changesNothing("storage-replaced")
	if n := r.Must("DBSIZE"); n != "0" {
		t.Errorf("%s keys were written to a store that is not this server's", n)
	}
	program, _ := binary()
	before := s.report().Incarnation
	out, err := exec.Command(program, "adopt", "--server", "http://"+s.api, "--data", s.dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "in place of "+before) {
		t.Fatalf("adopt: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(s.dir, tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	s.token = strings.TrimSpace(string(b)) // the store has a new one
	if r := s.report(); r.State != "ready" || r.Incarnation == before {
		t.Errorf("once adopted, the broker is %+v", r)
	}
	s.until("the job to be gone", func() bool { status, _, _ := s.get("/hello/"); return status == 404 })
	s.deploy("new", saying("Content-Type: text/plain\n\nnew"), "")
	if _, log := s.call("GET", "/v1/audit", nil, ""); !strings.Contains(string(log), "broker.adopt") || !strings.Contains(string(log), before) {
		t.Errorf("the audit log: %s", log)
	}
	s.stop()
	s.start()
	if status, _, body := s.get("/new/"); status != 200 || body != "new" {
		t.Errorf("the new store's job answers %d %q after a restart", status, body)
	}
}

func TestASecondServerOnOneRedisIsRefused(t *testing.T) {
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL())
	line := refusedStart(t, "--data", t.TempDir(), "--broker", r.URL())
	if !strings.Contains(line, "in use by another process: server ") || !strings.Contains(line, s.dir[:20]) || !strings.Contains(line, "?prefix=") {
		t.Errorf("it says %q", line)
	}
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	other := &serverProcess{t: t, program: s.program, dir: filepath.Join(t.TempDir(), "data"), api: freePort(t), ingress: freePort(t), args: []string{"--broker", r.URL() + "?prefix=other"}}
	other.start()
	defer other.stop()
	if status, _ := other.call("GET", "/v1/jobs/hello", nil, ""); status != 404 {
		t.Errorf("a store of another prefix has the job: %d", status)
	}
}

func TestAServerIsRefusedWhereItsBrokerDoesNotDo(t *testing.T) {
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL())
	s.stop()
	second := startRedis(t)
	embedded := startServer(t)
	embedded.stop()
	weak := redistest.StartTCP(t)
	lru := redistest.StartTCP(t, "appendonly yes", "appendfsync always", "maxmemory-policy allkeys-lru")
	fresh := filepath.Join(t.TempDir(), "fresh")
	for _, c := range []struct {
		words []string
		args  []string
	}{
		{[]string{"127.0.0.1:1", "is it running"}, []string{"--data", fresh, "--broker", "redis://127.0.0.1:1"}},
		{[]string{"appendonly is no", "appendfsync to always", "durability none"}, []string{"--data", fresh, "--broker", weak.URL()}},
		{[]string{"allkeys-lru", "noeviction"}, []string{"--data", fresh, "--broker", lru.URL()}},
		{[]string{"min-replicas-to-write is 0"}, []string{"--data", fresh, "--broker", r.URL(), "--replicas", "1"}},
		{[]string{"belongs to a store in Redis", "--broker"}, []string{"--data", s.dir}},
		{[]string{"store of its own", "--data"}, []string{"--data", embedded.dir, "--broker", r.URL()}},
		{[]string{"holds another store", "ripstop adopt"}, []string{"--data", s.dir, "--broker", second.URL()}},
		{[]string{"no scheme"}, []string{"--data", fresh, "--broker", "localhost"}},
		{[]string{"contract"}, []string{"--data", fresh, "--broker", "jobs=" + r.URL()}},
		{[]string{"--blobs"}, []string{"--data", fresh, "--blobs", "ftp://x"}},
		{[]string{"--durability"}, []string{"--data", fresh, "--broker", r.URL(), "--durability", "most"}},
		{[]string{"--replicas"}, []string{"--data", fresh, "--broker", r.URL(), "--replicas", "-1"}},
		{[]string{"--replicas"}, []string{"--data", fresh, "--replicas", "1"}},
	} {
		line := refusedStart(t, c.args...)
		for _, w := range c.words {
			if !strings.Contains(line, w) {
				t.Errorf("%q says %q, without %q", c.args, line, w)
			}
		}
	}
	for _, server := range []*redistest.Server{weak, lru, second} {
		if n := server.Must("DBSIZE"); n != "0" {
			t.Errorf("a refused start wrote %s keys", n)
		}
	}
	s.start() // nothing of this changed it
}

func TestAnotherStoreIsAdoptedWhileTheServerIsStopped(t *testing.T) {
	r, second := startRedis(t), startRedis(t)
	s := startServer(t, "--broker", r.URL())
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	s.stop()
	program, _ := binary()
	adopt := func(url string) string {
		out, err := exec.Command(program, "adopt", "--data", s.dir, "--broker", url).CombinedOutput()
		if err != nil {
			t.Fatalf("adopt: %v: %s", err, out)
		}
		return string(out)
	}
	if text := adopt(second.URL()); !strings.Contains(text, "in place of") {
		t.Errorf("adopt says %q", text)
	}
	s.args = []string{"--broker", second.URL()}
	s.start()
	if status, _, _ := s.get("/hello/"); status != 404 {
		t.Errorf("the job of the other store answers %d", status)
	}
	s.stop()
	adopt(r.URL()) // and back
	s.args = []string{"--broker", r.URL()}
	s.launch()
	s.until("the job to answer", func() bool {
		resp, err := http.Get("http://" + s.ingress + "/hello/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200
	})
}

func TestModulesMayBeFilesBesideARedis(t *testing.T) {
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL(), "--blobs", "file")
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	if keys := r.Must("KEYS", "*:blob:*"); keys != "" {
		t.Errorf("Redis has %s", keys)
	}
	if files, _ := filepath.Glob(filepath.Join(s.dir, "blobs", "??", "*")); len(files) != 1 {
		t.Errorf("the files are %q", files)
	}
	if status, b := s.call("GET", "/v1/jobs/hello/module", nil, ""); status != 200 || !bytes.Equal(b, saying("Content-Type: text/plain\n\nhello")) {
		t.Errorf("the module: %d, %d bytes", status, len(b))
	}
	if b := s.report(); b.Blobs != "file" {
		t.Errorf("the broker is %+v", b)
	}
}
