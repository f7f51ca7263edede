package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Lock makes a folder that is not there and holds its lock as an open Store does, for what keeps its records elsewhere. It fails as
// Open does, after waiting for a second. Closing the answer lets go.
func Lock(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explain("make folder", dir, err)
	}
	return lockFile(filepath.Join(dir, "lock"), time.Second)
}

// Has says whether a folder holds a Store.
func Has(dir string) bool { return !missing(filepath.Join(dir, "records.db")) }

// OpenBlobs opens blobs alone, in a folder of their own. One process at a time may have them open. There is nothing to close.
func OpenBlobs(dir string) (broker.Blobs, error) { return openBlobs(dir, clock.System) }

// Summary is what Check found.
type Summary struct {
	Incarnation string
	Revision    uint64 // of the last commit
	Bytes       int64  // of the databases
}

// Check reads a folder that no process has open, and changes nothing in it. It holds every page and value of the databases against
// what was written, as Open does. It fails with broker.ErrInUse, broker.ErrCorrupt or broker.ErrNewer, and with broker.ErrNotFound if
// there is no Store.
func Check(dir string) (sum Summary, err error) {
	if !Has(dir) {
		return sum, fmt.Errorf("%s: %w: there is no store", dir, broker.ErrNotFound)
	}
	lock, err := lockToRead(filepath.Join(dir, "lock"))
	if err != nil {
		return sum, err
	}
	defer lock.Close()
	for _, kind := range []string{"records", "buckets", "queue"} {
		path := filepath.Join(dir, kind+".db")
		if missing(path) {
			return sum, corrupt(path, "the file is gone")
		}
		if err := verifyFile(path, kind); err != nil {
			return sum, err
		}
		d, err := openToRead(path, kind)
		if err != nil {
			return sum, err
		}
		if kind == "records" {
			sum.Incarnation = d.incarnation
			err = d.view(func(tx *bolt.Tx) error {
				sum.Revision = tx.Bucket(recordsBucket).Sequence()
				return nil
			})
		} else if d.incarnation != sum.Incarnation {
			err = corrupt(path, "it belongs to another store than records.db")
		}
		err = errors.Join(err, d.Close())
		if err != nil {
			return sum, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return sum, explain("read", path, err)
		}
		sum.Bytes += info.Size()
	}
	return sum, nil
}
