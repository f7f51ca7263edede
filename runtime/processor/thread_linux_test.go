package processor

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestALoweredThreadRunsBehindOthersAndEndsWithItsGoroutine(t *testing.T) {
	type result struct {
		err, after error
		priority   int
		tid        int
	}
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // of whoever runs the tests, who may be nice
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan result)
	go func() {
		r := result{err: LowerThread(), tid: unix.Gettid()}
		r.priority, r.after = unix.Getpriority(unix.PRIO_PROCESS, 0) // the call answers 20 less the niceness
		done <- r
	}()
	r := <-done
	if r.err != nil || r.after != nil || r.priority != 20-lowered {
		t.Errorf("%+v", r)
	}
	if own, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil || own != before {
		t.Errorf("this thread's priority is %d, %v; it was %d", own, err, before)
	}
}
