package model

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Blobs = (*Blobs)(nil)

// Blobs are a Broker's blobs.
type Blobs Broker

type blob struct {
	broker.Blob
	content []byte
}

// Put implements broker.Blobs.
func (b *Blobs) Put(ctx context.Context, r io.Reader) (broker.Blob, error) {
	var content []byte
	for buf := make([]byte, 64<<10); ; {
		if err := context.Cause(ctx); err != nil {
			return broker.Blob{}, fmt.Errorf("put blob: after %d bytes: %w", len(content), err)
		}
		n, err := r.Read(buf)
		content = append(content, buf[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			return broker.Blob{}, fmt.Errorf("put blob: after %d bytes: %w", len(content), err)
		}
	}
	d := broker.Digest(fmt.Sprintf("%x", sha256.Sum256(content)))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blobs[d] = &blob{broker.Blob{Digest: d, Size: int64(len(content)), Put: b.opts.Clock.Now()}, content}
	return b.blobs[d].Blob, nil
}

func (b *Blobs) find(ctx context.Context, d broker.Digest) (*blob, error) {
	_, err := broker.ParseDigest(string(d))
	if err := cmp.Or(context.Cause(ctx), err); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if found := b.blobs[d]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("blob %s: %w", d, broker.ErrNotFound)
}

// Open implements broker.Blobs.
func (b *Blobs) Open(ctx context.Context, d broker.Digest) (io.ReadCloser, error) {
	found, err := b.find(ctx, d)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(found.content)), nil
}

// Stat implements broker.Blobs.
func (b *Blobs) Stat(ctx context.Context, d broker.Digest) (broker.Blob, error) {
	found, err := b.find(ctx, d)
	if err != nil {
		return broker.Blob{}, err
	}
	return found.Blob, nil
}

// List implements broker.Blobs.
func (b *Blobs) List(ctx context.Context) iter.Seq2[broker.Blob, error] {
	return func(yield func(broker.Blob, error) bool) {
		b.mu.Lock()
		digests := slices.Sorted(maps.Keys(b.blobs))
		b.mu.Unlock()
		for _, d := range digests {
			blob, err := b.Stat(ctx, d)
			if errors.Is(err, broker.ErrNotFound) {
				continue
			}
			if !yield(blob, err) || err != nil {
				return
			}
		}
	}
}

// Sweep implements broker.Blobs.
func (b *Blobs) Sweep(ctx context.Context, grace time.Duration, keep func(broker.Digest) bool) (swept []broker.Blob, err error) {
	for blob, err := range b.List(ctx) {
		if err != nil {
			return swept, fmt.Errorf("sweep blobs: %w", err)
		}
		if !keep(blob.Digest) && b.remove(blob.Digest, grace) {
			swept = append(swept, blob)
		}
	}
	return swept, nil
}

func (b *Blobs) remove(d broker.Digest, grace time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := b.blobs[d]
	if found == nil || found.Put.After(b.opts.Clock.Now().Add(-grace)) && !b.bugs[BlobSweptEarly] {
		return false
	}
	delete(b.blobs, d)
	return true
}
