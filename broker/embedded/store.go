package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Options configures a Store. The zero value is ready to use.
type Options struct {
	LockTimeout   time.Duration // how long to wait for another process to let go; 0 means one second
	History       int           // commits that a watcher may be behind; 0 means 4096
	HistoryBytes  int           // and their keys and values; 0 means 16 MiB
	Clock         clock.Clock   // for the times of blobs, leases and the queue; nil means the system clock
	beforeCommits func()        // for tests: runs before each transaction of records is committed
}

// Store is an open directory. Close releases it.
type Store struct {
	dir     string
	lock    *os.File
	records *Records
	leases  *Leases
	queue   *Queue
	buckets *Buckets
	blobs   *Blobs
	close   func() error
}

// Open opens the store in dir, and makes it if there is none. Its errors match broker's: ErrInUse, ErrCorrupt, ErrNewer,
// ErrFull and ErrReadOnly say in one line which file is concerned and what to do; nothing has changed then.
func Open(dir string, opts Options) (_ *Store, err error) {
	if opts.LockTimeout == 0 {
		opts.LockTimeout = time.Second
	}
	if opts.History == 0 {
		opts.History = 4096
	}
	if opts.HistoryBytes == 0 {
		opts.HistoryBytes = 16 << 20
	}
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.LockTimeout < 0 || opts.History < 0 || opts.HistoryBytes < 0 {
		return nil, fmt.Errorf("open store %s: negative option: %w", dir, broker.ErrInvalid)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explain("make folder", dir, err)
	}
	s := &Store{dir: dir}
	var closers []func() error
	s.close = sync.OnceValue(func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	})
	defer func() {
		if err != nil {
			_ = s.close() // the first error is the one to show
		}
	}()
	if s.lock, err = lockFile(filepath.Join(dir, "lock"), opts.LockTimeout); err != nil {
		return nil, err
	}
	closers = append(closers, s.lock.Close)

	recordsPath := filepath.Join(dir, "records.db")
	for _, part := range []string{"buckets", "queue"} {
		if path := filepath.Join(dir, part+".db"); missing(recordsPath) && !missing(path) {
			return nil, fmt.Errorf("open %s: %w: the file is gone while %s is there; restore both from a backup", recordsPath, broker.ErrCorrupt, path)
		}
	}
	rdb, err := openDatabase(recordsPath, "records", rand.Text())
	if err != nil {
		return nil, err
	}
	closers = append(closers, rdb.Close)
	if s.records, err = newRecords(rdb, opts); err != nil {
		return nil, err
	}
	closers = append(closers, s.records.close)
	bdb, err := openPart(rdb, dir, "buckets")
	if err != nil {
		return nil, err
	}
	closers = append(closers, bdb.Close)
	s.buckets = &Buckets{bdb}
	qdb, err := openPart(rdb, dir, "queue")
	if err != nil {
		return nil, err
	}
	closers = append(closers, qdb.Close)
	s.queue = newQueue(qdb, opts.Clock)
	closers = append(closers, s.queue.close)
	s.leases = newLeases(qdb, opts.Clock)
	rdb.beforeCommit = opts.beforeCommits
	if s.blobs, err = openBlobs(filepath.Join(dir, "blobs"), opts.Clock); err != nil {
		return nil, err
	}
	return s, nil
}

// openPart opens a file that belongs to the same store as the records. A store that never had it gets it; one that had it
// remembers so, and does not take an empty one in its place.
func openPart(records *database, dir, kind string) (*database, error) {
	path, mark := filepath.Join(dir, kind+".db"), []byte("has "+kind)
	had := false
	err := records.view(func(tx *bolt.Tx) error {
		had = tx.Bucket(metaBucket).Get(mark) != nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	if had && missing(path) {
		return nil, fmt.Errorf("open %s: %w: the file is gone; restore it from a backup together with %s", path, broker.ErrCorrupt, records.path)
	}
	db, err := openDatabase(path, kind, records.incarnation)
	if err != nil {
		return nil, err
	}
	if db.incarnation != records.incarnation {
		err = fmt.Errorf("open %s: %w: it belongs to another store than %s; restore both from one backup", path, broker.ErrCorrupt, records.path)
	} else if !had {
		err = records.update(context.Background(), &change{do: func(tx *bolt.Tx) (bool, error) {
			try(tx.Bucket(metaBucket).Put(mark, []byte("1")))
			return true, nil
		}})
	}
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

// Incarnation is random and stays with the store: another one in the same place has another.
func (s *Store) Incarnation() string { return s.records.db.incarnation }

// Failed answers why a part of the store can be used no more until it is restored; nil if all can.
func (s *Store) Failed() error {
	for _, d := range []*database{s.records.db, s.buckets.db, s.queue.db} {
		if p := d.broken.Load(); p != nil {
			return *p
		}
	}
	return nil
}

// Records are the store's records.
func (s *Store) Records() *Records { return s.records }

// Leases are the store's leases. They end with it.
func (s *Store) Leases() *Leases { return s.leases }

// Queue is the store's queue.
func (s *Store) Queue() *Queue { return s.queue }

// Blobs are the store's blobs.
func (s *Store) Blobs() *Blobs { return s.blobs }

// Buckets are the store's buckets.
func (s *Store) Buckets() *Buckets { return s.buckets }

// Close waits for what is going on, ends watches and those who wait for the queue with broker.ErrClosed and releases the files. Later calls fail with
// broker.ErrClosed.
func (s *Store) Close() error { return s.close() }

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
