package processor

import (
	"errors"
	"fmt"
	"os/exec"
	goruntime "runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestALoweredThreadRunsBehindOthersUntilItIsRaised(t *testing.T) {
	threads, err := OpenThreads()
	if err != nil {
		t.Fatal(err)
	}
	if probe := ProbeThreads(); (probe == nil) != threads.raises {
		t.Errorf("the probe says %v, and opening %v", probe, threads)
	}
	type result struct {
		lower         error
		raised        bool
		low, high     int
		is, was       bool
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
		r := result{lower: threads.Lower(), low: priority(), is: threads.Lowered(), lowID: unix.Gettid()}
		goruntime.Gosched()
		r.highID = unix.Gettid()
		r.raised = threads.Raise()
		r.high, r.was = priority(), threads.Lowered()
		done <- r
	}()
	r := <-done
	high := threads.low // where it may not be raised its goroutine keeps it
	if threads.raises {
		high = threads.normal
	}
	if r.lower != nil || r.raised != threads.raises || r.low != threads.low || r.high != high || !r.is || r.was == r.raised || r.lowID != r.highID {
		t.Errorf("%+v, %+v", r, threads)
	}
	if own := priority(); own != before || threads.Lowered() {
		t.Errorf("this thread's niceness is %d; it was %d", own, before)
	}
}

func TestOnlySoManyThreadsAreLowered(t *testing.T) {
	threads, err := OpenThreads()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var lowered, refused sync.WaitGroup
	end := make(chan struct{})
	lowered.Add(maxLowered)
	for range maxLowered {
		all.Go(func() { // its thread ends with it
			if err := threads.Lower(); err != nil {
				t.Error(err)
			}
			lowered.Done()
			<-end
			threads.Raise()
		})
	}
	lowered.Wait()
	refused.Go(func() {
		if err := threads.Lower(); !errors.Is(err, errLowered) {
			t.Errorf("one more: %v", err)
		}
	})
	refused.Wait()
	close(end)
	all.Wait()
	all.Go(func() {
		for threads.Lower() != nil { // threads end some time after their goroutines
			goruntime.Gosched()
		}
		threads.Raise()
	})
	all.Wait()
}

// Where threads cannot be raised again, one counts until it has ended, however often its goroutine begins anew, and no longer.
func TestAThreadThatStaysLoweredCountsUntilItEnds(t *testing.T) {
	threads, err := OpenThreads()
	if err != nil {
		t.Fatal(err)
	}
	threads.raises = false
	for round := range 3 {
		var all, over sync.WaitGroup
		end := make(chan struct{})
		over.Add(maxLowered)
		for range maxLowered {
			all.Go(func() {
				for range 2 {
					for threads.Lower() != nil { // those of the round before have not all ended
						goruntime.Gosched()
					}
					threads.Raise()
				}
				over.Done()
				<-end // as one whose answer nobody reads
			})
		}
		over.Wait()
		var more sync.WaitGroup
		more.Go(func() {
			if err := threads.Lower(); !errors.Is(err, errLowered) || threads.Lowered() {
				t.Errorf("one more in round %d: %v", round, err)
			}
		})
		more.Wait()
		close(end)
		all.Wait()
	}
}

func TestWhatIsStartedWithShortSlicesHasThem(t *testing.T) {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	before := threadSlice(t)
	if before == 0 {
		t.Skip("this kernel has no slices of threads: it takes Linux 6.12")
	}
	undo := ShortSlices()
	if got := threadSlice(t); got != slice {
		t.Errorf("the thread has slices of %v", got)
	}
	cmd := exec.Command("sleep", "100")
	err := cmd.Start()
	undo()
	if err != nil {
		t.Fatal(err)
	}
	attr, err := unix.SchedGetAttr(cmd.Process.Pid, 0)
	if err != nil || time.Duration(attr.Runtime) != slice {
		t.Errorf("the child's attributes are %+v, %v", attr, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if got := threadSlice(t); got != before {
		t.Errorf("afterwards the thread has slices of %v; it had %v", got, before)
	}
}

func threadSlice(t testing.TB) time.Duration {
	t.Helper()
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(attr.Runtime)
}

func TestWhatIsBehindOthersHasAThreadOfItsOwn(t *testing.T) {
	nice := func() int {
		p, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // the call answers 20 less the niceness
		if err != nil {
			t.Error(err)
		}
		return 20 - p
	}
	before, within := nice(), 0
	short := threadSlice(t) == 0 // nothing to see on this kernel
	var out []byte
	if err := Behind(func() (err error) {
		within = nice()
		short = short || threadSlice(t) == slice
		out, err = exec.Command("nice").Output() // prints its own
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := min(before+lower, 19)
	if got := string(out); within != want || got != fmt.Sprintln(want) || !short {
		t.Errorf("the thread's niceness is %d and the process's %q, want %d; its slices are short: %v", within, got, want, short)
	}
	for range 10 {
		if got := nice(); got != before {
			t.Errorf("afterwards a thread's niceness is %d; it was %d", got, before)
		}
	}
	failed := exec.ErrNotFound
	if err := Behind(func() error { return failed }); err != failed {
		t.Errorf("the error is %v", err)
	}
}

// Who handles a request has the panic recovered, and the server goes on.
func TestWhatIsCalledBehindOthersPanicsInItsCaller(t *testing.T) {
	defer func() {
		if p := recover(); p != "x" {
			t.Errorf("the panic was %v", p)
		}
	}()
	_ = Behind(func() error { panic("x") })
	t.Error("the panic is lost")
}
