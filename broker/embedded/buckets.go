package embedded

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Buckets = (*Buckets)(nil)

// maxListBytes ends a List early, so that an answer has a bound.
const maxListBytes = 4 << 20

// bucketsBucket has a bucket of bbolt for each bucket; usage is kept under usageKey in it, where no item's key can be.
// Its sequence is the last version given out, so that versions do not repeat when a bucket is dropped and made again.
var bucketsBucket = []byte("buckets")

// An item's key is stored after itemTag, the usage under usageKey.
const itemTag = 'i'

var usageKey = []byte("u")

// Buckets keeps guests' data in a bbolt file.
type Buckets struct{ db *database }

func itemKey(key string) []byte { return append([]byte{itemTag}, key...) }

func (b *Buckets) item(key, v []byte) (broker.Item, error) {
	version, value, ok := unseal(key, v)
	if !ok {
		return broker.Item{}, damaged(b.db.path, key)
	}
	return broker.Item{Key: string(key[1:]), Value: bytes.Clone(value), Version: version}, nil
}

// Get implements broker.Buckets.
func (b *Buckets) Get(ctx context.Context, bucket, key string) (it broker.Item, err error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckBucket(bucket), broker.CheckKey(key)); err != nil {
		return it, fmt.Errorf("get: %w", err)
	}
	err = b.db.view(func(tx *bolt.Tx) error {
		k := itemKey(key)
		if in := tx.Bucket(bucketsBucket).Bucket([]byte(bucket)); in != nil {
			if v := in.Get(k); v != nil {
				it, err = b.item(k, v)
				return err
			}
		}
		return fmt.Errorf("key %.200q of bucket %q: %w", key, bucket, broker.ErrNotFound)
	})
	return it, err
}

// usageOf reads what a bucket holds.
func usageOf(in *bolt.Bucket) broker.Usage {
	if in == nil {
		return broker.Usage{}
	}
	_, v, ok := unseal(usageKey, in.Get(usageKey))
	if !ok || len(v) != 16 {
		panic("the count of a bucket is damaged") // guard makes it ErrCorrupt
	}
	return broker.Usage{Items: binary.BigEndian.Uint64(v), Bytes: int64(binary.BigEndian.Uint64(v[8:]))}
}

func setUsage(in *bolt.Bucket, u broker.Usage) error {
	v := binary.BigEndian.AppendUint64(nil, u.Items)
	v = binary.BigEndian.AppendUint64(v, uint64(u.Bytes))
	return in.Put(usageKey, seal(usageKey, 0, v))
}

// current answers the version of an item (0 if there is none) and what it counts against the quota.
func (b *Buckets) current(in *bolt.Bucket, k []byte) (version uint64, size int64, err error) {
	if in == nil {
		return 0, 0, nil
	}
	v := in.Get(k)
	if v == nil {
		return 0, 0, nil
	}
	version, value, ok := unseal(k, v)
	if !ok {
		return 0, 0, damaged(b.db.path, k)
	}
	return version, itemSize(k, value), nil
}

func itemSize(k, value []byte) int64 { return int64(len(k)-1+len(value)) + broker.ItemOverhead }

// Put implements broker.Buckets.
func (b *Buckets) Put(ctx context.Context, bucket, key string, value []byte, opts broker.PutOptions) (version uint64, err error) {
	if err := cmp.Or(broker.CheckBucket(bucket), broker.CheckKey(key), broker.CheckValue(key, value)); err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	quota := opts.Quota
	if quota == 0 {
		quota = broker.DefaultQuota
	}
	err = b.db.update(ctx, &change{do: func(tx *bolt.Tx) (bool, error) {
		top, k := tx.Bucket(bucketsBucket), itemKey(key)
		in := top.Bucket([]byte(bucket))
		have, size, err := b.current(in, k)
		if err != nil {
			return false, err
		}
		if opts.Expect != nil && *opts.Expect != have {
			return false, &broker.ConflictError{Key: key, Want: *opts.Expect, Have: have}
		}
		u := usageOf(in)
		after := u.Bytes - size + itemSize(k, value)
		if after > quota && after > u.Bytes {
			return false, fmt.Errorf("put %.200q: bucket %q would hold %d bytes, of at most %d: %w", key, bucket, after, quota, broker.ErrQuota)
		}
		u.Bytes = after
		if have == 0 {
			u.Items++
		}
		if in == nil {
			in = must(top.CreateBucket([]byte(bucket)))
		}
		version = must(top.NextSequence())
		try(in.Put(k, seal(k, version, value)))
		try(setUsage(in, u))
		return true, nil
	}})
	if err != nil {
		return 0, err
	}
	return version, nil
}

