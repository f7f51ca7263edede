package wasi

import (
	"encoding/binary"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// filestat is what is known of an object (witx: filestat). Times are nanoseconds since 1970.
type filestat struct {
	dev, ino         uint64
	kind             filetype
	nlink, size      uint64
	atim, mtim, ctim uint64
}

// filestatSize is the size of a filestat in guest memory, in bytes.
const filestatSize = 64

func (s filestat) put(c *hostcall.Call, i int) {
	var b [filestatSize]byte
	le := binary.LittleEndian
	le.PutUint64(b[0:], s.dev)
	le.PutUint64(b[8:], s.ino)
	b[16] = byte(s.kind)
	le.PutUint64(b[24:], s.nlink)
	le.PutUint64(b[32:], s.size)
	le.PutUint64(b[40:], s.atim)
	le.PutUint64(b[48:], s.mtim)
	le.PutUint64(b[56:], s.ctim)
	c.PutBytes(i, b[:])
}

// times is which times to set, and to what.
type times struct {
	atim, mtim       uint64
	setAtim, setMtim bool
	atimNow, mtimNow bool
}

var fstflagNames = []string{"ATIM", "ATIM_NOW", "MTIM", "MTIM_NOW"}

// newTimes reads what a guest asks for (witx: fstflags).
func newTimes(atim, mtim uint64, flags uint32) (times, hostcall.Errno) {
	t := times{atim, mtim, flags&1 != 0, flags&4 != 0, flags&2 != 0, flags&8 != 0}
	if flags > 15 || t.setAtim && t.atimNow || t.setMtim && t.mtimNow {
		return times{}, hostcall.EINVAL
	}
	return t, hostcall.Success
}

// dirent is an entry of a directory (witx: dirent).
type dirent struct {
	next uint64 // cookie of the entry after it
	ino  uint64
	kind filetype
	name string
}

// append writes the entry as a guest reads it: 24 bytes, and the name.
func (e dirent) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, e.next)
	b = le.AppendUint64(b, e.ino)
	b = le.AppendUint32(b, uint32(len(e.name)))
	b = append(b, byte(e.kind), 0, 0, 0)
	return append(b, e.name...)
}
