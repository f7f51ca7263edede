package control

import (
	"io"
	"sync"
	"syscall"
	"testing"
)

// niceness is that of the calling thread.
func niceness(t *testing.T) int {
	p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0) // the system call answers 20 less the niceness
	if err != nil {
		t.Error(err)
	}
	return 20 - p
}

// slow is a module that tells who reads it, and has its first byte when it may.
type slow struct {
	reads chan<- int // the reader's niceness, at the first read
	may   <-chan struct{}
	t     *testing.T
	begun bool
}

func (s *slow) Read(p []byte) (int, error) {
	if s.begun {
		return 0, io.EOF
	}
	s.begun = true
	s.reads <- niceness(s.t)
	<-s.may
	return copy(p, "m"), nil
}

func TestUploadsAreBehindOthersAsLongAsThereAreThreads(t *testing.T) {
	w := newWorld(t)
	reads, may := make(chan int), make(chan struct{})
	var all sync.WaitGroup
	upload := func() int {
		all.Go(func() {
			if _, err := w.upload(t.Context(), &slow{reads, may, t, false}); err != nil {
				t.Error(err)
			}
		})
		return <-reads
	}
	own := niceness(t)
	behind := min(own+10, 19)
	for i := range uploadsBehind {
		if got := upload(); got != behind {
			t.Fatalf("upload %d is read with a niceness of %d, want %d", i, got, behind)
		}
	}
	if got := upload(); got != own {
		t.Errorf("one more is read with a niceness of %d, want %d", got, own)
	}
	close(may)
	all.Wait()
	if got := upload(); got != behind {
		t.Errorf("after they have ended one is read with a niceness of %d, want %d", got, behind)
	}
	all.Wait()
	if got := niceness(t); got != own {
		t.Errorf("the niceness of another thread is %d and was %d", got, own)
	}
}

// torn is a module that cannot even be read.
type torn struct{}

func (torn) Read([]byte) (int, error) { panic("torn") }

func TestAnUploadThatPanicsIsItsHandlersAndKeepsNoThread(t *testing.T) {
	w := newWorld(t)
	for range uploadsBehind + 1 {
		func() {
			defer func() {
				if p := recover(); p != "torn" {
					t.Errorf("what the handler recovers is %v", p)
				}
			}()
			_, err := w.upload(t.Context(), torn{})
			t.Errorf("it is stored: %v", err)
		}()
	}
	if n := len(w.behind); n != 0 {
		t.Errorf("%d uploads are said to have a thread", n)
	}
}
