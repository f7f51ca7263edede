//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

func TestQueuedRequestsAreHandledFromTheCommandLine(t *testing.T) {
	s := startServer(t)
	t.Setenv("RIPSTOP_SERVER", "http://"+s.api)
	t.Setenv("RIPSTOP_TOKEN", s.token)
	s.deploy("says", saying("hello from the queue"), "")
	s.deploy("traps", command([]byte{0x00}), "queue: {attempts: 1}\n")
	line := func(args ...string) string {
		t.Helper()
		out, _ := ok(t, "", args...)
		return strings.TrimSpace(out)
	}

	if out := line("invoke", "says", "--async", "--wait"); out != "hello from the queue" {
		t.Errorf("invoke --async --wait: %q", out)
	}
	id := line("invoke", "says", "--async")
	if out := line("result", "--wait", id); out != "hello from the queue" {
		t.Errorf("result --wait ID: %q", out)
	}
	if out := line("result", "says", id, "--include"); !strings.HasPrefix(out, "HTTP/1.1 200 OK") || !strings.HasSuffix(out, "hello from the queue") {
		t.Errorf("result JOB ID --include: %q", out)
	}
	first, again := line("invoke", "says", "--async", "--key", "k", "--json"), line("invoke", "says", "--async", "--key", "k", "--json")
	if strings.Contains(first, "known") || !strings.Contains(again, `"known": true`) {
		t.Errorf("the same key twice: %s, then %s", first, again)
	}
	queued := line("invoke", "says", "--async", "--key", "k2")
	if out, said := ok(t, "", "invoke", "says", "--async", "--key", "k2"); strings.TrimSpace(out) != queued || said != "nothing new is queued: the key \"k2\" is that of invocation "+queued+"\n" {
		t.Errorf("a key that is known: %q and %q", out, said)
	}
	later := line("invoke", "says", "--async", "--delay", "1h")
	if out := line("queue", "says", "--json"); !strings.Contains(out, `"waiting": 1`) {
		t.Errorf("queue: %s", out)
	}

	dead := line("invoke", "traps", "--async", "-d", "the body")
	s.ended("traps", dead)
	if out := line("dead-letters", "list", "traps"); !strings.Contains(out, dead) || !strings.Contains(out, "trap") {
		t.Errorf("dead-letters list: %q", out)
	}
	if out := line("dead-letters", "show", "traps", dead); !strings.Contains(out, "the job trapped") || !strings.HasSuffix(out, "the body") {
		t.Errorf("dead-letters show: %q", out)
	}
	line("dead-letters", "requeue", "traps", dead)
	s.ended("traps", dead)
	line("dead-letters", "drop", "traps", dead)
	if out := line("dead-letters", "list", "traps", "--json"); strings.Contains(out, dead) {
		t.Errorf("after drop: %s", out)
	}

	fails(t, exitFailed, "is waiting", "result", "says", later)
	if out := line("queue", "list", "says"); !strings.Contains(out, later+"  waiting") {
		t.Errorf("queue list: %s", out)
	}
	if out := line("queue", "cancel", "says", later); out != later+" is cancelled" {
		t.Errorf("queue cancel: %q", out)
	}
	fails(t, exitFailed, "there is no response to invocation "+later+": cancelled", "result", "says", later)
	s.deploy("loops", looping(), "limits: {time: 4s}\nqueue: {attempts: 1}\n")
	looper := line("invoke", "loops", "--async")
	for !strings.Contains(line("queue", "list", "loops"), looper+"  running") {
		<-clock.System.NewTimer(50 * time.Millisecond).C()
	}
	fails(t, exitFailed, "is under way", "queue", "cancel", "loops", looper)
	fails(t, exitFailed, "no invocation", "result", "says", "nothing")
	fails(t, exitFailed, "there is no job", "queue", "nobody")
	fails(t, exitFailed, "priority", "invoke", "says", "--async", "--priority", "10")
	fails(t, exitFailed, "is no duration", "invoke", "says", "--async", "--delay", "soon")
	fails(t, exitUsage, "--wait needs --async", "invoke", "says", "--wait")
}
