package server

import (
	"errors"
	"fmt"
	"io"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

func (c *call) blobsPut(rep *protocol.Reply) error {
	if err := c.allow(Access{Kind: KindBlobs, Write: true}); err != nil {
		return err
	}
	blob, err := c.s.opts.Blobs.Put(c.ctx, &bounded{c.r.Body, c.s.opts.MaxBlob})
	if errors.Is(err, errTooMuch) {
		return fmt.Errorf("put blob: more than %d bytes: %w", c.s.opts.MaxBlob, broker.ErrTooLarge)
	}
	if err != nil {
		return err
	}
	rep.Blobs = []broker.Blob{blob}
	return nil
}

func (c *call) blobsOpen(rep *protocol.Reply) error {
	access := Access{Kind: KindBlob, Name: string(c.Digest)}
	if err := c.allow(access); err != nil {
		return err
	}
	r, err := c.s.opts.Blobs.Open(c.ctx, c.Digest)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, protocol.PieceBytes)
	for {
		// The reader's last error is the blob's: it is sent whatever came with it.
		n, err := fill(r, buf)
		if err != nil {
			rep.Bytes = buf[:n]
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := c.send(&protocol.Reply{Bytes: buf[:n]}); err != nil {
			return err
		}
	}
}

func (c *call) blobsStat(rep *protocol.Reply) error {
	if err := c.allow(Access{Kind: KindBlob, Name: string(c.Digest)}); err != nil {
		return err
	}
	blob, err := c.s.opts.Blobs.Stat(c.ctx, c.Digest)
	if err != nil {
		return err
	}
	rep.Blobs = []broker.Blob{blob}
	return nil
}

func (c *call) blobsList(rep *protocol.Reply) error {
	if err := c.allow(Access{Kind: KindBlobs}); err != nil {
		return err
	}
	const some = 1000
	part := &protocol.Reply{}
	for blob, err := range c.s.opts.Blobs.List(c.ctx) {
		if err != nil {
			rep.Blobs = part.Blobs
			return err
		}
		if part.Blobs = append(part.Blobs, blob); len(part.Blobs) == some {
			if err := c.send(part); err != nil {
				return err
			}
			part = &protocol.Reply{}
		}
	}
	rep.Blobs = part.Blobs
	return nil
}

func (c *call) blobsSweep(rep *protocol.Reply) (err error) {
	if err := c.allow(Access{Kind: KindBlobs, Write: true}); err != nil {
		return err
	}
	unwanted := make(map[broker.Digest]bool, len(c.Digests))
	for _, d := range c.Digests {
		unwanted[d] = true
	}
	rep.Blobs, err = c.s.opts.Blobs.Sweep(c.ctx, c.Grace, func(d broker.Digest) bool { return !unwanted[d] })
	return err
}

// fill reads until buf is full, or the reader fails.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// errTooMuch is how a body ends that has more bytes than it may.
var errTooMuch = errors.New("too many bytes")

// bounded reads at most so many bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if n, err := b.r.Read(make([]byte, 1)); n == 0 {
			return 0, err
		}
		return 0, errTooMuch
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
