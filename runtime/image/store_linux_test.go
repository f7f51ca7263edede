package image

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func checkStore(t *testing.T, im *Image) {
	t.Helper()
	fd := im.store.fd
	if _, err := unix.Pwrite(fd, []byte{1}, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("written to: %v", err)
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
		t.Errorf("mapped for writing: %v", err)
	}
	if err := unix.Ftruncate(fd, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncated: %v", err)
	}
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		if uint64(st.Size) != im.StoredBytes() {
			t.Errorf("%d bytes of %d", st.Size, im.StoredBytes())
		}
		return st.Blocks
	}
	was := blocks()
	m := memoryOf(t, space(t, SpaceOptions{}), im, 2*page)
	for i := range m.Bytes() {
		m.Bytes()[i] = 1 // holes and gaps, too
	}
	if is := blocks(); is != was {
		t.Errorf("the memfd grew from %d to %d blocks as a guest wrote", was, is)
	}
}
