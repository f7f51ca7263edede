//go:build !linux

package processor

import (
	"errors"
	"fmt"
	"time"
)

// Threads lowers and raises the priority of threads. There are none but on Linux.
type Threads struct{}

var errNoPriorities = fmt.Errorf("priorities of threads: %w", errors.ErrUnsupported)

// OpenThreads fails: only Linux has priorities of threads.
func OpenThreads() (*Threads, error) { return nil, errNoPriorities }

// ProbeThreads fails like OpenThreads.
func ProbeThreads() error { return errNoPriorities }

// Raises is false.
func (*Threads) Raises() bool { return false }

// Lower fails.
func (*Threads) Lower() error { return errNoPriorities }

// Raise cannot do anything.
func (*Threads) Raise() bool { return false }

// Lowered is false.
func (*Threads) Lowered() bool { return false }

// Computed knows no thread.
func Computed() (thread int, used time.Duration) { return 0, 0 }

// Yield does nothing.
func Yield() {}

// ShortSlices does nothing.
func ShortSlices() (undo func()) { return func() {} }

// Behind calls f.
func Behind(f func() error) error { return f() }
