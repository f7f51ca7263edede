package sdk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// MaxQueuedBody bounds the body of a request that is enqueued, in bytes.
const MaxQueuedBody = 960 << 10

// EnqueueOptions says how a request is queued. The zero value is ready to use. How often it is tried and how long its result is kept is for
// the manifest of the job that answers it.
type EnqueueOptions struct {
	// Key is an idempotency key, at most 192 bytes of UTF-8. While an invocation that this job enqueued with a key is known, enqueueing with that
	// key again changes nothing. An invocation may run more than once, so what it enqueues wants a key made from its own id (Invocation).
	Key string
	// Order, at most 192 bytes of UTF-8: of the invocations of a job with one Order, each starts after the one before has ended.
	Order    string
	Priority int           // 0 to 9; higher ones are run first
	Delay    time.Duration // it is not run sooner; at most 30 days
	Deadline time.Duration // from now; it is given up then, also while it runs. 0: none
	// Callback is an http or https URL that is told of the end, as a CloudEvent. The manifests of both jobs have to let them fetch from it.
	Callback string
}

// Queued is an invocation in a queue.
type Queued struct {
	ID    string
	Known bool // one with the same Key was there before, and stays as it was
}

// queued is a request as the host takes it.
type queued struct {
	job, method, target string
	header, body        []byte
	EnqueueOptions
}

var errNegative = errors.New("a negative duration or priority")

// Enqueue queues a request for a job, which this job's manifest has to name (capabilities.enqueue), and returns once it is durable: it will run, even if
// this invocation fails. Of its URL only path and query count; its body is read first, and has at most MaxQueuedBody bytes. Nobody waits
// for the answer; it is kept as the invocation's result.
//
// It fails with ErrBusy if the job's queue is full, with ErrQuota if this invocation has enqueued as many as it may (a thousand, and less for one
// that was enqueued or invoked by a guest itself), and with ErrLoop if too many jobs led to each other. After ErrIO, or the end of the request's
// context, it may be queued all the same: try again with the same Key.
func Enqueue(job string, r *http.Request, o EnqueueOptions) (Queued, error) {
	got, err := enqueueRequest(r.Context(), job, r, o)
	if err != nil {
		return Queued{}, opError("enqueue", job, err)
	}
	return got, nil
}

func enqueueRequest(ctx context.Context, job string, r *http.Request, o EnqueueOptions) (Queued, error) {
	q := queued{job: job, method: method(r), target: r.URL.RequestURI(), EnqueueOptions: o}
	if r.Body != nil {
		var b bytes.Buffer
		n, err := io.Copy(&b, io.LimitReader(r.Body, MaxQueuedBody+1))
		_ = r.Body.Close() // it was read as far as it is wanted
		switch {
		case err != nil:
			return Queued{}, err
		case n > MaxQueuedBody:
			return Queued{}, ErrTooLong
		}
		q.body = b.Bytes()
	}
	switch {
	case o.Priority < 0 || o.Delay < 0 || o.Deadline < 0:
		return Queued{}, errNegative
	case ctx.Err() != nil:
		return Queued{}, ctx.Err()
	}
	q.header = appendHeader(nil, r.Header)
	f, err := enqueue(&q)
	if err != nil {
		return Queued{}, err
	}
	fields, _, err := long(ctx, f, 0)
	if err != nil {
		return Queued{}, err
	}
	return decodeQueued(fields)
}

// decodeQueued reads the fields of an enqueue's answer.
func decodeQueued(fields []byte) (Queued, error) {
	r := reader{s: string(fields)}
	q := Queued{ID: r.string(), Known: r.uint32() != 0}
	if r.bad {
		return Queued{}, errMessage
	}
	return q, nil
}
