package wasi

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// root is a preopen as the host has it: everything below it is named from here.
type root struct {
	h        *handle
	guest    string // clean guest path
	file     bool   // h is a single file, not a directory
	readOnly bool
	except   []string // clean guest paths, in the words of the operator and of the kernel
	reckoned uint64   // bytes that may be written before the file system is looked at again
}

// within reports whether name is dir or below it.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// excepted reports whether a guest path is out of reach.
func (r *root) excepted(name string) bool {
	for _, e := range r.except {
		if within(name, e) {
			return true
		}
	}
	return false
}

// above reports whether something out of reach is at a guest path or below it.
func (r *root) above(name string) bool {
	for _, e := range r.except {
		if within(e, name) {
			return true
		}
	}
	return false
}

// nameTries is how often a name is asked for again when the root was renamed between the two questions it takes.
const nameTries = 16

// name is the guest path of what h holds, as the kernel names it now. An object that was moved out of the root has none.
func (r *root) name(h *handle) (string, error) {
	if r.file {
		return r.guest, nil
	}
	for range nameTries {
		at, _, err := r.h.hostName()
		if err != nil {
			return "", err
		}
		have, _, err := h.hostName()
		if err != nil {
			return "", err
		}
		if within(have, at) {
			return path.Join(r.guest, strings.TrimPrefix(have, at)), nil
		}
	}
	return "", hostcall.EACCES
}

// Close implements io.Closer.
func (r *root) Close() error { return r.h.Close() }

// preopen opens what the options grant, and gives each its descriptor.
func (s *System) preopen(ps []Preopen) error {
	var errs []error
	files := map[string]*fileDir{} // by guest directory
	for _, p := range ps {
		r, err := openRoot(p)
		if err != nil {
			errs = append(errs, fmt.Errorf("preopen %s at %s: %w", p.Host, p.Guest, err))
			continue
		}
		s.roots = append(s.roots, r)
		dir := r.guest
		d := &descriptor{base: rightsDir, inheriting: rightsAll}
		if r.file {
			name := path.Base(r.guest)
			dir = path.Dir(r.guest)
			if files[dir] != nil {
				files[dir].add(name, r)
				continue
			}
			files[dir] = &fileDir{guest: dir}
			files[dir].add(name, r)
			d.res = files[dir]
		} else if d.res, err = newDirResource(r); err != nil {
			errs = append(errs, fmt.Errorf("preopen %s at %s: %w", p.Host, p.Guest, err))
			continue
		}
		d.preopen = dir
		if _, err := s.fds.add(d); err != nil {
			errs = append(errs, fmt.Errorf("preopen %s at %s: %w", p.Host, p.Guest, err))
		}
	}
	return errors.Join(errs...)
}

func openRoot(p Preopen) (*root, error) {
	guest, err := cleanGuest(p.Guest)
	if err != nil {
		return nil, err
	}
	r := &root{guest: guest, readOnly: p.ReadOnly}
	for _, e := range p.Except {
		e, err := cleanGuest(e)
		if err != nil {
			return nil, fmt.Errorf("except: %w", err)
		}
		if !within(e, guest) || e == guest {
			return nil, fmt.Errorf("except %s: not below %s", e, guest)
		}
		r.except = append(r.except, e)
	}
	if r.h, err = openHost(p.Host); err != nil {
		return nil, err
	}
	st, err := r.h.stat()
	switch {
	case err != nil:
	case st.kind == typeRegularFile:
		r.file = true
		if len(r.except) > 0 {
			err = errors.New("except: a file has nothing below it")
		} else if guest == "/" {
			err = errors.New("a file needs a name in the guest")
		}
	case st.kind != typeDirectory:
		err = errors.New("neither a directory nor a regular file")
	}
	// Where an exception is reached through symbolic links, the kernel's own name of it is out of reach, too.
	for _, e := range r.except {
		if err != nil {
			break
		}
		h, lookErr := r.h.lookup(strings.TrimPrefix(strings.TrimPrefix(e, guest), "/"), true)
		if lookErr != nil {
			continue // not there (yet), or leading out of the root: its words are what counts
		}
		var name string
		if name, err = r.name(h); err == nil && name != e {
			r.except = append(r.except, name)
		}
		_ = h.Close() // it was only looked at
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}
