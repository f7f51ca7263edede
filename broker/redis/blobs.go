package redis

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Blobs = (*Blobs)(nil)

var (
	blobBeginScript  = load("blob_begin")
	blobChunkScript  = load("blob_chunk")
	blobFinishScript = load("blob_finish")
	blobReadScript   = load("blob_read")
	blobStatScript   = load("blob_stat")
	blobRemoveScript = load("blob_remove")
)

const (
	// chunkSize is how much of a blob goes into one command. Redis does one command at a time: a larger one would make all
	// others wait.
	chunkSize = 1 << 20
	// readerGrace is for how long a swept blob can be read on by who has opened it.
	readerGrace = 10 * time.Minute
	putTries    = 3
)

// Blobs keeps each blob under a hash tag of its own: a hash that describes it, and its bytes in chunks.
type Blobs struct{ link *link }

func (b *Blobs) names() names { return names{b.link, "blobs"} }

// Put implements broker.Blobs. A blob over Options.MaxBlob fails with broker.ErrTooLarge. The bytes wait in memory, or if they are
// more than a chunk in a file, until their digest is known.
func (b *Blobs) Put(ctx context.Context, r io.Reader) (broker.Blob, error) {
	s := &spool{dir: b.link.opts.TempDir}
	defer s.close()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(s, sum), io.LimitReader(&contextReader{ctx, r}, b.link.opts.MaxBlob+1))
	if err != nil {
		return broker.Blob{}, fmt.Errorf("put blob: %w", err)
	}
	if size > b.link.opts.MaxBlob {
		return broker.Blob{}, fmt.Errorf("put blob: more than %d bytes: %w", b.link.opts.MaxBlob, broker.ErrTooLarge)
	}
	d := broker.Digest(hex.EncodeToString(sum.Sum(nil)))
	for range putTries {
		blob, done, err := b.store(ctx, d, s, size)
		if err != nil {
			return broker.Blob{}, fmt.Errorf("put blob: %w", err)
		}
		if done {
			return blob, nil
		}
	}
	return broker.Blob{}, fmt.Errorf("put blob %s: it was swept again and again while it was put: %w", d, broker.ErrUnavailable)
}

// store sends the chunks that are not there. It answers false if the blob was swept meanwhile.
func (b *Blobs) store(ctx context.Context, d broker.Digest, s *spool, size int64) (blob broker.Blob, done bool, err error) {
	if err := b.names().note(ctx, string(d)); err != nil {
		return blob, false, err
	}
	g := b.link.keys.blob(d)
	token := rand.Text()
	chunks := int((size + chunkSize - 1) / chunkSize)
	rep, err := b.link.run(ctx, blobBeginScript, g, []string{g.key("meta")}, token)
	if err != nil {
		return blob, false, err
	}
	there := rep.number(1) == 1
	src, err := s.reader()
	if err != nil {
		return blob, false, err
	}
	buf := make([]byte, min(size, chunkSize))
	keys := []string{g.key("meta")}
	for i := range chunks {
		n, err := io.ReadFull(src, buf)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return blob, false, fmt.Errorf("read what waits: %w", err)
		}
		key := g.chunk(i)
		keys = append(keys, key)
		sum := sha1.Sum(buf[:n]) // tells damaged chunks from good ones; the blob's digest is what is trusted
		content := ""
		if !there {
			content = string(buf[:n])
		}
		for {
			rep, err := b.link.run(ctx, blobChunkScript, g, []string{g.key("meta"), key}, hex.EncodeToString(sum[:]), n, content)
			if err != nil {
				return blob, false, err
			}
			if rep.text(0) != "send" {
				break
			}
			content = string(buf[:n])
		}
	}
	rep, err = b.link.run(ctx, blobFinishScript, g, keys, size, token)
	if err != nil || rep.text(0) != "ok" {
		return blob, false, err
	}
	return broker.Blob{Digest: d, Size: size, Put: rep.time(1)}, true, nil
}

