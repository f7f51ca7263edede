package wasi

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// toErrno is what a guest is told of an error.
func toErrno(err error) hostcall.Errno {
	if err == nil {
		return hostcall.Success
	}
	var e hostcall.Errno
	if errors.As(err, &e) {
		return e
	}
	if e := systemErrno(err); e != hostcall.Success {
		return e
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hostcall.ENOENT
	case errors.Is(err, fs.ErrExist):
		return hostcall.EEXIST
	case errors.Is(err, fs.ErrPermission):
		return hostcall.EACCES
	case errors.Is(err, fs.ErrInvalid):
		return hostcall.EINVAL
	case errors.Is(err, os.ErrDeadlineExceeded):
		return hostcall.ETIMEDOUT
	case errors.Is(err, io.ErrClosedPipe):
		return hostcall.EPIPE
	case errors.Is(err, fs.ErrClosed), errors.Is(err, net.ErrClosed):
		return hostcall.ECONNABORTED
	case errors.Is(err, errors.ErrUnsupported):
		return hostcall.ENOTSUP
	}
	var p *fs.PathError
	if errors.As(err, &p) && strings.Contains(p.Err.Error(), "path escapes") { // os.Root has no sentinel for it
		return hostcall.EPERM
	}
	return hostcall.EIO
}
