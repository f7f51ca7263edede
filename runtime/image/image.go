package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Digest names an image: the SHA-256 of its encoding.
type Digest [sha256.Size]byte

func (d Digest) String() string { return fmt.Sprintf("%x", d[:]) }

// Global is the value of one mutable global.
type Global struct {
	Name string             // it is exported under this name
	Type hostcall.ValueType // a number type
	Bits uint64             // its value's bits, the lowest ones of a 32-bit type
}

// Source is what an image is taken of. Memory is copied.
type Source struct {
	Module  [sha256.Size]byte // digest of the module
	Memory  []byte            // all of it; empty if the module has none
	Globals []Global          // every mutable one
	Random  Random
}

// Image is the state of a sandbox. Its methods are safe for concurrent use.
type Image struct {
	module  [sha256.Size]byte
	size    uint64
	extents []extent
	globals []Global
	random  Random
	minor   uint16
	extra   []section // of a newer minor version: kept, not understood
	digest  Digest

	segments []segment
	*content
	closed atomic.Bool
}

// content is an image's bytes. Images of a Set that are the same share it.
type content struct {
	store store
	users atomic.Int64 // each image's owner, and each Memory
	set   *Set         // where it is found; nil: nowhere
}

// block is the granule of extents, in bytes. It is the smallest page there is, and not the host's, so that an image has the same
// digest everywhere.
const block = 4 << 10

// maxSize is the whole of a 32-bit memory, in bytes.
const maxSize = 1 << 32

// extent is a run of blocks that are not all zero, as long as it can be.
type extent struct{ offset, length uint64 }

func (e extent) end() uint64 { return e.offset + e.length }

// Take makes an image. The memory must be a whole number of WebAssembly pages and nobody may write to it meanwhile.
func Take(s Source) (*Image, error) {
	im := &Image{module: s.Module, size: uint64(len(s.Memory)), globals: slices.Clone(s.Globals), random: s.Random}
	im.random.Offsets = slices.Clone(s.Random.Offsets)
	slices.SortFunc(im.globals, func(a, b Global) int { return strings.Compare(a.Name, b.Name) })
	if err := im.check(); err != nil {
		return nil, fmt.Errorf("take image: %w", err)
	}
	im.extents = extentsOf(s.Memory)
	if err := im.keep(func(off uint64, to []byte) { copy(to, s.Memory[off:]) }); err != nil {
		return nil, fmt.Errorf("take image: %w", err)
	}
	return im, nil
}

// Empty makes the image of a memory of size bytes that are zero, and nothing else. It takes no mappings of its own.
func Empty(size uint64) (*Image, error) {
	im := &Image{size: size}
	err := im.check()
	if err == nil {
		err = im.keep(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("empty image: %w", err)
	}
	return im, nil
}

// keep stores the extents' bytes, as open does, and names the image.
func (im *Image) keep(fill func(off uint64, to []byte)) error {
	if err := im.open(fill); err != nil {
		return err
	}
	h := sha256.New()
	if err := im.encode(h); err != nil {
		return err
	}
	h.Sum(im.digest[:0])
	return nil
}

// check holds what was given or read against what an image may be.
func (im *Image) check() error {
	if im.size%engine.PageSize != 0 || im.size > maxSize {
		return fmt.Errorf("a memory of %d bytes is no whole number of pages within 4 GiB", im.size)
	}
	if len(im.globals) > maxGlobals {
		return fmt.Errorf("%d globals; at most %d are possible", len(im.globals), maxGlobals)
	}
	for i, g := range im.globals {
		switch g.Type {
		case hostcall.I32, hostcall.F32:
			if g.Bits>>32 != 0 {
				return fmt.Errorf("global %q has 32 bits and the value %#x", g.Name, g.Bits)
			}
		case hostcall.I64, hostcall.F64:
		default:
			return fmt.Errorf("global %q holds no number", g.Name)
		}
		if len(g.Name) > maxName {
			return fmt.Errorf("a global with a name of %d bytes; at most %d are possible", len(g.Name), maxName)
		}
		if i > 0 && im.globals[i-1].Name >= g.Name {
			return fmt.Errorf("global %q is there twice, or out of order", g.Name)
		}
	}
	return im.random.check(im.size)
}

// zeros is a block of nothing, to compare with.
var zeros [block]byte

// extentsOf finds what of mem is not zero.
func extentsOf(mem []byte) []extent {
	var out []extent
	for off := 0; off < len(mem); off += block {
		if string(mem[off:off+block]) == string(zeros[:]) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].end() == uint64(off) {
			out[n-1].length += block
		} else {
			out = append(out, extent{uint64(off), block})
		}
	}
	return out
}

