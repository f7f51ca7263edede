package server

import (
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

func (c *call) recordsGet(rep *protocol.Reply) error {
	if err := c.allow(Access{Kind: KindRecord, Name: c.Key}); err != nil {
		return err
	}
	rec, err := c.s.opts.Records.Get(c.ctx, c.Key)
	if err != nil {
		return err
	}
	rep.Records = []broker.Record{rec}
	return nil
}

func (c *call) recordsList(rep *protocol.Reply) error {
	if err := c.allow(Access{Kind: KindRecords, Name: c.Range.Prefix}); err != nil {
		return err
	}
	list, at, err := c.s.opts.Records.List(c.ctx, c.Range)
	if err != nil {
		return err
	}
	part, size := &protocol.Reply{}, 0
	for _, rec := range list {
		part.Records = append(part.Records, rec)
		if size += len(rec.Key) + len(rec.Value) + 32; size > protocol.PieceBytes {
			if err := c.send(part); err != nil {
				return err
			}
			part, size = &protocol.Reply{}, 0
		}
	}
	rep.Records, rep.Revision = part.Records, at
	return nil
}

func (c *call) recordsCommit(rep *protocol.Reply) (err error) {
	all := make([]Access, 0, len(c.Commit.Conditions)+len(c.Commit.Writes))
	for _, q := range c.Commit.Conditions {
		all = append(all, Access{Kind: KindRecord, Name: q.Key})
	}
	for _, w := range c.Commit.Writes {
		all = append(all, Access{Kind: KindRecord, Write: true, Name: w.Key})
	}
	if err := c.allow(all...); err != nil {
		return err
	}
	rep.Revision, err = c.s.opts.Records.Commit(c.ctx, c.Commit)
	return err
}

func (c *call) recordsWatch(*protocol.Reply) error {
	access := Access{Kind: KindRecords, Name: c.Range.Prefix}
	if err := c.allow(access); err != nil {
		return err
	}
	return c.s.feed.watch(c.ctx, c.Range.Prefix, c.From, func(frames []byte) error {
		// What was allowed when the watch began may not be any more.
		if err := c.identify(); err != nil {
			return err
		}
		if err := c.allow(access); err != nil {
			return err
		}
		return c.write(frames)
	})
}
