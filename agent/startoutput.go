package agent

import (
	"strings"
	"sync"
)

// Bounds of what is kept of a first sandbox's output.
const (
	startLines = 20
	startBytes = 2 << 10
)

// startOutput keeps the end of what a guest writes while its first sandbox starts. If it does not, this often says why, and a job
// that never came to be has no log to look into.
type startOutput struct {
	mu    sync.Mutex
	lines []string
	bytes int // of all lines
}

// add keeps text, which is one line or a few.
func (o *startOutput) add(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		line = line[:min(len(line), startBytes)]
		o.lines, o.bytes = append(o.lines, line), o.bytes+len(line)
		for len(o.lines) > startLines || o.bytes > startBytes {
			o.bytes -= len(o.lines[0])
			o.lines = o.lines[1:]
		}
	}
}

// String is the lines, each after two spaces, below a heading; empty if there are none.
func (o *startOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lines) == 0 {
		return ""
	}
	return "\nit had written:\n  " + strings.Join(o.lines, "\n  ")
}

// A startError is why a first sandbox did not start, with what its guest had written.
type startError struct {
	wrote string
	err   error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }
