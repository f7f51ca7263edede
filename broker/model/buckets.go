package model

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Buckets = (*Buckets)(nil)

// Buckets are a Broker's buckets.
type Buckets Broker

type buckets struct {
	data    map[string]map[string]broker.Item
	version uint64 // the last one given out
}

// maxListBytes ends a List early, so that an answer has a bound.
const maxListBytes = 4 << 20

func usage(items map[string]broker.Item) broker.Usage {
	u := broker.Usage{Items: uint64(len(items))}
	for k, it := range items {
		u.Bytes += int64(len(k)+len(it.Value)) + broker.ItemOverhead
	}
	return u
}

func checkItem(bucket, key string) error {
	return cmp.Or(broker.CheckBucket(bucket), broker.CheckKey(key))
}

// Get implements broker.Buckets.
func (b *Buckets) Get(ctx context.Context, bucket, key string) (broker.Item, error) {
	if err := cmp.Or(context.Cause(ctx), checkItem(bucket, key)); err != nil {
		return broker.Item{}, fmt.Errorf("get: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	it, ok := b.buckets.data[bucket][key]
	if !ok {
		return broker.Item{}, fmt.Errorf("key %.200q of bucket %q: %w", key, bucket, broker.ErrNotFound)
	}
	it.Value = bytes.Clone(it.Value)
	return it, nil
}

// Put implements broker.Buckets.
func (b *Buckets) Put(ctx context.Context, bucket, key string, value []byte, opts broker.PutOptions) (uint64, error) {
	if err := cmp.Or(context.Cause(ctx), checkItem(bucket, key), broker.CheckValue(key, value)); err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.buckets.data[bucket]
	have := items[key].Version
	if opts.Expect != nil && *opts.Expect != have {
		return 0, &broker.ConflictError{Key: key, Want: *opts.Expect, Have: have}
	}
	before := usage(items).Bytes
	after := before + int64(len(value)-len(items[key].Value))
	if have == 0 {
		after += int64(len(key)) + broker.ItemOverhead
	}
	if quota := cmp.Or(opts.Quota, broker.DefaultQuota); after > quota && after > before {
		return 0, fmt.Errorf("put %.200q: bucket %q would hold %d bytes, of at most %d: %w", key, bucket, after, quota, broker.ErrQuota)
	}
	if items == nil {
		items = map[string]broker.Item{}
		b.buckets.data[bucket] = items
	}
	b.buckets.version++
	items[key] = broker.Item{Key: key, Value: bytes.Clone(value), Version: b.buckets.version}
	return b.buckets.version, nil
}

// Delete implements broker.Buckets.
func (b *Buckets) Delete(ctx context.Context, bucket, key string, expect *uint64) error {
	if err := cmp.Or(context.Cause(ctx), checkItem(bucket, key)); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.buckets.data[bucket]
	if have := items[key].Version; expect != nil && *expect != have {
		return &broker.ConflictError{Key: key, Want: *expect, Have: have}
	}
	if delete(items, key); len(items) == 0 {
		delete(b.buckets.data, bucket)
	}
	return nil
}

// List implements broker.Buckets.
func (b *Buckets) List(ctx context.Context, bucket, prefix, after string, limit int) (list []broker.Item, err error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckBucket(bucket)); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if limit <= 0 || limit > 1000 {
		limit = 1000
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	items, size := b.buckets.data[bucket], 0
	for _, k := range slices.Sorted(maps.Keys(items)) {
		if !strings.HasPrefix(k, prefix) || k <= after || len(list) == limit || size >= maxListBytes {
			continue
		}
		it := items[k]
		it.Value = bytes.Clone(it.Value)
		list = append(list, it)
		size += len(k) + len(it.Value)
	}
	return list, nil
}

// Usage implements broker.Buckets.
func (b *Buckets) Usage(ctx context.Context, bucket string) (broker.Usage, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckBucket(bucket)); err != nil {
		return broker.Usage{}, fmt.Errorf("usage: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return usage(b.buckets.data[bucket]), nil
}

// Names implements broker.Buckets.
func (b *Buckets) Names(ctx context.Context, prefix string) (names []string, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(b.buckets.data)) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Drop implements broker.Buckets.
func (b *Buckets) Drop(ctx context.Context, bucket string) error {
	if err := cmp.Or(context.Cause(ctx), broker.CheckBucket(bucket)); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.buckets.data, bucket)
	return nil
}
