package wasi

import (
	"errors"
	"path"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// lookupKind is what a path of a call stands for.
type lookupKind uint8

const (
	lookObject lookupKind = iota // something that is there
	lookEntry                    // a place in a directory, whatever is there; links are not followed
	lookCreate                   // something that is there, or else, if path_open is to create it, its place
)

// pathArg says where the parts of a path are among a function's arguments.
type pathArg struct {
	fd, path int
	flags    int // of the lookupflags; -1 if there are none and links are not followed
	kind     lookupKind
}

// target is a path after resolution.
type target struct {
	arg    int // of the path
	root   *root
	node   *handle // what is there; nil if nothing is, or if only its place was asked for
	parent *handle // of a place
	base   string  // the place's last component, with a trailing slash if the guest wrote one
	name   string  // the kernel's name of it, guest-absolute; empty if nobody asked
	kind   filetype
	files  *fileDir       // instead of a node: the directory of preopened files itself
	err    hostcall.Errno // why there is no target
}

// targets are the paths of one call. It is what Call.Held holds.
type targets struct {
	list [2]target
	n    int
}

// Close implements io.Closer.
func (ts *targets) Close() error {
	var errs []error
	for i := range ts.list {
		errs = append(errs, ts.list[i].node.Close(), ts.list[i].parent.Close())
	}
	return errors.Join(errs...)
}

// resolver makes the Resolve of a function: it names what the descriptors and paths of the call stand for, and keeps hold
// of it.
func resolver(paths ...pathArg) func(*hostcall.Call) {
	return func(c *hostcall.Call) {
		s := system(c)
		ts := &targets{n: len(paths)}
		for i, p := range paths {
			t := &ts.list[i]
			*t = s.lookup(c, p, true)
			resolveFD(c, p.fd)
			v := c.Value(p.path)
			v.Object, v.Dir = t.name, t.kind == typeDirectory
			if c.Unresolved == hostcall.Success {
				c.Unresolved = t.err
			}
		}
		c.Held = ts
	}
}

// fdResolver makes the Resolve of a function over descriptors.
func fdResolver(fds ...int) func(*hostcall.Call) {
	return func(c *hostcall.Call) {
		for _, i := range fds {
			resolveFD(c, i)
		}
	}
}

// resolveFD names what descriptor argument i stands for.
func resolveFD(c *hostcall.Call, i int) {
	d, e := system(c).fds.get(c.Uint32(i), 0)
	if e == hostcall.Success {
		v := c.Value(i)
		v.Object, e = objectName(d)
		v.Dir = d.res.filetype() == typeDirectory
	}
	if c.Unresolved == hostcall.Success {
		c.Unresolved = e
	}
}

// take hands a function the targets of its call: those that were judged, or else fresh ones. They are closed by the caller.
func take(c *hostcall.Call, paths ...pathArg) *targets {
	if ts, ok := c.Held.(*targets); ok {
		c.Held = nil
		return ts
	}
	s := system(c)
	ts := &targets{n: len(paths)}
	for i, p := range paths {
		ts.list[i] = s.lookup(c, p, false)
	}
	return ts
}

// lookup resolves one path of a call. With named set, or where a preopen has exceptions, the result is named by the kernel.
func (s *System) lookup(c *hostcall.Call, p pathArg, named bool) (t target) {
	d, e := s.fds.get(c.Uint32(p.fd), 0)
	if e != hostcall.Success {
		return target{arg: p.path, err: e}
	}
	follow := false
	if p.flags >= 0 {
		if c.Uint32(p.flags) > 1 {
			return target{arg: p.path, err: hostcall.EINVAL}
		}
		follow = c.Uint32(p.flags) == 1
	}
	words := string(c.Text(p.path))
	switch {
	case words == "":
		return target{arg: p.path, err: hostcall.ENOENT}
	case strings.IndexByte(words, 0) >= 0:
		return target{arg: p.path, err: hostcall.EINVAL}
	case words[0] == '/':
		return target{arg: p.path, err: hostcall.EPERM}
	case len(words) > MaxPath:
		return target{arg: p.path, err: hostcall.ENAMETOOLONG}
	}
	kind := p.kind
	if kind == lookCreate && c.Uint32(openOflags)&oCreat == 0 {
		kind = lookObject
	}
	if kind == lookCreate && c.Uint32(openOflags)&oExcl != 0 {
		follow = false // an exclusive creation follows no link in the last place (open(2), O_EXCL): the link is there already
	}
	var err error
	switch r := d.res.(type) {
	case *dirResource:
		t.root = r.root
		err = t.find(r.h, words, kind, follow)
		if err == nil {
			err = t.identify(named)
		}
	case *fileDir:
		err = t.findFile(r, words, kind)
	default:
		err = hostcall.ENOTDIR
	}
	t.arg = p.path
	if err != nil {
		_, _ = t.node.Close(), t.parent.Close() // they were only looked at
		return target{arg: p.path, err: toErrno(err)}
	}
	return t
}

// find takes hold of what words name beneath dir.
func (t *target) find(dir *handle, words string, kind lookupKind, follow bool) (err error) {
	if kind != lookEntry {
		t.node, err = dir.lookup(words, follow)
		if err == nil || kind == lookObject || !isNotExist(err) {
			return err
		}
	}
	// A link that leads to nothing is followed by whoever creates. Its words are appended to those of its directory, and
	// the whole is resolved beneath dir again.
	for range maxLinks {
		at, base := splitPath(words)
		if t.parent, err = dir.lookupDir(at); err != nil {
			return err
		}
		t.base = base
		if kind == lookEntry {
			return nil
		}
		if strings.HasSuffix(base, "/") {
			return hostcall.EISDIR // nothing of that name is there, and a file cannot have it
		}
		link, err := t.parent.lookup(base, false)
		if isNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		to, err := link.readlink()
		_ = link.Close() // it was only looked at
		if err != nil {
			// Something that is no link appeared meanwhile.
			t.node, err = t.parent.lookup(base, false)
			return err
		}
		if !follow {
			return hostcall.ELOOP
		}
		if strings.HasPrefix(to, "/") {
			return hostcall.EPERM
		}
		words = at + "/" + to
		if len(words) > MaxPath {
			return hostcall.ENAMETOOLONG
		}
		_ = t.parent.Close() // it was only looked at
		t.parent = nil
		if t.node, err = dir.lookup(words, true); err == nil || !isNotExist(err) {
			return err
		}
	}
	return hostcall.ELOOP
}

// maxLinks is how many symbolic links in a row are followed, as Linux does.
const maxLinks = 40

// splitPath separates the last component, with its trailing slash, from the directory it is in.
func splitPath(words string) (dir, base string) {
	short := strings.TrimRight(words, "/")
	i := strings.LastIndexByte(short, '/')
	base = short[i+1:]
	if len(short) < len(words) {
		base += "/"
	}
	if i < 0 {
		return ".", base
	}
	return words[:i+1], base
}

// identify names the target, where somebody wants to know, and refuses it where it is out of reach.
func (t *target) identify(named bool) error {
	if t.node != nil {
		st, err := t.node.stat()
		if err != nil {
			return err
		}
		t.kind = st.kind
	}
	if !named && len(t.root.except) == 0 {
		return nil
	}
	var err error
	if t.node != nil {
		t.name, err = t.root.name(t.node)
	} else {
		t.name, err = t.root.name(t.parent)
		t.name = path.Join(t.name, t.base)
		if node, lookErr := t.parent.lookup(strings.TrimSuffix(t.base, "/"), false); lookErr == nil {
			if st, statErr := node.stat(); statErr == nil {
				t.kind = st.kind
			}
			_ = node.Close() // it was only looked at
		}
	}
	if err != nil {
		return err
	}
	if t.root.excepted(t.name) {
		return hostcall.EACCES
	}
	return nil
}

// findFile takes hold of a file that was preopened by itself.
func (t *target) findFile(dir *fileDir, words string, kind lookupKind) (err error) {
	if path.Clean(words) == ".." || strings.HasPrefix(path.Clean(words), "../") {
		return hostcall.EPERM
	}
	short := strings.TrimPrefix(path.Clean(words), "./")
	r := dir.find(short)
	switch {
	case kind == lookEntry:
		return hostcall.EROFS
	case short == ".":
		t.files, t.name, t.kind = dir, dir.guest, typeDirectory
		return nil
	case r == nil && kind == lookCreate:
		return hostcall.EROFS
	case r == nil:
		return hostcall.ENOENT
	case strings.HasSuffix(words, "/"):
		return hostcall.ENOTDIR
	}
	t.root, t.name, t.kind = r, r.guest, typeRegularFile
	t.node, err = r.h.hold()
	return err
}
