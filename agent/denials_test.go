package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/doortest"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// refusing is a guest of task whose calls no capability covers.
func refusing(t *testing.T, task *task, functions ...string) *doortest.Guest {
	lib := &hostcall.Library{Name: "m"}
	for _, name := range functions {
		lib.Funcs = append(lib.Funcs, hostcall.Func{Module: "m", Name: name, Class: hostcall.ReadOutside, Fails: true, Results: []hostcall.ValueType{hostcall.I32},
			Params: []hostcall.ValueType{hostcall.I32, hostcall.I32}, Args: []hostcall.Arg{{Name: "key", Kind: hostcall.Text, Param: 0}},
			Call: func(c *hostcall.Call) { c.Fail(hostcall.ENOTCAPABLE) }})
	}
	return doortest.New(t, lib, nil, &refusals{task: task})
}

// audits are the audits that wait to be sent, and how many calls they speak for.
func audits(a *Agent) (told []wire.Report, calls uint64) {
	for len(a.reports.queue) > 0 {
		if r := (<-a.reports.queue).report; r.Kind == wire.ReportAudit {
			told = append(told, r)
			if calls += r.Omitted; r.Text != "" {
				calls++
			}
		}
	}
	return told, calls
}

func denyingTask(t *testing.T) (*Agent, *task, *clock.Manual) {
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	a, code := tinyAgent(t, Options{Clock: c}, 1)
	return a, serveTiny(t, a, code, "j", 1), c
}

func TestEveryRefusedCallIsCounted(t *testing.T) {
	const flood = 100_000
	a, task, c := denyingTask(t)
	g := refusing(t, task, "kv_get")
	call := func(n int) {
		for range n {
			_, _ = g.Call("kv_get", "a")
		}
	}
	call(flood)
	told, calls := audits(a)
	if len(told) != denialsAtOnce || calls != denialsAtOnce {
		t.Errorf("a flood became %d reports of %d calls", len(told), calls)
	}
	c.Advance(time.Second)
	call(1)
	if told, calls = audits(a); len(told) != 1 || calls != flood-denialsAtOnce+1 || told[0].Function != "m.kv_get" {
		t.Errorf("what came after it: %d reports of %d calls", len(told), calls)
	}
	call(flood)
	_, before := audits(a)
	for range 2 {
		task.tellOmitted()
	}
	if told, calls = audits(a); len(told) != 1 || told[0].Text != "" || told[0].Level != "warn" || calls != flood-before {
		t.Errorf("with nothing after it: %+v, %d calls", told, calls)
	}
	call(10)
	task.retire()
	if told, calls = audits(a); calls != 10 {
		t.Errorf("at the end of the task: %+v, %d calls", told, calls)
	}
}

func TestRefusedCallsThatFindNoRoomAreCounted(t *testing.T) {
	a, task, _ := denyingTask(t)
	g := refusing(t, task, "kv_get")
	for a.reports.offer(wire.Report{Kind: wire.ReportLog}) {
	}
	for range 100 {
		_, _ = g.Call("kv_get", "a")
	}
	task.tellOmitted()
	if _, calls := audits(a); calls != 0 {
		t.Errorf("%d calls", calls)
	}
	task.tellOmitted()
	if told, calls := audits(a); len(told) != 1 || calls != 100 {
		t.Errorf("%d reports of %d calls", len(told), calls)
	}
}

func TestAFloodOfRefusedCallsHidesNoOtherFunction(t *testing.T) {
	a, task, c := denyingTask(t)
	g := refusing(t, task, "kv_get", "secret_get")
	for range 3 {
		for range 1000 {
			_, _ = g.Call("kv_get", "a")
		}
		audits(a)
		for range 10 {
			_, _ = g.Call("secret_get", "PROD_DB_PASSWORD")
		}
		if told, _ := audits(a); len(told) != 1 || !strings.HasPrefix(told[0].Text, `m.secret_get key: "PROD_DB_PASSWORD"`) {
			t.Errorf("reports of another function: %+v", told)
		}
		c.Advance(denialsWindow)
	}
}
