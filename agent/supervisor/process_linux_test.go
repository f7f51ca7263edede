package supervisor

import (
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

func TestACompilerIsNicerFromItsFirstMoment(t *testing.T) {
	nice := func() int {
		own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0) // the system call answers 20 less the niceness
		if err != nil {
			t.Error(err)
		}
		return 20 - own
	}
	before, within := nice(), 0
	var out []byte
	if err := behind(func() (err error) {
		within = nice()
		out, err = exec.Command("nice").Output() // prints its own
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := min(before+compilerNice, 19)
	if got := string(out); within != want || got != strconv.Itoa(want)+"\n" {
		t.Errorf("the thread's niceness is %d and the process's %q, want %d", within, got, want)
	}
	for range 10 {
		if got := nice(); got != before {
			t.Errorf("afterwards a thread's niceness is %d; it was %d", got, before)
		}
	}
	failed := exec.ErrNotFound
	if err := behind(func() error { return failed }); err != failed {
		t.Errorf("the error is %v", err)
	}
}
