package protocol

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// Kinds of fields on the wire, as in Protocol Buffers.
const (
	kindNumber = 0
	kindBytes  = 2
)

// maxDepth bounds messages within messages; errors within errors are the deepest.
const maxDepth = 16

// coder writes a message, or reads one. A message's description is a function that names each of its fields to a coder: a coder that writes
// appends the field, unless it is zero; one that reads has a field in hand, and sets it if the number is the same.
type coder struct {
	reading bool
	depth   int
	out     []byte // written so far

	field  uint64 // in hand
	kind   byte
	number uint64
	bytes  []byte
	err    error
}

// marshal writes a message.
func marshal[T any](m *T, describe func(*coder, *T)) []byte {
	c := &coder{}
	describe(c, m)
	return c.out
}

// unmarshal reads a message into m, which is zero. What it reads into m is a part of b. It fails with broker.ErrInvalid or ErrTooLarge.
func unmarshal[T any](b []byte, m *T, depth int, describe func(*coder, *T)) error {
	if depth > maxDepth {
		return fmt.Errorf("messages within messages: %w", broker.ErrTooLarge)
	}
	c := &coder{reading: true, depth: depth}
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return malformed()
		}
		b = b[n:]
		c.field, c.kind = tag>>3, byte(tag&7)
		if c.number, n = binary.Uvarint(b); n <= 0 {
			return malformed()
		}
		b = b[n:]
		switch c.kind {
		case kindNumber:
		case kindBytes:
			if c.number > uint64(len(b)) {
				return malformed()
			}
			c.bytes = b[:c.number:c.number]
			b = b[c.number:]
		default:
			return malformed()
		}
		if describe(c, m); c.err != nil {
			return c.err
		}
	}
	return nil
}

func malformed() error { return fmt.Errorf("a malformed message: %w", broker.ErrInvalid) }

// has says whether the field in hand has this number and this kind. One of another kind is an error.
func (c *coder) has(field uint64, kind byte) bool {
	if c.field != field {
		return false
	}
	if c.kind != kind {
		c.err = malformed()
		return false
	}
	return true
}

func (c *coder) putNumber(field, v uint64) {
	c.out = binary.AppendUvarint(c.out, field<<3|kindNumber)
	c.out = binary.AppendUvarint(c.out, v)
}

func putBytes[B ~[]byte | ~string](c *coder, field uint64, b B) {
	c.out = binary.AppendUvarint(c.out, field<<3|kindBytes)
	c.out = binary.AppendUvarint(c.out, uint64(len(b)))
	c.out = append(c.out, b...)
}

func text[S ~string](c *coder, field uint64, s *S) {
	switch {
	case c.reading && c.has(field, kindBytes):
		*s = S(c.bytes)
	case !c.reading && *s != "":
		putBytes(c, field, *s)
	}
}

func octets(c *coder, field uint64, b *[]byte) {
	switch {
	case c.reading && c.has(field, kindBytes):
		*b = c.bytes
	case !c.reading && len(*b) > 0:
		putBytes(c, field, *b)
	}
}

func unsigned(c *coder, field uint64, v *uint64) {
	switch {
	case c.reading && c.has(field, kindNumber):
		*v = c.number
	case !c.reading && *v != 0:
		c.putNumber(field, *v)
	}
}

// zigzag lets small numbers below zero be short, too.
func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

func signed[I ~int | ~int64](c *coder, field uint64, v *I) {
	switch {
	case c.reading && c.has(field, kindNumber):
		*v = I(unzigzag(c.number))
	case !c.reading && *v != 0:
		c.putNumber(field, zigzag(int64(*v)))
	}
}

func flag(c *coder, field uint64, v *bool) {
	switch {
	case c.reading && c.has(field, kindNumber):
		*v = c.number != 0
	case !c.reading && *v:
		c.putNumber(field, 1)
	}
}

// moment is a time in microseconds since 1970. The zero time is left out.
func moment(c *coder, field uint64, t *time.Time) {
	switch {
	case c.reading && c.has(field, kindNumber):
		*t = time.UnixMicro(unzigzag(c.number)).UTC()
	case !c.reading && !t.IsZero():
		c.putNumber(field, zigzag(t.UnixMicro()))
	}
}

// optional is a number that may be missing, and 0 if it is not.
func optional(c *coder, field uint64, v **uint64) {
	switch {
	case c.reading && c.has(field, kindNumber):
		n := c.number
		*v = &n
	case !c.reading && *v != nil:
		c.putNumber(field, **v)
	}
}

// nested is a message within this one. One that is empty is written, too, so that lists keep their length.
func nested[T any](c *coder, field uint64, m *T, describe func(*coder, *T)) {
	switch {
	case c.reading && c.has(field, kindBytes):
		*m = *new(T)
		c.err = unmarshal(c.bytes, m, c.depth+1, describe)
	case !c.reading:
		putBytes(c, field, marshal(m, describe))
	}
}

// pointer is a message that may be missing.
func pointer[T any](c *coder, field uint64, m **T, describe func(*coder, *T)) {
	switch {
	case c.reading && c.has(field, kindBytes):
		*m = new(T)
		c.err = unmarshal(c.bytes, *m, c.depth+1, describe)
	case !c.reading && *m != nil:
		nested(c, field, *m, describe)
	}
}

// list is messages, at most so many.
func list[T any](c *coder, field uint64, most int, ms *[]T, describe func(*coder, *T)) {
	if !c.reading {
		for i := range *ms {
			nested(c, field, &(*ms)[i], describe)
		}
		return
	}
	if !c.has(field, kindBytes) {
		return
	}
	if len(*ms) == most {
		c.err = fmt.Errorf("more than %d elements: %w", most, broker.ErrTooLarge)
		return
	}
	var m T
	c.err = unmarshal(c.bytes, &m, c.depth+1, describe)
	*ms = append(*ms, m)
}

// texts is texts, at most so many.
func texts[S ~string](c *coder, field uint64, most int, ss *[]S) {
	if !c.reading {
		for _, s := range *ss {
			putBytes(c, field, s)
		}
		return
	}
	if !c.has(field, kindBytes) {
		return
	}
	if len(*ss) == most {
		c.err = fmt.Errorf("more than %d elements: %w", most, broker.ErrTooLarge)
		return
	}
	*ss = append(*ss, S(c.bytes))
}
