package embedded

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/history"
)

var _ broker.Records = (*Records)(nil)

var recordsBucket = []byte("records") // its sequence is the number of the last commit

// Records keeps records in a bbolt file, and the last commits in memory for those who watch.
type Records struct {
	db      *database
	history *history.Log
}

func newRecords(db *database, opts Options) (*Records, error) {
	r := &Records{db: db}
	last, err := r.number()
	if err != nil {
		return nil, err
	}
	r.history = history.New(r.revision(last), opts.History, opts.HistoryBytes)
	return r, nil
}

func (r *Records) close() error {
	r.history.Close()
	return nil
}

func (r *Records) revision(number uint64) broker.Revision {
	return broker.Revision{Number: number, Mark: r.db.incarnation}
}

// number is that of the last commit.
func (r *Records) number() (n uint64, err error) {
	err = r.db.view(func(tx *bolt.Tx) error {
		n = tx.Bucket(recordsBucket).Sequence()
		return nil
	})
	return n, err
}

// Get implements broker.Records.
func (r *Records) Get(ctx context.Context, key string) (rec broker.Record, err error) {
	if err := context.Cause(ctx); err != nil {
		return broker.Record{}, err
	}
	err = r.db.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket).Get([]byte(key))
		if b == nil {
			return fmt.Errorf("record %.200q: %w", key, broker.ErrNotFound)
		}
		rec, err = r.record([]byte(key), b)
		return err
	})
	return rec, err
}

// record copies a record out of a transaction.
func (r *Records) record(key, b []byte) (broker.Record, error) {
	number, value, ok := unseal(key, b)
	if !ok {
		return broker.Record{}, damaged(r.db.path, key)
	}
	return broker.Record{Key: string(key), Value: bytes.Clone(value), Revision: number}, nil
}

func damaged(path string, key []byte) error {
	return fmt.Errorf("read %.200q from %s: %w: stop the server and restore the file from a backup", key, path, broker.ErrCorrupt)
}

// List implements broker.Records.
func (r *Records) List(ctx context.Context, want broker.Range) (list []broker.Record, at broker.Revision, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, broker.Revision{}, err
	}
	err = r.db.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket)
		at = r.revision(b.Sequence())
		return scan(b, want.Prefix, want.After, func(k, v []byte) (bool, error) {
			rec, err := r.record(k, v)
			if err != nil {
				return false, err
			}
			list = append(list, rec)
			return want.Limit <= 0 || len(list) < want.Limit, nil
		})
	})
	if err != nil {
		return nil, broker.Revision{}, err
	}
	return list, at, nil
}

// scan visits the keys of a bucket that begin with prefix and come after a key, until visit answers false.
func scan(b *bolt.Bucket, prefix, after string, visit func(k, v []byte) (bool, error)) error {
	c := b.Cursor()
	k, v := c.Seek([]byte(max(prefix, after)))
	for ; k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		if after != "" && string(k) <= after {
			continue
		}
		if more, err := visit(k, v); err != nil || !more {
			return err
		}
	}
	return nil
}

// Commit implements broker.Records.
func (r *Records) Commit(ctx context.Context, c broker.Commit) (at broker.Revision, err error) {
	if err := c.Check(); err != nil {
		return broker.Revision{}, fmt.Errorf("commit: %w", err)
	}
	writes := slices.Clone(c.Writes)
	slices.SortFunc(writes, func(a, b broker.Write) int { return strings.Compare(a.Key, b.Key) })
	var event broker.Event
	err = r.db.update(ctx, &change{
		do: func(tx *bolt.Tx) (bool, error) {
			b := tx.Bucket(recordsBucket)
			number := b.Sequence()
			at, event = r.revision(number), broker.Event{}
			for _, q := range c.Conditions {
				have := uint64(0)
				if v := b.Get([]byte(q.Key)); v != nil {
					n, _, ok := unseal([]byte(q.Key), v)
					if !ok {
						return false, damaged(r.db.path, []byte(q.Key))
					}
					have = n
				}
				if have != q.Revision {
					return false, &broker.ConflictError{Key: q.Key, Want: q.Revision, Have: have}
				}
			}
			number++
			for _, w := range writes {
				key := []byte(w.Key)
				switch {
				case !w.Delete:
					event.Changes = append(event.Changes, broker.Change{Record: broker.Record{Key: w.Key, Value: bytes.Clone(w.Value), Revision: number}})
				case b.Get(key) != nil:
					event.Changes = append(event.Changes, broker.Change{Record: broker.Record{Key: w.Key, Revision: number}, Deleted: true})
				}
			}
			if len(event.Changes) == 0 {
				return false, nil
			}
			at = r.revision(number)
			event.Revision = at
			for _, ch := range event.Changes {
				if ch.Deleted {
					try(b.Delete([]byte(ch.Key)))
				} else {
					try(b.Put([]byte(ch.Key), seal([]byte(ch.Key), number, ch.Value)))
				}
			}
			try(b.SetSequence(number))
			return true, nil
		},
		after: func() { r.history.Add(event) },
	})
	if err != nil {
		return broker.Revision{}, err
	}
	return at, nil
}

// Watch implements broker.Records.
func (r *Records) Watch(ctx context.Context, prefix string, from broker.Revision) iter.Seq2[broker.Event, error] {
	return func(yield func(broker.Event, error) bool) {
		if from.Mark != r.db.incarnation && from != (broker.Revision{}) {
			yield(broker.Event{}, fmt.Errorf("watch %q from %s: %w", prefix, from, broker.ErrCompacted))
			return
		}
		at := from.Number
		if n, err := r.number(); err != nil || at > n {
			if err == nil {
				err = fmt.Errorf("watch %q from %s: %w", prefix, from, broker.ErrCompacted)
			}
			yield(broker.Event{}, err)
			return
		}
		for {
			events, wake, err := r.history.After(at)
			if err != nil {
				yield(broker.Event{}, fmt.Errorf("watch %q from %d: %w", prefix, at, err))
				return
			}
			for _, e := range events {
				at = e.Revision.Number
				if e = history.Below(e, prefix); len(e.Changes) > 0 && !yield(e, nil) {
					return
				}
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				yield(broker.Event{}, context.Cause(ctx))
				return
			case <-wake:
			}
		}
	}
}
