package embedded

import (
	"errors"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/brokertest"
)

func TestAListThatLooksAtTooMuchAnswersAShortPage(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	if short := brokertest.ShortPages(t, s.Queue(), maxListed+10); short != 1 {
		t.Errorf("%d pages were cut short", short)
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"", "0.", "1.cQ", "3.bwAA", "4.", "1.cR", "1.c\nQ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePosition(s)
		if err != nil && !errors.Is(err, broker.ErrInvalid) || err == nil && s != "" && p.String() != s {
			t.Errorf("%q is read as %q, %v", s, p, err)
		}
	})
}
