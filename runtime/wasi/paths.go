package wasi

import (
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// enter checks that the descriptor in front of a path is a directory with the rights need.
// If it answers false the call has failed.
func (s *System) enter(c *hostcall.Call, need rights, p pathArg) (d *descriptor, ok bool) {
	d, e := s.fds.get(c.Uint32(p.fd), 0)
	switch {
	case e != hostcall.Success:
		c.Fail(e)
		return nil, false
	case d.res.filetype() != typeDirectory:
		c.Fail(hostcall.ENOTDIR)
		return nil, false
	case d.base&need != need:
		c.Fail(hostcall.ENOTCAPABLE)
		return nil, false
	}
	return d, true
}

// change reports why a target cannot be changed.
func (t *target) change() hostcall.Errno {
	switch {
	case t.err != hostcall.Success:
		return t.err
	case t.files != nil || t.root.readOnly:
		return hostcall.EROFS
	}
	return hostcall.Success
}

var (
	createDirectoryPath = pathArg{fd: 0, path: 1, flags: -1, kind: lookEntry}
	filestatPath        = pathArg{fd: 0, path: 2, flags: 1, kind: lookObject}
	linkOldPath         = pathArg{fd: 0, path: 2, flags: 1, kind: lookObject}
	linkNewPath         = pathArg{fd: 3, path: 4, flags: -1, kind: lookEntry}
	openPath            = pathArg{fd: 0, path: 2, flags: 1, kind: lookCreate}
	readlinkPath        = pathArg{fd: 0, path: 1, flags: -1, kind: lookObject}
	removePath          = pathArg{fd: 0, path: 1, flags: -1, kind: lookEntry}
	renameOldPath       = pathArg{fd: 0, path: 1, flags: -1, kind: lookEntry}
	renameNewPath       = pathArg{fd: 2, path: 3, flags: -1, kind: lookEntry}
	symlinkPath         = pathArg{fd: 1, path: 2, flags: -1, kind: lookEntry}
)

// entryCall is a function that changes one place in a directory.
func entryCall(need rights, p pathArg, change func(c *hostcall.Call, t *target) error) func(*hostcall.Call) {
	return func(c *hostcall.Call) {
		if _, ok := system(c).enter(c, need, p); !ok {
			return
		}
		ts := take(c, p)
		defer ts.Close()
		t := &ts.list[0]
		e := t.change()
		if e == hostcall.Success && t.root.above(t.name) {
			e = hostcall.EACCES // it holds what is out of reach
		}
		if e == hostcall.Success && need&(rightPathCreateDirectory|rightPathSymlink) != 0 {
			e = toErrno(system(c).space(t.root, t.parent, spaceBlock))
		}
		if e == hostcall.Success {
			e = toErrno(change(c, t))
		}
		c.Fail(e)
	}
}

var pathCreateDirectory = entryCall(rightPathCreateDirectory, createDirectoryPath, func(_ *hostcall.Call, t *target) error {
	return t.parent.mkdir(t.base)
})

var pathRemoveDirectory = entryCall(rightPathRemoveDirectory, removePath, func(_ *hostcall.Call, t *target) error {
	return t.parent.rmdir(t.base)
})

var pathUnlinkFile = entryCall(rightPathUnlinkFile, removePath, func(_ *hostcall.Call, t *target) error {
	return t.parent.unlink(t.base)
})

var pathSymlink = entryCall(rightPathSymlink, symlinkPath, func(c *hostcall.Call, t *target) error {
	to := string(c.Text(0))
	switch {
	case to == "":
		return hostcall.ENOENT
	case strings.IndexByte(to, 0) >= 0:
		return hostcall.EINVAL
	case to[0] == '/':
		return hostcall.EPERM // nobody in here could follow it, and somebody outside might
	}
	return t.parent.symlink(to, t.base)
})

func pathFilestatGet(c *hostcall.Call) {
	if _, ok := system(c).enter(c, rightPathFilestatGet, filestatPath); !ok {
		return
	}
	ts := take(c, filestatPath)
	defer ts.Close()
	t := &ts.list[0]
	if t.err != hostcall.Success {
		c.Fail(t.err)
		return
	}
	st := filestat{kind: typeDirectory, nlink: 1}
	if t.files == nil {
		var err error
		if st, err = t.node.stat(); err != nil {
			c.Fail(toErrno(err))
			return
		}
	}
	st.put(c, 3)
}

func pathFilestatSetTimes(c *hostcall.Call) {
	if _, ok := system(c).enter(c, rightPathFilestatSetTimes, filestatPath); !ok {
		return
	}
	to, e := newTimes(c.Num(3), c.Num(4), c.Uint32(5))
	if e != hostcall.Success {
		c.Fail(e)
		return
	}
	ts := take(c, filestatPath)
	defer ts.Close()
	t := &ts.list[0]
	if e := t.change(); e != hostcall.Success {
		c.Fail(e)
		return
	}
	c.Fail(toErrno(t.node.setTimes(to)))
}

func pathReadlink(c *hostcall.Call) {
	if _, ok := system(c).enter(c, rightPathReadlink, readlinkPath); !ok {
		return
	}
	ts := take(c, readlinkPath)
	defer ts.Close()
	t := &ts.list[0]
	switch {
	case t.err != hostcall.Success:
		c.Fail(t.err)
		return
	case t.kind != typeSymbolicLink:
		c.Fail(hostcall.EINVAL)
		return
	}
	to, err := t.node.readlink()
	if err != nil {
		c.Fail(toErrno(err))
		return
	}
	// A buffer too small takes what fits, as readlink(2) does.
	c.PutUint32(3, uint32(c.PutBytes(2, []byte(to))))
}

func pathLink(c *hostcall.Call) {
	s := system(c)
	if _, ok := s.enter(c, rightPathLinkSource, linkOldPath); !ok {
		return
	}
	if _, ok := s.enter(c, rightPathLinkTarget, linkNewPath); !ok {
		return
	}
	ts := take(c, linkOldPath, linkNewPath)
	defer ts.Close()
	from, to := &ts.list[0], &ts.list[1]
	// Through the new name the object can be changed, so that its own root must allow that, too.
	for _, t := range []*target{from, to} {
		if e := t.change(); e != hostcall.Success {
			c.Fail(e)
			return
		}
	}
	switch from.kind {
	case typeRegularFile, typeSymbolicLink:
	case typeDirectory:
		c.Fail(hostcall.EPERM)
		return
	default:
		c.Fail(hostcall.EACCES)
		return
	}
	err := s.space(to.root, to.parent, spaceBlock)
	if err == nil {
		err = from.node.link(to.parent, to.base)
	}
	c.Fail(toErrno(err))
}

func pathRename(c *hostcall.Call) {
	s := system(c)
	if _, ok := s.enter(c, rightPathRenameSource, renameOldPath); !ok {
		return
	}
	if _, ok := s.enter(c, rightPathRenameTarget, renameNewPath); !ok {
		return
	}
	ts := take(c, renameOldPath, renameNewPath)
	defer ts.Close()
	from, to := &ts.list[0], &ts.list[1]
	for _, t := range []*target{from, to} {
		e := t.change()
		if e == hostcall.Success && t.root.above(t.name) {
			e = hostcall.EACCES // what is out of reach would get another name, or lose it
		}
		if e != hostcall.Success {
			c.Fail(e)
			return
		}
	}
	c.Fail(toErrno(from.parent.rename(from.base, to.parent, to.base)))
}

// What path_open is asked for (witx: oflags).
const (
	oCreat = 1 << iota
	oDirectory
	oExcl
	oTrunc
)

// openOflags is which argument of path_open they are.
const openOflags = 3

var oflagNames = []string{"CREAT", "DIRECTORY", "EXCL", "TRUNC"}

func pathOpen(c *hostcall.Call) {
	s := system(c)
	oflags, wanted := c.Uint32(openOflags), rights(c.Num(4))&rightsAll
	inheriting, flags := rights(c.Num(5))&rightsAll, fdflags(c.Uint32(6))
	need := rightPathOpen
	if oflags&oCreat != 0 {
		need |= rightPathCreateFile
	}
	d, ok := s.enter(c, need, openPath)
	if !ok {
		return
	}
	// Who may hand out the right to change a file's size can do it either way. Go's guests have only that.
	if oflags&oTrunc != 0 && d.base&rightPathFilestatSetSize == 0 && d.inheriting&rightFDFilestatSetSize == 0 {
		c.Fail(hostcall.ENOTCAPABLE)
		return
	}
	inherited := wanted | inheriting
	if flags&(fdSync|fdRsync) != 0 {
		inherited |= rightFDSync
	}
	if flags&fdDsync != 0 {
		inherited |= rightFDDatasync
	}
	switch {
	case oflags > 15 || c.Uint32(6) > uint32(fdflagsAll):
		c.Fail(hostcall.EINVAL)
		return
	case inherited&^d.inheriting != 0:
		c.Fail(hostcall.ENOTCAPABLE)
		return
	case s.fds.full():
		c.Fail(hostcall.EMFILE)
		return
	case oflags&oCreat != 0 && oflags&oDirectory != 0:
		c.Fail(hostcall.EINVAL)
		return
	}
	a := access{
		read: wanted&(rightFDRead|rightFDReaddir) != 0, write: wanted&(rightFDWrite|rightFDAllocate) != 0,
		truncate: oflags&oTrunc != 0, directory: oflags&oDirectory != 0, flags: flags,
	}
	ts := take(c, openPath)
	defer ts.Close()
	judged := ts.list[0].name != ""
	for range createTries {
		t := &ts.list[0]
		if t.err != hostcall.Success {
			c.Fail(t.err)
			return
		}
		res, err := s.open(t, a, oflags, judged)
		if err == errAppeared {
			_ = ts.Close() // what it holds is not there any more
			*ts = targets{n: 1}
			ts.list[0] = s.lookup(c, openPath, false)
			continue
		}
		if err != nil {
			c.Fail(toErrno(err))
			return
		}
		opened := &descriptor{res: res, base: wanted & rightsFile, flags: flags}
		if res.filetype() == typeDirectory {
			opened.base, opened.inheriting = wanted&rightsDir, inheriting
		}
		fd, err := s.fds.add(opened)
		if err != nil {
			c.Fail(toErrno(err))
			return
		}
		c.PutUint32(7, fd)
		return
	}
	c.Fail(hostcall.EBUSY)
}

// createTries is how often path_open starts over when a name comes and goes between looking and creating.
const createTries = 64

// errAppeared says that there is something where a file was to be created.
const errAppeared = hostcall.EINPROGRESS

// open opens the target, or creates it where it is not there. Where somebody judged the target, only what was judged is
// opened.
func (s *System) open(t *target, a access, oflags uint32, judged bool) (resource, error) {
	if t.files != nil {
		switch {
		case oflags&oCreat != 0 && oflags&oExcl != 0:
			return nil, hostcall.EEXIST
		case a.write && !a.directory || a.truncate:
			return nil, hostcall.EISDIR
		}
		return t.files, nil
	}
	if t.node == nil {
		switch {
		case oflags&oCreat == 0:
			return nil, hostcall.ENOENT
		case t.root.readOnly:
			return nil, hostcall.EROFS
		}
		if err := s.space(t.root, t.parent, spaceBlock); err != nil {
			return nil, err
		}
		h, err := t.parent.create(t.base, a)
		if toErrno(err) != hostcall.EEXIST {
			if err != nil {
				return nil, err
			}
			return &fileResource{h, t.root}, nil
		}
		switch {
		case oflags&oExcl != 0:
			return nil, err
		case !judged:
			return nil, errAppeared
		}
		// Somebody else created it since. It has the name that was judged, unless it is a link to something else.
		if t.node, err = t.parent.lookup(t.base, false); err != nil {
			return nil, err
		}
		st, err := t.node.stat()
		if err != nil {
			return nil, err
		}
		t.kind = st.kind
	} else if oflags&oCreat != 0 && oflags&oExcl != 0 {
		return nil, hostcall.EEXIST
	}
	if t.root.readOnly && t.kind == typeRegularFile && (a.write || a.truncate) {
		return nil, hostcall.EROFS
	}
	switch t.kind {
	case typeDirectory:
		if a.write && !a.directory || a.truncate || oflags&oCreat != 0 {
			return nil, hostcall.EISDIR
		}
		h, err := t.node.reopen(access{read: true, directory: true})
		if err != nil {
			return nil, err
		}
		return &dirResource{h: h, root: t.root}, nil
	case typeRegularFile:
		if a.directory {
			return nil, hostcall.ENOTDIR
		}
		if t.node.isWindow(a.write || a.truncate) {
			return nil, hostcall.EACCES
		}
		h, err := t.node.reopen(a)
		if err != nil {
			return nil, err
		}
		return &fileResource{h, t.root}, nil
	case typeSymbolicLink:
		if a.directory {
			return nil, hostcall.ENOTDIR
		}
		return nil, hostcall.ELOOP
	}
	null, zero := t.node.memory()
	if !null && !zero || a.directory {
		return nil, hostcall.EACCES // devices, FIFOs and sockets are no files
	}
	h, err := t.node.hold()
	if err != nil {
		return nil, err
	}
	return &memDevice{h, t.root, zero}, nil
}
