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
		part := text[:lineLen(text)]
		text = text[len(part):]
		if l.full(len(part)) {
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

// bytes logs one line, as line does. What is dropped costs next to nothing.
func (l *logger) bytes(stream, level string, b []byte) {
	if len(b) <= MaxLine && l.full(len(b)) {
		l.dropped += uint64(max(len(b), 1))
		return
	}
	l.line(stream, level, string(b))
}

// full reports whether a line of n bytes is past the bound.
func (l *logger) full(n int) bool { return l.used+uint64(n) > l.most || l.lines*leastLine > l.most }

// lineLen is how much of text is its first line: all of it, or up to MaxLine bytes of whole characters.
func lineLen[T string | []byte](text T) int {
	if len(text) <= MaxLine {
		return len(text)
	}
	n := MaxLine
	for n > MaxLine-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
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
		next := p[:min(len(p), mostPart-len(w.part))]
		i := bytes.IndexByte(next, '\n')
		if i >= 0 {
			next = next[:i]
			p = p[1:]
		}
		w.part = append(w.part, next...)
		p = p[len(next):]
		if i >= 0 {
			w.endLine()
		} else if len(w.part) == mostPart {
			cut := lineLen(w.part)
			w.log.bytes(w.stream, w.level, w.part[:cut])
			w.part = append(w.part[:0], w.part[cut:]...)
		}
	}
	return n, nil
}

// mostPart is how much of a line is kept until its end is known: a part is cut off then.
const mostPart = MaxLine + utf8.UTFMax

// endLine logs what there is of a line, whose end was written.
func (w *lineWriter) endLine() {
	w.log.bytes(w.stream, w.level, bytes.TrimSuffix(w.part, []byte("\r")))
	w.part = w.part[:0]
}

// flush logs a line that the guest has begun.
func (w *lineWriter) flush() {
	if len(w.part) > 0 {
		w.endLine()
	}
}
