package module

import (
	"fmt"
	"unicode/utf8"
)

// reader takes the binary format's elements off bytes, strictly: no integer longer or larger than its type allows, no
// byte past the end. The first failure stays, and everything after it reads as zero, so that callers check err once per
// element and not once per byte.
type reader struct {
	b    []byte
	pos  int
	base int    // where b begins in the binary
	what string // the check that a failure belongs to
	err  *Error
}

// at is the next byte's place in the binary.
func (r *reader) at() int { return r.base + r.pos }

func (r *reader) left() int { return len(r.b) - r.pos }

func (r *reader) fail(at int, format string, args ...any) {
	if r.err == nil {
		r.err = &Error{Check: r.what, Offset: at, Msg: fmt.Sprintf(format, args...)}
		r.pos = len(r.b)
	}
}

func (r *reader) failAs(check string, at int, format string, args ...any) {
	if r.err == nil {
		r.fail(at, format, args...)
		r.err.Check = check
	}
}

func (r *reader) truncated() { r.fail(r.base+len(r.b), "it ends in the middle of something") }

func (r *reader) byte() byte {
	if r.pos >= len(r.b) {
		r.truncated()
		return 0
	}
	c := r.b[r.pos]
	r.pos++
	return c
}

// take is the next n bytes, shared with the binary.
func (r *reader) take(n uint32) []byte {
	if uint64(n) > uint64(r.left()) {
		r.truncated()
		return nil
	}
	b := r.b[r.pos : r.pos+int(n) : r.pos+int(n)]
	r.pos += int(n)
	return b
}

// u32 reads an unsigned LEB128 integer of 32 bits (core specification, 5.2.2).
func (r *reader) u32() uint32 {
	if r.pos < len(r.b) && r.b[r.pos] < 0x80 {
		r.pos++
		return uint32(r.b[r.pos-1])
	}
	at := r.at()
	var v uint32
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if r.err != nil {
			return 0
		}
		if shift == 28 && c > 0x0f {
			r.fail(at, "an integer does not fit 32 bits")
			return 0
		}
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
}

// signed reads a signed LEB128 integer of the given number of bits: 32, 33 or 64.
func (r *reader) signed(bits int) int64 {
	at := r.at()
	var v int64
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if r.err != nil {
			return 0
		}
		if rest := bits - shift; rest < 7 {
			// The last byte: its bits from the sign bit up must all be equal, and nothing may follow.
			sign := int8(c<<1) >> rest // the sign bit and the unused ones above it, smeared
			if c >= 0x80 || sign != 0 && sign != -1 {
				r.fail(at, "an integer does not fit %d bits", bits)
				return 0
			}
		}
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if shift+7 < 64 && c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
}

// name reads a length and that many bytes of UTF-8 (core specification, 5.2.4).
func (r *reader) name() string {
	at := r.at()
	b := r.take(r.u32())
	if r.err == nil && !utf8.Valid(b) {
		r.fail(at, "a name is not UTF-8")
	}
	if r.err != nil {
		return ""
	}
	return string(b)
}

// count reads a number of elements, each of which takes at least size bytes and of which max are allowed (0: any number).
func (r *reader) count(what string, size, max int) int {
	at := r.at()
	n := r.u32()
	if r.err != nil {
		return 0
	}
	if max > 0 && uint64(n) > uint64(max) {
		r.failAs("bounds", at, "%d %s; at most %d are allowed", n, what, max)
		return 0
	}
	if uint64(n)*uint64(size) > uint64(r.left()) {
		r.fail(at, "%d %s are announced, but there is no room for them", n, what)
		return 0
	}
	return int(n)
}
