//go:build linux

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ripstop-vm/ripstop/api/model"
)

const probeManifest = "limits: {time: 20s}\nqueue: {attempts: 3, backoff: {first: 10ms}}\ncapabilities: {kv: [things]}\n"

// enqueue queues a request and answers its ID. query is of the API; more are headers, name and value in turn.
func (s *serverProcess) enqueue(job, query, body string, more ...string) string {
	s.t.Helper()
	status, b := s.tryEnqueue(job, query, body, more...)
	var got model.Enqueued
	if err := json.Unmarshal(b, &got); status != http.StatusAccepted || err != nil || got.Id == "" {
		s.t.Fatalf("enqueue: %d %s", status, b)
	}
	return got.Id
}

func (s *serverProcess) tryEnqueue(job, query, body string, more ...string) (int, []byte) {
	s.t.Helper()
	r, err := http.NewRequest("POST", "http://"+s.api+"/v1/jobs/"+job+"/invocations?"+query, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	for i := 0; i+1 < len(more) && more[i] != ""; i += 2 {
		r.Header.Set(more[i], more[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusAccepted && !strings.HasPrefix(resp.Header.Get("Location"), "/v1/jobs/"+job+"/invocations/") {
		s.t.Errorf("the location is %q", resp.Header.Get("Location"))
	}
	return resp.StatusCode, b
}

func (s *serverProcess) invocation(job, id string) (v model.Invocation) {
	s.t.Helper()
	status, b := s.call("GET", "/v1/jobs/"+job+"/invocations/"+id, nil, "")
	if err := json.Unmarshal(b, &v); status != http.StatusOK || err != nil {
		s.t.Fatalf("invocation %s: %d %s", id, status, b)
	}
	return v
}

// ended waits until an invocation is done or dead.
func (s *serverProcess) ended(job, id string) (v model.Invocation) {
	s.t.Helper()
	s.until("invocation "+id+" to end", func() bool {
		v = s.invocation(job, id)
		return v.State == model.InvocationStateDone || v.State == model.InvocationStateDead
	})
	return v
}

func (s *serverProcess) result(job, id string) (*http.Response, string) {
	s.t.Helper()
	r, _ := http.NewRequest("GET", "http://"+s.api+"/v1/jobs/"+job+"/invocations/"+id+"/result", nil)
	r.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(b)
}

func at(p string) string { return "path=" + url.QueryEscape(p) }

func TestAQueuedRequestIsRunAndItsResponseIsKeptAsItWas(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), probeManifest)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")

	id := s.enqueue("probe", "method=put&"+at("/echo?a=b"), "the body", "Content-Type", "text/plain", "Guest-X-Token", "t", "Idempotency-Key", "k1")
	if v := s.ended("probe", id); v.State != "done" || v.Attempts != 1 || v.IdempotencyKey == nil || *v.IdempotencyKey != "k1" || v.Finished == nil || v.Expires == nil {
		t.Errorf("it ended as %+v", v)
	}
	resp, body := s.result("probe", id)
	if resp.StatusCode != 201 || body != "PUT /echo?a=b text/plain 1 the body <nil>\n" || resp.Header.Get("X-Token") != "t" || resp.Header.Get("Ripstop-Outcome") != "done" ||
		resp.Header.Get("Content-Security-Policy") != "sandbox" {
		t.Errorf("the result is %d %q %v", resp.StatusCode, body, resp.Header)
	}
	if again := s.enqueue("probe", "", "other", "Idempotency-Key", "k1"); again != id {
		t.Errorf("the same key made %s, not %s", again, id)
	}
	id = s.enqueue("hello", "", "")
	s.ended("hello", id)
	if resp, body := s.result("hello", id); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("a command's result is %d %q", resp.StatusCode, body)
	}

	id = s.enqueue("probe", "delay=1h", "")
	if resp, body := s.result("probe", id); resp.StatusCode != 404 || !strings.Contains(body, "result-none") || resp.Header.Get("Ripstop-Outcome") != "" {
		t.Errorf("before there is a result: %d %s", resp.StatusCode, body)
	}
	if v := s.invocation("probe", id); v.State != "waiting" || v.Due == nil {
		t.Errorf("a delayed one is %+v", v)
	}
	id = s.enqueue("probe", "attempts=1&"+at("/large"), "")
	if v := s.ended("probe", id); v.State != "dead" || !strings.Contains(*v.Reason, "983040 bytes") {
		t.Errorf("one with a response too large is %+v", v)
	}
	id = s.enqueue("probe", "deadline=1ms&delay=200ms", "")
	if v := s.ended("probe", id); v.State != "dead" || !strings.Contains(*v.Reason, "deadline") || v.Attempts > 1 {
		t.Errorf("one past its deadline is %+v", v)
	}
	for _, c := range []struct {
		job, query, body string
		header           [2]string
		status           int
		code             string
	}{
		{"nobody", "", "", [2]string{}, 404, "job-unknown"},
		{"probe", "", strings.Repeat("x", 1<<20), [2]string{}, 413, "too-large"},
		{"probe", "path=echo", "", [2]string{}, 400, "invocation-invalid"},
		{"probe", "method=G%20T", "", [2]string{}, 400, "invocation-invalid"},
		{"probe", "priority=10", "", [2]string{}, 400, "invocation-invalid"},
		{"probe", "attempts=0", "", [2]string{}, 400, "bad-parameter"},
		{"probe", "delay=soon", "", [2]string{}, 400, "bad-parameter"},
		{"probe", "delay=40d", "", [2]string{}, 400, "invocation-invalid"},
		{"probe", "paht=/", "", [2]string{}, 400, "unknown-parameter"},
		{"probe", "", "", [2]string{"Guest-Host", "x"}, 400, "bad-header"},
		{"probe", "", "", [2]string{"Guest-Ripstop-Attempt", "7"}, 400, "bad-header"},
		{"probe", "", "", [2]string{"Idempotency-Key", strings.Repeat("x", 257)}, 413, "too-large"},
		{"probe", "callback=" + url.QueryEscape("http://127.0.0.1:1/"), "", [2]string{}, 422, "callback-refused"},
		{"probe", "callback=ftp://x/", "", [2]string{}, 400, "callback-invalid"},
	} {
		if status, b := s.tryEnqueue(c.job, c.query, c.body, c.header[:]...); status != c.status || !strings.Contains(string(b), `"code":"`+c.code+`"`) {
			t.Errorf("%s?%s %v: %d %s, want %d %s", c.job, c.query, c.header, status, b, c.status, c.code)
		}
	}
	if status, b := s.call("GET", "/v1/jobs/probe/invocations/no~id", nil, ""); status != 404 || !strings.Contains(string(b), "invocation-unknown") {
		t.Errorf("an unknown one: %d %s", status, b)
	}
}

func TestWhatFailsIsTriedAgainAndThenADeadLetter(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), probeManifest)
	id := s.enqueue("probe", at("/flaky?until=3"), "")
	if v := s.ended("probe", id); v.State != "done" || v.Attempts != 3 {
		t.Errorf("one that fails twice is %+v", v)
	}
	trap := s.enqueue("probe", at("/trap"), "")
	if v := s.ended("probe", trap); v.State != "dead" || v.Attempts != 3 {
		t.Errorf("one that traps is %+v", v)
	}
	dead := s.enqueue("probe", at("/flaky?until=5"), "again")
	if v := s.ended("probe", dead); v.State != "dead" || v.Attempts != 3 || v.Reason == nil || !strings.Contains(*v.Reason, "503") {
		t.Errorf("one that fails three times is %+v", v)
	}
	if resp, body := s.result("probe", dead); resp.StatusCode != 502 || !strings.Contains(body, "invocation-dead") {
		t.Errorf("its result is %d %s", resp.StatusCode, body)
	}
	s.until("the job's log to say so", func() bool {
		_, b := s.call("GET", "/v1/jobs/probe/logs", nil, "")
		return strings.Contains(string(b), "given up after attempt 3 of 3")
	})
	var list model.InvocationList
	_, b := s.call("GET", "/v1/jobs/probe/dead-letters", nil, "")
	if err := json.Unmarshal(b, &list); err != nil || len(list.Invocations) != 2 || list.Invocations[0].Id != trap {
		t.Errorf("the dead letters are %s", b)
	}
	var letter model.DeadLetter
	_, b = s.call("GET", "/v1/jobs/probe/dead-letters/"+dead, nil, "")
	if err := json.Unmarshal(b, &letter); err != nil || letter.Method != "POST" || letter.Path != "/flaky?until=5" || string(letter.Body) != "again" {
		t.Errorf("the dead letter is %s", b)
	}
	if status, b := s.call("DELETE", "/v1/jobs/probe/dead-letters/"+trap, nil, ""); status != 204 {
		t.Errorf("discard: %d %s", status, b)
	}
	if status, b := s.call("POST", "/v1/jobs/probe/dead-letters/"+trap+"/requeue", nil, ""); status != 404 || !strings.Contains(string(b), "dead-letter-unknown") {
		t.Errorf("requeue what is discarded: %d %s", status, b)
	}
	if status, b := s.call("POST", "/v1/jobs/probe/dead-letters/"+dead+"/requeue", nil, ""); status != 204 {
		t.Errorf("requeue: %d %s", status, b)
	}
	if v := s.ended("probe", dead); v.State != "dead" || v.Attempts != 3 {
		t.Errorf("requeued it is %+v", v)
	}
	if _, b := s.call("GET", "/v1/audit?job=probe", nil, ""); !strings.Contains(string(b), "queue.requeue") || !strings.Contains(string(b), "queue.discard") {
		t.Errorf("the audit log is %s", b)
	}
}

