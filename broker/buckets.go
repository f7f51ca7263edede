package broker

import "context"

// DefaultQuota bounds a bucket when nothing else is asked for: 64 MiB.
const DefaultQuota = 64 << 20

// MaxBucketName bounds a bucket's name in bytes.
const MaxBucketName = 256

// ItemOverhead is what an item counts against its bucket's quota in bytes, besides its key and value. It stands for what
// a store keeps with it, so that a million empty values are not free.
const ItemOverhead = 32

// Item is a key with its value in a bucket.
type Item struct {
	Key     string
	Value   []byte // the receiver's own
	Version uint64 // grows with each put; never 0, and never the same twice in a bucket's life
}

// PutOptions say how a value is put.
type PutOptions struct {
	// Expect is the version that the key must have; 0: it must not exist; nil: anything.
	Expect *uint64
	// Quota bounds the bucket's bytes after the put: keys, values and ItemOverhead for each; 0 means DefaultQuota. A
	// put that makes a bucket smaller is never refused for it.
	Quota int64
}

// Usage is what a bucket holds.
type Usage struct {
	Items uint64
	Bytes int64 // as counted against the quota
}

// Buckets keeps key-value data in named buckets. A bucket exists while it has items, and its name is at most MaxBucketName bytes.
// Keys have 1 to MaxKey bytes, values up to MaxValue; else ErrInvalid or ErrTooLarge. Methods are safe for concurrent
// use, each is one atomic step, and writes are durable when they return. After ErrConflict, ErrQuota, ErrTooLarge,
// ErrInvalid, ErrFull and ErrReadOnly nothing has changed.
type Buckets interface {
	// Get answers an item. It fails with ErrNotFound.
	Get(ctx context.Context, bucket, key string) (Item, error)
	// Put stores a value and answers its version. It fails with a *ConflictError or ErrQuota.
	Put(ctx context.Context, bucket, key string, value []byte, opts PutOptions) (version uint64, err error)
	// Delete removes an item. With expect, it fails with a *ConflictError unless the item has that version; without,
	// removing what is not there is no error.
	Delete(ctx context.Context, bucket, key string, expect *uint64) error
	// List answers items in order of their keys, bytewise: those that begin with prefix and come after the key after,
	// at most limit (0: 1000) and no more than about 4 MiB of them; an empty answer means that there are no more.
	List(ctx context.Context, bucket, prefix, after string, limit int) ([]Item, error)
	// Usage answers what a bucket holds; nothing, if there is none.
	Usage(ctx context.Context, bucket string) (Usage, error)
	// Names answers the buckets whose names begin with prefix, in order.
	Names(ctx context.Context, prefix string) ([]string, error)
	// Drop removes a bucket with all its items. One that is not there is no error.
	Drop(ctx context.Context, bucket string) error
}
