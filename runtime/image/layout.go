package image

import (
	"errors"
	"fmt"
	"os"
)

// segment is a part of memory that is mapped from the image's store: extents with the small gaps between them, on the
// host's page boundaries. Segments ascend.
type segment struct{ offset, length, at uint64 } // at: where in the store

func (s segment) end() uint64 { return s.offset + s.length }

const (
	// gap is what two extents may be apart and still be one segment, in bytes: a page of zeros that all share costs less than
	// two more mappings in each sandbox.
	gap = 64 << 10
	// fewSegments is what the gap is widened for, unless most of what is stored would then be zeros; maxSegments is what
	// an image may have all the same.
	fewSegments = 8
	maxSegments = 512
	// spare is how many zeros do not count as most, in bytes.
	spare = 1 << 20
)

// hostPage is the host's page, in bytes.
var hostPage = uint64(os.Getpagesize())

// ErrScattered reports a memory whose contents lie in too many places far apart to be mapped.
var ErrScattered = errors.New("the memory's contents are scattered too widely")

// layout arranges extents as segments.
func layout(extents []extent) ([]segment, error) {
	var dense uint64
	for _, e := range extents {
		dense += e.length
	}
	segs, _ := merge(extents, gap)
	for apart := uint64(gap * 4); len(segs) > fewSegments; apart *= 4 {
		wider, stored := merge(extents, apart)
		if stored > 2*dense+spare {
			break
		}
		segs = wider
	}
	if len(segs) > maxSegments {
		return nil, fmt.Errorf("%w: %d places, and %d can be", ErrScattered, len(segs), maxSegments)
	}
	return segs, nil
}

// merge makes segments of extents that are no more than apart bytes from each other.
func merge(extents []extent, apart uint64) (segs []segment, stored uint64) {
	for _, e := range extents {
		from, to := e.offset&^(hostPage-1), (e.end()+hostPage-1)&^(hostPage-1)
		if n := len(segs); n > 0 && from <= segs[n-1].end()+apart {
			segs[n-1].length = to - segs[n-1].offset
		} else {
			segs = append(segs, segment{offset: from, length: to - from})
		}
	}
	for i := range segs {
		segs[i].at = stored
		stored += segs[i].length
	}
	return segs, stored
}

// mappings is the most mappings that a memory with n segments takes: the segments, what is anonymous around them, and
// what is reserved.
func mappings(n int) int { return 2*n + 2 }

// open puts the extents' bytes into a store. fill writes the memory's bytes from off to where it is told; it is called for
// parts of extents only.
func (im *Image) open(fill func(off uint64, to []byte)) error {
	var err error
	if im.segments, err = layout(im.extents); err != nil {
		return err
	}
	s, err := newStore(im.StoredBytes(), func(to []byte) {
		i := 0
		for _, e := range im.extents {
			for im.segments[i].end() <= e.offset {
				i++
			}
			seg := im.segments[i]
			at := seg.at + e.offset - seg.offset
			fill(e.offset, to[at:at+e.length])
		}
	})
	if err != nil {
		return err
	}
	im.content = &content{store: s}
	im.users.Store(1)
	return nil
}
