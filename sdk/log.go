package sdk

import (
	"bytes"
	"context"
	"log/slog"
)

// Level is how much a line of the job's log matters.
type Level uint32

// The levels.
const (
	Debug Level = iota
	Info
	Warn
	Error
)

// maxLog is the longest text of one log call, in bytes.
const maxLog = 16 << 10

// Log writes text to the job's log, a line at a time. What is over the job's bound is dropped and counted there.
func Log(level Level, text string) {
	for b := []byte(text); ; {
		piece, rest := lines(b, maxLog)
		_ = logText(uint32(level), piece) // there is nobody to tell
		if b = rest; len(b) == 0 {
			return
		}
	}
}

// Logger logs to the job's log, as slog's text handler writes, without a time: the host notes it.
func Logger() *slog.Logger { return slog.New(LogHandler(nil)) }

// LogHandler is a slog.Handler over Log. opts may be nil; then it logs from slog.LevelDebug on.
func LogHandler(opts *slog.HandlerOptions) slog.Handler {
	o := slog.HandlerOptions{Level: slog.LevelDebug}
	if opts != nil {
		o = *opts
	}
	replace := o.ReplaceAttr
	o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		if replace != nil {
			return replace(groups, a)
		}
		return a
	}
	return &logHandler{make: func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, &o) }}
}

// logHandler has a text handler format each record into a buffer of its own.
type logHandler struct {
	make func(*bytes.Buffer) slog.Handler
}

// Enabled implements slog.Handler.
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.make(nil).Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	var b bytes.Buffer
	if err := h.make(&b).Handle(ctx, r); err != nil {
		return err
	}
	level := Error
	switch {
	case r.Level < slog.LevelInfo:
		level = Debug
	case r.Level < slog.LevelWarn:
		level = Info
	case r.Level < slog.LevelError:
		level = Warn
	}
	Log(level, string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))))
	return nil
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{func(b *bytes.Buffer) slog.Handler { return h.make(b).WithAttrs(attrs) }}
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{func(b *bytes.Buffer) slog.Handler { return h.make(b).WithGroup(name) }}
}
