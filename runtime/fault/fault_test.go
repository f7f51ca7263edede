package fault

import (
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/doortest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func library(made *int) *hostcall.Library {
	e := []hostcall.ValueType{hostcall.I32}
	call := func(c *hostcall.Call) { *made++; c.Fail(hostcall.Success) }
	return &hostcall.Library{Name: "fake", Funcs: []hostcall.Func{
		{Module: "m", Name: "fd_sync", Results: e, Fails: true, Call: call},
		{Module: "m", Name: "other", Results: e, Fails: true, Call: call},
		{Module: "m", Name: "proc_exit", Call: func(*hostcall.Call) { *made++ }},
	}}
}

func run(t *testing.T, opts Options, name string, times int) (errnos string, made int) {
	t.Helper()
	in, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	g := doortest.New(t, library(&made), nil, in)
	var all []string
	for range times {
		e, err := g.Call(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.String())
	}
	return strings.Join(all, " "), made
}

func TestTheSameSeedGivesTheSameFaults(t *testing.T) {
	rules := []Rule{{On: []string{"fd_*"}, Probability: 0.5, Errno: hostcall.EIO}, {On: []string{"m.*"}, Probability: 0.2, Errno: hostcall.ENOSPC}}
	one, made := run(t, Options{Seed: 7, Rules: rules}, "fd_sync", 200)
	again, _ := run(t, Options{Seed: 7, Rules: rules}, "fd_sync", 200)
	other, _ := run(t, Options{Seed: 8, Rules: rules}, "fd_sync", 200)
	if one != again || one == other {
		t.Errorf("%s\n%s\n%s", one, again, other)
	}
	failed := strings.Count(one, "EIO") + strings.Count(one, "ENOSPC")
	if failed < 80 || failed > 150 {
		t.Errorf("%d of 200 failed", failed)
	}
	// Some failed before they took effect and some after.
	if made >= 200 || made <= 200-failed {
		t.Errorf("%d calls took effect, %d failed", made, failed)
	}
}

func TestAFailureComesAtTheEndAskedFor(t *testing.T) {
	for when, want := range map[When]int{BeforeCall: 0, AfterCall: 10} {
		errnos, made := run(t, Options{Rules: []Rule{{On: []string{"fd_sync"}, Probability: 1, Errno: hostcall.EIO, When: when}}}, "fd_sync", 10)
		if made != want || strings.Count(errnos, "EIO") != 10 {
			t.Errorf("%d: %d calls took effect: %s", when, made, errnos)
		}
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	rules := []Rule{{On: []string{"fd_sync", "proc_exit"}, Probability: 1, Errno: hostcall.EIO}}
	for _, name := range []string{"other", "proc_exit"} {
		if errnos, made := run(t, Options{Rules: rules}, name, 5); made != 5 || strings.Contains(errnos, "EIO") {
			t.Errorf("%s: %d, %s", name, made, errnos)
		}
	}
}

func TestADelayWaitsOnTheClock(t *testing.T) {
	m := clock.NewManual(time.Unix(0, 0))
	in, err := New(Options{Clock: m, Rules: []Rule{{On: []string{"*"}, Probability: 1, Delay: time.Minute}}})
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	g := doortest.New(t, library(&made), nil, in)
	done := make(chan hostcall.Errno)
	go func() {
		e, _ := g.Call("fd_sync")
		done <- e
	}()
	for {
		select {
		case e := <-done:
			if e != hostcall.Success || made != 1 || !m.Now().After(time.Unix(0, 0)) {
				t.Errorf("%s, %d, %s", e, made, m.Now())
			}
			return
		default:
			m.Advance(time.Second) // until the timer is there and falls due
		}
	}
}

func TestBadRulesAreAllReported(t *testing.T) {
	_, err := New(Options{Rules: []Rule{{}, {On: []string{"*"}, Probability: 2}, {On: []string{"*"}, Delay: -1}, {On: []string{"*"}, When: 9}}})
	if err == nil || strings.Count(err.Error(), "fault ") != 4 {
		t.Errorf("%v", err)
	}
}
