//go:build !linux

package wasi

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// handle is an object of the host's file system: a place below a directory, which os.Root confines, or an open file. What a
// place holds may change between two uses; it cannot lead out of the root.
type handle struct {
	dir  *os.Root // what name is relative to; for a directory that was opened, itself
	name string   // words below dir
	self bool     // name stands for a symbolic link itself, if it is one
	file *os.File // if it is open
	host string   // an absolute path of the host, as the operator and the guests wrote it
	own  bool     // dir is closed with the handle
	end  bool     // writes go to the end
}

// openHost takes hold of a path of the host, which the operator gave.
func openHost(p string) (*handle, error) {
	real, err := realPath(p)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(real)
	if err != nil {
		return nil, err
	}
	at, name := real, "."
	if !st.IsDir() {
		at, name = splitHost(real)
	}
	dir, err := os.OpenRoot(at)
	if err != nil {
		return nil, err
	}
	return &handle{dir: dir, name: name, host: real, own: true}, nil
}

// Close implements io.Closer. A nil handle and the second call do nothing.
func (h *handle) Close() error {
	if h == nil {
		return nil
	}
	var errs []error
	if h.file != nil {
		errs = append(errs, h.file.Close())
		h.file = nil
	}
	if h.own {
		errs = append(errs, h.dir.Close())
		h.own = false
	}
	return errors.Join(errs...)
}

// hold is a further handle of the same place.
func (h *handle) hold() (*handle, error) {
	return &handle{dir: h.dir, name: h.name, self: h.self, host: h.host}, nil
}

// hostName is the name of the object in the words it was found by. Symbolic links in them are resolved where that is
// possible.
func (h *handle) hostName() (name string, linked bool, err error) {
	if h.self {
		dir, base := splitHost(h.host)
		if dir, err = realPath(dir); err != nil {
			return "", false, err
		}
		return path.Join(dir, base), true, nil
	}
	name, err = realPath(h.host)
	return name, err == nil, err
}

func (h *handle) at(p string, link bool) *handle {
	return &handle{dir: h.dir, name: path.Join(h.name, p), self: link, host: path.Join(h.host, p)}
}

// lookup takes hold of what p names beneath h.
func (h *handle) lookup(p string, follow bool) (*handle, error) {
	n := h.at(p, !follow && !strings.HasSuffix(p, "/"))
	st, err := n.lstat()
	if err == nil && strings.HasSuffix(p, "/") && !st.IsDir() {
		return nil, hostcall.ENOTDIR
	}
	return n, err
}

func (h *handle) lstat() (fs.FileInfo, error) {
	if h.self {
		return h.dir.Lstat(h.name)
	}
	return h.dir.Stat(h.name)
}

// lookupDir takes hold of the directory p beneath h.
func (h *handle) lookupDir(p string) (*handle, error) {
	n := h.at(p, false)
	st, err := n.lstat()
	if err == nil && !st.IsDir() {
		err = hostcall.ENOTDIR
	}
	return n, err
}

// access is how a file is opened.
type access struct {
	read, write, truncate, directory bool
	flags                            fdflags
}

func (a access) bits() int {
	b := os.O_RDONLY
	switch {
	case a.read && a.write:
		b = os.O_RDWR
	case a.write:
		b = os.O_WRONLY
	}
	if a.truncate {
		b |= os.O_TRUNC
	}
	if a.flags&(fdSync|fdRsync|fdDsync) != 0 {
		b |= os.O_SYNC
	}
	return b
}

// reopen opens what h holds: a directory becomes a root of its own.
func (h *handle) reopen(a access) (*handle, error) {
	if a.directory {
		dir, err := h.dir.OpenRoot(h.name)
		if err != nil {
			return nil, err
		}
		return &handle{dir: dir, name: ".", host: h.host, own: true}, nil
	}
	return h.open(h, a.bits()|openNonblock, a)
}

func (h *handle) open(n *handle, flags int, a access) (*handle, error) {
	f, err := n.dir.OpenFile(n.name, flags, 0o666)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() { // it was changed since it was looked at
		return nil, errors.Join(hostcall.EACCES, err, f.Close())
	}
	return &handle{dir: n.dir, name: n.name, host: n.host, file: f, end: a.flags&fdAppend != 0}, nil
}

// create makes the file base in h and opens it. It fails with EEXIST if there is anything of that name.
func (h *handle) create(base string, a access) (*handle, error) {
	return h.open(h.at(base, true), a.bits()|os.O_CREATE|os.O_EXCL, a)
}

// free would be how much room the file system has, which os.Root cannot tell.
func (h *handle) free() (uint64, bool) { return 0, false }

func (h *handle) mkdir(base string) error { return h.dir.Mkdir(path.Join(h.name, base), 0o777) }

func (h *handle) rmdir(base string) error { return h.remove(base, true) }

func (h *handle) unlink(base string) error { return h.remove(base, false) }

