package wasi

import (
	"io"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// resource is what a descriptor stands for: *fileResource, *dirResource, *stdin, *stdout, *socket or *listener.
type resource interface {
	// filetype is the WASI type shown to the guest.
	filetype() filetype
	io.Closer
}

// descriptor is one entry of a table.
type descriptor struct {
	res              resource
	base, inheriting rights
	flags            fdflags
	preopen          string // the guest path of a preopened directory; empty for others
}

func (d *descriptor) close() error { return d.res.Close() }

// table is the descriptors of one System: the lowest free number is given out first.
type table struct {
	slots []*descriptor
	max   int
}

// add gives d the lowest free number. If there is none left it closes d and fails with EMFILE.
func (t *table) add(d *descriptor) (uint32, error) {
	for i, have := range t.slots {
		if have == nil {
			t.slots[i] = d
			return uint32(i), nil
		}
	}
	if len(t.slots) >= t.max {
		_ = d.close() // nothing has been written through it yet
		return 0, hostcall.EMFILE
	}
	t.slots = append(t.slots, d)
	return uint32(len(t.slots) - 1), nil
}

// full reports whether add would fail.
func (t *table) full() bool {
	if len(t.slots) < t.max {
		return false
	}
	for _, d := range t.slots {
		if d == nil {
			return false
		}
	}
	return true
}

// get finds descriptor fd: EBADF if it is not open, ENOTCAPABLE if it lacks one of the rights need.
func (t *table) get(fd uint32, need rights) (*descriptor, hostcall.Errno) {
	if uint64(fd) >= uint64(len(t.slots)) || t.slots[fd] == nil {
		return nil, hostcall.EBADF
	}
	d := t.slots[fd]
	if d.base&need != need {
		return d, hostcall.ENOTCAPABLE
	}
	return d, hostcall.Success
}

// remove takes fd out of the table.
func (t *table) remove(fd uint32) (*descriptor, hostcall.Errno) {
	d, e := t.get(fd, 0)
	if e == hostcall.Success {
		t.slots[fd] = nil
	}
	return d, e
}

// renumber makes to what from was, and closes what to was. Both must be open.
func (t *table) renumber(from, to uint32) hostcall.Errno {
	d, e := t.get(from, 0)
	if e != hostcall.Success {
		return e
	}
	old, e := t.get(to, 0)
	if e != hostcall.Success || from == to {
		return e
	}
	t.slots[to], t.slots[from] = d, nil
	_ = old.close() // as dup2: the new number counts, not what a close would say about the old file
	return hostcall.Success
}
