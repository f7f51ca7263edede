//go:build !linux

package wasi

import (
	"io/fs"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// maxListing bounds the snapshot of one directory, in entries.
const maxListing = 1 << 20

// dirReader lists a directory. A cookie is a place in a snapshot that is taken whenever the guest starts over.
type dirReader struct{ all []dirent }

// each calls f with the entries from cookie on until f answers false.
func (r *dirReader) each(h *handle, cookie uint64, f func(dirent) bool) error {
	if cookie == 0 || r.all == nil {
		if err := r.read(h); err != nil {
			return err
		}
	}
	for i := cookie; i < uint64(len(r.all)); i++ {
		if !f(r.all[i]) {
			return nil
		}
	}
	return nil
}

func (r *dirReader) read(h *handle) error {
	d, err := h.dir.Open(h.name)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(maxListing)
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil && len(entries) == 0 && h.lost() {
		return err
	}
	if len(entries) == maxListing {
		return hostcall.EOVERFLOW
	}
	r.all = []dirent{{next: 1, kind: typeDirectory, name: "."}, {next: 2, kind: typeDirectory, name: ".."}}
	for _, e := range entries {
		d := dirent{next: uint64(len(r.all)) + 1, kind: goFiletype(e.Type()), name: e.Name()}
		if info, err := e.Info(); err == nil {
			_, d.ino = identity(info)
		}
		r.all = append(r.all, d)
	}
	return nil
}

// lost reports whether the directory cannot be looked at any more.
func (h *handle) lost() bool {
	_, err := fs.Stat(h.dir.FS(), ".")
	return err != nil
}
