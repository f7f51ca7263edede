//go:build unix

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// enoughRoom is how many bytes a data directory should have left: a few modules and what a database grows by.
const enoughRoom = 256 << 20

// writable says why a data directory cannot be written to, or has little room; it writes nothing.
func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be written to: %w; make it writable for this user", dir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if left := int64(fs.Bavail) * int64(fs.Bsize); left < enoughRoom {
		return fmt.Errorf("%s has %s left; free some space: with none, changes are refused", dir, sizeText(left))
	}
	return nil
}