// contextReader fails when its context ends.
type contextReader struct {
	ctx context.Context // of the Put it is made for, which it does not outlive
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Open implements broker.Blobs. A blob that is swept can be read on for ten minutes.
func (b *Blobs) Open(ctx context.Context, d broker.Digest) (io.ReadCloser, error) {
	blob, err := b.Stat(ctx, d)
	if err != nil {
		return nil, err
	}
	r := &blobReader{ctx: ctx, link: b.link, blob: blob, group: b.link.keys.blob(d), hash: sha256.New()}
	if err := r.fetch(); err != nil && err != io.EOF { // so that it is known to be there
		return nil, err
	}
	return r, nil
}

// blobReader reads chunk by chunk, and checks the digest at the end.
type blobReader struct {
	ctx   context.Context // of Open: like that of a request, whose body it is
	link  *link
	blob  broker.Blob
	group group
	hash  hash.Hash

	next int    // chunk
	read int64  // bytes fetched
	left []byte // fetched and not given out
}

func (r *blobReader) fetch() error {
	if r.read == r.blob.Size {
		if hex.EncodeToString(r.hash.Sum(nil)) != string(r.blob.Digest) {
			return r.corrupt("its bytes are not those of its digest")
		}
		return io.EOF
	}
	rep, err := r.link.run(r.ctx, blobReadScript, r.group, []string{r.group.chunk(r.next)})
	if err != nil {
		return fmt.Errorf("read blob %s: %w", r.blob.Digest, err)
	}
	chunk := rep.text(1)
	if chunk == "" || int64(len(chunk)) > r.blob.Size-r.read {
		return r.corrupt(fmt.Sprintf("chunk %d has %d bytes", r.next, len(chunk)))
	}
	r.next++
	r.read += int64(len(chunk))
	r.left = []byte(chunk)
	r.hash.Write(r.left)
	return nil
}

func (r *blobReader) corrupt(what string) error {
	return fmt.Errorf("read blob %s from %s: %w: %s; put the blob again, or restore the server from a backup", r.blob.Digest, r.link.target, broker.ErrCorrupt, what)
}

func (r *blobReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.left) == 0 {
		if err := r.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *blobReader) Close() error { return nil }

// Stat implements broker.Blobs.
func (b *Blobs) Stat(ctx context.Context, d broker.Digest) (broker.Blob, error) {
	if _, err := broker.ParseDigest(string(d)); err != nil {
		return broker.Blob{}, err
	}
	g := b.link.keys.blob(d)
	rep, err := b.link.run(ctx, blobStatScript, g, []string{g.key("meta")})
	switch {
	case err != nil:
		return broker.Blob{}, fmt.Errorf("stat blob: %w", err)
	case rep.text(0) == "missing":
		return broker.Blob{}, fmt.Errorf("blob %s: %w", d, broker.ErrNotFound)
	}
	return broker.Blob{Digest: d, Size: int64(rep.number(1)), Put: rep.time(2)}, nil
}

// errStop ends a loop over names.
var errStop = errors.New("stop")

// noted is a name that was noted, and the blob if there is one.
type noted struct {
	blob broker.Blob
	when string // it was noted
	is   bool
}

// each hands on all names, each once.
func (b *Blobs) each(ctx context.Context, handle func(noted) error) error {
	seen := map[string]bool{}
	return b.names().each(ctx, func(list [][2]string) error {
		found := make([]noted, len(list))
		errs := together(len(list), func(i int) error {
			d := broker.Digest(list[i][0])
			blob, err := b.Stat(ctx, d)
			found[i] = noted{blob: blob, when: list[i][1], is: err == nil}
			found[i].blob.Digest = d
			if errors.Is(err, broker.ErrNotFound) {
				return nil
			}
			return err
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, n := range found {
			if d := string(n.blob.Digest); !seen[d] {
				seen[d] = true
				if err := handle(n); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// List implements broker.Blobs.
func (b *Blobs) List(ctx context.Context) iter.Seq2[broker.Blob, error] {
	return func(yield func(broker.Blob, error) bool) {
		err := b.each(ctx, func(n noted) error {
			if n.is && !yield(n.blob, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && err != errStop {
			yield(broker.Blob{}, fmt.Errorf("list blobs: %w", err))
		}
	}
}

// Sweep implements broker.Blobs. What a Put left that did not come to its end goes too, and is not answered.
func (b *Blobs) Sweep(ctx context.Context, grace time.Duration, keep func(broker.Digest) bool) (swept []broker.Blob, err error) {
	err = b.each(ctx, func(n noted) error {
		d := n.blob.Digest
		if n.is && keep(d) {
			return nil
		}
		size := n.blob.Size
		if !n.is {
			size = b.link.opts.MaxBlob
		}
		g := b.link.keys.blob(d)
		keys := []string{g.key("meta")}
		for i := range int((size + chunkSize - 1) / chunkSize) {
			keys = append(keys, g.chunk(i))
		}
		rep, err := b.link.run(ctx, blobRemoveScript, g, keys, grace.Microseconds(), readerGrace.Milliseconds())
		if err != nil || rep.text(0) == "young" {
			return err
		}
		if n.is && rep.text(0) == "ok" {
			swept = append(swept, n.blob)
		}
		return b.names().forget(ctx, string(d), n.when)
	})
	if err != nil {
		return swept, fmt.Errorf("sweep blobs: %w", err)
	}
	return swept, nil
}

// spool keeps bytes in memory while they are few, else in a file that has no name.
type spool struct {
	dir  string
	few  bytes.Buffer
	file *os.File
}

func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && s.few.Len()+len(p) > chunkSize {
		f, err := os.CreateTemp(s.dir, "ripstop-blob-*")
		if err != nil {
			return 0, err
		}
		s.file = f
		_ = os.Remove(f.Name()) // gone with the process, whatever ends it
		if _, err := f.Write(s.few.Bytes()); err != nil {
			return 0, err
		}
		s.few = bytes.Buffer{}
	}
	if s.file != nil {
		return s.file.Write(p)
	}
	return s.few.Write(p)
}

func (s *spool) reader() (io.Reader, error) {
	if s.file == nil {
		return bytes.NewReader(s.few.Bytes()), nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return s.file, err
}

func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}
