package supervisor

import (
	"errors"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

func TestAJobsStatusFollowsItsVersionAndItsWorker(t *testing.T) {
	w, m, _ := linked(t, policy.Capabilities{})
	s := w.super
	s.worker = w
	is := func(what, state, reason string, version uint64) {
		t.Helper()
		if got, why := s.Status("j", version); got != state || why != reason {
			t.Errorf("%s: %s %q, want %s %q", what, got, why, state, reason)
		}
	}
	report := func(version uint64, p *wire.Problem) {
		w.report(t.Context(), wire.Report{Kind: wire.ReportStarted, Job: "j", Version: version, Problem: p})
	}
	is("before its order", StateStarting, "", 2)
	s.assigned("j", 2)
	is("assigned", StateStarting, "", 2)
	report(1, nil)
	is("another version was started", StateStarting, "", 2)
	report(2, nil)
	is("started", StateReady, "", 2)
	is("a version that was committed just now", StateStarting, "", 3)

	s.assigned("j", 3)
	report(3, &wire.Problem{Status: 422, Detail: "no such volume"})
	is("not started", StateFailed, "no such volume", 3)
	s.restartLocked()
	s.assigned("j", 3)
	is("not started, in a new worker", StateFailed, "no such volume", 3)
	s.assigned("j", 4)
	report(4, nil)
	is("the next version", StateReady, "", 4)

	s.restartLocked()
	is("the worker is gone", StateStarting, "", 4)
	s.assigned("j", 4)
	report(4, nil)
	w.report(t.Context(), wire.Report{Kind: wire.ReportRunning, Job: "j", Version: 4})
	s.restartLocked()
	s.died(t.Context(), m, w, errors.New("signal: killed"))
	is("it was in the worker that died", StateFailed, "the worker process died (signal: killed) while this job ran in it", 4)
	s.assigned("j", 4)
	report(4, nil)
	is("it is back", StateReady, "", 4)

	s.worker = nil
	report(4, &wire.Problem{Status: 422, Detail: "late"})
	is("a worker that is no more speaks", StateReady, "", 4)
	s.forbid("j")
	is("removed", StateStarting, "", 4)
	report(4, nil)
	is("removed, and spoken for", StateStarting, "", 4)
}
