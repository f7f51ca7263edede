package protocol

import "github.com/ripstop-vm/ripstop/broker"

// What follows describes broker's types. A number is never given to another field, even after the first is gone.

func describeRevision(c *coder, r *broker.Revision) {
	unsigned(c, 1, &r.Number)
	text(c, 2, &r.Mark)
}

func describeRecord(c *coder, r *broker.Record) {
	text(c, 1, &r.Key)
	octets(c, 2, &r.Value)
	unsigned(c, 3, &r.Revision)
}

func describeCondition(c *coder, q *broker.Condition) {
	text(c, 1, &q.Key)
	unsigned(c, 2, &q.Revision)
}

func describeWrite(c *coder, w *broker.Write) {
	text(c, 1, &w.Key)
	octets(c, 2, &w.Value)
	flag(c, 3, &w.Delete)
}

func describeCommit(c *coder, m *broker.Commit) {
	list(c, 1, broker.MaxCommitItems+1, &m.Conditions, describeCondition) // one more, so that the backend says what is too many
	list(c, 2, broker.MaxCommitItems+1, &m.Writes, describeWrite)
}

func describeRange(c *coder, r *broker.Range) {
	text(c, 1, &r.Prefix)
	text(c, 2, &r.After)
	signed(c, 3, &r.Limit)
}

func describeChange(c *coder, h *broker.Change) {
	describeRecord(c, &h.Record)
	flag(c, 4, &h.Deleted)
}

func describeEvent(c *coder, e *broker.Event) {
	nested(c, 1, &e.Revision, describeRevision)
	list(c, 2, broker.MaxCommitItems, &e.Changes, describeChange)
}

func describeHold(c *coder, h *broker.Hold) {
	text(c, 1, &h.Name)
	text(c, 2, &h.Holder)
	unsigned(c, 3, &h.Epoch)
	signed(c, 4, &h.TTL)
	moment(c, 5, &h.Until)
}

func describeBlob(c *coder, b *broker.Blob) {
	text(c, 1, &b.Digest)
	signed(c, 2, &b.Size)
	moment(c, 3, &b.Put)
}

func describeJob(c *coder, j *broker.Job) {
	text(c, 1, &j.Entitlement)
	text(c, 2, &j.Name)
}

func describeBackoff(c *coder, b *broker.Backoff) {
	signed(c, 1, &b.First)
	signed(c, 2, &b.Max)
}

func describeCallback(c *coder, b *broker.Callback) {
	octets(c, 1, &b.Document)
	signed(c, 2, &b.MaxAttempts)
}

func describeInvocation(c *coder, v *broker.Invocation) {
	text(c, 1, &v.ID)
	octets(c, 2, &v.Payload)
	signed(c, 3, &v.Priority)
	text(c, 4, &v.Order)
	signed(c, 5, &v.Delay)
	text(c, 6, &v.Key)
	signed(c, 7, &v.MaxAttempts)
	nested(c, 8, &v.Backoff, describeBackoff)
	signed(c, 9, &v.ResultTTL)
	pointer(c, 10, &v.Callback, describeCallback)
}

func describeBatch(c *coder, b *broker.Batch) {
	nested(c, 1, &b.Job, describeJob)
	signed(c, 2, &b.Limit)
	list(c, 3, broker.MaxBatch+1, &b.Invocations, describeInvocation)
}

func describeReceipt(c *coder, r *broker.Receipt) {
	text(c, 1, &r.ID)
	flag(c, 2, &r.Known)
}

func describeWant(c *coder, w *broker.Want) {
	text(c, 1, &w.Worker)
	text(c, 2, &w.Lane)
	list(c, 3, broker.MaxLeaseJobs+1, &w.Jobs, describeJob)
	signed(c, 4, &w.Max)
	signed(c, 5, &w.TTL)
}

func describeLease(c *coder, l *broker.Lease) {
	nested(c, 1, &l.Job, describeJob)
	text(c, 2, &l.Lane)
	nested(c, 3, &l.Invocation, describeInvocation)
	text(c, 4, &l.Token)
	signed(c, 5, &l.Attempt)
	moment(c, 6, &l.Enqueued)
	moment(c, 7, &l.Until)
	signed(c, 8, &l.TTL)
}

func describeResult(c *coder, r *broker.Result) {
	text(c, 1, &r.Outcome)
	octets(c, 2, &r.Payload)
	text(c, 3, &r.Reason)
}

func describeReturn(c *coder, r *broker.Return) {
	signed(c, 1, &r.Delay)
	text(c, 2, &r.Reason)
	flag(c, 3, &r.Unstarted)
}

func describeStatus(c *coder, s *broker.Status) {
	text(c, 1, &s.ID)
	text(c, 2, &s.State)
	signed(c, 3, &s.Attempts)
	signed(c, 4, &s.MaxAttempts)
	signed(c, 5, &s.Priority)
	text(c, 6, &s.Order)
	text(c, 7, &s.Key)
	moment(c, 8, &s.Enqueued)
	moment(c, 9, &s.Due)
	text(c, 10, &s.Worker)
	moment(c, 11, &s.Until)
	text(c, 12, &s.Reason)
	moment(c, 13, &s.Finished)
	text(c, 14, &s.Callback)
	signed(c, 15, &s.CallbackAttempts)
	text(c, 16, &s.CallbackReason)
	moment(c, 17, &s.Expires)
	signed(c, 18, &s.PayloadBytes)
	signed(c, 19, &s.ResultBytes)
}

func describeCounts(c *coder, n *broker.Counts) {
	signed(c, 1, &n.Waiting)
	signed(c, 2, &n.Ready)
	signed(c, 3, &n.Leased)
	signed(c, 4, &n.Dead)
	signed(c, 5, &n.Callbacks)
	moment(c, 6, &n.Oldest)
}

func describeItem(c *coder, i *broker.Item) {
	text(c, 1, &i.Key)
	octets(c, 2, &i.Value)
	unsigned(c, 3, &i.Version)
}

func describeUsage(c *coder, u *broker.Usage) {
	unsigned(c, 1, &u.Items)
	signed(c, 2, &u.Bytes)
}
