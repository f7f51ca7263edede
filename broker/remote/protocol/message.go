package protocol

import (
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// Schema is the version of these messages.
const Schema = 1

// Fields of a request's head.
const (
	HeaderSchema  = "Ripstop-Schema"
	HeaderTimeout = "Ripstop-Timeout" // milliseconds that the caller still waits; none if it waits for ever
)

// ContentType is that of calls and replies.
const ContentType = "application/vnd.ripstop.broker"

// ServerName is the name in the certificates of control processes, whatever their address is.
const ServerName = "control.ripstop.internal"

// Bounds.
const (
	// MaxMessage bounds a Call and a Reply in bytes: a commit or a batch of 8 MiB, and a thousand dead letters with their reasons.
	MaxMessage = 16 << 20
	// PieceBytes is about how much of a blob or of a list goes into one Reply.
	PieceBytes = 256 << 10
	// MaxElements bounds lists whose elements are not bounded otherwise, in one message; more of them come in more messages.
	MaxElements = 1 << 14
)

// Method is the path of a method.
type Method string

// The methods of broker's contracts.
const (
	RecordsGet    Method = "/v1/records/get"
	RecordsList   Method = "/v1/records/list"
	RecordsCommit Method = "/v1/records/commit"
	RecordsWatch  Method = "/v1/records/watch"

	LeasesAcquire Method = "/v1/leases/acquire"
	LeasesRenew   Method = "/v1/leases/renew"
	LeasesRelease Method = "/v1/leases/release"
	LeasesHolders Method = "/v1/leases/holders"

	BlobsPut   Method = "/v1/blobs/put"
	BlobsOpen  Method = "/v1/blobs/open"
	BlobsStat  Method = "/v1/blobs/stat"
	BlobsList  Method = "/v1/blobs/list"
	BlobsSweep Method = "/v1/blobs/sweep"

	QueueEnqueue  Method = "/v1/queue/enqueue"
	QueueLease    Method = "/v1/queue/lease"
	QueueWait     Method = "/v1/queue/wait"
	QueueExtend   Method = "/v1/queue/extend"
	QueueComplete Method = "/v1/queue/complete"
	QueueRelease  Method = "/v1/queue/release"
	QueueStatus   Method = "/v1/queue/status"
	QueueResult   Method = "/v1/queue/result"
	QueueCounts   Method = "/v1/queue/counts"
	QueueList     Method = "/v1/queue/list"
	QueueCancel   Method = "/v1/queue/cancel"
	QueueLetters  Method = "/v1/queue/letters"
	QueueLetter   Method = "/v1/queue/letter"
	QueueRequeue  Method = "/v1/queue/requeue"
	QueueDiscard  Method = "/v1/queue/discard"
	QueuePurge    Method = "/v1/queue/purge"

	BucketsGet    Method = "/v1/buckets/get"
	BucketsPut    Method = "/v1/buckets/put"
	BucketsDelete Method = "/v1/buckets/delete"
	BucketsList   Method = "/v1/buckets/list"
	BucketsUsage  Method = "/v1/buckets/usage"
	BucketsNames  Method = "/v1/buckets/names"
	BucketsDrop   Method = "/v1/buckets/drop"

	// Join gives a certificate to who has a token, and Renew another one to who has one.
	Join  Method = "/v1/join"
	Renew Method = "/v1/renew"
)

// Call is what a method is given: the fields that are named as its arguments are.
type Call struct {
	Key     string // of a record or an item
	Range   broker.Range
	Commit  broker.Commit
	From    broker.Revision
	Names   []string // of leases
	Holds   []broker.Hold
	Digest  broker.Digest
	Digests []broker.Digest // that a sweep may take
	Grace   time.Duration
	Job     broker.Job
	ID      broker.InvocationID
	Batch   broker.Batch
	Want    broker.Want
	Leases  []broker.Lease
	Result  broker.Result
	Return  broker.Return
	Jobs    []broker.Job
	Bucket  string
	Value   []byte
	Expect  *uint64
	Quota   int64
	Token   string // to join with
	Request []byte // for a certificate, in DER
}

func describeCall(c *coder, m *Call) {
	text(c, 1, &m.Key)
	nested(c, 2, &m.Range, describeRange)
	nested(c, 3, &m.Commit, describeCommit)
	nested(c, 4, &m.From, describeRevision)
	texts(c, 5, broker.MaxRenewals+1, &m.Names)
	list(c, 6, broker.MaxRenewals+1, &m.Holds, describeHold)
	text(c, 7, &m.Digest)
	texts(c, 8, MaxElements, &m.Digests)
	signed(c, 9, &m.Grace)
	nested(c, 10, &m.Job, describeJob)
	text(c, 11, &m.ID)
	nested(c, 12, &m.Batch, describeBatch)
	nested(c, 13, &m.Want, describeWant)
	list(c, 14, broker.MaxBatch+1, &m.Leases, describeLease)
	nested(c, 15, &m.Result, describeResult)
	nested(c, 16, &m.Return, describeReturn)
	list(c, 17, broker.MaxLeaseJobs+1, &m.Jobs, describeJob)
	text(c, 18, &m.Bucket)
	octets(c, 19, &m.Value)
	optional(c, 20, &m.Expect)
	signed(c, 21, &m.Quota)
	text(c, 22, &m.Token)
	octets(c, 23, &m.Request)
}

// Reply is a part of an answer: the fields that are named as the method's results are.
type Reply struct {
	End        bool  // nothing follows
	Err        error // how the call failed; results may be there all the same
	Revision   broker.Revision
	Records    []broker.Record
	Event      *broker.Event
	Holds      []broker.Hold
	Blobs      []broker.Blob
	Bytes      []byte // of a blob
	Receipts   []broker.Receipt
	Leases     []broker.Lease
	Statuses   []broker.Status
	Result     broker.Result
	Counts     []broker.Counts
	Invocation broker.Invocation
	Items      []broker.Item
	Version    uint64
	Usage      broker.Usage
	Names      []string
	Chain      [][]byte // a certificate and those it was signed by, in DER
	Next       string   // from where to go on
}

func describeReply(c *coder, m *Reply) {
	flag(c, 1, &m.End)
	failure(c, 2, &m.Err)
	nested(c, 3, &m.Revision, describeRevision)
	list(c, 4, MaxElements, &m.Records, describeRecord)
	pointer(c, 5, &m.Event, describeEvent)
	list(c, 6, broker.MaxRenewals, &m.Holds, describeHold)
	list(c, 7, MaxElements, &m.Blobs, describeBlob)
	octets(c, 8, &m.Bytes)
	list(c, 9, broker.MaxBatch, &m.Receipts, describeReceipt)
	list(c, 10, broker.MaxBatch, &m.Leases, describeLease)
	list(c, 11, broker.MaxBatch, &m.Statuses, describeStatus)
	nested(c, 12, &m.Result, describeResult)
	list(c, 13, broker.MaxLeaseJobs, &m.Counts, describeCounts)
	nested(c, 14, &m.Invocation, describeInvocation)
	list(c, 15, MaxElements, &m.Items, describeItem)
	unsigned(c, 16, &m.Version)
	nested(c, 17, &m.Usage, describeUsage)
	texts(c, 18, MaxElements, &m.Names)
	pieces(c, 19, 8, &m.Chain)
	text(c, 20, &m.Next)
}

// pieces is byte strings, at most so many.
func pieces(c *coder, field uint64, most int, bs *[][]byte) {
	var ss []string
	for _, b := range *bs {
		ss = append(ss, string(b))
	}
	before := len(ss)
	if texts(c, field, most, &ss); len(ss) > before {
		*bs = append(*bs, c.bytes)
	}
}

// Marshal writes a call.
func (m *Call) Marshal() []byte { return marshal(m, describeCall) }

// UnmarshalCall reads a call. It fails with broker.ErrInvalid or broker.ErrTooLarge.
func UnmarshalCall(b []byte) (*Call, error) {
	m := new(Call)
	return m, unmarshal(b, m, 0, describeCall)
}

// UnmarshalReply reads a reply. It fails with broker.ErrInvalid or broker.ErrTooLarge.
func UnmarshalReply(b []byte) (*Reply, error) {
	m := new(Reply)
	return m, unmarshal(b, m, 0, describeReply)
}
