//go:build unix && !linux

package wasi

import (
	"io/fs"
	"syscall"
)

// openNonblock keeps an open from waiting for the other side of a FIFO.
const openNonblock = syscall.O_NONBLOCK

// identity is the device and number of a file.
func identity(st fs.FileInfo) (dev, ino uint64) {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(s.Dev), uint64(s.Ino)
	}
	return 0, 0
}
