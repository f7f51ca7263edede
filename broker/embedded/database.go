package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/ripstop-vm/ripstop/broker"
)

// format is the version of the files' layout. A file of a higher one is refused.
const format = 1

// maxBatch bounds the changes that share one sync of the disk, and so the time that the first of them waits.
const maxBatch = 128

// mapped is how many bytes of address space a file gets at once. While it is not larger, readers such as a backup hold up no
// change: growing the map has to wait for them.
const mapped = 1 << 30

var (
	metaBucket   = []byte("meta") // format, kind, incarnation
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
	errNoChanges = errors.New("no changes")
)

// database is a bbolt file with group commit: changes that wait at the same time share one sync.
type database struct {
	path         string
	incarnation  string
	db           *bolt.DB
	beforeCommit func()
	broken       atomic.Pointer[error] // set once pages turned out to be corrupt

	mu      sync.Mutex
	queue   []*change
	leading bool // someone is committing, and will take what is queued
}

// change is one atomic step.
type change struct {
	do    func(*bolt.Tx) (changed bool, err error) // checks everything before it writes: after an error nothing is written
	after func()                                   // runs in the order of commits, once it took effect; may be nil
	wrote bool
	err   error
	done  chan struct{} // closed when err stands; receives nothing
	lead  chan struct{} // closed to hand the lead over
}

// openDatabase opens a file, or makes it. A file that is there is checked before it is opened.
func openDatabase(path, kind, incarnation string) (*database, error) {
	if missing(path) {
		if err := createDatabase(path, kind, incarnation); err != nil {
			return nil, err
		}
	}
	if err := verifyFile(path, kind); err != nil {
		return nil, err
	}
	return openVerified(path, kind, false)
}

// openToRead opens a file whose pages were checked, and changes nothing in it.
func openToRead(path, kind string) (*database, error) { return openVerified(path, kind, true) }

// openVerified opens a file whose pages were checked, if this program knows what is in it.
func openVerified(path, kind string, readOnly bool) (*database, error) {
	d := &database{path: path}
	db, err := openBolt(path, readOnly)
	if err != nil {
		return nil, err
	}
	d.db = db
	err = d.view(func(tx *bolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			return corrupt(path, "it has no meta data")
		}
		v, err := strconv.Atoi(string(meta.Get([]byte("format"))))
		switch {
		case err != nil || v < 1:
			return corrupt(path, "it has no format version")
		case v > format:
			return fmt.Errorf("open %s: %w: its format is %d and this program knows up to %d; use the newer program; nothing was changed", path, broker.ErrNewer, v, format)
		}
		if have := string(meta.Get([]byte("kind"))); have != kind {
			return corrupt(path, "it holds %.20q, not %s", have, kind)
		}
		d.incarnation = string(meta.Get([]byte("incarnation")))
		if d.incarnation == "" || tx.Bucket([]byte(kind)) == nil {
			return corrupt(path, "a part of it is missing")
		}
		return nil
	})
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return d, nil
}

// createDatabase makes a file in one step: it appears whole under its name.
func createDatabase(path, kind, incarnation string) (err error) {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return explain("remove", temp, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	db, err := openBolt(temp, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket([]byte(kind)); err != nil {
			return err
		}
		return errors.Join(
			meta.Put([]byte("format"), []byte(strconv.Itoa(format))),
			meta.Put([]byte("kind"), []byte(kind)),
			meta.Put([]byte("incarnation"), []byte(incarnation)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return explain("write", temp, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return explain("rename", temp, err)
	}
	return explain("sync", filepath.Dir(path), syncDir(filepath.Dir(path)))
}

func openBolt(path string, readOnly bool) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = corrupt(path, "%v", r)
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{ReadOnly: readOnly, InitialMmapSize: mapped, Timeout: time.Second, FreelistType: bolt.FreelistMapType, NoStatistics: true})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: %w: stop that one first, or give this one a data folder of its own", path, broker.ErrInUse)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, corrupt(path, "%v", err)
	case err != nil:
		return nil, explain("open", path, err)
	}
	db.AllocSize = 1 << 20 // by which a file grows: bbolt's own 16 MiB is much for a small store
	return db, nil
}

// Close waits for transactions and releases the file.
func (d *database) Close() error {
	if d.broken.Load() != nil {
		// A transaction that panicked may hold bbolt's locks for ever. Ending the process releases the file.
		return nil
	}
	return d.db.Close()
}

// guard runs f, and turns a panic over corrupt pages into an error that stays.
func (d *database) guard(f func() error) (err error) {
	if p := d.broken.Load(); p != nil {
		return *p
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("use %s: %w: %v; stop the server and restore it from a backup", d.path, broker.ErrCorrupt, r)
			d.broken.Store(&err)
		}
	}()
	return f()
}

