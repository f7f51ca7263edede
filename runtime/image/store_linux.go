package image

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// store holds an image's bytes: a sealed memfd and a view of it. Where there is no memfd, fd is -1 and the view plain memory.
type store struct {
	fd   int
	view []byte // never written to
}

// newStore makes a store of size bytes, which fill writes to. Every page of it is there: a private mapping that touched a hole
// would grow the memfd for all, and never give it back.
func newStore(size uint64, fill func(to []byte)) (store, error) {
	if size == 0 {
		return store{fd: -1}, nil
	}
	fd, err := unix.MemfdCreate("ripstop-image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("ripstop-image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		view := make([]byte, size)
		fill(view)
		return store{fd: -1, view: view}, nil
	}
	if err != nil {
		return store{}, fmt.Errorf("make a memfd: %w", err)
	}
	s, err := sealedStore(fd, size, fill)
	if err != nil {
		return store{}, errors.Join(err, unix.Close(fd))
	}
	return s, nil
}

func sealedStore(fd int, size uint64, fill func(to []byte)) (store, error) {
	if err := unix.Fallocate(fd, 0, 0, int64(size)); err != nil {
		return store{}, fmt.Errorf("allocate %d bytes of a memfd: %w", size, err)
	}
	w, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return store{}, fmt.Errorf("map a memfd of %d bytes: %w", size, err)
	}
	fill(w)
	if err := unix.Munmap(w); err != nil {
		return store{}, fmt.Errorf("unmap a memfd: %w", err)
	}
	// Sealed, so that no bug of ours and no hole in the engine's wall can change what other sandboxes begin as.
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return store{}, fmt.Errorf("seal a memfd: %w", err)
	}
	view, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return store{}, fmt.Errorf("map a sealed memfd of %d bytes: %w", size, err)
	}
	return store{fd, view}, nil
}

func (s *store) close() error {
	if s.fd < 0 {
		return nil
	}
	return errors.Join(unix.Munmap(s.view), unix.Close(s.fd))
}
