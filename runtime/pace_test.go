package runtime

import (
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/translate"
)

func TestStepsAreAsLongAsTheGuestIsFast(t *testing.T) {
	m := metering{}
	m.meter.Step = firstStep
	const perFuel = time.Nanosecond // as in ordinary code
	for range 10 {
		m.pace(time.Duration(m.meter.Step) * perFuel)
	}
	if m.meter.Step != translate.TickFuel {
		t.Errorf("ordinary code has steps of %d", m.meter.Step)
	}
	const slow = 100 * time.Nanosecond
	for range 3 {
		m.pace(time.Duration(m.meter.Step) * slow)
	}
	if took := time.Duration(m.meter.Step) * slow; took > longest || took < longest/4 {
		t.Errorf("slow code has steps of %d, which take %v", m.meter.Step, took)
	}
	m.pace(time.Hour)
	if m.meter.Step != leastStep {
		t.Errorf("after an hour it has steps of %d", m.meter.Step)
	}
	m.pace(0)
	if m.meter.Step != 2*leastStep {
		t.Errorf("steps grow to %d", m.meter.Step)
	}
}
