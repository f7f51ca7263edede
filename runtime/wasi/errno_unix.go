//go:build unix

package wasi

import (
	"errors"
	"syscall"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

var systemErrnos = map[syscall.Errno]hostcall.Errno{
	syscall.E2BIG: hostcall.E2BIG, syscall.EACCES: hostcall.EACCES, syscall.EADDRINUSE: hostcall.EADDRINUSE,
	syscall.EADDRNOTAVAIL: hostcall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT: hostcall.EAFNOSUPPORT,
	syscall.EAGAIN: hostcall.EAGAIN, syscall.EALREADY: hostcall.EALREADY, syscall.EBADF: hostcall.EBADF,
	syscall.EBADMSG: hostcall.EBADMSG, syscall.EBUSY: hostcall.EBUSY, syscall.ECANCELED: hostcall.ECANCELED,
	syscall.ECONNABORTED: hostcall.ECONNABORTED, syscall.ECONNREFUSED: hostcall.ECONNREFUSED,
	syscall.ECONNRESET: hostcall.ECONNRESET, syscall.EDEADLK: hostcall.EDEADLK, syscall.EDESTADDRREQ: hostcall.EDESTADDRREQ,
	syscall.EDOM: hostcall.EDOM, syscall.EDQUOT: hostcall.EDQUOT, syscall.EEXIST: hostcall.EEXIST,
	syscall.EFAULT: hostcall.EFAULT, syscall.EFBIG: hostcall.EFBIG, syscall.EHOSTUNREACH: hostcall.EHOSTUNREACH,
	syscall.EILSEQ: hostcall.EILSEQ, syscall.EINPROGRESS: hostcall.EINPROGRESS, syscall.EINTR: hostcall.EINTR,
	syscall.EINVAL: hostcall.EINVAL, syscall.EIO: hostcall.EIO, syscall.EISCONN: hostcall.EISCONN,
	syscall.EISDIR: hostcall.EISDIR, syscall.ELOOP: hostcall.ELOOP, syscall.EMFILE: hostcall.EMFILE,
	syscall.EMLINK: hostcall.EMLINK, syscall.EMSGSIZE: hostcall.EMSGSIZE, syscall.ENAMETOOLONG: hostcall.ENAMETOOLONG,
	syscall.ENETDOWN: hostcall.ENETDOWN, syscall.ENETRESET: hostcall.ENETRESET, syscall.ENETUNREACH: hostcall.ENETUNREACH,
	syscall.ENFILE: hostcall.ENFILE, syscall.ENOBUFS: hostcall.ENOBUFS, syscall.ENODEV: hostcall.ENODEV,
	syscall.ENOENT: hostcall.ENOENT, syscall.ENOLCK: hostcall.ENOLCK, syscall.ENOMEM: hostcall.ENOMEM,
	syscall.ENOPROTOOPT: hostcall.ENOPROTOOPT, syscall.ENOSPC: hostcall.ENOSPC, syscall.ENOSYS: hostcall.ENOSYS,
	syscall.ENOTCONN: hostcall.ENOTCONN, syscall.ENOTDIR: hostcall.ENOTDIR, syscall.ENOTEMPTY: hostcall.ENOTEMPTY,
	syscall.ENOTSOCK: hostcall.ENOTSOCK, syscall.EOPNOTSUPP: hostcall.ENOTSUP, syscall.ENOTTY: hostcall.ENOTTY,
	syscall.ENXIO: hostcall.ENXIO, syscall.EOVERFLOW: hostcall.EOVERFLOW, syscall.EPERM: hostcall.EPERM,
	syscall.EPIPE: hostcall.EPIPE, syscall.EPROTO: hostcall.EPROTO, syscall.ERANGE: hostcall.ERANGE,
	syscall.EROFS: hostcall.EROFS, syscall.ESPIPE: hostcall.ESPIPE, syscall.ESRCH: hostcall.ESRCH,
	syscall.ESTALE: hostcall.ESTALE, syscall.ETIMEDOUT: hostcall.ETIMEDOUT, syscall.ETXTBSY: hostcall.ETXTBSY,
	syscall.EXDEV: hostcall.EXDEV,
}

// systemErrno is the errno inside err, or Success if there is none that guests know.
func systemErrno(err error) hostcall.Errno {
	var sys syscall.Errno
	if errors.As(err, &sys) {
		return systemErrnos[sys]
	}
	return hostcall.Success
}
