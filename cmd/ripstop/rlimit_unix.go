//go:build unix

package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// spare is how long, in seconds of processor time, a process has to end by itself when its time is used up.
const spare = 5

// limitProcess bounds this process's address space, in bytes, its processor time, in seconds, and the files that it writes, in bytes,
// from now on. It ends the process with the status spent when its processor time is used up.
func limitProcess(space, cpu, file uint64, spent int) error {
	// The system says once that the time is used up, and kills what goes on.
	over := make(chan os.Signal, 1)
	signal.Notify(over, syscall.SIGXCPU)
	go func() { <-over; os.Exit(spent) }()
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
		more     uint64
	}{{"address space", syscall.RLIMIT_AS, space, 0}, {"processor time", syscall.RLIMIT_CPU, cpu, spare}, {"file size", syscall.RLIMIT_FSIZE, file, 0}, {"core size", syscall.RLIMIT_CORE, 0, 0}} {
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.value, Max: l.value + l.more}); err != nil {
			return fmt.Errorf("limit the %s of this process: %w", l.name, err)
		}
	}
	return nil
}
