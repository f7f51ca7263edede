package wall

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// openOld opens a file with open(2).
func openOld(path string) error {
	p := append([]byte(path), 0)
	fd, _, e := unix.Syscall(unix.SYS_OPEN, uintptr(unsafe.Pointer(&p[0])), unix.O_RDONLY, 0)
	if e != 0 {
		return e
	}
	return unix.Close(int(fd))
}
