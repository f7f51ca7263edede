//go:build !linux && !darwin

package engine

// reservation is nothing: memory is of Go's heap.
type reservation struct{}

// extend makes a longer copy of buf, of a quarter more, so that a guest that grows page by page does not copy its memory each time.
func (*reservation) extend(buf []byte, size, max uint64) ([]byte, error) {
	if size <= uint64(cap(buf)) {
		return buf[:size], nil
	}
	longer := make([]byte, size, min(max, size+size/4))
	copy(longer, buf)
	return longer, nil
}

func (*reservation) release() error { return nil }
