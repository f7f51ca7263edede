package broker

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// Bounds of records. A commit over one of them fails with ErrTooLarge.
const (
	MaxKey         = 1 << 10 // bytes of a record's or a bucket item's key
	MaxValue       = 1 << 20 // bytes of a record's or a bucket item's value
	MaxCommitItems = 1 << 12 // conditions and writes of one commit, together
	MaxCommitBytes = 8 << 20 // keys and values of one commit
)

// Revision is a moment in the history of a store's records. Numbers grow by one with each commit; Mark is random and
// tells histories apart, so that a number of another store, or of one that lost its last commits, is not mistaken for
// one of this. The zero Revision is the moment before the first commit of any store.
type Revision struct {
	Number uint64
	Mark   string // no '-' in it
}

// String is "number-mark".
func (r Revision) String() string { return strconv.FormatUint(r.Number, 10) + "-" + r.Mark }

// ParseRevision reads what String wrote. It fails with ErrInvalid.
func ParseRevision(s string) (Revision, error) {
	n, mark, ok := strings.Cut(s, "-")
	number, err := strconv.ParseUint(n, 10, 64)
	if !ok || err != nil || strings.Contains(mark, "-") || strconv.FormatUint(number, 10) != n {
		return Revision{}, fmt.Errorf("revision %q: %w", s, ErrInvalid)
	}
	return Revision{number, mark}, nil
}

// Record is a document. Its value says its own schema version; a store keeps it byte for byte.
type Record struct {
	Key      string
	Value    []byte // the receiver's own
	Revision uint64 // number of the commit that wrote it last; never 0
}

// Range selects records.
type Range struct {
	Prefix string // of the key; empty for all
	After  string // only keys after this one; empty for all
	Limit  int    // at most so many; 0 for all
}

// Condition asks that a record be at a revision: the number of the commit that wrote it last, or 0 for no such record.
type Condition struct {
	Key      string
	Revision uint64
}

// Write puts a record, or deletes it (if it is there).
type Write struct {
	Key    string
	Value  []byte // the store does not keep it
	Delete bool
}

// Commit is conditions and writes. A key may be written once in it.
type Commit struct {
	Conditions []Condition
	Writes     []Write
}

// Event is what one commit changed below a watched prefix, in order of keys.
type Event struct {
	Revision Revision // of the commit
	Changes  []Change // shared by all watchers: not to be changed
}

// Change is a record as a commit left it.
type Change struct {
	Record       // Value is nil when it was deleted
	Deleted bool // Revision is then that of the commit that deleted it
}

// Records keeps documents. Methods are safe for concurrent use.
type Records interface {
	// Get answers a record. It fails with ErrNotFound.
	Get(ctx context.Context, key string) (Record, error)
	// List answers the records of a range in order of their keys, bytewise, and the revision at which they were so. All
	// are of that one moment.
	List(ctx context.Context, r Range) ([]Record, Revision, error)
	// Commit does all writes if all conditions hold, as one step that others see whole or not at all, and returns once
	// it is durable. A *ConflictError names a condition that did not hold; after it, ErrTooLarge, ErrInvalid, ErrFull and
	// ErrReadOnly nothing has changed. After any other error the commit may have happened, whole. Deleting what is not
	// there is no error. A commit without writes changes no revision.
	Commit(ctx context.Context, c Commit) (Revision, error)
	// Watch yields the commits after from that changed something below prefix, each once and in order, until ctx ends
	// (the last error is its cause), or it fails: with ErrCompacted if changes after from are not known. A watcher
	// that reads too slowly is failed so, too; it never delays a commit. To miss nothing, List and watch from its revision.
	Watch(ctx context.Context, prefix string, from Revision) iter.Seq2[Event, error]
}
