package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// plainPages refuses huge pages: one written byte would cost 2 MiB, to clear and to hold.
func plainPages(b []byte) error {
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel without them
		return fmt.Errorf("refuse huge pages: %w", err)
	}
	return nil
}
