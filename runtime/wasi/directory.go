package wasi

import (
	"slices"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// fileResource is an open regular file.
type fileResource struct {
	h    *handle
	root *root
}

func (f *fileResource) filetype() filetype { return typeRegularFile }

// Close implements io.Closer.
func (f *fileResource) Close() error { return f.h.Close() }

// dirResource is an open directory.
type dirResource struct {
	h       *handle
	root    *root
	entries dirReader
}

func newDirResource(r *root) (*dirResource, error) {
	h, err := r.h.reopen(access{read: true, directory: true})
	if err != nil {
		return nil, err
	}
	return &dirResource{h: h, root: r}, nil
}

func (d *dirResource) filetype() filetype { return typeDirectory }

// Close implements io.Closer.
func (d *dirResource) Close() error { return d.h.Close() }

// fileDir is a directory that exists only for the guest: it holds files that were preopened one by one.
type fileDir struct {
	guest string
	names []string
	files []*root
}

func (d *fileDir) add(name string, r *root) {
	if i := slices.Index(d.names, name); i >= 0 {
		d.files[i] = r
		return
	}
	d.names, d.files = append(d.names, name), append(d.files, r)
}

func (d *fileDir) filetype() filetype { return typeDirectory }

// Close implements io.Closer. The files are the System's to close.
func (d *fileDir) Close() error { return nil }

// find is the file of a name, or nil.
func (d *fileDir) find(name string) *root {
	if i := slices.Index(d.names, name); i >= 0 {
		return d.files[i]
	}
	return nil
}

// each lists the directory: a cookie is a place in the order of the preopens, after "." and "..".
func (d *fileDir) each(cookie uint64, f func(dirent) bool) error {
	all := append([]string{".", ".."}, d.names...)
	for i := cookie; i < uint64(len(all)); i++ {
		e := dirent{next: i + 1, kind: typeDirectory, name: all[i]}
		if i >= 2 {
			st, err := d.files[i-2].h.stat()
			if err != nil {
				return err
			}
			e.kind, e.ino = st.kind, st.ino
		}
		if !f(e) {
			return nil
		}
	}
	return nil
}

// objectName is the guest path of what a descriptor holds; empty if that is no file.
func objectName(d *descriptor) (string, hostcall.Errno) {
	var name string
	var err error
	switch r := d.res.(type) {
	case *fileResource:
		name, err = r.root.name(r.h)
	case *dirResource:
		name, err = r.root.name(r.h)
	case *fileDir:
		name = r.guest
	case *memDevice:
		name, err = r.root.name(r.h)
	}
	return name, toErrno(err)
}

// entriesOf lists a directory from a cookie on.
func entriesOf(d *descriptor, cookie uint64, f func(dirent) bool) hostcall.Errno {
	switch r := d.res.(type) {
	case *dirResource:
		return toErrno(r.entries.each(r.h, cookie, f))
	case *fileDir:
		return toErrno(r.each(cookie, f))
	}
	return hostcall.ENOTDIR
}
