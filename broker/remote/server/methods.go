package server

import "github.com/ripstop-vm/ripstop/broker/remote/protocol"

// method is how a method is done.
type method struct {
	do      func(*call, *protocol.Reply) error
	stream  bool // it lasts until the caller has enough
	put     bool // its body is the bytes of a blob
	anybody bool // no certificate is asked for, and what is sent is small
}

// methods are all there are.
var methods = map[protocol.Method]method{
	protocol.RecordsGet:    {do: (*call).recordsGet},
	protocol.RecordsList:   {do: (*call).recordsList},
	protocol.RecordsCommit: {do: (*call).recordsCommit},
	protocol.RecordsWatch:  {do: (*call).recordsWatch, stream: true},

	protocol.LeasesAcquire: {do: (*call).leasesAcquire},
	protocol.LeasesRenew:   {do: (*call).leasesRenew},
	protocol.LeasesRelease: {do: (*call).leasesRelease},
	protocol.LeasesHolders: {do: (*call).leasesHolders},

	protocol.BlobsPut:   {do: (*call).blobsPut, put: true},
	protocol.BlobsOpen:  {do: (*call).blobsOpen},
	protocol.BlobsStat:  {do: (*call).blobsStat},
	protocol.BlobsList:  {do: (*call).blobsList},
	protocol.BlobsSweep: {do: (*call).blobsSweep},

	protocol.QueueEnqueue:  {do: (*call).queueEnqueue},
	protocol.QueueLease:    {do: (*call).queueLease},
	protocol.QueueWait:     {do: (*call).queueWait, stream: true},
	protocol.QueueExtend:   {do: (*call).queueExtend},
	protocol.QueueComplete: {do: (*call).queueComplete},
	protocol.QueueRelease:  {do: (*call).queueRelease},
	protocol.QueueStatus:   {do: (*call).queueStatus},
	protocol.QueueResult:   {do: (*call).queueResult},
	protocol.QueueCounts:   {do: (*call).queueCounts},
	protocol.QueueList:     {do: (*call).queueList},
	protocol.QueueCancel:   {do: (*call).queueCancel},
	protocol.QueueLetters:  {do: (*call).queueLetters},
	protocol.QueueLetter:   {do: (*call).queueLetter},
	protocol.QueueRequeue:  {do: (*call).queueRequeue},
	protocol.QueueDiscard:  {do: (*call).queueDiscard},
	protocol.QueuePurge:    {do: (*call).queuePurge},

	protocol.BucketsGet:    {do: (*call).bucketsGet},
	protocol.BucketsPut:    {do: (*call).bucketsPut},
	protocol.BucketsDelete: {do: (*call).bucketsDelete},
	protocol.BucketsList:   {do: (*call).bucketsList},
	protocol.BucketsUsage:  {do: (*call).bucketsUsage},
	protocol.BucketsNames:  {do: (*call).bucketsNames},
	protocol.BucketsDrop:   {do: (*call).bucketsDrop},

	protocol.Join:  {do: (*call).join, anybody: true},
	protocol.Renew: {do: (*call).renew},
}

func (c *call) join(rep *protocol.Reply) (err error) {
	rep.Chain, err = c.s.opts.Authority.Join(c.ctx, c.Token, c.Request)
	return err
}

func (c *call) renew(rep *protocol.Reply) (err error) {
	rep.Chain, err = c.s.opts.Authority.Renew(c.ctx, c.who, c.Request)
	return err
}
