package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// The encoding, all little endian:
//
//	magic (8 bytes), major (u16), minor (u16), zero (u32)
//	sections, by ascending tag: tag (u32), zero (u32), length (u64), content
//	the SHA-256 of everything before, as the content of section 0
//
// Memory: module (32 bytes), size (u64). Globals: for each type (u8), bits (u64), name (u16 and bytes). Extents: for each
// offset (u64), length (u64). Data: the extents' bytes, one after another. Random: warning (u16 and bytes), offsets (u64).
// All five are there. There is one encoding of an image: whatever could be written in two ways is refused. The next minor version
// may add sections; they are kept as they are.
const (
	magic = "\x00ripimg\n"
	major = 1
	minor = 0

	tagEnd     = 0
	tagMemory  = 1
	tagGlobals = 2
	tagExtents = 3
	tagData    = 4
	tagRandom  = 5

	headBytes    = 16
	sectionBytes = 16

	maxGlobals = 100_000
	maxName    = 1<<16 - 1
)

// section is a section that this version does not understand.
type section struct {
	tag     uint32
	content []byte
}

// ErrVersion reports an image of a version that this program cannot read.
var ErrVersion = errors.New("an image of another version")

// WriteTo writes the image in its encoding, as Parse reads it.
func (im *Image) WriteTo(w io.Writer) (int64, error) {
	if !im.hold() {
		return 0, errors.New("write image: it is closed")
	}
	c := &counter{w: w}
	err := im.encode(c)
	if err == nil {
		_, err = c.Write(append(head(tagEnd, sha256.Size), im.digest[:]...))
	}
	return c.n, errors.Join(err, im.drop(im.digest))
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func head(tag uint32, length uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(tag))
	return binary.LittleEndian.AppendUint64(b, length)
}

// encode writes all that the digest is of.
func (im *Image) encode(w io.Writer) error {
	le := binary.LittleEndian
	b := le.AppendUint16(le.AppendUint16([]byte(magic), major), im.minor)
	b = le.AppendUint32(b, 0)
	section := func(tag uint32, content []byte) {
		b = append(append(b, head(tag, uint64(len(content)))...), content...)
	}

	section(tagMemory, le.AppendUint64(im.module[:len(im.module):len(im.module)], im.size))
	var c []byte
	for _, g := range im.globals {
		c = le.AppendUint64(append(c, byte(g.Type)), g.Bits)
		c = append(le.AppendUint16(c, uint16(len(g.Name))), g.Name...)
	}
	section(tagGlobals, c)
	c = c[:0]
	var total uint64
	for _, e := range im.extents {
		c = le.AppendUint64(le.AppendUint64(c, e.offset), e.length)
		total += e.length
	}
	section(tagExtents, c)
	b = append(b, head(tagData, total)...)
	if _, err := w.Write(b); err != nil {
		return err
	}
	i := 0
	for _, e := range im.extents {
		for im.segments[i].end() <= e.offset {
			i++
		}
		at := im.segments[i].at + e.offset - im.segments[i].offset
		if _, err := w.Write(im.store.view[at : at+e.length]); err != nil {
			return err
		}
	}
	b = b[:0]
	c = append(le.AppendUint16(c[:0], uint16(len(im.random.Warning))), im.random.Warning...)
	for _, o := range im.random.Offsets {
		c = le.AppendUint64(c, o)
	}
	section(tagRandom, c)
	for _, s := range im.extra {
		section(s.tag, s.content)
	}
	_, err := w.Write(b)
	return err
}

// Parse reads an image in its encoding. The bytes are not kept. Its time and memory are bounded by the bytes that are
// there; the memory that an image claims is only taken when a Memory of it is made. A wrong version is ErrVersion.
func Parse(b []byte) (*Image, error) {
	im, data, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	if err := im.open(func(_ uint64, to []byte) { data = data[copy(to, data):] }); err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	return im, nil
}

