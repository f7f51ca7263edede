package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

var _ broker.Blobs = (*Blobs)(nil)

// Blobs keeps blobs as files of mode 0600, named by their digest. A file's time is when it was put last.
type Blobs struct {
	dir, temp string
	clock     clock.Clock

	mu   sync.Mutex // held while a file gets or loses its name, so that Sweep deletes nothing just put
	pins int        // backups that are being taken; while there are any, Sweep deletes nothing
}

// pin keeps all blobs until unpin is called.
func (b *Blobs) pin() (unpin func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pins++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.pins--
	}
}

// openBlobs opens the folder, and deletes what was being put when the process before this one ended.
func openBlobs(dir string, c clock.Clock) (*Blobs, error) {
	b := &Blobs{dir: dir, temp: filepath.Join(dir, "tmp"), clock: c}
	if err := os.MkdirAll(b.temp, 0o700); err != nil {
		return nil, explain("make folder", b.temp, err)
	}
	left, err := os.ReadDir(b.temp)
	if err != nil {
		return nil, explain("read folder", b.temp, err)
	}
	for _, e := range left {
		if err := os.Remove(filepath.Join(b.temp, e.Name())); err != nil {
			return nil, explain("remove", filepath.Join(b.temp, e.Name()), err)
		}
	}
	return b, nil
}

func (b *Blobs) path(d broker.Digest) string { return filepath.Join(b.dir, string(d[:2]), string(d)) }

// Put implements broker.Blobs.
func (b *Blobs) Put(ctx context.Context, r io.Reader) (_ broker.Blob, err error) {
	f, err := os.CreateTemp(b.temp, "put-*") // mode 0600
	if err != nil {
		return broker.Blob{}, explain("put blob: make a file in", b.temp, err)
	}
	temp := f.Name()
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	h, size := sha256.New(), int64(0)
	buf := make([]byte, 128<<10)
	for {
		if err := context.Cause(ctx); err != nil {
			return broker.Blob{}, fmt.Errorf("put blob: after %d bytes: %w", size, err)
		}
		n, err := r.Read(buf)
		if n > 0 {
			h.Write(buf[:n])
			size += int64(n)
			if _, err := f.Write(buf[:n]); err != nil {
				return broker.Blob{}, explain("put blob: write", temp, err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return broker.Blob{}, fmt.Errorf("put blob: after %d bytes: %w", size, err)
		}
	}
	now := b.clock.Now()
	d := broker.Digest(hex.EncodeToString(h.Sum(nil)))
	if err := errors.Join(os.Chtimes(temp, now, now), f.Sync()); err != nil {
		return broker.Blob{}, explain("put blob: sync", temp, err)
	}
	path := b.path(d)
	b.mu.Lock()
	defer b.mu.Unlock()
	folder := filepath.Dir(path)
	if missing(folder) {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return broker.Blob{}, explain("put blob: make folder", folder, err)
		}
		if err := syncDir(b.dir); err != nil {
			return broker.Blob{}, explain("put blob: sync", b.dir, err)
		}
	}
	// Renaming over the same bytes is deliberate: it renews their time, and heals a file that was damaged.
	if err := os.Rename(temp, path); err != nil {
		return broker.Blob{}, explain("put blob: rename to", path, err)
	}
	if err := syncDir(folder); err != nil {
		return broker.Blob{}, explain("put blob: sync", folder, err)
	}
	return broker.Blob{Digest: d, Size: size, Put: now}, nil
}

// Open implements broker.Blobs.
func (b *Blobs) Open(ctx context.Context, d broker.Digest) (io.ReadCloser, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if _, err := broker.ParseDigest(string(d)); err != nil {
		return nil, err
	}
	f, err := os.Open(b.path(d))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("blob %s: %w", d, broker.ErrNotFound)
	case err != nil:
		return nil, explain("open", b.path(d), err)
	}
	return &blobReader{f: f, digest: d, hash: sha256.New()}, nil
}

// blobReader checks the bytes while they are read.
type blobReader struct {
	f      *os.File
	digest broker.Digest
	hash   hash.Hash
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	r.hash.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(r.hash.Sum(nil)) != string(r.digest) {
		return n, fmt.Errorf("read %s: %w: its bytes are not those of its digest; put the blob again, or restore the file from a backup", r.f.Name(), broker.ErrCorrupt)
	}
	if err != nil && err != io.EOF {
		return n, explain("read", r.f.Name(), err)
	}
	return n, err
}

func (r *blobReader) Close() error { return r.f.Close() }

// Stat implements broker.Blobs.
func (b *Blobs) Stat(ctx context.Context, d broker.Digest) (broker.Blob, error) {
	if err := context.Cause(ctx); err != nil {
		return broker.Blob{}, err
	}
	if _, err := broker.ParseDigest(string(d)); err != nil {
		return broker.Blob{}, err
	}
	info, err := os.Stat(b.path(d))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return broker.Blob{}, fmt.Errorf("blob %s: %w", d, broker.ErrNotFound)
	case err != nil:
		return broker.Blob{}, explain("open", b.path(d), err)
	}
	return broker.Blob{Digest: d, Size: info.Size(), Put: info.ModTime()}, nil
}

// List implements broker.Blobs.
func (b *Blobs) List(ctx context.Context) iter.Seq2[broker.Blob, error] {
	return func(yield func(broker.Blob, error) bool) {
		folders, err := os.ReadDir(b.dir)
		if err != nil {
			yield(broker.Blob{}, explain("read folder", b.dir, err))
			return
		}
		for _, folder := range folders {
			if folder.Name() == filepath.Base(b.temp) || !folder.IsDir() {
				continue
			}
			files, err := os.ReadDir(filepath.Join(b.dir, folder.Name()))
			if err != nil {
				yield(broker.Blob{}, explain("read folder", filepath.Join(b.dir, folder.Name()), err))
				return
			}
			for _, f := range files {
				d, err := broker.ParseDigest(f.Name())
				if err != nil {
					continue // not ours
				}
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
}

// Sweep implements broker.Blobs. While a backup is being taken, it leaves all to a later one.
func (b *Blobs) Sweep(ctx context.Context, grace time.Duration, keep func(broker.Digest) bool) (swept []broker.Blob, err error) {
	for blob, err := range b.List(ctx) {
		if err != nil {
			return swept, fmt.Errorf("sweep blobs: %w", err)
		}
		if keep(blob.Digest) {
			continue
		}
		gone, err := b.remove(ctx, blob.Digest, b.clock.Now().Add(-grace))
		if err != nil {
			return swept, fmt.Errorf("sweep blobs: %w", err)
		}
		if gone {
			swept = append(swept, blob)
		}
	}
	return swept, nil
}

// remove deletes a blob unless it was put after a time.
func (b *Blobs) remove(ctx context.Context, d broker.Digest, before time.Time) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	blob, err := b.Stat(ctx, d)
	if b.pins > 0 || errors.Is(err, broker.ErrNotFound) || err == nil && blob.Put.After(before) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := os.Remove(b.path(d)); err != nil {
		return false, explain("remove", b.path(d), err)
	}
	return true, nil
}
