package guest

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

func TestTasksEnqueueForJobsThatAreGranted(t *testing.T) {
	w := newWorld()
	p := program(t, probe, w, policy.Capabilities{Enqueue: []string{"other", "gone"}, Invoke: []string{"invoked"}, Fetch: []policy.Fetch{{Scheme: "https", Host: "hooks.example"}}}, Options{})
	s := sandbox(t, p)
	for _, c := range []struct{ what, query, want string }{
		{"a request", "job=other&method=PUT&url=/p%3Fq=1&n=70000&priority=9&order=o&delay=3s&key=k&h-X-A=1&h-X-A=2&h-Connection=X-B&h-X-B=3", "q0 false <nil>"},
		{"the same key", "job=other&method=PUT&url=/&key=k", "q0 true <nil>"},
		{"the longest body", "job=other&method=POST&url=/&n=983040", "q1 false <nil>"},
		{"a body that is too long", "job=other&method=POST&url=/&n=983041", " false enqueue other: too long"},
		{"a callback", "job=other&method=POST&url=/&callback=https://hooks.example/x", "q2 false <nil>"},
		{"a callback that is not granted", "job=other&method=POST&url=/&callback=https://else.example/x", " false enqueue other: not granted to this job"},
		{"a callback that is no URL", "job=other&method=POST&url=/&callback=x", " false enqueue other: invalid argument"},
		{"a job that is not granted", "job=x&method=POST&url=/", " false enqueue x: not granted to this job"},
		{"a job that may be invoked", "job=invoked&method=POST&url=/", " false enqueue invoked: not granted to this job"},
		{"a job that is not there", "job=gone&method=POST&url=/", " false enqueue gone: not found"},
		{"the highest priority and one more", "job=other&method=POST&url=/&priority=10", " false enqueue other: invalid argument"},
		{"a negative priority", "job=other&method=POST&url=/&priority=-1", " false enqueue other: a negative duration or priority"},
		{"the longest key and one more", "job=other&method=POST&url=/&key=" + strings.Repeat("k", 193), " false enqueue other: too long"},
		{"an order that is no UTF-8", "job=other&method=POST&url=/&order=%ff", " false enqueue other: invalid argument"},
		{"a header of the server's", "job=other&method=POST&url=/&h-ripstop-attempt=1", " false enqueue other: invalid argument"},
	} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/enqueue?"+c.query, nil)
		r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if _, err := s.Serve(t.Context(), rec, r, ServeInfo{}); err != nil {
			t.Fatalf("%s: %v\n%s", c.what, err, w.text())
		}
		if got := rec.Body.String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	want := QueuedRequest{Job: "other", Method: "PUT", Target: "/p?q=1", Body: make([]byte, 70000), Key: "k", Order: "o", Priority: 9, Delay: 3 * time.Second, Deadline: 6 * time.Second,
		Header: http.Header{"X-A": {"1", "2"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}
	if len(w.queue) != 3 || !reflect.DeepEqual(w.queue[0], want) {
		w.queue[0].Body = nil
		t.Errorf("%d are queued, the first as %+v", len(w.queue), w.queue[0])
	}
}

func TestRulesJudgeWhatIsEnqueued(t *testing.T) {
	w := newWorld()
	table, err := hostcall.NewTable(Libraries()...)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Compile([]policy.Rule{
		{On: policy.OneOrMany{"enqueue"}, When: `call.job == "other" && call.priority > 5 || call.body_size > 100 || call.delay > 1000000000`, Do: "deny", Errno: "EPERM"},
		{On: policy.OneOrMany{"enqueue"}, When: `call.target.startsWith("/admin")`, Do: "set", Set: map[string]string{"target": `"/public"`}},
	}, table)
	if err != nil {
		t.Fatal(err)
	}
	p := program(t, probe, w, policy.Capabilities{Enqueue: []string{"other"}}, Options{Interposers: []hostcall.Interposer{rules.With(policy.Options{})}})
	s := sandbox(t, p)
	for query, want := range map[string]string{
		"priority=6": " false enqueue other: denied by policy", "n=101": " false enqueue other: denied by policy", "delay=2s": " false enqueue other: denied by policy",
		"priority=5&n=100&url=/admin/x": "q0 false <nil>",
	} {
		if !strings.Contains(query, "url=") {
			query += "&url=/"
		}
		rec := httptest.NewRecorder()
		if _, err := s.Serve(t.Context(), rec, httptest.NewRequest("GET", "/enqueue?job=other&method=POST&"+query, nil), ServeInfo{}); err != nil || rec.Body.String() != want {
			t.Errorf("%s: %q %v, want %q", query, rec.Body, err, want)
		}
	}
	if len(w.queue) != 1 || w.queue[0].Target != "/public" {
		t.Errorf("queued: %+v", w.queue)
	}
}

// An invocation's requests are counted, those that fail as well.
func TestWhatAnInvocationEnqueuesIsCounted(t *testing.T) {
	w := newWorld()
	i32, i64 := byte(wasmtest.I32), byte(wasmtest.I64)
	params := append(bytesOf(i32, 17), i64, i64, i32)
	call := func(job, body, fd int32, want hostcall.Errno) []byte {
		b := wasmtest.Cat(wasmtest.I32Const(job), wasmtest.I32Const(1)) // job
		b = wasmtest.Cat(b, wasmtest.I32Const(66), wasmtest.I32Const(1), wasmtest.I32Const(67), wasmtest.I32Const(1))
		b = wasmtest.Cat(b, wasmtest.I32Const(0), wasmtest.I32Const(0), wasmtest.I32Const(0), wasmtest.I32Const(body)) // header, body
		for range 7 {
			b = wasmtest.Cat(b, wasmtest.I32Const(0))
		}
		b = wasmtest.Cat(b, wasmtest.I64Const(0), wasmtest.I64Const(0), wasmtest.I32Const(fd), []byte{0x10, 0}, wasmtest.I32Const(int32(want)))
		return append(b, 0x47, 0x04, 0x40, 0x00, 0x0b) // i32.ne if unreachable end
	}
	ok := "\xc8\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi"
	h := handmade{buffer: at(1024, 8192), answer: at(128, uint32(len(ok))), data: []wasmtest.Data{{Offset: 64, Bytes: []byte("abM/")}, {Offset: 128, Bytes: []byte(ok)}},
		handle: wasmtest.Cat(call(64, 0, 0, hostcall.Success), call(65, 0, 0, hostcall.ENOTCAPABLE), call(64, 0, memorySize-3, hostcall.EFAULT), call(memorySize, 0, 0, hostcall.EFAULT),
			call(64, memorySize+1, 0, hostcall.EFAULT), call(64, maxQueued+1, 0, hostcall.EMSGSIZE), call(64, 0, 0, hostcall.Success))}
	m := h.module()
	m.Imports = []wasmtest.Import{{Module: TaskModule, Name: "enqueue", Type: wasmtest.Type{Params: params, Results: []byte{i32}}}}
	g, err := policy.Grant(policy.Capabilities{Enqueue: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Module: compile(t, m.Bytes()), Services: w, Grants: g})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := p.NewSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Serve(t.Context(), httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), ServeInfo{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	nth := map[int]int{}
	for _, q := range w.queue {
		nth[q.Nth]++
	}
	if !reflect.DeepEqual(nth, map[int]int{0: 2, 1: 2}) {
		t.Errorf("counted as %v", nth)
	}
}

func bytesOf(b byte, n int) []byte { return []byte(strings.Repeat(string(rune(b)), n)) }
