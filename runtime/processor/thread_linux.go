package processor

import (
	"errors"
	"fmt"
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// lower is how much nicer long runs are than the rest of the process: they get a tenth of what a thread that serves requests gets where
// both want a core, and are not kept so long from it that the garbage collector, which waits for all, waits for them.
const lower = 10

// Threads lowers and raises the priority of threads. Its methods are safe for concurrent use.
type Threads struct{ normal, low int }

// OpenThreads has this process raise the priority of its own threads again, up to what they have now, and makes a Threads. An ordinary user
// may only do that with a limit (RLIMIT_NICE) that allows it: OpenThreads fails if the limit does not, and cannot be raised. It stays when the
// process gives up privileges.
func OpenThreads() (*Threads, error) {
	own, limit, err := priority()
	if err != nil {
		return nil, err
	}
	if limit.Cur < own {
		if err := unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{Cur: own, Max: max(own, limit.Max)}); err != nil {
			return nil, fmt.Errorf("raise the limit of priorities (RLIMIT_NICE) from %d to %d: %w; run the server with a limit of %d (systemd: LimitNICE=%d), or as root",
				limit.Cur, own, err, own, 20-int(own))
		}
	}
	normal := 20 - int(own)
	return &Threads{normal: normal, low: min(normal+lower, 19)}, nil
}

// ProbeThreads reports why OpenThreads would fail, and changes nothing.
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

// Lower ties the calling goroutine to its thread and lowers the thread's priority. It does neither if it fails.
func (t *Threads) Lower() error {
	goruntime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, t.low); err != nil {
		goruntime.UnlockOSThread()
		return fmt.Errorf("lower the thread's priority: %w", err)
	}
	return nil
}

// Raise ends what Lower did, by the same goroutine. If it fails the goroutine keeps its thread, which ends with it.
func (t *Threads) Raise() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, t.normal); err != nil {
		return fmt.Errorf("raise the thread's priority: %w", err)
	}
	goruntime.UnlockOSThread()
	return nil
}