// Delete implements broker.Buckets.
func (b *Buckets) Delete(ctx context.Context, bucket, key string, expect *uint64) error {
	if err := cmp.Or(broker.CheckBucket(bucket), broker.CheckKey(key)); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return b.db.update(ctx, &change{do: func(tx *bolt.Tx) (bool, error) {
		top, k := tx.Bucket(bucketsBucket), itemKey(key)
		in := top.Bucket([]byte(bucket))
		have, size, err := b.current(in, k)
		if err != nil {
			return false, err
		}
		if expect != nil && *expect != have {
			return false, &broker.ConflictError{Key: key, Want: *expect, Have: have}
		}
		if have == 0 {
			return false, nil
		}
		u := usageOf(in)
		u.Items--
		u.Bytes -= size
		if u.Items == 0 {
			try(top.DeleteBucket([]byte(bucket)))
			return true, nil
		}
		try(in.Delete(k))
		try(setUsage(in, u))
		return true, nil
	}})
}

// List implements broker.Buckets.
func (b *Buckets) List(ctx context.Context, bucket, prefix, after string, limit int) (list []broker.Item, err error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckBucket(bucket)); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if limit <= 0 || limit > 1000 {
		limit = 1000
	}
	err = b.db.view(func(tx *bolt.Tx) error {
		in := tx.Bucket(bucketsBucket).Bucket([]byte(bucket))
		if in == nil {
			return nil
		}
		size := 0
		return scan(in, string(itemKey(prefix)), string(itemKey(after)), func(k, v []byte) (bool, error) {
			it, err := b.item(k, v)
			if err != nil {
				return false, err
			}
			list = append(list, it)
			size += len(k) + len(v)
			return len(list) < limit && size < maxListBytes, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Usage implements broker.Buckets.
func (b *Buckets) Usage(ctx context.Context, bucket string) (u broker.Usage, err error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckBucket(bucket)); err != nil {
		return u, fmt.Errorf("usage: %w", err)
	}
	err = b.db.view(func(tx *bolt.Tx) error {
		u = usageOf(tx.Bucket(bucketsBucket).Bucket([]byte(bucket)))
		return nil
	})
	return u, err
}

// Names implements broker.Buckets.
func (b *Buckets) Names(ctx context.Context, prefix string) (names []string, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	err = b.db.view(func(tx *bolt.Tx) error {
		return scan(tx.Bucket(bucketsBucket), prefix, "", func(k, _ []byte) (bool, error) {
			names = append(names, string(k))
			return true, nil
		})
	})
	return names, err
}

// Drop implements broker.Buckets.
func (b *Buckets) Drop(ctx context.Context, bucket string) error {
	if err := broker.CheckBucket(bucket); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	return b.db.update(ctx, &change{do: func(tx *bolt.Tx) (bool, error) {
		top := tx.Bucket(bucketsBucket)
		if top.Bucket([]byte(bucket)) == nil {
			return false, nil
		}
		try(top.DeleteBucket([]byte(bucket)))
		return true, nil
	}})
}

// try and must panic when bbolt fails in the middle of a change: what it could refuse was checked before, so that only a
// broken file is left as a reason. database.guard makes an error of it and the transaction is not committed.
func try(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](v T, err error) T {
	try(err)
	return v
}
