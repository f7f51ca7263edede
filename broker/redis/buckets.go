package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Buckets = (*Buckets)(nil)

var (
	itemGetScript    = load("item_get")
	itemPutScript    = load("item_put")
	itemDeleteScript = load("item_delete")
	itemListScript   = load("item_list")
	usageScript      = load("usage")
	dropScript       = load("drop")
)

// maxListBytes ends a List early, so that an answer has a bound.
const maxListBytes = 4 << 20

// Buckets keeps each bucket under a hash tag of its own: two hashes with versions and values by key, a sorted set that is their
// order, and what they count against the quota.
type Buckets struct{ link *link }

func (b *Buckets) names() names { return names{b.link, "buckets"} }

func bucketKeys(g group) []string {
	return []string{g.key("meta"), g.key("versions"), g.key("values"), g.key("index"), g.key("last")}
}

func expected(expect *uint64) string {
	if expect == nil {
		return ""
	}
	return strconv.FormatUint(*expect, 10)
}

// Get implements broker.Buckets.
func (b *Buckets) Get(ctx context.Context, bucket, key string) (broker.Item, error) {
	if err := cmp.Or(broker.CheckBucket(bucket), broker.CheckKey(key)); err != nil {
		return broker.Item{}, fmt.Errorf("get: %w", err)
	}
	g := b.link.keys.bucket(bucket)
	rep, err := b.link.run(ctx, itemGetScript, g, []string{g.key("versions"), g.key("values")}, key)
	switch {
	case err != nil:
		return broker.Item{}, fmt.Errorf("get: %w", err)
	case rep.text(0) == "missing":
		return broker.Item{}, fmt.Errorf("key %.200q of bucket %q: %w", key, bucket, broker.ErrNotFound)
	}
	return broker.Item{Key: key, Version: rep.number(1), Value: []byte(rep.text(2))}, nil
}

// Put implements broker.Buckets.
func (b *Buckets) Put(ctx context.Context, bucket, key string, value []byte, opts broker.PutOptions) (uint64, error) {
	if err := cmp.Or(broker.CheckBucket(bucket), broker.CheckKey(key), broker.CheckValue(key, value)); err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	quota := cmp.Or(opts.Quota, broker.DefaultQuota)
	g := b.link.keys.bucket(bucket)
	noted := 0
	for {
		rep, err := b.link.run(ctx, itemPutScript, g, bucketKeys(g), key, string(value), expected(opts.Expect), quota, broker.ItemOverhead, noted)
		if err != nil {
			return 0, fmt.Errorf("put: %w", err)
		}
		switch rep.text(0) {
		case "ok":
			return rep.number(1), nil
		case "conflict":
			return 0, &broker.ConflictError{Key: key, Want: rep.number(1), Have: rep.number(2)}
		case "quota":
			return 0, fmt.Errorf("put %.200q: bucket %q would hold %d bytes, of at most %d: %w", key, bucket, rep.number(1), quota, broker.ErrQuota)
		}
		// The bucket is new.
		if err := b.names().note(ctx, bucket); err != nil {
			return 0, fmt.Errorf("put: %w", err)
		}
		noted = 1
	}
}

// Delete implements broker.Buckets.
func (b *Buckets) Delete(ctx context.Context, bucket, key string, expect *uint64) error {
	if err := cmp.Or(broker.CheckBucket(bucket), broker.CheckKey(key)); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	g := b.link.keys.bucket(bucket)
	rep, err := b.link.run(ctx, itemDeleteScript, g, bucketKeys(g), key, expected(expect), broker.ItemOverhead)
	switch {
	case err != nil:
		return fmt.Errorf("delete: %w", err)
	case rep.text(0) == "conflict":
		return &broker.ConflictError{Key: key, Want: rep.number(1), Have: rep.number(2)}
	}
	return nil
}

// List implements broker.Buckets.
func (b *Buckets) List(ctx context.Context, bucket, prefix, after string, limit int) ([]broker.Item, error) {
	if err := broker.CheckBucket(bucket); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	if limit <= 0 || limit > 1000 {
		limit = 1000
	}
	g := b.link.keys.bucket(bucket)
	low, high := lexRange(prefix, after)
	rep, err := b.link.run(ctx, itemListScript, g, []string{g.key("versions"), g.key("values"), g.key("index")}, low, high, limit, maxListBytes)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	var list []broker.Item
	for i := 1; i+2 < len(rep); i += 3 {
		list = append(list, broker.Item{Key: rep.text(i), Version: rep.number(i + 1), Value: []byte(rep.text(i + 2))})
	}
	return list, nil
}

// Usage implements broker.Buckets.
func (b *Buckets) Usage(ctx context.Context, bucket string) (broker.Usage, error) {
	if err := broker.CheckBucket(bucket); err != nil {
		return broker.Usage{}, fmt.Errorf("usage: %w", err)
	}
	g := b.link.keys.bucket(bucket)
	rep, err := b.link.run(ctx, usageScript, g, []string{g.key("meta")})
	if err != nil {
		return broker.Usage{}, fmt.Errorf("usage: %w", err)
	}
	return broker.Usage{Items: rep.number(1), Bytes: int64(rep.number(2))}, nil
}

// Names implements broker.Buckets.
func (b *Buckets) Names(ctx context.Context, prefix string) ([]string, error) {
	var found []string
	err := b.names().each(ctx, func(list [][2]string) error {
		list = slices.DeleteFunc(list, func(n [2]string) bool { return !strings.HasPrefix(n[0], prefix) })
		there := make([]bool, len(list))
		errs := together(len(list), func(i int) error {
			u, err := b.Usage(ctx, list[i][0])
			if there[i] = u.Items > 0; err != nil || there[i] {
				return err
			}
			return b.names().forget(ctx, list[i][0], list[i][1])
		})
		for i, n := range list {
			if there[i] {
				found = append(found, n[0])
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, fmt.Errorf("names of buckets: %w", err)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// Drop implements broker.Buckets.
func (b *Buckets) Drop(ctx context.Context, bucket string) error {
	if err := broker.CheckBucket(bucket); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	g := b.link.keys.bucket(bucket)
	if _, err := b.link.run(ctx, dropScript, g, bucketKeys(g)); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	return nil
}