func TestARemovedJobsQueueIsForgotten(t *testing.T) {
	s := startServer(t)
	hello := saying("Content-Type: text/plain\n\nhello")
	s.deploy("hello", hello, "queue: {length: 2}\n")
	waits, done := s.enqueue("hello", "delay=1h", ""), s.enqueue("hello", "", "")
	s.ended("hello", done)
	s.enqueue("hello", "delay=1h", "")
	if status, b := s.tryEnqueue("hello", "", ""); status != 429 || !strings.Contains(string(b), "queue-full") {
		t.Errorf("one more than there may be: %d %s", status, b)
	}
	if status, b := s.call("DELETE", "/v1/jobs/hello", nil, ""); status != 204 {
		t.Fatalf("remove: %d %s", status, b)
	}
	if status, _ := s.tryEnqueue("hello", "", ""); status != 404 {
		t.Errorf("enqueue to a removed job: %d", status)
	}
	s.deploy("hello", hello, "")
	for _, id := range []string{waits, done} {
		if status, _ := s.call("GET", "/v1/jobs/hello/invocations/"+id, nil, ""); status != 404 {
			t.Errorf("a new job of the name has the old one's %s: %d", id, status)
		}
	}
	if _, b := s.call("GET", "/v1/jobs/hello/queue", nil, ""); !strings.Contains(string(b), `"waiting":0`) {
		t.Errorf("its queue is %s", b)
	}
	s.ended("hello", s.enqueue("hello", "", ""))
}

