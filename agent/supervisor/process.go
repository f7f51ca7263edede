package supervisor

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	goruntime "runtime"
	"syscall"

	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// Descriptors that a worker begins with, besides the standard ones.
const (
	LinkFD    = 3 // its end of the link
	IngressFD = 4 // the ingress listener
)

// process is a worker that was started.
type process struct {
	pid  int
	conn net.Conn      // our end of the link
	done chan struct{} // closed when it is gone, and reaped
	err  error         // how it ended; read it after done
	kill func()
}

// start starts a worker: this program with args, the environment env and nothing more, in a process group of its own.
func start(program string, args, env []string, ingress *os.File) (*process, error) {
	syscall.ForkLock.RLock() // no child started meanwhile may keep an end of the link
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("make the link's sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	_ = ours.Close() // conn has a descriptor of its own
	if err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, ingress}
	cmd.SysProcAttr = attributes()
	p := &process{conn: conn, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel's death signal comes when the thread that started the child ends: this one stays until the child does.
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		undo := processor.ShortSlices()
		err := cmd.Start()
		undo()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		_ = conn.Close() // nothing was written to it
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	p.pid = cmd.Process.Pid
	p.kill = func() { _ = cmd.Process.Kill() } // it may be gone already
	return p, nil
}
