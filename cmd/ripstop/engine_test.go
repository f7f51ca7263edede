//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
)

func hasWasmtime() bool { return slices.Contains(runtime.Engines(), runtime.Wasmtime) }

// buildTags are what the program under test is built with: those of its tests.
func buildTags() string {
	if hasWasmtime() {
		return "wasmtime"
	}
	return ""
}

// TestAJobRunsOnTheEngineThatItsManifestNames has a server confine its worker as always, and the worker open the second engine then.
func TestAJobRunsOnTheEngineThatItsManifestNames(t *testing.T) {
	s := startServer(t)
	hello := saying("Content-Type: text/plain\n\nhello")
	s.deploy("hello", hello, "")
	status, body := s.tryDeploy("other", hello, "engine: wasmtime\n")
	if !hasWasmtime() {
		var p struct{ Type, Detail string }
		if err := json.Unmarshal(body, &p); err != nil || status != 422 || !strings.HasSuffix(p.Type, "engine-missing") || !strings.Contains(p.Detail, "go build -tags wasmtime") {
			t.Errorf("%d %s %v", status, body, err)
		}
		if status, _ := s.call("GET", "/v1/jobs/other", nil, ""); status != 404 {
			t.Errorf("what was refused left a job: %d", status)
		}
		// The module is there and only its engine changes.
		if status, body := s.call("PUT", "/v1/jobs/hello/manifest", strings.NewReader("engine: wasmtime\n"), "application/yaml"); status != 422 || !strings.Contains(string(body), "engine-missing") {
			t.Errorf("%d %s", status, body)
		}
		s.answers("hello", "hello")
		return
	}
	if status != 201 {
		t.Fatalf("%d %s", status, body)
	}
	const on = "engine: wasmtime\n"
	s.answers("other", "hello")
	s.answers("hello", "hello")
	s.deploy("trap", command([]byte{w.Unreachable}), on)
	s.deploy("slow", looping(), on+"limits: {time: 200ms}\n")
	s.deploy("deep", recursing(), on)
	s.deploy("big", command(w.I32Const(1000), []byte{0x40, 0, w.Drop, w.Unreachable}), on+"limits: {memory: 1MiB}\n")
	s.deploy("calls", command(w.Loop(w.I32Const(9), w.I32Const(0), w.I32Const(0), w.I32Const(0), w.Call(0), []byte{w.Drop}, w.Br(0))), on+"limits: {hostcalls: 1000}\n")
	for _, c := range []struct {
		job    string
		status int
		log    string
	}{{"trap", 502, "unreachable"}, {"slow", 504, ""}, {"deep", 502, "stack overflow"}, {"big", 502, "memory"}, {"calls", 502, "host calls"}} {
		if status, _, body := s.get("/" + c.job + "/"); status != c.status {
			t.Errorf("%s: %d %s", c.job, status, body)
		}
		s.until("the log of "+c.job, func() bool {
			_, log := s.call("GET", "/v1/jobs/"+c.job+"/logs?tail=10", nil, "")
			return strings.Contains(string(log), c.log)
		})
	}
	// Only the engine changes: the module is compiled again, for it.
	n := s.compiled()
	if status, body := s.call("PUT", "/v1/jobs/hello/manifest", strings.NewReader(on), "application/yaml"); status != 201 {
		t.Errorf("%d %s", status, body)
	}
	s.answers("hello", "hello")
	if more := s.compiled() - n; more != 0 { // "other" has had it compiled
		t.Errorf("compiled %d times more", more)
	}
	s.stop()
	s.start()
	for _, job := range []string{"hello", "other"} {
		s.answers(job, "hello")
	}
	if more := s.compiled() - n; more != 0 {
		t.Errorf("after a restart: compiled %d times more", more)
	}
	if strings.Contains(s.log.String(), "the worker ended") {
		t.Errorf("a worker died:\n%s", s.log.String())
	}
}

// recursing is a command that calls itself without end.
func recursing() []byte { return command(w.Call(3)) }

// TestFuelIsTheSameOnBothEngines finds the least fuel with which a guest ends well on one engine, and runs it with that and with one less
// on the other.
func TestFuelIsTheSameOnBothEngines(t *testing.T) {
	if !hasWasmtime() {
		return // TestRunOnWasmtime says what happens then
	}
	guest := guestFile(t, w.Cat(w.I32Const(0), w.I32Const(0), w.I32Const(3), []byte{0xfc, 0x0b, 0}, write()))
	ends := func(engine string, fuel int) bool {
		code, _, stderr := runRipstop(t, context.Background(), "run", "--engine", engine, "--fuel", fmt.Sprint(fuel), guest)
		if code != 0 && code != 124 {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		return code == 0
	}
	low, high := 1, 1<<20
	for low < high {
		if mid := (low + high) / 2; ends("wazero", mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	if !ends("wasmtime", low) || ends("wasmtime", low-1) {
		t.Errorf("on wazero it takes %d fuel: on wasmtime it ends with that: %v, with one less: %v", low, ends("wasmtime", low), ends("wasmtime", low-1))
	}
}

// TestFuelOfAJobIsTheSameOnBothEngines does so with deployed jobs, by limits.fuel: a command, whose start counts, and a task.
func TestFuelOfAJobIsTheSameOnBothEngines(t *testing.T) {
	if !hasWasmtime() {
		return // TestAJobRunsOnTheEngineThatItsManifestNames says what happens then
	}
	s := startServer(t)
	fill := w.Cat(w.I32Const(4096), w.I32Const(0), w.I32Const(60000), []byte{0xfc, 0x0b, 0})
	for kind, wasm := range map[string][]byte{
		"command": saying("Content-Type: text/plain\n\nhello", fill),
		"task":    w.Task(w.TaskResponse(200, "content-type", "text/plain", "hello"), 300),
	} {
		ends := func(engine string, fuel int) bool {
			job := fmt.Sprintf("%s-%s-%d", kind, engine, fuel)
			s.deploy(job, wasm, fmt.Sprintf("engine: %s\nlimits: {fuel: %d}\n", engine, fuel))
			if resp, err := http.Get("http://" + s.ingress + "/" + job + "/"); err == nil { // a command has begun to answer by then
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close() // it was read
				if err == nil && resp.StatusCode == 200 && string(body) == "hello" {
					return true
				}
			}
			s.until("the log of "+job, func() bool {
				_, log := s.call("GET", "/v1/jobs/"+job+"/logs?tail=10", nil, "")
				return strings.Contains(string(log), "fuel")
			})
			return false
		}
		low, high := 1, 1<<14
		if !ends("wazero", high) {
			t.Fatalf("a %s takes more than %d fuel", kind, high)
		}
		for low < high {
			if mid := (low + high) / 2; ends("wazero", mid) {
				high = mid
			} else {
				low = mid + 1
			}
		}
		if low < 100 {
			t.Errorf("a %s takes %d fuel, which is too little to tell", kind, low)
		}
		if !ends("wasmtime", low) || ends("wasmtime", low-1) {
			t.Errorf("a %s takes %d fuel on wazero, and not on wasmtime", kind, low)
		}
		t.Logf("a %s takes %d fuel", kind, low)
	}
}
