//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

func TestAScheduleFiresOnceAcrossARestart(t *testing.T) {
	s := startServer(t)
	probe := buildProbe(t)
	if status, b := s.tryDeploy("probe", probe, "schedule:\n- cron: 0 0 31 4 *\n"); status != 422 || !strings.Contains(string(b), "2:9: schedule[0].cron: never fires") {
		t.Errorf("one that never fires: %d %s", status, b)
	}
	s.deploy("probe", probe, "capabilities: {kv: [things]}\nschedule:\n- {name: often, cron: '* * * * *', path: /tally, overlap: allow}\n- {name: rarely, cron: 0 0 29 2 *, zone: Europe/Vienna}\n")
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.start()
	t.Setenv("RIPSTOP_SERVER", "http://"+s.api)
	t.Setenv("RIPSTOP_TOKEN", s.token)
	if out, _ := ok(t, "", "queue", "probe"); !strings.Contains(out, "often") || !strings.Contains(out, "-02-29 00:00 CET") {
		t.Errorf("queue says %s", out)
	}
	for end := clock.System.Now().Add(90 * time.Second); ; { // a minute passes before it fires
		n := s.queueCounts("probe")
		if n.Schedules == nil || len(*n.Schedules) != 2 || len((*n.Schedules)[0].Next) != 3 {
			t.Fatalf("the queue is %+v", n)
		}
		if often := (*n.Schedules)[0]; often.Last != nil {
			v := s.ended("probe", *often.Invocation)
			if want := "@often/" + often.Last.UTC().Format(time.RFC3339); v.State != "done" || v.IdempotencyKey == nil || *v.IdempotencyKey != want {
				t.Errorf("it ended as %+v, want the key %s", v, want)
			}
			if _, body := s.result("probe", v.Id); body != "1" {
				t.Errorf("it ran: %s", body)
			}
			return
		}
		if clock.System.Now().After(end) {
			t.Fatalf("nothing was fired\n%s", s.log.String())
		}
		<-clock.System.NewTimer(200 * time.Millisecond).C()
	}
}
