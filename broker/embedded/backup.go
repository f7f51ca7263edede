package embedded

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
)

// A backup is a tar archive. Its first entry says what it is, its last one what is in it; between them stand the databases,
// the blobs, and the files that others keep in the folder. Reading it needs no more memory than a part of one entry.
const (
	backupFormat = 1
	backupHead   = "ripstop-backup.json"
	backupFoot   = "ripstop-digests.json"
	maxBackupDoc = 256 << 20 // bytes of the foot: a hundred for each file
	stagingName  = "restore.tmp"
)

// leap is added to what numbers revisions, versions, epochs and leases when a store is restored: what was numbered after the
// backup was taken is lost, and no number of it may come again.
const leap = 1 << 32

// Backup describes a backup.
type Backup struct {
	Format      int       `json:"format"`
	Taken       time.Time `json:"taken"`
	Incarnation string    `json:"incarnation"` // of the store that it was taken of
	Revision    uint64    `json:"revision"`    // of the last commit in it
	Files       int       `json:"-"`           // in it
	Bytes       int64     `json:"-"`           // of them
}

// digest is what the foot says of a file.
type digest struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Backup writes all of the store to w, as it is at one moment for each of records, buckets and queue, in this order, while
// others go on with it; no blob is swept meanwhile. Files that others keep in its folder, such as keys, are in it, so it is to be kept as
// they are; folders besides the blobs are not. Nothing was written whole after an error.
func (s *Store) Backup(ctx context.Context, w io.Writer) (b Backup, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up %s: %w", s.dir, err)
		}
	}()
	defer s.blobs.pin()()
	err = s.records.db.view(func(records *bolt.Tx) error {
		return s.buckets.db.view(func(buckets *bolt.Tx) error {
			return s.queue.db.view(func(queue *bolt.Tx) error {
				a := &archiver{ctx: ctx, tar: tar.NewWriter(w), digests: map[string]digest{}}
				a.Backup = Backup{Format: backupFormat, Taken: s.queue.clock.Now().UTC(), Incarnation: s.Incarnation(), Revision: records.Bucket(recordsBucket).Sequence()}
				if err := a.all(s, records, buckets, queue); err != nil {
					return err
				}
				b = a.Backup
				return nil
			})
		})
	})
	return b, err
}

type archiver struct {
	Backup
	ctx     context.Context
	tar     *tar.Writer
	digests map[string]digest
}

func (a *archiver) all(s *Store, records, buckets, queue *bolt.Tx) error {
	if err := a.document(backupHead, a.Backup); err != nil {
		return err
	}
	ours := map[string]bool{"lock": true}
	for _, part := range []struct {
		name string
		tx   *bolt.Tx
	}{{"records.db", records}, {"buckets.db", buckets}, {"queue.db", queue}} {
		ours[part.name] = true
		if err := a.add(part.name, part.tx.Size(), a.Taken, part.tx.WriteTo); err != nil {
			return err
		}
	}
	others, err := os.ReadDir(s.dir)
	if err != nil {
		return explain("read folder", s.dir, err)
	}
	for _, e := range others {
		if e.Type().IsRegular() && !ours[e.Name()] && plainName(e.Name()) && !strings.HasSuffix(e.Name(), ".new") {
			if err := a.file(e.Name(), filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for blob, err := range s.blobs.List(a.ctx) {
		if err != nil {
			return err
		}
		if err := a.file(blobName(blob.Digest), s.blobs.path(blob.Digest)); err != nil {
			return err
		}
	}
	if err := a.document(backupFoot, a.digests); err != nil {
		return err
	}
	return a.tar.Close()
}

func blobName(d broker.Digest) string { return "blobs/" + string(d[:2]) + "/" + string(d) }

// plainName tells whether a file in the store's folder may have this name in a backup.
func plainName(name string) bool {
	if name == "" || len(name) > 100 || name[0] == '.' || name == "lock" || name == "blobs" || name == stagingName || name == backupHead || name == backupFoot {
		return false
	}
	return !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
	})
}

// restorable tells whether an entry of a backup may have this name.
func restorable(name string) bool {
	if rest, ok := strings.CutPrefix(name, "blobs/"); ok {
		short, d, _ := strings.Cut(rest, "/")
		_, err := broker.ParseDigest(d)
		return err == nil && short == d[:2]
	}
	return plainName(name)
}

func (a *archiver) document(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.entry(name, int64(len(b)), a.Taken, func(w io.Writer) (int64, error) {
		n, err := w.Write(b)
		return int64(n), err
	})
}

func (a *archiver) file(name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return explain("open", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return explain("read", path, err)
	}
	return a.add(name, info.Size(), info.ModTime(), func(w io.Writer) (int64, error) { return io.Copy(w, io.LimitReader(f, info.Size())) })
}

// add writes a file and notes its digest.
func (a *archiver) add(name string, size int64, at time.Time, write func(io.Writer) (int64, error)) error {
	h := sha256.New()
	err := a.entry(name, size, at, func(w io.Writer) (int64, error) { return write(io.MultiWriter(w, h)) })
	if err != nil {
		return err
	}
	a.digests[name] = digest{size, hex.EncodeToString(h.Sum(nil))}
	a.Files++
	a.Bytes += size
	return nil
}

func (a *archiver) entry(name string, size int64, at time.Time, write func(io.Writer) (int64, error)) error {
	err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: at, Format: tar.FormatPAX})
	if err == nil {
		var n int64
		if n, err = write(contextWriter{a.ctx, a.tar}); err == nil && n != size {
			err = fmt.Errorf("it has %d bytes, and had %d", n, size)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// contextWriter fails when ctx has ended.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// Restore makes a store in dir out of a backup. The folder must not be there, or be empty. Everything is read and checked
// before anything gets its name; after an error nothing is left. A backup of a newer program fails with broker.ErrNewer, one
// that was changed or cut with broker.ErrCorrupt. The store is of another incarnation than the one that the backup was taken
// of, and no number that one has given out comes again in it.
func Restore(ctx context.Context, dir string, r io.Reader) (b Backup, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore %s: %w", dir, err)
		}
	}()
	made := missing(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return b, explain("make folder", dir, err)
	}
	lock, err := lockEmpty(dir)
	if err != nil {
		return b, err
	}
	staging := filepath.Join(dir, stagingName)
	defer func() {
		if err != nil {
			_ = os.RemoveAll(staging)
			_ = os.Remove(filepath.Join(dir, "lock"))
			if made {
				_ = os.Remove(dir)
			}
		}
		_ = lock.Close()
	}()
	if err := os.Mkdir(staging, 0o700); err != nil {
		return b, explain("make folder", staging, err)
	}
	x := &extractor{ctx: ctx, dir: staging, digests: map[string]digest{}}
	if err := x.all(r); err != nil {
		return b, err
	}
	if err := x.renew(); err != nil {
		return b, err
	}
	return x.Backup, x.publish(dir)
}

