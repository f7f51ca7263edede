package server

import (
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

func (c *call) bucket(write bool) Access {
	return Access{Kind: KindBucket, Write: write, Name: c.Bucket}
}

func (c *call) bucketsGet(rep *protocol.Reply) error {
	if err := c.allow(c.bucket(false)); err != nil {
		return err
	}
	item, err := c.s.opts.Buckets.Get(c.ctx, c.Bucket, c.Key)
	if err != nil {
		return err
	}
	rep.Items = []broker.Item{item}
	return nil
}

func (c *call) bucketsPut(rep *protocol.Reply) (err error) {
	if err := c.allow(c.bucket(true)); err != nil {
		return err
	}
	opts := broker.PutOptions{Expect: c.Expect, Quota: c.Quota}
	if most := c.s.opts.Policy.Quota(c.who); most > 0 && (opts.Quota == 0 || opts.Quota > most) {
		opts.Quota = most
	}
	rep.Version, err = c.s.opts.Buckets.Put(c.ctx, c.Bucket, c.Key, c.Value, opts)
	return err
}

func (c *call) bucketsDelete(*protocol.Reply) error {
	if err := c.allow(c.bucket(true)); err != nil {
		return err
	}
	return c.s.opts.Buckets.Delete(c.ctx, c.Bucket, c.Key, c.Expect)
}

func (c *call) bucketsList(rep *protocol.Reply) (err error) {
	if err := c.allow(c.bucket(false)); err != nil {
		return err
	}
	rep.Items, err = c.s.opts.Buckets.List(c.ctx, c.Bucket, c.Range.Prefix, c.Range.After, min(c.Range.Limit, protocol.MaxElements))
	return err
}

func (c *call) bucketsUsage(rep *protocol.Reply) (err error) {
	if err := c.allow(c.bucket(false)); err != nil {
		return err
	}
	rep.Usage, err = c.s.opts.Buckets.Usage(c.ctx, c.Bucket)
	return err
}

func (c *call) bucketsNames(rep *protocol.Reply) error {
	if err := c.allow(Access{Kind: KindBuckets, Name: c.Range.Prefix}); err != nil {
		return err
	}
	names, err := c.s.opts.Buckets.Names(c.ctx, c.Range.Prefix)
	if err != nil {
		return err
	}
	const some = 1000
	for len(names) > some {
		if err := c.send(&protocol.Reply{Names: names[:some]}); err != nil {
			return err
		}
		names = names[some:]
	}
	rep.Names = names
	return nil
}

func (c *call) bucketsDrop(*protocol.Reply) error {
	if err := c.allow(Access{Kind: KindBuckets, Write: true, Name: c.Bucket}); err != nil {
		return err
	}
	return c.s.opts.Buckets.Drop(c.ctx, c.Bucket)
}
