package guest

import (
	"context"
	"strings"
	"testing"
)

// counted is Services that counts lines.
type counted struct {
	nothing
	lines int
}

func (c *counted) Log(context.Context, Line) { c.lines++ }

func TestEmptyLinesAreNotFree(t *testing.T) {
	for name, write := range map[string]func(*logger){
		"written":     func(l *logger) { (&lineWriter{log: l}).Write([]byte(strings.Repeat("\n", 1<<20))) },
		"carriages":   func(l *logger) { (&lineWriter{log: l}).Write([]byte(strings.Repeat("\r\n", 1<<20))) },
		"by the call": func(l *logger) { l.text("log", "info", strings.Repeat("\n", 1<<20)) },
	} {
		c := &counted{}
		l := &logger{services: c, most: 64 << 10}
		l.begin(context.Background())
		write(l)
		if c.lines > 5000 || c.lines < 4000 || l.dropped < 1<<20-5000 {
			t.Errorf("%s: %d lines were taken, %d bytes dropped", name, c.lines, l.dropped)
		}
		l.begin(context.Background())
		if l.line("log", "info", "next"); l.used != 4 {
			t.Errorf("%s: the next invocation's line was not taken", name)
		}
	}
}
