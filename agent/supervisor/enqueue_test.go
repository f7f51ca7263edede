package supervisor

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

func enveloped(t *testing.T, r envelope.Request) string {
	t.Helper()
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAWorkerEnqueuesOnlyWhatTheVersionItNamesWasGranted(t *testing.T) {
	w, m, h := linked(t, policy.Capabilities{Enqueue: []string{"other", "full"}, Invoke: []string{"invoked"}, Fetch: []policy.Fetch{{Scheme: "https", Host: "hooks.example"}}})
	now := clock.NewManual(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC))
	w.super.opts.Clock = now
	good := envelope.Request{Method: "PUT", Target: "/p?q=1", Header: http.Header{"X-A": {"1"}}, Body: []byte("body"), Hops: 3}
	body := enveloped(t, good)
	const plain = "?key=&order=&callback=&priority=0&delay=0&deadline=0"
	forged := good
	forged.Header = http.Header{"Ripstop-Attempt": {"1"}}
	outside := good
	outside.Hops = 0
	for name, c := range map[string]struct{ path, job, version, body, errno string }{
		"a granted job":                  {"/enqueue/other" + plain, "j", "2", body, ""},
		"a callback that is granted":     {"/enqueue/other?priority=0&delay=0&deadline=0&callback=https://hooks.example/x", "j", "2", body, ""},
		"a callback that is not granted": {"/enqueue/other?priority=0&delay=0&deadline=0&callback=https://else.example/x", "j", "2", body, "ENOTCAPABLE"},
		"another job":                    {"/enqueue/x" + plain, "j", "2", body, "ENOTCAPABLE"},
		"one that may be invoked":        {"/enqueue/invoked" + plain, "j", "2", body, "ENOTCAPABLE"},
		"a version that was not given":   {"/enqueue/other" + plain, "j", "3", body, "ENOTCAPABLE"},
		"for a job that was not given":   {"/enqueue/other" + plain, "k", "2", body, "ENOTCAPABLE"},
		"a full queue":                   {"/enqueue/full" + plain, "j", "2", body, "EBUSY"},
		"no request":                     {"/enqueue/other" + plain, "j", "2", "x", "EINVAL"},
		"one that is too large":          {"/enqueue/other" + plain, "j", "2", strings.Repeat("x", broker.MaxPayload+1), "EMSGSIZE"},
		"a header of the server's":       {"/enqueue/other" + plain, "j", "2", enveloped(t, forged), "EINVAL"},
		"one that nobody led to":         {"/enqueue/other" + plain, "j", "2", enveloped(t, outside), "EINVAL"},
		"one that too many led to":       {"/enqueue/other" + plain, "j", "2", strings.Replace(body, `"hops":3`, `"hops":9`, 1), "EINVAL"},
		"no priority":                    {"/enqueue/other?delay=0&deadline=0", "j", "2", body, "EINVAL"},
		"a negative delay":               {"/enqueue/other?priority=0&delay=-1&deadline=0", "j", "2", body, "EINVAL"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(m.queued)
			rec := ask(h, "POST", c.path, c.job, c.version, c.body)
			if got := rec.Header().Get(wire.HeaderError); got != c.errno || (c.errno == "") != (rec.Code < 300) || (len(m.queued) > before) != (c.errno == "") {
				t.Errorf("%d %q, want %q; %d are queued", rec.Code, got, c.errno, len(m.queued)-before)
			}
		})
	}
	if len(m.audit) == 0 || m.audit[0].Kind != control.AuditDenied || m.audit[0].Job != "j" {
		t.Errorf("refusals were not audited: %+v", m.audit)
	}
	m.queued = nil
	if rec := ask(h, "POST", "/enqueue/other?key=k&order=o&priority=7&delay=1000000000&deadline=3600000000000&callback=https://hooks.example/x", "j", "2", body); rec.Code != 200 || rec.Body.String() != `{"id":"i-1","known":true}`+"\n" {
		t.Errorf("%d %q", rec.Code, rec.Body)
	}
	good.Deadline = now.Now().Add(time.Hour)
	want := control.NewInvocation{Request: good, Key: "j/k", Order: "j/o", From: "j", Priority: 7, Delay: time.Second, Callback: "https://hooks.example/x"}
	if len(m.queued) != 1 || !reflect.DeepEqual(m.queued[0], want) {
		t.Errorf("queued as %+v, want %+v", m.queued, want)
	}
}

func TestTheGuestsOfAJobEnqueueNoFasterThanTheyMay(t *testing.T) {
	w, m, h := linked(t, policy.Capabilities{Enqueue: []string{"other"}})
	now := clock.NewManual(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC))
	w.super.opts.Clock = now
	body := enveloped(t, envelope.Request{Method: "PUT", Target: "/", Hops: 1})
	enqueue := func() string {
		return ask(h, "POST", "/enqueue/other?priority=0&delay=0&deadline=0", "j", "2", body).Header().Get(wire.HeaderError)
	}
	for range enqueueBurst {
		if e := enqueue(); e != "" {
			t.Fatalf("after %d: %s", len(m.queued), e)
		}
	}
	if e := enqueue(); e != "EBUSY" {
		t.Errorf("one more than may be at once: %q", e)
	}
	now.Advance(time.Second / enqueueRate)
	if first, second := enqueue(), enqueue(); first != "" || second != "EBUSY" {
		t.Errorf("a moment later: %q, then %q", first, second)
	}
	// A new version is the same job.
	if err := w.super.allow(wire.Assignment{Job: "j", Version: 3, Manifest: []byte(`{"capabilities":{"enqueue":["other"]}}`)}); err != nil {
		t.Fatal(err)
	}
	if e := ask(h, "POST", "/enqueue/other?priority=0&delay=0&deadline=0", "j", "3", body).Header().Get(wire.HeaderError); e != "EBUSY" {
		t.Errorf("from another version: %q", e)
	}
}

// FuzzEnqueue holds whatever a worker may ask to have queued against the reader.
func FuzzEnqueue(f *testing.F) {
	f.Add("other", "key=k&priority=1&delay=2&deadline=3", []byte(`{"schema":1,"method":"GET","target":"/","hops":1}`+"\n"))
	f.Add("other", "priority=0&delay=9223372036854775807&deadline=9223372036854775807&callback=https://hooks.example/", []byte("x"))
	f.Fuzz(func(t *testing.T, job, query string, body []byte) {
		_, m, h := linked(t, policy.Capabilities{Enqueue: []string{"other"}, Fetch: []policy.Fetch{{Scheme: "https", Host: "hooks.example"}}})
		r, err := http.NewRequest("POST", "/enqueue/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Path, r.URL.RawQuery = "/enqueue/"+job, query
		askRequest(h, r, "j", "2", string(body))
		for _, v := range m.queued {
			if _, err := v.Request.Encode(); err != nil || v.Request.Hops < 1 || v.Delay < 0 {
				t.Errorf("queued: %+v: %v", v, err)
			}
		}
	})
}
