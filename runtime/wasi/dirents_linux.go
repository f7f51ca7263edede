package wasi

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// direntBuffer is how much of a directory is read at once, in bytes.
const direntBuffer = 16 << 10

// dirReader lists a directory. A cookie is the kernel's own position (getdents64(2), d_off), which survives changes of
// the directory; as long as the guest reads on where it stopped the position is not even set.
type dirReader struct {
	buf []byte // raw entries not passed on yet
	at  uint64 // the cookie of the first of them, or of where the kernel stands if there are none
	on  bool   // at is known
}

// each calls f with the entries from cookie on until f answers false. The entry it refused is offered again next time.
func (r *dirReader) each(h *handle, cookie uint64, f func(dirent) bool) error {
	if !r.seek(cookie) {
		r.buf, r.on = nil, false
		if cookie > 1<<63-1 {
			return unix.EINVAL
		}
		if _, err := unix.Seek(h.fd, int64(cookie), 0); err != nil {
			return err
		}
		r.at, r.on = cookie, true
	}
	for {
		if len(r.buf) == 0 {
			buf := make([]byte, direntBuffer)
			n, err := again(func() (int, error) { return unix.Getdents(h.fd, buf) })
			if err == unix.ENOENT { // the directory was removed: it has no entries any more
				return nil
			}
			if err != nil || n == 0 {
				r.on = false
				return err
			}
			r.buf = buf[:n]
		}
		e, size := parseDirent(r.buf)
		if size == 0 {
			r.buf, r.on = nil, false
			return unix.EIO
		}
		if !f(e) {
			return nil
		}
		r.buf, r.at = r.buf[size:], e.next
	}
}

// seek looks for cookie in what is buffered.
func (r *dirReader) seek(cookie uint64) bool {
	if !r.on || cookie == 0 { // 0 starts over, with the directory as it is now
		return false
	}
	for at, buf := r.at, r.buf; ; {
		if at == cookie {
			r.at, r.buf = at, buf
			return true
		}
		e, size := parseDirent(buf)
		if size == 0 {
			return false
		}
		at, buf = e.next, buf[size:]
	}
}

// parseDirent reads a struct linux_dirent64; size 0 means that there is none.
func parseDirent(b []byte) (e dirent, size int) {
	const fixed = 19
	if len(b) < fixed {
		return dirent{}, 0
	}
	size = int(binary.NativeEndian.Uint16(b[16:]))
	if size < fixed || size > len(b) {
		return dirent{}, 0
	}
	name, _, _ := bytes.Cut(b[fixed:size], []byte{0})
	return dirent{
		next: binary.NativeEndian.Uint64(b[8:]), ino: binary.NativeEndian.Uint64(b), kind: modeFiletype(uint32(b[18]) << 12),
		name: string(name),
	}, size
}