// CheckBackup reads a backup to its end and says what is in it, as Restore would find it. It writes nothing, and fails as Restore does for
// one that was changed, cut or is newer; what is inside the databases is not looked at.
func CheckBackup(ctx context.Context, r io.Reader) (Backup, error) {
	x := &extractor{ctx: ctx, digests: map[string]digest{}}
	err := x.all(r)
	return x.Backup, err
}

// lockEmpty takes the lock of a folder that has nothing in it.
func lockEmpty(dir string) (*os.File, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, explain("read folder", dir, err)
	}
	for _, e := range found {
		if e.Name() != "lost+found" { // the root of a disk of its own
			return nil, fmt.Errorf("there is %s in it; name a folder that is empty or not there; nothing was changed", e.Name())
		}
	}
	return lockFile(filepath.Join(dir, "lock"), time.Second)
}

type extractor struct {
	Backup
	ctx     context.Context
	dir     string            // empty: nothing is written
	digests map[string]digest // of what was read
	foot    map[string]digest
	folders map[string]bool // that are to be synced
}

func broken(what string, args ...any) error {
	return fmt.Errorf("the backup: %w: %s; take another one; nothing was changed", broker.ErrCorrupt, fmt.Sprintf(what, args...))
}

func (x *extractor) all(r io.Reader) error {
	t := tar.NewReader(r)
	x.folders = map[string]bool{x.dir: true}
	for first := true; x.foot == nil; first = false {
		if err := context.Cause(x.ctx); err != nil {
			return err
		}
		h, err := t.Next()
		if err != nil {
			return readError(err)
		}
		switch {
		case first != (h.Name == backupHead):
			return broken("it does not begin as one")
		case h.Typeflag != tar.TypeReg || h.Size < 0:
			return broken("%.100q is no plain file", h.Name)
		case first:
			err = x.head(t, h)
		case h.Name == backupFoot:
			err = document(t, h, &x.foot)
			if err == nil && x.foot == nil {
				err = broken("%s is empty", backupFoot)
			}
		case !restorable(h.Name):
			return broken("there is %.100q in it", h.Name)
		default:
			err = x.extract(t, h)
		}
		if err != nil {
			return err
		}
	}
	for name, want := range x.foot {
		if have, ok := x.digests[name]; !ok || have != want {
			return broken("%.100s is not what was backed up", name)
		}
	}
	if len(x.digests) != len(x.foot) {
		return broken("there are %d files in it, and should be %d", len(x.digests), len(x.foot))
	}
	return nil
}

// readError tells a backup that was cut or changed from one that could not be read.
func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
		return broken("it is cut off, or no backup (%v)", err)
	}
	return fmt.Errorf("read the backup: %w; nothing was changed", err)
}

