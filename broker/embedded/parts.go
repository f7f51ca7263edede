package embedded

import (
	"io"
	"os"
	"path/filepath"
	"time"

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
