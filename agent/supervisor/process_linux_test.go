package supervisor

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

// noting reads a module, and notes the niceness of the threads that do.
type noting struct {
	r    io.Reader
	nice map[int]bool
}

func nice() (int, error) {
	own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0) // the system call answers 20 less the niceness
	return 20 - own, err
}

func (n *noting) Read(p []byte) (int, error) {
	own, err := nice()
	if err != nil {
		return 0, err
	}
	n.nice[own] = true
	return n.r.Read(p)
}

func TestACompilerAndWhoReadsItsModuleAreBehindOthers(t *testing.T) {
	own, err := nice()
	if err != nil {
		t.Fatal(err)
	}
	want := min(own+10, 19)
	said := t.TempDir() + "/niceness"
	s := compiling(t, "nice >"+said+"; "+compiles+`echo '{"program":"p","kind":"task"}'`)
	module := &noting{strings.NewReader("module"), map[int]bool{}}
	if _, err := s.Check(t.Context(), "", fmt.Sprintf("%x", sha256.Sum256([]byte("module"))), module, 6); err != nil {
		t.Fatal(err)
	}
	if len(module.nice) != 1 || !module.nice[want] {
		t.Errorf("the module is read with a niceness of %v, want %d", module.nice, want)
	}
	if b, err := os.ReadFile(said); err != nil || string(b) != fmt.Sprintln(want) {
		t.Errorf("the compiler's niceness is %q, want %d; %v", b, want, err)
	}
}
