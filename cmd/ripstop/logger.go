package main

import (
	"fmt"
	"io"
	"log/slog"
)

// newLogger makes the server's logger: format "text" (or empty) or "json", level as slog names them (empty: info).
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var at slog.Level
	if level != "" {
		if err := at.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
		}
	}
	opts := &slog.HandlerOptions{Level: at}
	switch format {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q is neither text nor json", format)
}
