package supervisor

import (
	goruntime "runtime"
	"syscall"
)

// attributes has a child end with us, whatever way we end, and keeps the terminal's signals from it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// compilerNice is how much nicer a compiler is than this process: it gets about a tenth of what a worker's thread gets, when both want the processor,
// and as much as a guest that computes for long: such guests must not be kept from it for long, or the garbage collector waits for them.
const compilerNice = 10

// behind calls f in a thread that is nicer than the others, as are the processes that it starts from their first moment, and ends it then.
func behind(f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		goruntime.LockOSThread() // for good: a thread's niceness cannot be taken back
		own, e := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
		if e == nil { // the system call answers 20 less the niceness; without it others wait longer, that is all
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 20-own+compilerNice)
		}
		err = f()
	}()
	<-done
	return err
}
