//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// lockFile takes the lock of a file, which ends with the process or with Close. It waits at most timeout for another
// process to let go.
func lockFile(path string, timeout time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explain("open", path, err)
	}
	// 20 ms: soon enough for a restart, seldom enough to cost nothing.
	tick := clock.System.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	began := clock.System.Now()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			_ = f.Close()
			return nil, explain("lock", path, err)
		case (<-tick.C()).Sub(began) > timeout:
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w: stop that one first, or give this one a data folder of its own", path, broker.ErrInUse)
		}
	}
}

// lockToRead keeps a process that would write from beginning, and changes nothing. It fails if there is one. A folder that was never
// opened has no lock, and nothing to lock.
func lockToRead(path string) (io.Closer, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, explain("open", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, broker.ErrInUse)
		}
		return nil, explain("lock", path, err)
	}
	return f, nil
}
