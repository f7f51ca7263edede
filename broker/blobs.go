package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"time"
)

// Digest names bytes: their SHA-256 in lower-case hex.
type Digest string

// ParseDigest checks a digest's form. It fails with ErrInvalid.
func ParseDigest(s string) (Digest, error) {
	if len(s) != hex.EncodedLen(sha256.Size) {
		return "", fmt.Errorf("digest %.80q: %w", s, ErrInvalid)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("digest %.80q: %w", s, ErrInvalid)
		}
	}
	return Digest(s), nil
}

// Blob describes stored bytes.
type Blob struct {
	Digest Digest
	Size   int64     // bytes
	Put    time.Time // when it was put last
}

// Blobs keeps bytes by digest. Methods are safe for concurrent use.
type Blobs interface {
	// Put reads r to its end, stores the bytes and names them. They are durable when it returns. Bytes that are there
	// already are not stored twice, but count as put now. When r fails or ctx ends, its error comes back wrapped and
	// nothing stays.
	Put(ctx context.Context, r io.Reader) (Blob, error)
	// Open gives the bytes. The reader's last Read fails with ErrCorrupt, instead of io.EOF, if they are not what the
	// digest says. Open fails with ErrNotFound. The caller closes the reader.
	Open(ctx context.Context, d Digest) (io.ReadCloser, error)
	// Stat describes a blob. It fails with ErrNotFound.
	Stat(ctx context.Context, d Digest) (Blob, error)
	// List yields all blobs, in no order. One put or swept meanwhile may or may not be among them.
	List(ctx context.Context) iter.Seq2[Blob, error]
	// Sweep deletes the blobs that were put longer than grace ago and that keep does not want, and answers them. A Put
	// at the same time is safe: what it returns stays for grace.
	Sweep(ctx context.Context, grace time.Duration, keep func(Digest) bool) ([]Blob, error)
}
