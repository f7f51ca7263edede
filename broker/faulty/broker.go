package faulty

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var (
	_ broker.Records = (*Records)(nil)
	_ broker.Leases  = (*Leases)(nil)
	_ broker.Blobs   = (*Blobs)(nil)
	_ broker.Queue   = (*Queue)(nil)
	_ broker.Buckets = (*Buckets)(nil)
)

// Records are records whose calls may fail.
type Records struct {
	to     broker.Records
	faults *Faults
}

// NewRecords wraps records.
func NewRecords(to broker.Records, f *Faults) *Records { return &Records{to, f} }

// Get implements broker.Records.
func (r *Records) Get(ctx context.Context, key string) (broker.Record, error) {
	return call(r.faults, "get record", func() (broker.Record, error) { return r.to.Get(ctx, key) })
}

// List implements broker.Records.
func (r *Records) List(ctx context.Context, in broker.Range) ([]broker.Record, broker.Revision, error) {
	var at broker.Revision
	list, err := call(r.faults, "list records", func() (list []broker.Record, err error) {
		list, at, err = r.to.List(ctx, in)
		return list, err
	})
	if err != nil {
		return nil, broker.Revision{}, err
	}
	return list, at, nil
}

// Commit implements broker.Records.
func (r *Records) Commit(ctx context.Context, c broker.Commit) (broker.Revision, error) {
	return call(r.faults, "commit", func() (broker.Revision, error) { return r.to.Commit(ctx, c) })
}

// Watch implements broker.Records. It may fail before each event.
func (r *Records) Watch(ctx context.Context, prefix string, from broker.Revision) iter.Seq2[broker.Event, error] {
	return func(yield func(broker.Event, error) bool) {
		for e, err := range r.to.Watch(ctx, prefix, from) {
			if err == nil {
				if err = act(r.faults, "watch", func() error { return nil }); err != nil {
					e = broker.Event{}
				}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Leases are leases whose calls may fail.
type Leases struct {
	to     broker.Leases
	faults *Faults
}

// NewLeases wraps leases.
func NewLeases(to broker.Leases, f *Faults) *Leases { return &Leases{to, f} }

// Acquire implements broker.Leases.
func (l *Leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (broker.Hold, error) {
	return call(l.faults, "acquire", func() (broker.Hold, error) { return l.to.Acquire(ctx, name, holder, ttl) })
}

// Renew implements broker.Leases.
func (l *Leases) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	return call(l.faults, "renew", func() ([]broker.Hold, error) { return l.to.Renew(ctx, holds...) })
}

// Release implements broker.Leases.
func (l *Leases) Release(ctx context.Context, h broker.Hold) error {
	return act(l.faults, "release a name", func() error { return l.to.Release(ctx, h) })
}

// Holders implements broker.Leases.
func (l *Leases) Holders(ctx context.Context, names ...string) ([]broker.Hold, error) {
	return call(l.faults, "holders", func() ([]broker.Hold, error) { return l.to.Holders(ctx, names...) })
}

// Blobs are blobs whose calls may fail.
type Blobs struct {
	to     broker.Blobs
	faults *Faults
}

// NewBlobs wraps blobs.
func NewBlobs(to broker.Blobs, f *Faults) *Blobs { return &Blobs{to, f} }

// Put implements broker.Blobs.
func (b *Blobs) Put(ctx context.Context, r io.Reader) (broker.Blob, error) {
	return call(b.faults, "put blob", func() (broker.Blob, error) { return b.to.Put(ctx, r) })
}

// Open implements broker.Blobs. A reader may fail, too.
func (b *Blobs) Open(ctx context.Context, d broker.Digest) (io.ReadCloser, error) {
	before, after := b.faults.draw("open blob")
	if before != nil {
		return nil, before
	}
	r, err := b.to.Open(ctx, d)
	if err == nil && after != nil {
		_ = r.Close()
		return nil, after
	}
	if err != nil {
		return nil, err
	}
	return &reader{r, b.faults}, nil
}

type reader struct {
	io.ReadCloser
	faults *Faults
}

func (r *reader) Read(p []byte) (int, error) {
	if before, after := r.faults.draw("read blob"); before != nil {
		return 0, before
	} else if after != nil {
		return 0, after
	}
	return r.ReadCloser.Read(p)
}

// Stat implements broker.Blobs.
func (b *Blobs) Stat(ctx context.Context, d broker.Digest) (broker.Blob, error) {
	return call(b.faults, "stat blob", func() (broker.Blob, error) { return b.to.Stat(ctx, d) })
}

// List implements broker.Blobs. It may fail before each blob.
func (b *Blobs) List(ctx context.Context) iter.Seq2[broker.Blob, error] {
	return func(yield func(broker.Blob, error) bool) {
		for blob, err := range b.to.List(ctx) {
			if err == nil {
				if err = act(b.faults, "list blobs", func() error { return nil }); err != nil {
					blob = broker.Blob{}
				}
			}
			if !yield(blob, err) || err != nil {
				return
			}
		}
	}
}

// Sweep implements broker.Blobs.
func (b *Blobs) Sweep(ctx context.Context, grace time.Duration, keep func(broker.Digest) bool) ([]broker.Blob, error) {
	return call(b.faults, "sweep blobs", func() ([]broker.Blob, error) { return b.to.Sweep(ctx, grace, keep) })
}

// Buckets are buckets whose calls may fail.
type Buckets struct {
	to     broker.Buckets
	faults *Faults
}

// NewBuckets wraps buckets.
func NewBuckets(to broker.Buckets, f *Faults) *Buckets { return &Buckets{to, f} }

// Get implements broker.Buckets.
func (b *Buckets) Get(ctx context.Context, bucket, key string) (broker.Item, error) {
	return call(b.faults, "get item", func() (broker.Item, error) { return b.to.Get(ctx, bucket, key) })
}

// Put implements broker.Buckets.
func (b *Buckets) Put(ctx context.Context, bucket, key string, value []byte, opts broker.PutOptions) (uint64, error) {
	return call(b.faults, "put item", func() (uint64, error) { return b.to.Put(ctx, bucket, key, value, opts) })
}

// Delete implements broker.Buckets.
func (b *Buckets) Delete(ctx context.Context, bucket, key string, expect *uint64) error {
	return act(b.faults, "delete item", func() error { return b.to.Delete(ctx, bucket, key, expect) })
}

// List implements broker.Buckets.
func (b *Buckets) List(ctx context.Context, bucket, prefix, after string, limit int) ([]broker.Item, error) {
	return call(b.faults, "list items", func() ([]broker.Item, error) { return b.to.List(ctx, bucket, prefix, after, limit) })
}

// Usage implements broker.Buckets.
func (b *Buckets) Usage(ctx context.Context, bucket string) (broker.Usage, error) {
	return call(b.faults, "usage", func() (broker.Usage, error) { return b.to.Usage(ctx, bucket) })
}

// Names implements broker.Buckets.
func (b *Buckets) Names(ctx context.Context, prefix string) ([]string, error) {
	return call(b.faults, "names", func() ([]string, error) { return b.to.Names(ctx, prefix) })
}

// Drop implements broker.Buckets.
func (b *Buckets) Drop(ctx context.Context, bucket string) error {
	return act(b.faults, "drop", func() error { return b.to.Drop(ctx, bucket) })
}
