package control

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/broker"
)

func kinds(entries []AuditEntry) string {
	var list []string
	for _, e := range entries {
		list = append(list, e.Kind)
	}
	return strings.Join(list, " ")
}

func auditLog(t *testing.T, w *world, f AuditFilter) []AuditEntry {
	t.Helper()
	entries, err := w.AuditLog(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestEveryChangeIsInTheAuditLogWithWhoMadeIt(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.deploy("a", "1", nil)
	w.clock.Advance(time.Minute)
	w.deploy("a", "2", nil)
	_, _, _ = w.Rollback(ctx, "bob", "a", 1)
	_ = w.SetSecret(ctx, "bob", "a", "KEY", []byte("hush"))
	_ = w.RemoveSecret(ctx, "bob", "a", "KEY")
	w.clock.Advance(time.Minute)
	_, _, _ = w.CreateToken(ctx, "ann", "ci", 0, readOnly)
	_ = w.RevokeToken(ctx, "ann", "ci")
	_ = w.Remove(ctx, "bob", "a")
	all := auditLog(t, w, AuditFilter{})
	if got := kinds(all); got != "remove token.revoke token.create secret.remove secret.set rollback deploy deploy" {
		t.Errorf("the log, newest first, is %s", got)
	}
	if e := all[5]; e.By != "bob" || e.Job != "a" || e.Version != 1 || !e.Time.Equal(epoch.Add(time.Minute)) || e.ID == "" {
		t.Errorf("the rollback's entry is %+v", e)
	}
	for want, f := range map[string]AuditFilter{
		"token.revoke token.create deploy deploy":                {By: "ann"},
		"remove secret.remove secret.set rollback deploy deploy": {Job: "a"},
		"deploy deploy": {Kind: AuditDeploy},
		"secret.remove secret.set rollback deploy": {Since: epoch.Add(time.Minute), Until: epoch.Add(2 * time.Minute)},
		"remove token.revoke":                      {Limit: 2},
		"":                                         {Job: "b"},
	} {
		if got := kinds(auditLog(t, w, f)); got != want {
			t.Errorf("with %+v the log is %q, want %q", f, got, want)
		}
	}
	for _, e := range all {
		if strings.Contains(fmt.Sprint(e), "hush") {
			t.Errorf("a secret is in %+v", e)
		}
	}
}

func TestAFloodOfDeniedCallsIsCountedAndNotWritten(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	flood := func(job string, n int) {
		for range n {
			if err := w.Audit(ctx, AuditEntry{Kind: AuditDenied, Job: job, Detail: "path_open"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	flood("hostile", 5000)
	flood("other", 3)
	if n := len(auditLog(t, w, AuditFilter{Job: "hostile"})); n != deniedPerJob {
		t.Errorf("%d entries of one job were written", n)
	}
	if n := len(auditLog(t, w, AuditFilter{Job: "other"})); n != 3 {
		t.Errorf("%d entries of the other job were written", n)
	}
	if err := w.Audit(ctx, AuditEntry{Kind: AuditWorkerDied, Job: "hostile"}); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(deniedWindow)
	flood("hostile", 1)
	log := auditLog(t, w, AuditFilter{Job: "hostile"})
	if log[0].Omitted != 5000-deniedPerJob || log[1].Kind != AuditWorkerDied {
		t.Errorf("the newest entries are %+v", log[:2])
	}
}

func TestAFloodOfDeniedCallsHidesNoOtherFunction(t *testing.T) {
	w := newWorld(t)
	deny := func(function string) {
		t.Helper()
		if err := w.Audit(t.Context(), AuditEntry{Kind: AuditDenied, Job: "hostile", Function: function, Detail: function}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for range 1000 {
			deny("kv_get")
		}
		for range 10 {
			deny("secret_get")
		}
		log := auditLog(t, w, AuditFilter{Job: "hostile"})
		if log[0].Detail != "secret_get" || log[1].Detail != "kv_get" || log[0].Omitted != 1000-deniedPerJob {
			t.Errorf("the newest entries are %+v", log[:2])
		}
		w.clock.Advance(deniedWindow)
		if err := w.writeOmitted(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	before := len(auditLog(t, w, AuditFilter{}))
	for i := range 1000 {
		deny(fmt.Sprint(i))
	}
	if n := len(auditLog(t, w, AuditFilter{})) - before; n != deniedFunctions {
		t.Errorf("of a thousand functions %d entries were written", n)
	}
}

func TestWhatAWorkerLeftOutIsCountedWithoutOverflow(t *testing.T) {
	w := newWorld(t)
	add := func(e AuditEntry) {
		t.Helper()
		e.Kind, e.Job = AuditDenied, "a"
		if err := w.Audit(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	add(AuditEntry{Detail: "path_open", Omitted: 5})
	add(AuditEntry{Omitted: 100})
	if log := auditLog(t, w, AuditFilter{}); len(log) != 1 || log[0].Omitted != 5 {
		t.Errorf("the log is %+v", log)
	}
	add(AuditEntry{Detail: "path_open"})
	if log := auditLog(t, w, AuditFilter{}); log[0].Omitted != 100 {
		t.Errorf("the newest entry is %+v", log[0])
	}
	for range 3 {
		add(AuditEntry{Omitted: math.MaxUint64 - 1})
	}
	w.clock.Advance(deniedWindow)
	if err := w.writeOmitted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := auditLog(t, w, AuditFilter{}); len(log) != 3 || log[0].Omitted != math.MaxUint64 || log[0].Detail != "" {
		t.Errorf("the log is %+v", log)
	}
}

func TestWhatWasLeftOutIsWrittenWhenNothingFollows(t *testing.T) {
	for _, kind := range []string{AuditDenied, AuditObserved} {
		t.Run(kind, func(t *testing.T) { testOmitted(t, kind) })
	}
}

func testOmitted(t *testing.T, kind string) {
	w := newWorld(t)
	for range 100 {
		if err := w.Audit(t.Context(), AuditEntry{Kind: kind, Job: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.writeOmitted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(auditLog(t, w, AuditFilter{})); n != deniedPerJob {
		t.Errorf("within the window the log has %d entries", n)
	}
	w.clock.Advance(deniedWindow)
	for range 2 {
		if err := w.writeOmitted(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	log := auditLog(t, w, AuditFilter{})
	if len(log) != deniedPerJob+1 || log[0].Omitted != 100-deniedPerJob || log[0].Job != "a" || log[0].Kind != kind {
		t.Errorf("the log has %d entries, the newest is %+v", len(log), log[0])
	}
}

func TestManyJobsTogetherAreBoundedToo(t *testing.T) {
	l := newLimiter()
	written := 0
	for i := range 3 * deniedJobs {
		if ok, _ := l.allow(fmt.Sprint("job", i), "path_open", 0, epoch); ok {
			written++
		}
	}
	if written != deniedInAll || len(l.jobs) > deniedJobs+1 {
		t.Errorf("%d entries were written, %d jobs are remembered", written, len(l.jobs))
	}
	var counted uint64
	for now := epoch; ; {
		now = now.Add(deniedWindow)
		out := l.drain(now)
		if len(out) == 0 {
			break
		}
		for _, n := range out {
			counted += n
		}
	}
	if counted != 3*deniedJobs-deniedInAll {
		t.Errorf("%d entries were counted as left out", counted)
	}
}

func TestTheAuditLogForgetsTheOldest(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.KeepAudit = 40 })
	for i := range 200 {
		if err := w.Audit(t.Context(), AuditEntry{Kind: "test", Detail: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		records, _, err := w.records.List(t.Context(), broker.Range{Prefix: auditPrefix})
		if err != nil || len(records) > 43 {
			t.Fatalf("the log has %d entries, %v", len(records), err)
		}
	}
	log := auditLog(t, w, AuditFilter{})
	if len(log) < 40 || log[0].Detail != "199" || !slices.IsSortedFunc(log, func(a, b AuditEntry) int { return strings.Compare(b.ID, a.ID) }) {
		t.Errorf("the log has %d entries, the newest is %+v", len(log), log[0])
	}
}

func TestALongEntryIsCutAtACharacter(t *testing.T) {
	w := newWorld(t)
	if err := w.Audit(t.Context(), AuditEntry{Kind: "test", Job: "\xff\xfe", Detail: strings.Repeat("é", 100_000)}); err != nil {
		t.Fatal(err)
	}
	e := auditLog(t, w, AuditFilter{})[0]
	if len(e.Detail) > maxDetail+3 || !utf8.ValidString(e.Detail) || !strings.HasSuffix(e.Detail, "é…") || !utf8.ValidString(e.Job) {
		t.Errorf("the entry's detail has %d bytes and ends with %q", len(e.Detail), e.Detail[len(e.Detail)-6:])
	}
	if err := w.Audit(t.Context(), AuditEntry{}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("an entry without a kind answers %v", err)
	}
}

func TestRunSweepsAndSumsUp(t *testing.T) {
	w := newWorld(t)
	if _, err := w.broker.Blobs().Put(t.Context(), strings.NewReader("orphan")); err != nil {
		t.Fatal(err)
	}
	w.deploy("a", "1", nil)
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- w.Run(ctx) }()
	for countBlobs(t, w) != 1 {
		w.clock.Advance(30 * time.Minute)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