// decode reads all but the store. data is the extents' bytes, within b.
func decode(b []byte) (im *Image, data []byte, err error) {
	le := binary.LittleEndian
	if len(b) < headBytes || string(b[:len(magic)]) != magic {
		return nil, nil, errors.New("this is no image")
	}
	if v := le.Uint16(b[8:]); v != major {
		return nil, nil, fmt.Errorf("%w: %d.%d, and %d.%d is what this program reads", ErrVersion, v, le.Uint16(b[10:]), major, minor)
	}
	im = &Image{minor: le.Uint16(b[10:])}
	if im.minor > minor+1 || le.Uint32(b[12:]) != 0 {
		return nil, nil, fmt.Errorf("%w: %d.%d, and %d.%d is what this program reads", ErrVersion, le.Uint16(b[8:]), le.Uint16(b[10:]), major, minor)
	}
	const trailer = sectionBytes + sha256.Size
	if len(b) < headBytes+trailer {
		return nil, nil, errors.New("it ends early")
	}
	whole := b[:len(b)-trailer]
	if end := b[len(whole):]; !bytes.Equal(end[:sectionBytes], head(tagEnd, sha256.Size)) {
		return nil, nil, errors.New("it does not end with its digest")
	}
	im.digest = sha256.Sum256(whole)
	if !bytes.Equal(im.digest[:], b[len(whole)+sectionBytes:]) {
		return nil, nil, errors.New("its bytes are not those that its digest names")
	}
	rest, last := whole[headBytes:], uint64(0)
	for len(rest) > 0 {
		if len(rest) < sectionBytes {
			return nil, nil, errors.New("it ends within a section's head")
		}
		tag, n := le.Uint64(rest), le.Uint64(rest[8:])
		rest = rest[sectionBytes:]
		if n > uint64(len(rest)) {
			return nil, nil, fmt.Errorf("section %d is longer than the file", tag)
		}
		if tag <= last || tag > 1<<32-1 || last < tagRandom && tag != last+1 {
			return nil, nil, fmt.Errorf("section %d after section %d", tag, last)
		}
		c := rest[:n:n]
		rest, last = rest[n:], tag
		switch tag {
		case tagMemory:
			err = im.readMemory(c)
		case tagGlobals:
			err = im.readGlobals(c)
		case tagExtents:
			err = im.readExtents(c)
		case tagData:
			data, err = c, im.checkData(c)
		case tagRandom:
			err = im.readRandom(c)
		default:
			if im.minor == minor {
				return nil, nil, fmt.Errorf("there is no section %d", tag)
			}
			im.extra = append(im.extra, section{uint32(tag), bytes.Clone(c)})
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if last < tagRandom {
		return nil, nil, fmt.Errorf("it ends after section %d", last)
	}
	return im, data, im.check()
}

func (im *Image) readMemory(c []byte) error {
	if len(c) != len(im.module)+8 {
		return fmt.Errorf("a memory section of %d bytes", len(c))
	}
	im.size = binary.LittleEndian.Uint64(c[copy(im.module[:], c):])
	return nil
}

func (im *Image) readGlobals(c []byte) error {
	le := binary.LittleEndian
	for len(c) > 0 {
		if len(c) < 11 || len(im.globals) >= maxGlobals {
			return errors.New("the globals are cut off, or too many")
		}
		g := Global{Type: hostcall.ValueType(c[0]), Bits: le.Uint64(c[1:])}
		n := int(le.Uint16(c[9:]))
		if c = c[11:]; n > len(c) {
			return errors.New("a global's name is cut off")
		}
		g.Name, c = string(c[:n]), c[n:]
		im.globals = append(im.globals, g)
	}
	return nil
}

func (im *Image) readExtents(c []byte) error {
	le := binary.LittleEndian
	if len(c)%16 != 0 {
		return errors.New("the extents are cut off")
	}
	for end := uint64(0); len(c) > 0; c = c[16:] {
		e := extent{le.Uint64(c), le.Uint64(c[8:])}
		switch {
		case e.offset%block != 0 || e.length%block != 0 || e.length == 0:
			return fmt.Errorf("an extent of %d bytes at %d: both have to be multiples of %d", e.length, e.offset, block)
		case e.offset > im.size || e.length > im.size-e.offset:
			return fmt.Errorf("an extent of %d bytes at %d, beyond a memory of %d", e.length, e.offset, im.size)
		case len(im.extents) > 0 && e.offset <= end:
			return fmt.Errorf("an extent at %d touches the one before", e.offset)
		}
		end = e.end()
		im.extents = append(im.extents, e)
	}
	return nil
}

// checkData makes sure that the extents hold what they should: so much, and no block of zeros.
func (im *Image) checkData(c []byte) error {
	var total uint64
	for _, e := range im.extents {
		total += e.length
	}
	if total != uint64(len(c)) {
		return fmt.Errorf("%d bytes of data for extents of %d", len(c), total)
	}
	for ; len(c) > 0; c = c[block:] {
		if string(c[:block]) == string(zeros[:]) {
			return errors.New("an extent with a block of zeros")
		}
	}
	return nil
}

func (im *Image) readRandom(c []byte) error {
	le := binary.LittleEndian
	if len(c) < 2 {
		return errors.New("the random section is cut off")
	}
	n := int(le.Uint16(c))
	if c = c[2:]; n > len(c) || (len(c)-n)%8 != 0 {
		return errors.New("the random section is cut off")
	}
	im.random.Warning = string(c[:n])
	for c = c[n:]; len(c) > 0; c = c[8:] {
		im.random.Offsets = append(im.random.Offsets, le.Uint64(c))
	}
	return nil
}
