//go:build soak && linux

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// processes are the server's and all that it started.
func (s *serverProcess) processes() (pids []int) {
	s.t.Helper()
	var below func(pid int)
	below = func(pid int) {
		pids = append(pids, pid)
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil || len(files) == 0 {
			s.t.Fatalf("the children of process %d are not known", pid)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				continue // a thread that has ended
			}
			for _, f := range strings.Fields(string(b)) {
				child, err := strconv.Atoi(f)
				if err != nil {
					s.t.Fatal(err)
				}
				below(child)
			}
		}
	}
	below(s.cmd.Process.Pid)
	return pids
}

var proportional = regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB`)

// resident is the memory of all of the server's processes, pages that several have by their part of them.
func (s *serverProcess) resident() (bytes int64, each string) {
	s.t.Helper()
	for _, pid := range s.processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		m := proportional.FindSubmatch(b)
		if m == nil {
			s.t.Fatalf("no Pss of process %d: %s", pid, b)
		}
		kib, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		bytes += kib << 10
		each += fmt.Sprintf(" %d MiB", kib>>10)
	}
	return bytes, each
}

// TestSoakTenThousandIdleTasksFitIntoAGibibyte deploys as many jobs of a tiny task as one agent is to hold, asks each, leaves them alone for longer
// than a job keeps sandboxes ahead, and asks each again.
func TestSoakTenThousandIdleTasksFitIntoAGibibyte(t *testing.T) {
	tasks := int64(10_000)
	if v, err := strconv.ParseInt(os.Getenv("RIPSTOP_SOAK_TASKS"), 10, 64); err == nil && v > 0 {
		tasks = v
	}
	const most = 1 << 30
	s := startServer(t)
	wasm := w.Task(w.TaskResponse(200, "Content-Type", "text/plain", "hello"), 1)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	each := func(what string, do func(job string) error) {
		t.Helper()
		began := time.Now()
		var next, failed atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := next.Add(1); i <= tasks && failed.Load() < 10; i = next.Add(1) {
					if err := do(fmt.Sprintf("task-%d", i)); err != nil {
						failed.Add(1)
						t.Errorf("%s: %v", what, err)
					}
					if i%1000 == 0 {
						t.Logf("%s: %d after %v", what, i, time.Since(began).Round(time.Second))
					}
				}
			})
		}
		wg.Wait()
		if failed.Load() > 0 {
			t.FailNow()
		}
		t.Logf("%s: %.0f a second", what, float64(tasks)/time.Since(began).Seconds())
	}
	ask := func(job string) error {
		resp, err := client.Get("http://" + s.ingress + "/" + job + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || string(b) != "hello") {
			err = fmt.Errorf("%s answers %d %q", job, resp.StatusCode, b)
		}
		return err
	}
	each("deploy", func(job string) error {
		body, contentType := form(wasm, "")
		status, b, err := s.try(client, "PUT", "/v1/jobs/"+job, body, contentType)
		if err == nil && status/100 != 2 {
			err = fmt.Errorf("%s: %d %s", job, status, b)
		}
		return err
	})
	pid := s.workerPID()
	each("ask", ask)
	time.Sleep(90 * time.Second) // a job that is unused for a minute keeps nothing ahead
	used, of := s.resident()
	u := s.usage(pid)
	t.Logf("%d idle tasks: %d MiB (%s), %.1f KiB a task; the worker: %+v", tasks, used>>20, of, float64(used)/1024/float64(tasks), u)
	if used > most {
		t.Errorf("%d idle tasks take %d MiB, want at most %d", tasks, used>>20, most>>20)
	}
	if u.descriptors > int(tasks)/2 {
		t.Errorf("%d descriptors are open", u.descriptors)
	}
	each("ask again", ask)
	if again := s.workerPID(); again != pid {
		t.Errorf("the worker died: %d became %d", pid, again)
	}
}
