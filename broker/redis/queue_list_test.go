package redis

import (
	"errors"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/brokertest"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func TestAListThatLooksAtTooMuchAnswersAShortPage(t *testing.T) {
	s := mustOpen(t, redistest.Start(t).URL(), Options{Require: LevelNone})
	if short := brokertest.ShortPages(t, s.Queue(), maxListCalls*broker.MaxBatch+10); short != 1 {
		t.Errorf("%d pages were cut short", short)
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"", "l.0.", "r.900000000000001.id", "b.0.0123456789abcdef0123456789abcdef01234567:0000000000000001:id", "b.1.", "d.x.id", "l.0.a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePosition(s)
		if err != nil && !errors.Is(err, broker.ErrInvalid) || err == nil && s != "" && p.String() != s {
			t.Errorf("%q is read as %q, %v", s, p, err)
		}
	})
}
