//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// verb runs a verb of the program and answers what it says, both streams together, and its exit code.
func verb(t *testing.T, args ...string) (string, int) {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return string(out), 0
}

// names are the files of a folder, hidden ones too.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestABackupTakenUnderLoadIsRestoredWhole(t *testing.T) {
	s := startServer(t)
	at := []string{"--server", "http://" + s.api, "--data", s.dir}
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	if status, b := s.call("PUT", "/v1/jobs/hello/secrets/KEY", strings.NewReader("v"), ""); status != 204 {
		t.Fatalf("set a secret: %d %s", status, b)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	last := 1
	wg.Go(func() { // each deploy makes a version, its module and its audit entry in one commit
		for n := 2; ; n++ {
			select {
			case <-stop:
				return
			default:
				s.deploy("busy", saying(fmt.Sprintf("Content-Type: text/plain\n\nversion %d", n)), "")
				last = n
			}
		}
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "backup.tar")
	s.until("some deploys", func() bool { status, _ := s.call("GET", "/v1/jobs/busy", nil, ""); return status == 200 })
	out, code := verb(t, append([]string{"backup", file, "--json"}, at...)...)
	close(stop)
	wg.Wait()
	var taken backupSummary
	if err := json.Unmarshal([]byte(out), &taken); err != nil || code != 0 || taken.Revision == 0 || taken.Files < 5 || taken.Incarnation != s.report().Incarnation {
		t.Fatalf("backup: %d %s", code, out)
	}
	if list := names(t, dir); len(list) != 1 {
		t.Errorf("the folder has %q", list)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if out, code := verb(t, append([]string{"backup", file}, at...)...); code != exitUsage || !strings.Contains(out, "there already") {
		t.Errorf("a second backup under one name: %d %s", code, out)
	}
	if _, log := s.call("GET", "/v1/audit", nil, ""); !strings.Contains(string(log), `"kind":"backup"`) {
		t.Errorf("the audit log: %s", log)
	}
	if out, code := verb(t, "restore", file, "--data", s.dir, "--force"); code != exitUsage || !strings.Contains(out, "a server uses") {
		t.Errorf("a restore under a running server: %d %s", code, out)
	}

	s.stop()
	if out, code := verb(t, "restore", file, "--data", s.dir); code != exitUsage || !strings.Contains(out, "--force") {
		t.Errorf("a restore over data: %d %s", code, out)
	}
	before := s.dir
	other := filepath.Join(t.TempDir(), "restored")
	if out, code := verb(t, "restore", file, "--data", other); code != 0 || !strings.Contains(out, taken.Incarnation) {
		t.Fatalf("restore: %d %s", code, out)
	}
	s.dir = other
	s.start()
	if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
		t.Errorf("after the restore: %d %q", status, body)
	}
	if _, b := s.call("GET", "/v1/jobs/hello/secrets", nil, ""); !strings.Contains(string(b), "KEY") {
		t.Errorf("the secrets are %s", b)
	}
	status, _, body := s.get("/busy/")
	var n int
	if _, err := fmt.Sscanf(body, "version %d", &n); err != nil || status != 200 || n < 2 || n > last {
		t.Errorf("the busy job answers %d %q; the last deploy was %d", status, body, last)
	}
	if s.report().Incarnation == taken.Incarnation {
		t.Error("the restored store is of the same incarnation")
	}
	s.stop()
	out, code = verb(t, "restore", file, "--data", before, "--force", "--json")
	var r backupSummary
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Aside == "" {
		t.Fatalf("a restore with --force: %d %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(r.Aside, "records.db")); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
	s.dir = before
	s.start()
}

func TestABackupNeedsATokenForIt(t *testing.T) {
	s := startServer(t)
	at := []string{"--server", "http://" + s.api, "--data", s.dir}
	made := 0
	token := func(allow string) string {
		made++
		out, code := verb(t, append([]string{"token", "create", fmt.Sprint(allow, made), "--allow", allow, "--json"}, at...)...)
		var one struct{ Secret string }
		if err := json.Unmarshal([]byte(out), &one); err != nil || code != 0 {
			t.Fatalf("make a token: %d %s", code, out)
		}
		return one.Secret
	}
	dir := t.TempDir()
	for allow, want := range map[string]int{"read": exitFailed, "deploy": exitFailed, "backup": 0} {
		out, code := verb(t, "backup", filepath.Join(dir, allow), "--server", "http://"+s.api, "--token", token(allow))
		if code != want || want != 0 && !strings.Contains(out, "backup") {
			t.Errorf("with %s: %d %s", allow, code, out)
		}
	}
	if list := names(t, dir); len(list) != 1 {
		t.Errorf("the folder has %q", list)
	}
	if out, code := verb(t, "ps", "--server", "http://"+s.api, "--token", token("backup")); code == 0 {
		t.Errorf("a token for backups lists jobs: %s", out)
	}
}

func TestABackupThatIsCutOffLeavesNoFile(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	file := filepath.Join(t.TempDir(), "good")
	if out, code := verb(t, "backup", file, "--server", "http://"+s.api, "--data", s.dir); code != 0 {
		t.Fatalf("backup: %d %s", code, out)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	defer close(held)
	sending := make(chan struct{}, 1)
	for name, answer := range map[string]http.HandlerFunc{
		"the connection broke": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(whole[:len(whole)/2])
			panic(http.ErrAbortHandler)
		},
		"the answer was short": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(whole[:len(whole)/2]) },
		"a byte was changed":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(changed(whole, len(whole)/2)) },
		"it is no backup":      func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
		"the user pressed ^C": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(whole[:4096])
			_ = http.NewResponseController(w).Flush()
			sending <- struct{}{}
			select {
			case <-held:
			case <-r.Context().Done():
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake := httptest.NewServer(answer)
			defer fake.Close()
			dir := t.TempDir()
			program, _ := binary()
			var out lockedBuffer
			cmd := exec.Command(program, "backup", filepath.Join(dir, "b"), "--server", fake.URL, "--token", "x")
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			want := exitFailed
			if strings.Contains(name, "^C") {
				<-sending
				want = exitInterrupted
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("exit code %d, want %d: %s", code, want, out.String())
			}
			if list := names(t, dir); len(list) != 0 {
				t.Errorf("it left %q", list)
			}
			if want == exitFailed && strings.Count(out.String(), "\n") != 1 {
				t.Errorf("not one line: %q", out.String())
			}
		})
	}
}

