package agent

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// TestReportsFitWhatTheControlProcessTakes keeps a guest from ending its worker with a long text.
func TestReportsFitWhatTheControlProcessTakes(t *testing.T) {
	s := newReports(clock.System)
	text := strings.Repeat("\x00", 10<<20)
	problem := &wire.Problem{Detail: text}
	s.offer(wire.Report{Kind: wire.ReportLog, Text: text})
	s.must(wire.Report{Kind: wire.ReportPrepared, Problem: problem})
	for range 2 {
		b, err := json.Marshal((<-s.queue).report)
		if err != nil || len(b) > 1<<20-100 {
			t.Errorf("a report of %d bytes: %v", len(b), err)
		}
	}
	if len(problem.Detail) != len(text) {
		t.Error("the caller's problem was changed")
	}
}
