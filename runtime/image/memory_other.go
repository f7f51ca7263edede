//go:build !linux

package image

import "errors"

// kernel is what this system offers for the return of memory: nothing.
type kernel struct{}

func (*kernel) open() error   { return nil }
func (*kernel) close() error  { return nil }
func (*kernel) mappings() int { return 1 << 30 } // none are made

// mapping is memory of the Go heap.
type mapping struct{}

func (*mapping) reserve(im *Image, max uint64) ([]byte, error) {
	buf := make([]byte, im.size, min(max, im.size+im.size/4))
	im.CopyTo(buf)
	return buf, nil
}

// extend makes buf longer. What lies beyond its end has always been zero.
func (m *mapping) extend(buf []byte, size uint64) ([]byte, error) {
	if size <= uint64(cap(buf)) {
		return buf[:size], nil
	}
	grown := make([]byte, size, size+size/4)
	copy(grown, buf)
	return grown, nil
}

// forget empties what of buf lies beyond size.
func (m *mapping) forget(buf []byte, size uint64) error {
	clear(buf[size:])
	return nil
}

func (m *mapping) release(uint64) error { return nil }

func (m *Memory) restore() (kept uint64, err error) {
	if m.method != Copy {
		return 0, errors.New("only on Linux")
	}
	if err := m.shorten(); err != nil {
		return 0, err
	}
	m.putBack(0, m.image.size)
	return uint64(cap(m.buf)), nil
}

// discard does what restore does: there are no pages to give back.
func (m *Memory) discard() error {
	_, err := m.restore()
	return err
}

func faults() uint64 { return 0 }

func counting() bool { return false }
