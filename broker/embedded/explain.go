package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/ripstop-vm/ripstop/broker"
)

// explain turns an error of the system about a file into one of broker's, with what to do. The file is named once: err's own words
// about it are left out.
func explain(doing, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case is(err, syscall.ENOSPC), is(err, syscall.EDQUOT), is(err, syscall.EFBIG):
		return fmt.Errorf("%s %s: %w: free some space on its disk and try again; nothing was changed (%w)", doing, path, broker.ErrFull, bare(err))
	case is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission), errors.Is(err, berrors.ErrDatabaseReadOnly):
		return fmt.Errorf("%s %s: %w: make it writable for this user, or choose another data folder; nothing was changed (%w)", doing, path, broker.ErrReadOnly, bare(err))
	case errors.Is(err, berrors.ErrDatabaseNotOpen), errors.Is(err, fs.ErrClosed):
		return fmt.Errorf("%s %s: %w", doing, path, broker.ErrClosed)
	}
	return fmt.Errorf("%s %s: %w", doing, path, err)
}

// bare is the system's own error, without the operation and file that it came with.
func bare(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// is finds an error of the system, also where bbolt kept only its text (as when a file cannot grow).
func is(err error, want syscall.Errno) bool {
	return errors.Is(err, want) || strings.Contains(err.Error(), want.Error())
}

// corrupt says that a file is not what was written.
func corrupt(path, what string, args ...any) error {
	return fmt.Errorf("open %s: %w: %s; restore it from a backup, or move the data folder away to begin anew; nothing was changed",
		path, broker.ErrCorrupt, fmt.Sprintf(what, args...))
}
