package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ripstop-vm/ripstop/broker"
)

const frameHead = 4 // bytes of a frame's length

// Frame writes a reply with its length before it. A reply over MaxMessage becomes one that says so.
func (m *Reply) Frame() []byte {
	c := &coder{out: make([]byte, frameHead, frameHead+64)}
	describeReply(c, m)
	if len(c.out)-frameHead > MaxMessage {
		return (&Reply{End: true, Err: fmt.Errorf("an answer of %d bytes (at most %d): %w", len(c.out)-frameHead, MaxMessage, broker.ErrTooLarge)}).Frame()
	}
	binary.BigEndian.PutUint32(c.out, uint32(len(c.out)-frameHead))
	return c.out
}

// ReadFrame reads a reply. It fails with io.EOF at a frame's begin, io.ErrUnexpectedEOF within one, broker.ErrInvalid and broker.ErrTooLarge.
func ReadFrame(r io.Reader) (*Reply, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b, err := ReadMessage(r, int64(binary.BigEndian.Uint32(head[:])))
	if err != nil {
		return nil, err
	}
	return UnmarshalReply(b)
}

// ReadMessage reads so many bytes, or if that is below 0 up to the end. It takes no more memory than it is given bytes, about twice.
func ReadMessage(r io.Reader, size int64) ([]byte, error) {
	if size > MaxMessage {
		return nil, fmt.Errorf("a message of %d bytes (at most %d): %w", size, MaxMessage, broker.ErrTooLarge)
	}
	most := size
	if size < 0 {
		most = MaxMessage + 1
	}
	var b bytes.Buffer
	if size > 0 && size <= 4<<10 {
		b.Grow(int(size))
	}
	n, err := b.ReadFrom(io.LimitReader(r, most))
	switch {
	case err != nil:
		return nil, err
	case n > MaxMessage:
		return nil, fmt.Errorf("a message of more than %d bytes: %w", MaxMessage, broker.ErrTooLarge)
	case size >= 0 && n < size:
		return nil, io.ErrUnexpectedEOF
	}
	return b.Bytes(), nil
}