// Digest names the image.
func (im *Image) Digest() Digest { return im.digest }

// Module is the digest of the module whose sandboxes can begin as this image.
func (im *Image) Module() [sha256.Size]byte { return im.module }

// MemoryBytes is how long the memory is, in bytes: a whole number of 64 KiB.
func (im *Image) MemoryBytes() uint64 { return im.size }

// StoredBytes is how much of the memory the host keeps, in bytes; all Memories share it.
func (im *Image) StoredBytes() uint64 {
	var n uint64
	for _, s := range im.segments {
		n += s.length
	}
	return n
}

// Globals lists the mutable globals by name. The caller must not change it.
func (im *Image) Globals() []Global { return im.globals }

// Random is where the guest keeps random state that must not be the same twice.
func (im *Image) Random() Random { return im.random }

// CopyTo writes the memory to dst, which has to be exactly as long.
func (im *Image) CopyTo(dst []byte) {
	if uint64(len(dst)) != im.size {
		panic("image: CopyTo a memory of another size")
	}
	end := uint64(0)
	for _, s := range im.segments {
		clear(dst[end:s.offset])
		copy(dst[s.offset:s.end()], im.store.view[s.at:])
		end = s.end()
	}
	clear(dst[end:])
}

// segmentsFrom is the segments that end after off.
func (im *Image) segmentsFrom(off uint64) []segment {
	i := 0
	if len(im.segments) > fewSegments {
		i = sort.Search(len(im.segments), func(i int) bool { return im.segments[i].end() > off })
	}
	for i < len(im.segments) && im.segments[i].end() <= off {
		i++
	}
	return im.segments[i:]
}

// Close lets go of the image's bytes once the last Memory of it is closed, too. It may be called twice.
func (im *Image) Close() error {
	if im.closed.Swap(true) {
		return nil
	}
	return im.drop(im.digest)
}

// Set shares the bytes of images that are the same, so that as many jobs as there are can begin as one image and take its memory once. The zero
// value is ready to use. Its methods are safe for concurrent use.
type Set struct {
	mu   sync.Mutex
	have map[Digest]*content
}

// Take is Take, with the bytes of an image that is the same and still in use.
func (s *Set) Take(src Source) (*Image, error) {
	im, err := Take(src)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if c := s.have[im.digest]; c != nil && c.hold() {
		im.content, c = c, im.content
		s.mu.Unlock()
		if err := c.drop(im.digest); err != nil {
			return nil, errors.Join(fmt.Errorf("take image: %w", err), im.Close())
		}
		return im, nil
	}
	defer s.mu.Unlock()
	if s.have == nil {
		s.have = map[Digest]*content{}
	}
	im.set = s
	s.have[im.digest] = im.content
	return im, nil
}

// hold keeps the bytes for one more user. It is false once the image was closed and is used by nobody.
func (c *content) hold() bool {
	for {
		n := c.users.Load()
		if n == 0 {
			return false
		}
		if c.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// drop ends what hold began. d names the image.
func (c *content) drop(d Digest) error {
	if c.users.Add(-1) > 0 {
		return nil
	}
	if c.set != nil {
		c.set.mu.Lock()
		if c.set.have[d] == c {
			delete(c.set.have, d)
		}
		c.set.mu.Unlock()
	}
	return c.store.close()
}
