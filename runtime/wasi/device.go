package wasi

// memDevice stands for one of the two devices that programs expect in a directory and that hold nothing of the host's: the
// null device is empty, the zero device gives zeros without end, and what is written to either is gone. The host's device is
// not opened, only held.
type memDevice struct {
	h    *handle
	root *root
	zero bool
}

func (m *memDevice) filetype() filetype { return typeCharacterDevice }

// Close implements io.Closer.
func (m *memDevice) Close() error { return m.h.Close() }

func (m *memDevice) read(p []byte) (int, error) {
	if !m.zero {
		return 0, nil
	}
	clear(p)
	return len(p), nil
}
