package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

var _ broker.Buckets = (*Buckets)(nil)

// Buckets are the broker's buckets.
type Buckets struct{ c *Client }

// Get implements broker.Buckets.
func (b *Buckets) Get(ctx context.Context, bucket, key string) (broker.Item, error) {
	rep, err := b.c.ask(ctx, protocol.BucketsGet, &protocol.Call{Bucket: bucket, Key: key})
	if err == nil && len(rep.Items) != 1 {
		err = short("get item")
	}
	if err != nil {
		return broker.Item{}, err
	}
	return rep.Items[0], nil
}

// Put implements broker.Buckets.
func (b *Buckets) Put(ctx context.Context, bucket, key string, value []byte, opts broker.PutOptions) (uint64, error) {
	if err := cmp.Or(broker.CheckBucket(bucket), broker.CheckKey(key), broker.CheckValue(key, value)); err != nil {
		return 0, fmt.Errorf("put item: %w", err)
	}
	rep, err := b.c.call(ctx, protocol.BucketsPut, &protocol.Call{Bucket: bucket, Key: key, Value: value, Expect: opts.Expect, Quota: opts.Quota})
	return rep.Version, err
}

// Delete implements broker.Buckets.
func (b *Buckets) Delete(ctx context.Context, bucket, key string, expect *uint64) error {
	_, err := b.c.call(ctx, protocol.BucketsDelete, &protocol.Call{Bucket: bucket, Key: key, Expect: expect})
	return err
}

// List implements broker.Buckets.
func (b *Buckets) List(ctx context.Context, bucket, prefix, after string, limit int) ([]broker.Item, error) {
	rep, err := b.c.ask(ctx, protocol.BucketsList, &protocol.Call{Bucket: bucket, Range: broker.Range{Prefix: prefix, After: after, Limit: limit}})
	return rep.Items, err
}

// Usage implements broker.Buckets.
func (b *Buckets) Usage(ctx context.Context, bucket string) (broker.Usage, error) {
	rep, err := b.c.ask(ctx, protocol.BucketsUsage, &protocol.Call{Bucket: bucket})
	return rep.Usage, err
}

// Names implements broker.Buckets.
func (b *Buckets) Names(ctx context.Context, prefix string) (names []string, err error) {
	for range tries {
		if names, err = b.names(ctx, prefix); !errors.Is(err, broker.ErrUnavailable) {
			break
		}
	}
	return names, err
}

func (b *Buckets) names(ctx context.Context, prefix string) ([]string, error) {
	s, err := b.c.open(ctx, protocol.BucketsNames, &protocol.Call{Range: broker.Range{Prefix: prefix}}, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var names []string
	for {
		rep, err := s.read()
		if err != nil {
			return nil, err
		}
		names = append(names, rep.Names...)
		if rep.End {
			return names, nil
		}
	}
}

// Drop implements broker.Buckets.
func (b *Buckets) Drop(ctx context.Context, bucket string) error {
	_, err := b.c.call(ctx, protocol.BucketsDrop, &protocol.Call{Bucket: bucket})
	return err
}
