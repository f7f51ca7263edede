package processor

import (
	"errors"
	goruntime "runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestALoweredThreadRunsBehindOthersUntilItIsRaised(t *testing.T) {
	threads, err := OpenThreads()
	if probe := ProbeThreads(); (probe == nil) != (err == nil) {
		t.Errorf("the probe says %v, and opening %v", probe, err)
	}
	raises := err == nil
	if errors.Is(err, unix.EPERM) {
		threads = &Threads{low: 19} // lowering is everybody's right
	} else if err != nil {
		t.Fatal(err)
	}
	type result struct {
		lower, raise  error
		low, high     int
		lowID, highID int
	}
	priority := func() int {
		p, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // the call answers 20 less the niceness
		if err != nil {
			t.Error(err)
		}
		return 20 - p
	}
	before := priority()
	done := make(chan result)
	go func() {
		// The thread ends with this goroutine if it cannot be raised again.
		r := result{lower: threads.Lower(), low: priority(), lowID: unix.Gettid()}
		goruntime.Gosched()
		if r.highID = unix.Gettid(); raises {
			r.raise = threads.Raise()
			r.high = priority()
		}
		done <- r
	}()
	r := <-done
	if r.lower != nil || r.raise != nil || r.low != threads.low || r.high != threads.normal || r.lowID != r.highID {
		t.Errorf("%+v, %+v", r, threads)
	}
	if own := priority(); own != before {
		t.Errorf("this thread's niceness is %d; it was %d", own, before)
	}
}
