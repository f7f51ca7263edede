package processor

import (
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Threads lowers and raises the priority of threads. Its methods are safe for concurrent use.
type Threads struct {
	normal, low int
	raises      bool

	some atomic.Bool // false: lowered is empty, and nobody has to look

	mu      sync.Mutex
	lowered map[int]bool // by ID, the threads that are, and maybe some that have ended
}

// maxLowered bounds the threads that are lowered at once. A run that waits in a host call may keep its own, and so may one that is over whose answer
// nobody reads; there may be ten thousand of them, which Go would not survive.
const maxLowered = 256

// errLowered reports that maxLowered threads are lowered.
var errLowered = fmt.Errorf("%d threads have a lower priority already", maxLowered)

// Raises reports whether Raise can do anything.
func (t *Threads) Raises() bool { return t.raises }

// lower is how much nicer long runs are than the rest of the process: they get a tenth of what a thread that serves requests gets where
// both want a core, and are not kept so long from it that the garbage collector, which waits for all, waits for them.
const lower = 10

// OpenThreads makes a Threads for this process. Everybody may lower the priority of a thread; an ordinary user may raise it again only with a
// limit (RLIMIT_NICE) that allows it, which OpenThreads raises if it may. It stays when the process gives up privileges.
func OpenThreads() (*Threads, error) {
	own, limit, err := priority()
	if err != nil {
		return nil, err
	}
	normal := 20 - int(own)
	t := &Threads{normal: normal, low: min(normal+lower, 19), lowered: map[int]bool{}}
	t.raises = limit.Cur >= own || unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{Cur: own, Max: max(own, limit.Max)}) == nil
	return t, nil
}

// ProbeThreads reports why a thread that OpenThreads' Threads lowers could not be raised again, and changes nothing.
func ProbeThreads() error {
	own, limit, err := priority()
	if err != nil {
		return err
	}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if limit.Max < own && caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return fmt.Errorf("the limit of priorities (RLIMIT_NICE) is %d; it takes %d (systemd: LimitNICE=%d)", limit.Max, own, 20-int(own))
	}
	return nil
}

// priority is that of this thread, as RLIMIT_NICE counts: 20 less its niceness; and the limit.
func priority() (own uint64, limit unix.Rlimit, err error) {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // the system call answers as the limit counts
	err = errors.Join(err, unix.Getrlimit(unix.RLIMIT_NICE, &limit))
	if err != nil {
		return 0, limit, fmt.Errorf("read the thread's priority: %w", err)
	}
	return uint64(p), limit, nil
}

// Lower ties the calling goroutine to its thread and lowers the thread's priority. It does neither if it fails, as when too many are lowered. Of a
// goroutine whose thread could not be raised again, nothing changes.
func (t *Threads) Lower() error {
	goruntime.LockOSThread()
	id := unix.Gettid()
	added, err := t.add(id)
	if added {
		// Without the mutex: from here on others run first.
		if err = unix.Setpriority(unix.PRIO_PROCESS, 0, t.low); err != nil {
			t.remove(id)
			err = fmt.Errorf("lower the thread's priority: %w", err)
		}
	}
	if !added || err != nil {
		goruntime.UnlockOSThread()
	}
	return err
}

// add counts a thread as lowered unless it is already.
func (t *Threads) add(id int) (added bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lowered[id] && t.Lowered() { // else it is another thread, with the ID of one that has ended
		return false, nil
	}
	if len(t.lowered) >= maxLowered {
		t.forgetLocked()
	}
	if len(t.lowered) >= maxLowered {
		return false, errLowered
	}
	t.lowered[id] = true
	t.some.Store(true)
	return true, nil
}

func (t *Threads) remove(id int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.lowered, id)
	t.some.Store(len(t.lowered) > 0)
}

// forgetLocked forgets the threads that have ended. Go does not tell when one does, which is some time after its goroutine.
func (t *Threads) forgetLocked() {
	for id := range t.lowered {
		if unix.Tgkill(unix.Getpid(), id, 0) == unix.ESRCH {
			delete(t.lowered, id)
		}
	}
	t.some.Store(len(t.lowered) > 0)
}

// Raise ends what Lower did, by the same goroutine, and reports whether it could: else the goroutine keeps its thread, which ends with it, and
// should end soon. The thread counts as lowered until then. The first thread of a process ends with that only: no goroutine that is lowered may have it.
func (t *Threads) Raise() bool {
	if !t.raises || unix.Setpriority(unix.PRIO_PROCESS, 0, t.normal) != nil {
		return false
	}
	t.remove(unix.Gettid())
	goruntime.UnlockOSThread()
	return true
}

// Lowered reports whether the calling goroutine's thread was lowered and not raised again.
func (t *Threads) Lowered() bool {
	if !t.some.Load() {
		return false // nobody is
	}
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	return err != nil || 20-own >= t.low
}

// Yield has the kernel run another thread in place of the calling one if one waits that should run before it. When that woke the kernel looked, but
// it leaves everything as it is if a thread that has just gone to sleep would be next (DELAY_DEQUEUE in kernel/sched/features.h), and looks again at
// its own clock's next tick, which may be four milliseconds.
func Yield() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// Computed is the calling thread's ID, and the processor time that it has used.
func Computed() (thread int, used time.Duration) {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0, 0
	}
	return unix.Gettid(), time.Duration(t.Nano())
}

// slice is what threads ask the kernel for: about as long as a run goes on between two Yields, each of which gives up what is left of it.
const slice = 100 * time.Microsecond

// ShortSlices asks the kernel to run the calling thread, whose goroutine is locked to it, for a slice at a time, and the threads and processes that it
// starts, until undo is called. It is meant for who starts a process that has a Processor. It takes Linux 6.12; elsewhere runs that yield get less
// than they should where others want the same core.
func ShortSlices() (undo func()) {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL {
		return func() {}
	}
	short := *attr
	short.Runtime = uint64(slice)
	if unix.SchedSetAttr(0, &short, 0) != nil {
		return func() {}
	}
	return func() { _ = unix.SchedSetAttr(0, attr, 0) }
}

// Behind calls f in a thread of a priority as low as that of long runs, and with short slices, as are the processes that f starts from their first
// moment. The thread ends then: it could not be raised again everywhere. Where the system refuses any of that f is called all the same. f's panic is
// the caller's.
func Behind(f func() error) (err error) {
	done := make(chan struct{})
	var panicked any
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		goruntime.LockOSThread() // for good
		if own, _, e := priority(); e == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-int(own)+lower, 19))
		}
		ShortSlices()
		err = f()
	}()
	if <-done; panicked != nil {
		panic(panicked)
	}
	return err
}
