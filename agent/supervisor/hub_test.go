package supervisor

import (
	"strconv"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wire"
)

func line(job, text string) wire.Report {
	return wire.Report{Kind: wire.ReportLog, Job: job, Text: text}
}

func TestTheHubKeepsAJobsLastLinesAndNoMoreThanItsBytes(t *testing.T) {
	h := NewHub(nil)
	for i := range keepLines + 10 {
		h.Log(line("j", strconv.Itoa(i)))
	}
	back, _, stop := h.Logs("j", keepLines+100)
	defer stop()
	if len(back) != keepLines || back[0].Text != "10" {
		t.Errorf("%d lines, the first %q", len(back), back[0].Text)
	}
	for range 200 {
		h.Log(line("j", strings.Repeat("x", 2*maxText)))
	}
	back, _, stop2 := h.Logs("j", keepLines)
	defer stop2()
	total := 0
	for _, r := range back {
		total += len(r.Text)
	}
	if total > keepBytes || len(back) == 0 {
		t.Errorf("%d lines of %d bytes", len(back), total)
	}
	if back, _, stop := h.Logs("other", 10); len(back) != 0 {
		t.Error("one job's lines in another's log")
	} else {
		stop()
	}
}

func TestASlowSubscriberIsDroppedAndOthersAreNot(t *testing.T) {
	h := NewHub(nil)
	_, slow, stopSlow := h.Logs("j", 0)
	_, quick, stopQuick := h.Logs("j", 0)
	for i := range ahead + 1 {
		h.Log(line("j", strconv.Itoa(i)))
		if r := <-quick; r.Text != strconv.Itoa(i) {
			t.Fatalf("got %q", r.Text)
		}
	}
	n := 0
	for range slow {
		n++
	}
	if n != ahead {
		t.Errorf("the slow one got %d lines", n)
	}
	stopSlow()
	stopQuick()
	stopQuick()
	if _, open := <-quick; open {
		t.Error("a stopped subscription stays open")
	}
}

func TestTracingLastsFromTheFirstFollowerToTheLast(t *testing.T) {
	var told []bool
	h := NewHub(func(_ string, on bool) { told = append(told, on) })
	_, stop1 := h.Traces("j")
	c, stop2 := h.Traces("j")
	h.Trace(wire.Report{Job: "j", Kind: wire.ReportTrace})
	if r := <-c; r.Job != "j" {
		t.Errorf("%+v", r)
	}
	stop1()
	if told[len(told)-1] != true {
		t.Error("tracing ended while someone follows")
	}
	stop2()
	if told[len(told)-1] != false || len(h.Traced()) != 0 {
		t.Error("tracing did not end")
	}
}

func TestFollowersOfAJobAreBounded(t *testing.T) {
	h := NewHub(nil)
	for range maxFollow {
		_, _, stop := h.Logs("j", 0)
		defer stop()
	}
	_, c, stop := h.Logs("j", 0)
	defer stop()
	if _, open := <-c; open {
		t.Error("one more follower was let in")
	}
}
