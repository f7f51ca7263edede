package guest

import (
	"bytes"
	"context"
	"strings"
	"unicode/utf8"
)

// logger hands a sandbox's lines to Services, as far as the bound of an invocation allows.
type logger struct {
	services Services
	most     uint64
	ctx      context.Context // of the invocation under way; a line belongs to the one it was written in
	used     uint64
	dropped  uint64
	lines    uint64
}

// leastLine is how many bytes of the bound there have to be for each line: empty ones cost us as much as others.
const leastLine = 16

// begin starts the count of an invocation.
func (l *logger) begin(ctx context.Context) { l.ctx, l.used, l.dropped, l.lines = ctx, 0, 0, 0 }

// line logs one line of a stream; text is cut where it is too long.
func (l *logger) line(stream, level, text string) {
	for {
		part := text
		if len(part) > MaxLine {
			part = part[:MaxLine]
			for len(part) > MaxLine-utf8.UTFMax && !utf8.RuneStart(text[len(part)]) {
				part = part[:len(part)-1]
			}
		}
		text = text[len(part):]
		if l.used+uint64(len(part)) > l.most || l.lines*leastLine > l.most {
			l.dropped += uint64(max(len(part)+len(text), 1))
			return
		}
		l.used += uint64(len(part))
		l.lines++
		l.services.Log(l.ctx, Line{Stream: stream, Level: level, Text: part})
		if text == "" {
			return
		}
	}
}

// text logs text of any number of lines.
func (l *logger) text(stream, level, text string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		l.line(stream, level, strings.TrimSuffix(line, "\r"))
	}
}

// lineWriter is a guest's standard output or error: it logs whole lines, and what is left when the guest is done.
type lineWriter struct {
	log    *logger
	stream string
	level  string
	part   []byte
}

// Write implements io.Writer. It never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.part = append(w.part, p[:min(len(p), MaxLine)]...)
			if p = p[min(len(p), MaxLine):]; len(w.part) >= MaxLine {
				w.flush()
			}
			continue
		}
		w.part = append(w.part, p[:i]...)
		w.log.text(w.stream, w.level, string(w.part))
		w.part = w.part[:0]
		p = p[i+1:]
	}
	return n, nil
}

func (w *lineWriter) flush() {
	if len(w.part) > 0 {
		w.log.text(w.stream, w.level, string(w.part))
		w.part = w.part[:0]
	}
}