func (h *handle) remove(base string, dir bool) error {
	if strings.HasSuffix(base, ".") && path.Clean(base) != base || base == "." || base == ".." {
		return hostcall.EINVAL
	}
	n := path.Join(h.name, base)
	st, err := h.dir.Lstat(n)
	switch {
	case err != nil:
		return err
	case dir && !st.IsDir(), !dir && strings.HasSuffix(base, "/"):
		return hostcall.ENOTDIR
	case !dir && st.IsDir():
		return hostcall.EISDIR
	}
	return h.dir.Remove(n)
}

func (h *handle) symlink(target, base string) error {
	if strings.HasSuffix(base, "/") {
		return hostcall.ENOENT
	}
	return h.dir.Symlink(target, path.Join(h.name, base))
}

// rename moves base within the directory that both handles were found from; os.Root knows no other way.
func (h *handle) rename(base string, to *handle, toBase string) error {
	if h.dir != to.dir {
		return hostcall.EXDEV
	}
	return h.dir.Rename(path.Join(h.name, base), path.Join(to.name, toBase))
}

// link gives what h holds the further name base in to.
func (h *handle) link(to *handle, base string) error {
	if h.dir != to.dir {
		return hostcall.EXDEV
	}
	return h.dir.Link(h.name, path.Join(to.name, base))
}

// readlink is what the symbolic link h points at.
func (h *handle) readlink() (string, error) { return h.dir.Readlink(h.name) }

func (h *handle) stat() (filestat, error) {
	var st fs.FileInfo
	var err error
	if h.file != nil {
		st, err = h.file.Stat()
	} else {
		st, err = h.lstat()
	}
	if err != nil {
		return filestat{}, err
	}
	t := uint64(max(st.ModTime().UnixNano(), 0))
	s := filestat{kind: goFiletype(st.Mode()), nlink: 1, size: uint64(st.Size()), atim: t, mtim: t, ctim: t}
	s.dev, s.ino = identity(st)
	return s, nil
}

// memory finds no devices: here they cannot be told apart.
func (h *handle) memory() (null, zero bool) { return false, false }

// isWindow knows of no such files here.
func (h *handle) isWindow(bool) bool { return false }

func goFiletype(m fs.FileMode) filetype {
	switch {
	case m.IsRegular():
		return typeRegularFile
	case m.IsDir():
		return typeDirectory
	case m&fs.ModeSymlink != 0:
		return typeSymbolicLink
	case m&fs.ModeCharDevice != 0:
		return typeCharacterDevice
	case m&fs.ModeDevice != 0:
		return typeBlockDevice
	case m&fs.ModeSocket != 0:
		return typeSocketStream
	}
	return typeUnknown
}

// setTimes sets times by name. Those of a symbolic link itself cannot be set here.
func (h *handle) setTimes(t times) error {
	if st, err := h.dir.Lstat(h.name); h.self && err == nil && st.Mode()&fs.ModeSymlink != 0 {
		return hostcall.ENOTSUP
	}
	when := func(ns uint64, set, now bool) time.Time {
		switch {
		case now:
			return clock.System.Now()
		case set:
			return time.Unix(int64(ns/1e9), int64(ns%1e9))
		}
		return time.Time{} // stays as it is
	}
	return h.dir.Chtimes(h.name, when(t.atim, t.setAtim, t.atimNow), when(t.mtim, t.setMtim, t.mtimNow))
}

func noEOF(n int, err error) (int, error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (h *handle) read(p []byte) (int, error)             { return noEOF(h.file.Read(p)) }
func (h *handle) pread(p []byte, off int64) (int, error) { return noEOF(h.file.ReadAt(p, off)) }

func (h *handle) write(p []byte) (int, error) {
	if h.end {
		if _, err := h.file.Seek(0, io.SeekEnd); err != nil {
			return 0, err
		}
	}
	return h.file.Write(p)
}

func (h *handle) pwrite(p []byte, off int64) (int, error) { return h.file.WriteAt(p, off) }

func (h *handle) seek(off int64, whence int) (int64, error) { return h.file.Seek(off, whence) }
func (h *handle) truncate(size int64) error                 { return h.file.Truncate(size) }
func (h *handle) allocate(int64, int64) error               { return hostcall.ENOTSUP }

func (h *handle) sync() error {
	if h.file == nil {
		return nil // a directory: the host keeps it
	}
	return h.file.Sync()
}

func (h *handle) datasync() error { return h.sync() }

// advise takes note of nothing: advice may be ignored.
func (h *handle) advise(int64, int64, uint32) error { return nil }

// setAppend says whether writes go to the end.
func (h *handle) setAppend(on bool) error {
	h.end = on
	return nil
}

// realPath is an absolute path without symbolic links, with slashes.
func realPath(p string) (string, error) {
	p, err := filepath.Abs(filepath.FromSlash(p))
	if err == nil {
		p, err = filepath.EvalSymlinks(p)
	}
	return filepath.ToSlash(p), err
}

func splitHost(p string) (dir, base string) { return path.Dir(p), path.Base(p) }

// isNotExist reports whether err says that the last component of a path is not there.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