// counted is how often each invocation ran, as the guest's own notes say.
func (s *serverProcess) counted(job string) map[string]int {
	s.t.Helper()
	runs := map[string]int{}
	after := ""
	for {
		status, _, body := s.get("/" + job + "/attempts?after=" + url.QueryEscape(after))
		if status != 200 {
			s.t.Fatalf("attempts: %d %s", status, body)
		}
		lines := strings.Fields(body)
		for _, l := range lines {
			runs[strings.Split(l, "/")[1]]++
			after = l
		}
		if len(lines) < 1000 {
			return runs
		}
	}
}

func TestWhatAWorkerRanWhenItDiedIsRunAgainAndHasOneResult(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), probeManifest)
	id := s.enqueue("probe", at("/attempt?ms=1500"), "x")
	s.until("it to run", func() bool { return s.invocation("probe", id).State == "running" && s.counted("probe")[id] == 1 })
	if n := s.queueCounts("probe"); n.Running != 1 {
		t.Errorf("the queue is %+v", n)
	}
	if status, b := s.call("GET", "/v1/jobs/probe/invocations/"+id+"/result", nil, ""); status != 404 || !strings.Contains(string(b), "is running, after 1 of") {
		t.Errorf("its result is %d %s", status, b)
	}
	if err := syscall.Kill(s.workerPID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	v := s.ended("probe", id)
	if runs := s.counted("probe")[id]; v.State != "done" || v.Attempts != 2 || runs != 2 {
		t.Errorf("it ran %d times and is %+v", runs, v)
	}
	if _, body := s.result("probe", id); body != "x <nil>\n" {
		t.Errorf("its result is %q", body)
	}
}

