package wasi

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// beneath confines a resolution: not out of the directory, not through absolute or magic links.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// raceTries is how often a resolution starts over that the kernel gave up because names changed meanwhile
// (openat2(2), EAGAIN). Each try is a few microseconds.
const raceTries = 4096

// handle is an object of the host's file system: a descriptor that names it (O_PATH) or has it open. The name may
// change; the object does not.
type handle struct{ fd int }

// openHost takes hold of a path of the host, which the operator gave.
func openHost(p string) (*handle, error) {
	fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &handle{fd}, nil
}

// Close implements io.Closer. A nil handle and the second call do nothing.
func (h *handle) Close() error {
	if h == nil || h.fd < 0 {
		return nil
	}
	fd := h.fd
	h.fd = -1
	return unix.Close(fd)
}

// hold is a further handle of the same object.
func (h *handle) hold() (*handle, error) {
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &handle{fd}, nil
}

func (h *handle) proc() string { return "/proc/self/fd/" + strconv.Itoa(h.fd) }

// hostName is the name that the kernel knows the object by now, and whether it still has one.
func (h *handle) hostName() (name string, linked bool, err error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlink(h.proc(), buf[:])
	if err != nil {
		return "", false, err
	}
	if n == len(buf) {
		return "", false, unix.ENAMETOOLONG
	}
	name = string(buf[:n])
	if cut, ok := strings.CutSuffix(name, " (deleted)"); ok {
		var st unix.Stat_t
		if err := unix.Fstat(h.fd, &st); err != nil {
			return "", false, err
		}
		if st.Nlink == 0 {
			return cut, false, nil
		}
	}
	return name, true, nil
}

func openat2(dir int, p string, flags int, mode uint64) (*handle, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Mode: mode, Resolve: beneath}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, p, &how)
		switch {
		case err == nil:
			return &handle{fd}, nil
		case err == unix.EXDEV:
			return nil, hostcall.EPERM
		case (err == unix.EAGAIN || err == unix.EINTR) && try < raceTries:
		case err == unix.EAGAIN:
			return nil, hostcall.EBUSY
		default:
			return nil, err
		}
	}
}

// lookup takes hold of what p names beneath h; of a symbolic link itself, if it is the last component and follow is
// not set. Nothing is opened.
func (h *handle) lookup(p string, follow bool) (*handle, error) {
	flags := unix.O_PATH
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	return openat2(h.fd, p, flags, 0)
}

