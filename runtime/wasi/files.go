package wasi

import (
	"encoding/binary"
	"math"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// system is the state of a call's sandbox.
func system(c *hostcall.Call) *System { return c.State().(*System) }

// get finds descriptor argument 0, or fails the call.
func get(c *hostcall.Call, need rights) (*descriptor, bool) {
	d, e := system(c).fds.get(c.Uint32(0), need)
	if e != hostcall.Success {
		c.Fail(e)
		return nil, false
	}
	return d, true
}

// getFile finds descriptor argument 0, which has to be a regular file with the rights need; a stream fails with stream, a
// directory with dir.
func getFile(c *hostcall.Call, need rights, stream, dir hostcall.Errno) (*descriptor, *fileResource, bool) {
	d, e := system(c).fds.get(c.Uint32(0), 0)
	if e != hostcall.Success {
		c.Fail(e)
		return nil, nil, false
	}
	f, ok := d.res.(*fileResource)
	switch {
	case !ok && d.res.filetype() == typeDirectory:
		c.Fail(dir)
	case !ok:
		c.Fail(stream)
	case d.base&need != need:
		c.Fail(hostcall.ENOTCAPABLE)
		return nil, nil, false
	}
	return d, f, ok
}

func fdAdvise(c *hostcall.Call) {
	off, n, advice := c.Num(1), c.Num(2), c.Uint32(3)
	d, ok := get(c, rightFDAdvise)
	if !ok {
		return
	}
	switch {
	case advice > 5 || off > math.MaxInt64 || n > math.MaxInt64:
		c.Fail(hostcall.EINVAL)
	default:
		switch r := d.res.(type) {
		case *fileResource:
			c.Fail(toErrno(r.h.advise(int64(off), int64(n), advice)))
		case *dirResource, *fileDir:
			c.Fail(hostcall.EBADF)
		default:
			c.Fail(hostcall.ESPIPE)
		}
	}
}

var adviceNames = []string{"NORMAL", "SEQUENTIAL", "RANDOM", "WILLNEED", "DONTNEED", "NOREUSE"}

func fdAllocate(c *hostcall.Call) {
	off, n := c.Num(1), c.Num(2)
	_, f, ok := getFile(c, rightFDAllocate, hostcall.ESPIPE, hostcall.EBADF)
	switch {
	case !ok:
	case f.root.readOnly:
		c.Fail(hostcall.EROFS)
	case n == 0 || off > math.MaxInt64 || n > math.MaxInt64:
		c.Fail(hostcall.EINVAL)
	case off+n > math.MaxInt64:
		c.Fail(hostcall.EFBIG)
	default:
		err := system(c).space(f.root, f.h, n)
		if err == nil {
			err = f.h.allocate(int64(off), int64(n))
		}
		c.Fail(toErrno(err))
	}
}

func fdClose(c *hostcall.Call) {
	d, e := system(c).fds.remove(c.Uint32(0))
	if e == hostcall.Success {
		e = toErrno(d.close())
	}
	c.Fail(e)
}

func fdDatasync(c *hostcall.Call) {
	if d, ok := get(c, rightFDDatasync); ok {
		switch r := d.res.(type) {
		case *fileResource:
			c.Fail(toErrno(r.h.datasync()))
		case *dirResource:
			c.Fail(toErrno(r.h.datasync()))
		}
	}
}

func fdSyncCall(c *hostcall.Call) {
	if d, ok := get(c, rightFDSync); ok {
		switch r := d.res.(type) {
		case *fileResource:
			c.Fail(toErrno(r.h.sync()))
		case *dirResource:
			c.Fail(toErrno(r.h.sync()))
		}
	}
}

func fdFdstatGet(c *hostcall.Call) {
	d, ok := get(c, 0)
	if !ok {
		return
	}
	var b [24]byte
	b[0] = byte(d.res.filetype())
	binary.LittleEndian.PutUint16(b[2:], uint16(d.flags))
	binary.LittleEndian.PutUint64(b[8:], uint64(d.base))
	binary.LittleEndian.PutUint64(b[16:], uint64(d.inheriting))
	c.PutBytes(1, b[:])
}

func fdFdstatSetFlags(c *hostcall.Call) {
	d, ok := get(c, rightFDFdstatSetFlags)
	if !ok {
		return
	}
	flags := fdflags(c.Uint32(1))
	const synced = fdDsync | fdRsync | fdSync
	switch {
	case c.Uint32(1) > uint32(fdflagsAll):
		c.Fail(hostcall.EINVAL)
		return
	case flags&synced != d.flags&synced:
		c.Fail(hostcall.ENOTSUP) // no system can change these of an open file
		return
	}
	if f, ok := d.res.(*fileResource); ok && (flags^d.flags)&fdAppend != 0 {
		if err := f.h.setAppend(flags&fdAppend != 0); err != nil {
			c.Fail(toErrno(err))
			return
		}
	}
	d.flags = flags
}

func fdFdstatSetRights(c *hostcall.Call) {
	d, ok := get(c, 0)
	if !ok {
		return
	}
	base, inheriting := rights(c.Num(1)), rights(c.Num(2))
	if base&^d.base != 0 || inheriting&^d.inheriting != 0 {
		c.Fail(hostcall.ENOTCAPABLE)
		return
	}
	d.base, d.inheriting = base, inheriting
}

func fdFilestatGet(c *hostcall.Call) {
	d, ok := get(c, rightFDFilestatGet)
	if !ok {
		return
	}
	st := filestat{kind: d.res.filetype()}
	var err error
	switch r := d.res.(type) {
	case *fileResource:
		st, err = r.h.stat()
	case *dirResource:
		st, err = r.h.stat()
	case *fileDir:
		st.nlink = 1
	case *memDevice:
		st, err = r.h.stat()
	}
	if err != nil {
		c.Fail(toErrno(err))
		return
	}
	st.put(c, 1)
}

func fdFilestatSetSize(c *hostcall.Call) {
	size := c.Num(1)
	_, f, ok := getFile(c, rightFDFilestatSetSize, hostcall.EINVAL, hostcall.EINVAL)
	switch {
	case !ok:
	case f.root.readOnly:
		c.Fail(hostcall.EROFS)
	case size > math.MaxInt64:
		c.Fail(hostcall.EINVAL)
	default:
		c.Fail(toErrno(f.h.truncate(int64(size))))
	}
}

func fdFilestatSetTimes(c *hostcall.Call) {
	d, ok := get(c, rightFDFilestatSetTimes)
	if !ok {
		return
	}
	to, e := newTimes(c.Num(1), c.Num(2), c.Uint32(3))
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	h, r := (*handle)(nil), (*root)(nil)
	switch res := d.res.(type) {
	case *fileResource:
		h, r = res.h, res.root
	case *dirResource:
		h, r = res.h, res.root
	case *fileDir:
		c.Fail(hostcall.EROFS)
		return
	default:
		c.Fail(hostcall.EINVAL)
		return
	}
	if r.readOnly {
		c.Fail(hostcall.EROFS)
		return
	}
	c.Fail(toErrno(h.setTimes(to)))
}

// transfer moves data between the call's vectors (argument i) and move, one vector after the other, until move does less
// than it was asked for or MaxTransfer is reached. An error counts only if nothing was moved before it.
func transfer(c *hostcall.Call, i int, move func(p []byte, done int) (int, error)) (int, hostcall.Errno) {
	out := c.Func.Args[i].Dir == hostcall.Out
	total := 0
	for _, v := range c.Value(i).Vecs {
		want := min(int(v.Len), MaxTransfer-total)
		if want == 0 {
			continue
		}
		p, ok := c.View(v.Ptr, uint32(want))
		if !ok {
			break
		}
		n, err := move(p, total)
		if n > 0 && out {
			c.Wrote(v.Ptr, uint32(n))
		}
		total += n
		if err != nil && total == 0 {
			return 0, toErrno(err)
		}
		if err != nil || n < want || total == MaxTransfer {
			break
		}
	}
	return total, hostcall.Success
}

// finish ends a call that moved n bytes and tells the guest so in argument i.
func finish(c *hostcall.Call, i, n int, e hostcall.Errno) {
	c.Fail(e)
	if e == hostcall.Success {
		c.PutUint32(i, uint32(n))
	}
}

func fdRead(c *hostcall.Call) {
	d, e := system(c).fds.get(c.Uint32(0), rightFDRead)
	if d != nil && d.res.filetype() == typeDirectory {
		e = hostcall.EISDIR
	}
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	switch r := d.res.(type) {
	case *fileResource:
		if s := system(c); s.pass(c) {
			defer s.leave(c)
			n, e := transfer(c, 1, func(p []byte, _ int) (int, error) { return r.h.read(p) })
			finish(c, 2, n, e)
		}
	case *stdin:
		readStdin(c, d, r)
	case *socket:
		n, e := r.receive(c, d, 1, 0)
		finish(c, 2, n, e)
	case *memDevice:
		n, e := transfer(c, 1, func(p []byte, _ int) (int, error) { return r.read(p) })
		finish(c, 2, n, e)
	case *stdout:
		c.Fail(hostcall.EBADF)
	default:
		c.Fail(hostcall.ENOTCONN) // a listener
	}
}

func fdPread(c *hostcall.Call) {
	_, f, ok := getFile(c, rightFDRead|rightFDSeek, hostcall.ESPIPE, hostcall.EISDIR)
	switch off := c.Num(2); {
	case !ok:
	case off > math.MaxInt64-MaxTransfer:
		c.Fail(hostcall.EINVAL)
	default:
		n, e := transfer(c, 1, func(p []byte, done int) (int, error) { return f.h.pread(p, int64(off)+int64(done)) })
		finish(c, 3, n, e)
	}
}

func fdWrite(c *hostcall.Call) {
	d, e := system(c).fds.get(c.Uint32(0), rightFDWrite)
	if d != nil && d.res.filetype() == typeDirectory {
		e = hostcall.EBADF
	}
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	switch r := d.res.(type) {
	case *fileResource:
		if s := system(c); s.pass(c) {
			defer s.leave(c)
			n, e := transfer(c, 1, func(p []byte, _ int) (int, error) {
				if err := s.space(r.root, r.h, uint64(len(p))); err != nil {
					return 0, err
				}
				return r.h.write(p)
			})
			finish(c, 2, n, e)
		}
	case *stdout:
		writeStdout(c, r)
	case *memDevice:
		n, e := transfer(c, 1, func(p []byte, _ int) (int, error) { return len(p), nil })
		finish(c, 2, n, e)
	case *socket:
		n, e := r.send(c, d, 1)
		finish(c, 2, n, e)
	case *stdin:
		c.Fail(hostcall.EBADF)
	default:
		c.Fail(hostcall.ENOTCONN) // a listener
	}
}

func fdPwrite(c *hostcall.Call) {
	d, f, ok := getFile(c, rightFDWrite|rightFDSeek, hostcall.ESPIPE, hostcall.EBADF)
	switch off := c.Num(2); {
	case !ok:
	case off > math.MaxInt64-MaxTransfer:
		c.Fail(hostcall.EINVAL)
	default:
		// POSIX: the offset counts, even if the descriptor appends. Linux would write to the end (pwrite(2), BUGS).
		appends := d.flags&fdAppend != 0
		if appends {
			if err := f.h.setAppend(false); err != nil {
				c.Fail(toErrno(err))
				return
			}
		}
		n, e := transfer(c, 1, func(p []byte, done int) (int, error) {
			if err := system(c).space(f.root, f.h, uint64(len(p))); err != nil {
				return 0, err
			}
			return f.h.pwrite(p, int64(off)+int64(done))
		})
		if appends {
			if err := f.h.setAppend(true); err != nil && e == hostcall.Success {
				e = toErrno(err)
			}
		}
		finish(c, 3, n, e)
	}
}

func fdSeek(c *hostcall.Call) {
	off, whence := int64(c.Num(1)), c.Uint32(2)
	need := rightFDSeek
	if off == 0 && whence == 1 {
		need = rightFDTell // "seek" to where one is
	}
	if d, _ := system(c).fds.get(c.Uint32(0), need); d != nil {
		if _, mem := d.res.(*memDevice); mem {
			c.PutUint64(3, 0)
			return
		}
	}
	_, f, ok := getFile(c, 0, hostcall.ESPIPE, hostcall.EBADF)
	if !ok {
		return
	}
	if d, _ := get(c, 0); d.base&need == 0 && d.base&rightFDSeek == 0 {
		c.Fail(hostcall.ENOTCAPABLE)
		return
	}
	if whence > 2 {
		c.Fail(hostcall.EINVAL)
		return
	}
	at, err := f.h.seek(off, int(whence))
	if err != nil {
		c.Fail(toErrno(err))
		return
	}
	c.PutUint64(3, uint64(at))
}

var whenceNames = []string{"SET", "CUR", "END"}

func fdTell(c *hostcall.Call) {
	_, f, ok := getFile(c, rightFDTell, hostcall.ESPIPE, hostcall.EBADF)
	if !ok {
		return
	}
	at, err := f.h.seek(0, 1)
	if err != nil {
		c.Fail(toErrno(err))
		return
	}
	c.PutUint64(1, uint64(at))
}

func fdRenumber(c *hostcall.Call) { c.Fail(system(c).fds.renumber(c.Uint32(0), c.Uint32(1))) }

func fdPrestatGet(c *hostcall.Call) {
	d, ok := get(c, 0)
	switch {
	case !ok:
	case d.preopen == "":
		c.Fail(hostcall.EBADF)
	default:
		var b [8]byte // the tag 0 means a directory
		binary.LittleEndian.PutUint32(b[4:], uint32(len(d.preopen)))
		c.PutBytes(1, b[:])
	}
}

func fdPrestatDirName(c *hostcall.Call) {
	d, ok := get(c, 0)
	switch {
	case !ok:
	case d.preopen == "":
		c.Fail(hostcall.EBADF)
	case int(c.Value(1).Len) < len(d.preopen):
		c.Fail(hostcall.ENAMETOOLONG)
	default:
		c.PutBytes(1, []byte(d.preopen))
	}
}

func fdReaddir(c *hostcall.Call) {
	d, e := system(c).fds.get(c.Uint32(0), rightFDReaddir)
	if d != nil && d.res.filetype() != typeDirectory {
		e = hostcall.EBADF // what TinyGo's guests take for "not a directory", and wazero says
	}
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	v := c.Value(1)
	room := v.Data[:min(len(v.Data), MaxTransfer)]
	var b []byte
	used := 0
	e = entriesOf(d, c.Num(2), func(e dirent) bool {
		b = e.append(b[:0])
		n := copy(room[used:], b)
		used += n
		return n == len(b) && used < len(room) // an entry cut short is offered again
	})
	c.Wrote(v.Ptr, uint32(used))
	if e != hostcall.Success && used == 0 {
		c.Fail(e)
		return
	}
	c.PutUint32(3, uint32(used))
}
