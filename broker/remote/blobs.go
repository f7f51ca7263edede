package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

var _ broker.Blobs = (*Blobs)(nil)

// Blobs are the broker's blobs.
type Blobs struct{ c *Client }

// Put implements broker.Blobs.
func (b *Blobs) Put(ctx context.Context, r io.Reader) (broker.Blob, error) {
	src := &source{r: r}
	s, err := b.c.open(ctx, protocol.BlobsPut, nil, src)
	var rep *protocol.Reply
	if err == nil {
		defer s.close()
		rep, err = s.read()
	}
	if cause := src.failure(); cause != nil {
		return broker.Blob{}, fmt.Errorf("put blob: %w", cause)
	}
	if err == nil && len(rep.Blobs) != 1 {
		err = short("put blob")
	}
	if err != nil {
		return broker.Blob{}, err
	}
	return rep.Blobs[0], nil
}

// source remembers how its reader failed, as the transport only says that it did.
type source struct {
	r io.Reader

	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Open implements broker.Blobs.
func (b *Blobs) Open(ctx context.Context, d broker.Digest) (r io.ReadCloser, err error) {
	if _, err := broker.ParseDigest(string(d)); err != nil {
		return nil, err
	}
	for range tries {
		r, err = b.open(ctx, d)
		if !errors.Is(err, broker.ErrUnavailable) {
			break
		}
	}
	return r, err
}

func (b *Blobs) open(ctx context.Context, d broker.Digest) (io.ReadCloser, error) {
	s, err := b.c.open(ctx, protocol.BlobsOpen, &protocol.Call{Digest: d}, nil)
	if err != nil {
		return nil, err
	}
	first, err := s.read() // so that it is known to be there
	if err != nil {
		s.close()
		return nil, err
	}
	r := &blobReader{stream: s}
	r.take(first)
	return r, nil
}

// blobReader reads piece by piece.
type blobReader struct {
	stream *stream
	left   []byte
	err    error
}

func (r *blobReader) take(rep *protocol.Reply) {
	r.left = rep.Bytes
	if rep.End {
		r.err = io.EOF
	}
}

func (r *blobReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.left) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		rep, err := r.stream.read()
		if err != nil {
			r.err = err
			continue
		}
		r.take(rep)
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Close lets go of the blob. It may be called twice.
func (r *blobReader) Close() error {
	r.stream.close()
	return nil
}

// Stat implements broker.Blobs.
func (b *Blobs) Stat(ctx context.Context, d broker.Digest) (broker.Blob, error) {
	if _, err := broker.ParseDigest(string(d)); err != nil {
		return broker.Blob{}, err
	}
	rep, err := b.c.ask(ctx, protocol.BlobsStat, &protocol.Call{Digest: d})
	if err == nil && len(rep.Blobs) != 1 {
		err = short("stat blob")
	}
	if err != nil {
		return broker.Blob{}, err
	}
	return rep.Blobs[0], nil
}

// List implements broker.Blobs.
func (b *Blobs) List(ctx context.Context) iter.Seq2[broker.Blob, error] {
	return func(yield func(broker.Blob, error) bool) {
		s, err := b.c.open(ctx, protocol.BlobsList, &protocol.Call{}, nil)
		if err != nil {
			yield(broker.Blob{}, err)
			return
		}
		defer s.close()
		for {
			rep, err := s.read()
			if err != nil {
				yield(broker.Blob{}, err)
				return
			}
			for _, blob := range rep.Blobs {
				if !yield(blob, nil) {
					return
				}
			}
			if rep.End {
				return
			}
		}
	}
}

// Sweep implements broker.Blobs. keep is asked here, about a list of all blobs; the server then sweeps those among them that it does not
// want, if they still have not been put for the grace period.
func (b *Blobs) Sweep(ctx context.Context, grace time.Duration, keep func(broker.Digest) bool) ([]broker.Blob, error) {
	var unwanted []broker.Digest
	for blob, err := range b.List(ctx) {
		if err != nil {
			return nil, fmt.Errorf("sweep blobs: %w", err)
		}
		if !keep(blob.Digest) {
			unwanted = append(unwanted, blob.Digest)
		}
	}
	var swept []broker.Blob
	for len(unwanted) > 0 {
		n := min(len(unwanted), protocol.MaxElements)
		rep, err := b.c.call(ctx, protocol.BlobsSweep, &protocol.Call{Digests: unwanted[:n], Grace: grace})
		swept = append(swept, rep.Blobs...)
		if err != nil {
			return swept, err
		}
		unwanted = unwanted[n:]
	}
	return swept, nil
}