// view reads one consistent state.
func (d *database) view(f func(*bolt.Tx) error) error {
	var inner error
	err := d.guard(func() error {
		return d.db.View(func(tx *bolt.Tx) error {
			inner = f(tx)
			return inner
		})
	})
	if err != nil && err != inner {
		return explain("read", d.path, err)
	}
	return err
}

// update makes a change and returns once it is durable. When ctx ends before the change has begun, nothing has changed;
// after that its end is waited for.
func (d *database) update(ctx context.Context, c *change) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c.done, c.lead = make(chan struct{}), make(chan struct{})
	d.mu.Lock()
	d.queue = append(d.queue, c)
	if !d.leading {
		d.leading = true
		close(c.lead)
	}
	d.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-c.lead:
	}
	// The leader commits one batch, which has its own change in it, and hands the lead to the first of those that wait.
	d.mu.Lock()
	n := min(len(d.queue), maxBatch)
	batch := d.queue[:n:n]
	d.queue = d.queue[n:]
	d.mu.Unlock()
	d.commit(batch)
	d.mu.Lock()
	if len(d.queue) > 0 {
		close(d.queue[0].lead)
	} else {
		d.leading, d.queue = false, nil
	}
	d.mu.Unlock()
	for _, c := range batch {
		close(c.done)
	}
	return c.err
}

// commit makes a batch of changes in one transaction.
func (d *database) commit(batch []*change) {
	var id int
	err := d.guard(func() error {
		return d.db.Update(func(tx *bolt.Tx) error {
			id = tx.ID()
			any := false
			for _, c := range batch {
				c.wrote, c.err = c.do(tx)
				any = any || c.wrote
			}
			if !any {
				return errNoChanges
			}
			if d.beforeCommit != nil {
				d.beforeCommit()
			}
			return nil
		})
	})
	if err == errNoChanges {
		return
	}
	effect := err == nil
	if err != nil {
		// When the last sync failed, the commit is there for all who read, and may be lost with the power.
		now := 0
		_ = d.view(func(tx *bolt.Tx) error { now = tx.ID(); return nil })
		if effect = id != 0 && now >= id; effect {
			err = fmt.Errorf("write %s: the change was made but may not be durable: %w", d.path, err)
		} else {
			err = explain("write", d.path, err)
		}
	}
	for _, c := range batch {
		if effect && c.wrote && c.after != nil {
			c.after()
		}
		if err != nil {
			c.err = err
		}
	}
}

// seal puts a checksum and a number before a value.
func seal(key []byte, number uint64, value []byte) []byte {
	b := make([]byte, 12+len(value))
	binary.BigEndian.PutUint64(b[4:], number)
	copy(b[12:], value)
	binary.BigEndian.PutUint32(b, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b[4:]))
	return b
}

// unseal takes apart what seal made. The value is a part of b.
func unseal(key, b []byte) (number uint64, value []byte, ok bool) {
	if len(b) < 12 || binary.BigEndian.Uint32(b) != crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b[4:]) {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(b[4:]), b[12:], true
}
