package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// pendingFile is a file that gets its name once it is whole. It has mode 0600.
type pendingFile struct {
	*os.File
	path string
}

// createPending makes a file beside path. abandon removes it, unless publish gave it its name.
func createPending(path string) (*pendingFile, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, err
	}
	return &pendingFile{f, path}, nil
}

func (f *pendingFile) abandon() {
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// publish makes the file durable under its name. Unless it may replace, a file of that name stays as it is.
func (f *pendingFile) publish(replace bool) error {
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	give := os.Rename
	if !replace {
		give = os.Link // unlike a rename it fails where there is one
	}
	if err := give(f.Name(), f.path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already", f.path)
	} else if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
