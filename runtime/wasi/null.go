package wasi

// nullDevice stands for the null device, the one device that programs expect in a directory: it is empty, and what is
// written to it is gone. The host's is not opened, only held.
type nullDevice struct {
	h    *handle
	root *root
}

func (n *nullDevice) filetype() filetype { return typeCharacterDevice }

// Close implements io.Closer.
func (n *nullDevice) Close() error { return n.h.Close() }
