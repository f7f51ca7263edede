package agent

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/trace"
)

// TestATraceNamesTheInvocationFromItsStart: also in a sandbox that served another one before.
func TestATraceNamesTheInvocationFromItsStart(t *testing.T) {
	a, code := tinyAgent(t, Options{}, 1)
	serveTiny(t, a, code, "j", 1)
	a.setFollow("j", true)
	for _, id := range []string{"first", "second"} {
		if _, err := a.Serve("j", guest.ServeInfo{Invocation: id}, &discard{header: http.Header{}}, httptest.NewRequest("GET", "/", nil)); err != nil {
			t.Fatal(err)
		}
		a.background.Wait()
		started, ended := false, false
		for len(a.reports.queue) > 0 {
			r := (<-a.reports.queue).report
			var what trace.Record
			if r.Kind != wire.ReportTrace {
				continue
			}
			if err := json.Unmarshal(r.Trace, &what); err != nil {
				t.Fatal(err)
			}
			if what.Name != guest.TaskHandle {
				continue
			}
			started, ended = started || what.Kind == trace.KindStart, ended || what.Kind == trace.KindEnd
			if r.Invocation != id {
				t.Errorf("%s of invocation %s names %q", what.Kind, id, r.Invocation)
			}
		}
		if !started || !ended {
			t.Errorf("%s: start traced: %t, end: %t", id, started, ended)
		}
	}
}

// TestATraceSaysWhatItMisses: at the next record that finds room, or else by itself.
func TestATraceSaysWhatItMisses(t *testing.T) {
	a, code := tinyAgent(t, Options{}, 1)
	task := serveTiny(t, a, code, "j", 1)
	f := &follower{task: task, invocation: "i"}
	flood := func() (missing uint64) {
		for a.reports.offer(wire.Report{Kind: wire.ReportLog}) {
		}
		for range 700 {
			f.send(&trace.Record{Kind: trace.KindCall})
		}
		task.tellOmitted() // finds no room either
		for len(a.reports.queue) > 0 {
			if r := (<-a.reports.queue).report; r.Kind == wire.ReportTrace {
				t.Errorf("%+v found room", r)
			}
		}
		return 700
	}
	told := func() (r wire.Report) {
		t.Helper()
		if n := len(a.reports.queue); n != 1 {
			t.Fatalf("%d reports", n)
		}
		return (<-a.reports.queue).report
	}
	want := flood()
	f.send(&trace.Record{Kind: trace.KindCall})
	if r := told(); r.Kind != wire.ReportTrace || r.Invocation != "i" || len(r.Trace) == 0 || r.Omitted != want {
		t.Errorf("the next record comes with %+v", r)
	}
	f.send(&trace.Record{Kind: trace.KindCall})
	if r := told(); r.Omitted != 0 {
		t.Errorf("%d are missing twice", r.Omitted)
	}
	want = flood()
	for range 2 {
		task.tellOmitted()
	}
	if r := told(); r.Kind != wire.ReportTrace || r.Job != "j" || len(r.Trace) > 0 || r.Omitted != want {
		t.Errorf("with nothing after it: %+v", r)
	}
}

func TestAQuotedTextThatIsCutSaysSo(t *testing.T) {
	x := strings.Repeat("x", 255)
	for text, want := range map[string]string{
		"a\"b":         `"a\"b"`,
		x + "y":        `"` + x + `y"`,
		x + "yz":       `"` + x + `y…"`,
		x + "äz":       `"` + x + `…"`,
		x + "\xff\xff": `"` + x + `\xff…"`,
	} {
		if got := quoted([]byte(text)); got != want {
			t.Errorf("%q became %s", text, got)
		}
	}
}
