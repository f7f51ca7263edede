package processor

import (
	"fmt"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// lowered is the niceness of long runs: measured, 15 leaves the threads that serve requests ahead of them.
const lowered = 15

// LowerThread ties the calling goroutine to its thread and lowers the thread's priority. An ordinary user cannot raise it again, so the
// goroutine should end without unlocking, and the thread ends with it.
func LowerThread() error {
	goruntime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, lowered); err != nil {
		goruntime.UnlockOSThread()
		return fmt.Errorf("lower the thread's priority: %w", err)
	}
	return nil
}