// lookupDir takes hold of the directory p beneath h.
func (h *handle) lookupDir(p string) (*handle, error) {
	return openat2(h.fd, p, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// access is how a file is opened.
type access struct {
	read, write, truncate, directory bool
	flags                            fdflags
}

func (a access) bits() int {
	b := unix.O_NONBLOCK | unix.O_NOCTTY
	switch {
	case a.read && a.write:
		b |= unix.O_RDWR
	case a.write:
		b |= unix.O_WRONLY
	default:
		b |= unix.O_RDONLY
	}
	if a.truncate {
		b |= unix.O_TRUNC
	}
	if a.directory {
		b |= unix.O_DIRECTORY
	}
	if a.flags&fdAppend != 0 {
		b |= unix.O_APPEND
	}
	if a.flags&(fdSync|fdRsync) != 0 {
		b |= unix.O_SYNC
	} else if a.flags&fdDsync != 0 {
		b |= unix.O_DSYNC
	}
	return b
}

// reopen opens the very object h holds.
func (h *handle) reopen(a access) (*handle, error) {
	for {
		fd, err := unix.Open(h.proc(), a.bits()|unix.O_CLOEXEC, 0)
		if err == nil {
			return &handle{fd}, nil
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
}

// create makes the file base in h and opens it. It fails with EEXIST if there is anything of that name.
func (h *handle) create(base string, a access) (*handle, error) {
	return openat2(h.fd, base, a.bits()|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o666)
}

func (h *handle) mkdir(base string) error { return unix.Mkdirat(h.fd, base, 0o777) }
func (h *handle) rmdir(base string) error { return unix.Unlinkat(h.fd, base, unix.AT_REMOVEDIR) }

func (h *handle) unlink(base string) error { return unix.Unlinkat(h.fd, base, 0) }

func (h *handle) symlink(target, base string) error { return unix.Symlinkat(target, h.fd, base) }

func (h *handle) rename(base string, to *handle, toBase string) error {
	return unix.Renameat(h.fd, base, to.fd, toBase)
}

// link gives the object h the further name base in to.
func (h *handle) link(to *handle, base string) error {
	return unix.Linkat(unix.AT_FDCWD, h.proc(), to.fd, base, unix.AT_SYMLINK_FOLLOW)
}

// readlink is what the symbolic link h points at.
func (h *handle) readlink() (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(h.fd, "", buf[:])
	if err == unix.ENOENT { // what the kernel says of an O_PATH handle that is no link
		err = unix.EINVAL
	}
	return string(buf[:max(n, 0)]), err
}

func (h *handle) stat() (filestat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return filestat{}, err
	}
	return filestat{
		dev: uint64(st.Dev), ino: st.Ino, kind: modeFiletype(uint32(st.Mode)), nlink: uint64(st.Nlink), size: uint64(st.Size),
		atim: nanos(st.Atim), mtim: nanos(st.Mtim), ctim: nanos(st.Ctim),
	}, nil
}

// memory reports whether h holds the null or the zero device (Linux, Documentation/admin-guide/devices.txt: 1:3 and 1:5).
func (h *handle) memory() (null, zero bool) {
	var st unix.Stat_t
	if unix.Fstat(h.fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return false, false
	}
	return st.Rdev == unix.Mkdev(1, 3), st.Rdev == unix.Mkdev(1, 5)
}

// isWindow reports whether h is a file of procfs: no file, but a window into the kernel and its processes. Through
// /proc/self/mem, whoever is granted the whole root would leave the sandbox. The kernel's settings may be read, since
// programs do.
func (h *handle) isWindow(write bool) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(h.fd, &st) != nil {
		return true
	}
	if st.Type != unix.PROC_SUPER_MAGIC {
		return false
	}
	name, _, err := h.hostName()
	return write || err != nil || !within(name, "/proc/sys")
}

// free is how many bytes an unprivileged program may still write to the file system that h is on; false if nobody knows.
func (h *handle) free() (uint64, bool) {
	var st unix.Statfs_t
	if unix.Fstatfs(h.fd, &st) != nil || st.Blocks == 0 {
		return 0, false
	}
	return st.Bavail * uint64(max(st.Bsize, 0)), true
}

// nanos is a time as WASI has it, which begins in 1970.
func nanos(t unix.Timespec) uint64 { return uint64(max(t.Nano(), 0)) }

func modeFiletype(mode uint32) filetype {
	switch mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return typeBlockDevice
	case unix.S_IFCHR:
		return typeCharacterDevice
	case unix.S_IFDIR:
		return typeDirectory
	case unix.S_IFREG:
		return typeRegularFile
	case unix.S_IFSOCK:
		return typeSocketStream
	case unix.S_IFLNK:
		return typeSymbolicLink
	}
	return typeUnknown
}

func (h *handle) setTimes(t times) error {
	ts := []unix.Timespec{timespec(t.atim, t.setAtim, t.atimNow), timespec(t.mtim, t.setMtim, t.mtimNow)}
	return unix.UtimesNanoAt(h.fd, "", ts, unix.AT_EMPTY_PATH)
}

func timespec(ns uint64, set, now bool) unix.Timespec {
	switch {
	case now:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case set:
		return unix.NsecToTimespec(int64(min(ns, math.MaxInt64))) // until 2262
	}
	return unix.Timespec{Nsec: unix.UTIME_OMIT}
}

// again repeats a system call that a signal interrupted.
func again(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func (h *handle) read(p []byte) (int, error) {
	return again(func() (int, error) { return unix.Read(h.fd, p) })
}

func (h *handle) pread(p []byte, off int64) (int, error) {
	return again(func() (int, error) { return unix.Pread(h.fd, p, off) })
}

func (h *handle) write(p []byte) (int, error) {
	return again(func() (int, error) { return unix.Write(h.fd, p) })
}

// pwrite writes at off even if the file appends, which Linux alone would ignore (pwrite(2), BUGS).
func (h *handle) pwrite(p []byte, off int64) (int, error) {
	return again(func() (int, error) { return unix.Pwrite(h.fd, p, off) })
}

// setAppend says whether writes go to the end.
func (h *handle) setAppend(on bool) error {
	flags, err := unix.FcntlInt(uintptr(h.fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if on {
		flags |= unix.O_APPEND
	} else {
		flags &^= unix.O_APPEND
	}
	_, err = unix.FcntlInt(uintptr(h.fd), unix.F_SETFL, flags)
	return err
}

func (h *handle) seek(off int64, whence int) (int64, error) { return unix.Seek(h.fd, off, whence) }
func (h *handle) truncate(size int64) error                 { return unix.Ftruncate(h.fd, size) }
func (h *handle) allocate(off, n int64) error               { return unix.Fallocate(h.fd, 0, off, n) }
func (h *handle) sync() error                               { return unix.Fsync(h.fd) }
func (h *handle) datasync() error                           { return unix.Fdatasync(h.fd) }

func (h *handle) advise(off, n int64, advice uint32) error {
	how := [...]int{
		unix.FADV_NORMAL, unix.FADV_SEQUENTIAL, unix.FADV_RANDOM, unix.FADV_WILLNEED, unix.FADV_DONTNEED, unix.FADV_NOREUSE,
	}
	return unix.Fadvise(h.fd, off, n, how[advice])
}

// isNotExist reports whether err says that the last component of a path is not there.
func isNotExist(err error) bool { return errors.Is(err, unix.ENOENT) }