// changed is b with a byte changed.
func changed(b []byte, i int) []byte {
	c := bytes.Clone(b)
	c[i] ^= 0x20
	return c
}

func TestABadBackupIsRefusedAndChangesNothing(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	dir := t.TempDir()
	file := filepath.Join(dir, "good")
	if out, code := verb(t, "backup", file, "--server", "http://"+s.api, "--data", s.dir); code != 0 {
		t.Fatalf("backup: %d %s", code, out)
	}
	s.stop()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Replace(whole, []byte(`{"format":1,`), []byte(`{"format":9,`), 1)
	before := names(t, s.dir)
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"empty":     {nil, "no backup"},
		"cut":       {whole[:len(whole)/2], "cut off"},
		"changed":   {changed(whole, len(whole)/2), "corrupt"},
		"newer":     {newer, "use the newer program"},
		"something": {[]byte("hello"), "no backup"},
	} {
		bad := filepath.Join(dir, name)
		if err := os.WriteFile(bad, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, force := range []bool{false, true} {
			data := filepath.Join(t.TempDir(), "data")
			args := []string{"restore", bad, "--data", data}
			if force {
				data = s.dir
				args = []string{"restore", bad, "--data", data, "--force"}
			}
			out, code := verb(t, args...)
			if code != exitUsage || !strings.Contains(out, c.want) || strings.Count(out, "\n") != 1 {
				t.Errorf("%s, force %v: %d %q, want %q", name, force, code, out, c.want)
			}
			if _, err := os.Stat(data); !force && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: it left %s: %v", name, data, err)
			}
		}
	}
	if now := names(t, s.dir); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("the data directory has %q, had %q", now, before)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(s.dir), ".*restore*")); err != nil || len(left) > 0 {
		t.Errorf("it left %q, %v", left, err)
	}
	s.start()
	if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
		t.Errorf("afterwards: %d %q", status, body)
	}
	if out, code := verb(t, "restore", filepath.Join(dir, "none"), "--data", s.dir); code != exitUsage {
		t.Errorf("a file that is not there: %d %s", code, out)
	}
}

func TestARestoreThatIsInterruptedLeavesNothing(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	cmd := exec.Command(program, "restore", fifo, "--data", data)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // returns once it reads
	if err != nil {
		t.Fatal(err)
	}
	// A head that says what follows, which never comes whole.
	if _, err := w.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code == 0 {
		t.Error("it ended well")
	}
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it left %s: %v", data, err)
	}
}

func TestABackupOfRedisIsRedisOwn(t *testing.T) {
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL())
	dir := t.TempDir()
	out, code := verb(t, "backup", filepath.Join(dir, "b"), "--server", "http://"+s.api, "--data", s.dir)
	if code != exitFailed || !strings.Contains(out, "Redis makes backups of its own") {
		t.Errorf("backup: %d %s", code, out)
	}
	if list := names(t, dir); len(list) != 0 {
		t.Errorf("it left %q", list)
	}
}
