//go:build !linux

package processor

import (
	"errors"
	"fmt"
)

// LowerThread fails: only Linux has priorities of threads.
func LowerThread() error { return fmt.Errorf("lower the thread's priority: %w", errors.ErrUnsupported) }
