//go:build !unix

package embedded

import (
	"io"
	"os"
	"time"
)

// lockFile only opens the file: bbolt's own locks keep a second process out here.
func lockFile(path string, _ time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explain("open", path, err)
	}
	return f, nil
}

// lockToRead locks nothing: bbolt's own locks are shared by those who read.
func lockToRead(string) (io.Closer, error) { return io.NopCloser(nil), nil }
