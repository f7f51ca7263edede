//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/api/model"
)

const enqueueing = "limits: {time: 2m}\nqueue: {attempts: 3, backoff: {first: 10ms}}\ncapabilities:\n  kv: [things]\n  invoke: [probe]\n"

func TestAGuestEnqueues(t *testing.T) { guestEnqueues(t, "") }

func TestAGuestEnqueuesOnWasmtime(t *testing.T) {
	if hasWasmtime() { // else TestAJobRunsOnTheEngineThatItsManifestNames says what happens
		guestEnqueues(t, "engine: wasmtime\n")
	}
}

func guestEnqueues(t *testing.T, on string) {
	told := make(chan string, 1)
	outside := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		told <- r.Header.Get("Ce-Id")
	}))
	defer outside.Close()
	port := outside.URL[strings.LastIndex(outside.URL, ":")+1:]
	fetch := "  fetch: [{scheme: http, host: 127.0.0.1, port: " + port + ", private: true}]\n"
	s := startServer(t)
	probe := buildProbe(t)
	s.deploy("probe", probe, on+enqueueing+"  enqueue: [probe, other, full, gone]\n"+fetch)
	s.deploy("other", probe, on+enqueueing+fetch)
	s.deploy("full", probe, on+"queue: {length: 1}\n")
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")

	// ask has the probe enqueue, and answers the ID and what went wrong.
	ask := func(query string) (id, problem string) {
		status, _, body := s.get("/probe/enqueue?" + query)
		id, problem, ok := strings.Cut(strings.TrimSuffix(body, "\n"), " ")
		if status != 200 || !ok {
			t.Fatalf("%s: %d %q", query, status, body)
		}
		return id, problem
	}
	id, problem := ask("job=other&path=/echo?x=1&n=3&key=k")
	if problem != "<nil>" {
		t.Fatal(problem)
	}
	if v := s.ended("other", id); v.State != "done" || v.Attempts != 1 || v.IdempotencyKey == nil || *v.IdempotencyKey != "probe/k" {
		t.Errorf("it ended as %+v", v)
	}
	if resp, body := s.result("other", id); resp.StatusCode != 201 || body != "POST /echo?x=1  1 xxx <nil>\n" || resp.Header.Get("X-Token") != "from a guest" {
		t.Errorf("the result is %d %q", resp.StatusCode, body)
	}

	// Once for a key; and nobody else's key is that one.
	first, _ := ask("job=other&path=/tally&key=once")
	if again, problem := ask("job=other&path=/tally&key=once"); again != first || problem != "<nil>" {
		t.Errorf("the same key made %s, then %s %s", first, again, problem)
	}
	if mine := s.enqueue("other", at("/count"), "", "Idempotency-Key", "once"); mine == first {
		t.Error("a guest has the key of a client")
	}
	s.ended("other", first)
	if _, _, body := s.get("/other/value?key=tally"); body != "1 <nil>\n" {
		t.Errorf("one that was enqueued twice with one key ran: %q", body)
	}

	if id, problem := ask("job=other&path=/count&callback=" + url.QueryEscape(outside.URL+"/x")); problem != "<nil>" || <-told != id {
		t.Errorf("with a callback: %s %s", id, problem)
	}
	for query, want := range map[string]string{
		"job=hello&path=/":          "enqueue hello: not granted to this job",
		"job=gone&path=/":           "enqueue gone: not found",
		"job=other&path=/&n=983041": "enqueue other: too long",
		"job=full&path=/&callback=" + url.QueryEscape(outside.URL+"/x"):                           "enqueue full: not granted to this job",
		"job=other&path=/&callback=" + url.QueryEscape("http://127.0.0.1:1/"):                     "enqueue other: not granted to this job",
		"job=other&path=/&key=" + strings.Repeat("k", 193):                                        "enqueue other: too long",
		"job=other&path=/&callback=" + url.QueryEscape(outside.URL+"/"+strings.Repeat("&", 2750)): "enqueue other: too long",
	} {
		if id, problem := ask(query); problem != want {
			t.Errorf("%.80s: %s %s, want %s", query, id, problem, want)
		}
	}
	for _, word := range []string{`ripstop_task_1.enqueue job: \"hello\"`, "job full may not send to"} {
		s.until("the audit log to have "+word, func() bool {
			_, log := s.call("GET", "/v1/audit?job=probe", nil, "")
			return strings.Contains(string(log), word)
		})
	}
	s.enqueue("full", "delay=1h", "")
	if _, problem := ask("job=full&path=/"); problem != "enqueue full: busy: try again later" {
		t.Errorf("a full queue: %s", problem)
	}
	if n := s.queueCounts("full"); n.Waiting != 1 {
		t.Errorf("what was refused is queued: %+v", n)
	}
	if n := s.queueCounts("hello"); n.Waiting+n.Ready+n.Running+n.Dead != 0 {
		t.Errorf("what was refused is queued: %+v", n)
	}
}

