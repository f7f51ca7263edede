//go:build linux && !amd64

package wall

import "golang.org/x/sys/unix"

// openOld is for architectures that have open(2).
func openOld(string) error { return unix.ENOSYS }
