package guest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
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

// kept is Services that keeps lines.
type kept struct {
	nothing
	lines []string
}

func (k *kept) Log(_ context.Context, l Line) { k.lines = append(k.lines, l.Text) }

func TestLinesAreTheSameHoweverTheyAreWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	texts := []string{
		"", "a\n\nb", "a\r\nb\r\n", strings.Repeat("x", MaxLine) + "\r\nrest", strings.Repeat("x", MaxLine+2) + "\nrest",
		strings.Repeat("é", 2*MaxLine) + "\n", strings.Repeat("\xff", 3*MaxLine), strings.Repeat("x", MaxLine-1) + "日本\n",
	}
	for range 50 {
		var b strings.Builder
		for range rng.IntN(8) {
			b.WriteString(strings.Repeat([]string{"x", "é", "日", "\x80"}[rng.IntN(4)], rng.IntN(2*MaxLine)))
			b.WriteString([]string{"\n", "\r\n", ""}[rng.IntN(3)])
		}
		texts = append(texts, b.String())
	}
	for n, text := range texts {
		whole := &kept{}
		l := &logger{services: whole, most: 1 << 30}
		if text != "" {
			l.text("stdout", "info", text)
		}
		for _, most := range []int{1, 3, 1000, MaxLine, 1 << 20} {
			pieces := &kept{}
			w := &lineWriter{log: &logger{services: pieces, most: 1 << 30}}
			if most == 1 && n > 12 {
				continue
			}
			for rest := text; rest != ""; {
				k := min(1+rng.IntN(most), len(rest))
				if got, err := w.Write([]byte(rest[:k])); got != k || err != nil {
					t.Fatal(got, err)
				}
				rest = rest[k:]
			}
			w.flush()
			if !slices.Equal(pieces.lines, whole.lines) {
				t.Errorf("text %d in pieces of up to %d: %d lines, not %d", n, most, len(pieces.lines), len(whole.lines))
			}
		}
	}
}

func TestWhatIsDroppedTakesNoMemory(t *testing.T) {
	w := &lineWriter{log: &logger{services: nothing{}, most: 100}}
	flood := bytes.Repeat([]byte{'x'}, 64<<10)
	_, _ = w.Write(flood) // room for parts is made
	if n := testing.AllocsPerRun(100, func() { _, _ = w.Write(flood) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if most := uint64(102 * len(flood)); w.log.dropped > most || w.log.dropped < most-mostPart {
		t.Errorf("%d bytes were dropped of %d", w.log.dropped, most)
	}
}