func TestAClientIsNotTakenForAQueue(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), "")
	r, err := http.NewRequest("GET", "http://"+s.ingress+"/probe/ours", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Invocation", "Attempt", "Schedule", "Scheduled"} {
		r.Header.Set("Ripstop-"+name, "forged")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != " <nil>\n" {
		t.Errorf("the guest was told %q, %v", b, err)
	}
	id := s.enqueue("probe", at("/ours"), "")
	s.ended("probe", id)
	if _, body := s.result("probe", id); body != id+"1 <nil>\n" {
		t.Errorf("from the queue it was told %q", body)
	}
}

func TestJobsThatEnqueueEachOtherComeToAnEnd(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), enqueueing+"  enqueue: [probe]\n")
	note := func(step int) (text string) {
		_, _, text = s.get(fmt.Sprintf("/probe/value?key=chain/%d", step))
		return strings.TrimSpace(text)
	}
	if status, _, body := s.get("/probe/chain"); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	const tooDeep = "enqueue probe: too many jobs led to each other"
	s.until("the chain to end", func() bool { return strings.Contains(note(8), "enqueue") })
	for step := range 9 {
		want := "<nil>" // it may go on
		switch {
		case step == 8:
			want = tooDeep + ", " + tooDeep
		case step >= 3: // so deep, an invocation may enqueue one
			want = "<nil>, enqueue probe: quota exceeded"
		}
		if got := note(step); got != want+" <nil>" {
			t.Errorf("step %d: %q, want %q", step, got, want)
		}
	}
	s.until("the queue to be empty", func() bool { n := s.queueCounts("probe"); return n.Waiting+n.Running == 0 })
	if got := note(9); !strings.Contains(got, "not found") {
		t.Errorf("a ninth step: %q", got)
	}

	// Invoking counts, too.
	if status, _, body := s.get("/probe/invoke?job=probe&path=" + url.QueryEscape("/invoke?job=probe&path=/enqueue%3Fjob%3Dprobe%26path%3D/count%26times%3D11")); status != 200 ||
		strings.Count(body, "<nil>\n") < 10 || strings.Count(body, "quota exceeded") != 1 {
		t.Errorf("below two that invoked it, a guest enqueues: %d %s", status, body)
	}
	status, _, body := s.get("/probe/enqueue?job=probe&path=/count&times=1001")
	if lines := strings.Split(strings.TrimSpace(body), "\n"); status != 200 || len(lines) != 1001 || !strings.HasSuffix(lines[999], " <nil>") || !strings.HasSuffix(lines[1000], "quota exceeded") {
		t.Errorf("1001 of one invocation: %d, %d lines, the last %q", status, len(lines), lines[len(lines)-1])
	}
}

func TestAGuestIsToldThatTheQueueIsAway(t *testing.T) {
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL())
	s.deploy("probe", buildProbe(t), enqueueing+"  enqueue: [probe]\n")
	r.Kill()
	if status, _, body := s.get("/probe/enqueue?job=probe&path=/count"); status != 200 || !strings.Contains(body, "enqueue probe: input/output error") {
		t.Errorf("while the broker is away: %d %q", status, body)
	}
	r.Restart()
	s.until("the guest to enqueue again", func() bool {
		_, _, body := s.get("/probe/enqueue?job=probe&path=/tally")
		return strings.HasSuffix(body, " <nil>\n")
	})
	s.until("the queue to be empty", func() bool { n := s.queueCounts("probe"); return n.Waiting+n.Running+n.Dead == 0 })
	if _, _, body := s.get("/probe/value?key=tally"); body != "1 <nil>\n" {
		t.Errorf("what was enqueued once ran: %q", body)
	}
}

func TestAGuestThatEnqueuesNeedsAServerAndAGrant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "probe.wasm")
	if err := os.WriteFile(file, buildProbe(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _ := ok(t, "", "inspect", file); !strings.Contains(out, "capabilities.enqueue") {
		t.Errorf("inspect says %s", out)
	}
	fails(t, exitUsage, "ripstop deploy", "run", file)
}

func (s *serverProcess) queueCounts(job string) (n model.QueueCounts) {
	s.t.Helper()
	status, b := s.call("GET", "/v1/jobs/"+job+"/queue", nil, "")
	if err := json.Unmarshal(b, &n); status != http.StatusOK || err != nil {
		s.t.Fatalf("the queue of %s: %d %s", job, status, b)
	}
	return n
}