func document(t io.Reader, h *tar.Header, v any) error {
	if h.Size > maxBackupDoc {
		return broken("%s has %d bytes", h.Name, h.Size)
	}
	b, err := io.ReadAll(t)
	if err != nil {
		return readError(err)
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(v); err != nil {
		return broken("%s cannot be read: %v", h.Name, err)
	}
	return nil
}

func (x *extractor) head(t io.Reader, h *tar.Header) error {
	if h.Size > 1<<20 {
		return broken("%s has %d bytes", h.Name, h.Size)
	}
	if err := document(t, h, &x.Backup); err != nil {
		return err
	}
	switch {
	case x.Format < 1:
		return broken("it has no format version")
	case x.Format > backupFormat:
		return fmt.Errorf("the backup: %w: its format is %d and this program knows up to %d; use the newer program; nothing was changed", broker.ErrNewer, x.Format, backupFormat)
	}
	return nil
}

func (x *extractor) extract(t io.Reader, h *tar.Header) error {
	if _, twice := x.digests[h.Name]; twice {
		return broken("%s is in it twice", h.Name)
	}
	from, sum := &failedReader{r: t}, sha256.New()
	n, err := x.place(h, from, sum)
	switch {
	case from.err != nil:
		return readError(from.err)
	case err != nil:
		return err
	}
	x.digests[h.Name] = digest{n, hex.EncodeToString(sum.Sum(nil))}
	x.Files++
	x.Bytes += n
	return nil
}

// place writes an entry to its file, if anything is written, and to sum.
func (x *extractor) place(h *tar.Header, from io.Reader, sum io.Writer) (int64, error) {
	if x.dir == "" {
		return io.Copy(contextWriter{x.ctx, sum}, from)
	}
	path := filepath.Join(x.dir, filepath.FromSlash(h.Name))
	if folder := filepath.Dir(path); !x.folders[folder] {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return 0, explain("make folder", folder, err)
		}
		x.folders[folder], x.folders[filepath.Dir(folder)] = true, true
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, explain("make", path, err)
	}
	n, err := io.Copy(contextWriter{x.ctx, io.MultiWriter(f, sum)}, from)
	if err == nil {
		err = errors.Join(os.Chtimes(path, h.ModTime, h.ModTime), f.Sync())
	}
	return n, explain("write", path, errors.Join(err, f.Close()))
}

// failedReader remembers why a reader failed, so that it is not taken for a failure to write.
type failedReader struct {
	r   io.Reader
	err error
}

func (f *failedReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// renew makes another store of what was read.
func (x *extractor) renew() error {
	incarnation := rand.Text()
	for _, kind := range []string{"records", "buckets", "queue"} {
		path := filepath.Join(x.dir, kind+".db")
		if missing(path) {
			return broken("%s is not in it", filepath.Base(path))
		}
		db, err := openDatabase(path, kind, x.Incarnation)
		if err != nil {
			return err
		}
		if db.incarnation != x.Incarnation {
			err = broken("%s is of another store", filepath.Base(path))
		} else {
			err = db.update(x.ctx, &change{do: func(tx *bolt.Tx) (bool, error) {
				meta, b := tx.Bucket(metaBucket), tx.Bucket([]byte(kind))
				try(meta.Put([]byte("incarnation"), []byte(incarnation)))
				try(b.SetSequence(b.Sequence() + leap))
				if v := meta.Get(epochsKey); v != nil {
					last, err := parseEpoch(path, v)
					if err != nil {
						return false, err
					}
					try(meta.Put(epochsKey, formatEpoch(last+leap)))
				}
				return true, nil
			}})
		}
		if err := errors.Join(err, db.Close()); err != nil {
			return err
		}
	}
	return nil
}

// publish gives everything its name, the records last: without them a store is not taken for one. After an error nothing has
// a name.
func (x *extractor) publish(dir string) (err error) {
	var named []string
	defer func() {
		for _, path := range named {
			if err != nil {
				_ = os.RemoveAll(path)
			}
		}
	}()
	for folder := range x.folders {
		if err := syncDir(folder); err != nil {
			return explain("sync", folder, err)
		}
	}
	found, err := os.ReadDir(x.dir)
	if err != nil {
		return explain("read folder", x.dir, err)
	}
	names := make([]string, 0, len(found))
	for _, e := range found {
		if e.Name() != "records.db" {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for _, name := range append(names, "records.db") {
		if name == "records.db" {
			if err := syncDir(dir); err != nil {
				return explain("sync", dir, err)
			}
		}
		if err := os.Rename(filepath.Join(x.dir, name), filepath.Join(dir, name)); err != nil {
			return explain("rename", filepath.Join(x.dir, name), err)
		}
		named = append(named, filepath.Join(dir, name))
	}
	if err := os.Remove(x.dir); err != nil {
		return explain("remove", x.dir, err)
	}
	return explain("sync", dir, syncDir(dir))
}