func TestAServerThatStopsGivesBackWhatWaitsAndFinishesWhatRuns(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), "limits: {time: 20s, concurrency: 2}\nqueue: {concurrency: 2, attempts: 1}\ncapabilities: {kv: [things]}\n")
	var ids []string
	for range 6 {
		ids = append(ids, s.enqueue("probe", at("/attempt?ms=700"), ""))
	}
	s.until("two to run", func() bool { return len(s.counted("probe")) == 2 })
	s.stop()
	s.start()
	for _, id := range ids {
		if v := s.ended("probe", id); v.State != "done" || v.Attempts != 1 {
			t.Errorf("%s is %+v", id, v)
		}
	}
	for id, n := range s.counted("probe") {
		if n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
}

func TestQueuedAndOtherRequestsDoNotStarveEachOther(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), "limits: {time: 20s, concurrency: 2, queue: 64}\ncapabilities: {kv: [things]}\n")
	var ids []string
	for range 40 {
		ids = append(ids, s.enqueue("probe", at("/attempt?ms=50"), ""))
	}
	// One slot is never the queue's, so that a request is served while it works.
	if status, _, _ := s.get("/probe/count"); status != 200 {
		t.Errorf("a request beside a busy queue: %d", status)
	}
	if v := s.invocation("probe", ids[len(ids)-1]); v.State != "waiting" {
		t.Errorf("the last one is %s already: nothing was shown", v.State)
	}
	var busy sync.WaitGroup
	var over atomic.Bool
	for range 8 { // more than there are slots, all the time
		busy.Go(func() {
			for !over.Load() {
				if status, _, body := s.get("/probe/attempt?ms=20"); status != 200 {
					t.Errorf("a request: %d %s", status, body)
				}
			}
		})
	}
	for _, id := range ids {
		if v := s.ended("probe", id); v.State != "done" {
			t.Errorf("%s is %+v", id, v)
		}
	}
	over.Store(true)
	busy.Wait()
}

func TestOrderedInvocationsRunOneAfterAnother(t *testing.T) {
	s := startServer(t)
	s.deploy("probe", buildProbe(t), "queue: {ordered: true, backoff: {first: 1ms}}\ncapabilities: {kv: [things]}\n")
	first := s.enqueue("probe", at("/flaky?until=3"), "")
	second := s.enqueue("probe", at("/flaky?until=1"), "")
	v := s.ended("probe", second)
	if w := s.invocation("probe", first); w.State != "done" || w.Attempts != 3 || w.Finished.After(*v.Finished) {
		t.Errorf("the first is %+v when the second is %+v", w, v)
	}
}

func TestTheEndOfAnInvocationIsToldWithACloudEvent(t *testing.T) {
	var tries atomic.Int64
	type event struct {
		header http.Header
		body   string
	}
	events := make(chan event, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if tries.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		events <- event{r.Header, string(b)}
	}))
	defer receiver.Close()
	port := receiver.URL[strings.LastIndex(receiver.URL, ":")+1:]
	s := startServer(t)
	s.deploy("probe", buildProbe(t), probeManifest[:len(probeManifest)-2]+", fetch: [{scheme: http, host: 127.0.0.1, port: "+port+", private: true}]}\n")
	to := "callback=" + url.QueryEscape(receiver.URL+"/hook")
	id := s.enqueue("probe", to+"&"+at("/echo"), "x", "Content-Type", "text/plain")
	got := <-events
	for name, want := range map[string]string{"Ce-Specversion": "1.0", "Ce-Id": id, "Ce-Type": "dev.ripstop.invocation.done", "Ce-Source": "/v1/jobs/probe", "Ce-Subject": id, "Ce-Httpstatus": "201", "Ce-Attempts": "1"} {
		if got.header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
		}
	}
	if got.header.Get("Ce-Time") == "" || got.body != "POST /echo text/plain 1 x <nil>\n" {
		t.Errorf("the event is %+v", got)
	}
	s.until("the callback to be over", func() bool { v := s.invocation("probe", id); return v.Callback != nil && *v.Callback == "done" })
	if v := s.invocation("probe", id); *v.CallbackAttempts != 2 {
		t.Errorf("the invocation is %+v", v)
	}
	id = s.enqueue("probe", to+"&attempts=1&"+at("/trap"), "")
	if got := <-events; got.header.Get("Ce-Id") != id || got.header.Get("Ce-Type") != "dev.ripstop.invocation.dead" || !strings.Contains(got.header.Get("Ce-Reason"), "%20") {
		t.Errorf("the event is %+v", got)
	}
}
