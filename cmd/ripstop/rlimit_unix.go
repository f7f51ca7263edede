//go:build unix

package main

import (
	"fmt"
	"syscall"
)

// limitProcess bounds this process's address space, in bytes, and processor time, in seconds, from now on.
func limitProcess(space, cpu uint64) error {
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{{"address space", syscall.RLIMIT_AS, space}, {"processor time", syscall.RLIMIT_CPU, cpu}, {"file size", syscall.RLIMIT_FSIZE, 0}, {"core size", syscall.RLIMIT_CORE, 0}} {
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("limit the %s of this process: %w", l.name, err)
		}
	}
	return nil
}
