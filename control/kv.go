package control

import (
	"context"

	"github.com/ripstop-vm/ripstop/broker"
)

// bucketOf names the broker's bucket for a job's own name of it. It carries the job's ID, so that a job never sees the
// data of another one that had its name before.
func (s *Store) bucketOf(ctx context.Context, job, bucket string) (string, error) {
	if err := checkName(job); err != nil {
		return "", err
	}
	r, err := s.records.Get(ctx, jobKey(job))
	if err != nil {
		return "", err
	}
	j, err := decode[Job](r)
	if err != nil {
		return "", err
	}
	return bucketName(j, bucket), nil
}

// KVGet answers an item of a job's bucket. It and the other KV methods promise what broker.Buckets does and fail with its
// errors, and with ErrNotFound if there is no such job.
func (s *Store) KVGet(ctx context.Context, job, bucket, key string) (broker.Item, error) {
	b, err := s.bucketOf(ctx, job, bucket)
	if err != nil {
		return broker.Item{}, err
	}
	return s.buckets.Get(ctx, b, key)
}

// KVPut stores a value and answers its version; expect is the version the key must have, 0 for none, nil for any.
func (s *Store) KVPut(ctx context.Context, job, bucket, key string, value []byte, expect *uint64) (uint64, error) {
	b, err := s.bucketOf(ctx, job, bucket)
	if err != nil {
		return 0, err
	}
	return s.buckets.Put(ctx, b, key, value, broker.PutOptions{Expect: expect, Quota: s.opts.Quota})
}

// KVDelete removes a key.
func (s *Store) KVDelete(ctx context.Context, job, bucket, key string, expect *uint64) error {
	b, err := s.bucketOf(ctx, job, bucket)
	if err != nil {
		return err
	}
	return s.buckets.Delete(ctx, b, key, expect)
}

// KVList lists keys and values.
func (s *Store) KVList(ctx context.Context, job, bucket, prefix, after string, limit int) ([]broker.Item, error) {
	b, err := s.bucketOf(ctx, job, bucket)
	if err != nil {
		return nil, err
	}
	return s.buckets.List(ctx, b, prefix, after, limit)
}
