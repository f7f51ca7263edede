package sdk

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"strconv"
)

// long reads the answer of a long call whose descriptor is f: its fields and its payload.
func long(ctx context.Context, f stream, most int64) (fields, payload []byte, err error) {
	defer func() { _ = f.Close() }() // nothing was written that a failed close could lose
	stop := context.AfterFunc(ctx, f.interrupt)
	defer stop()
	fields, err = readAnswer(f)
	if err == nil {
		payload, err = io.ReadAll(io.LimitReader(f, most))
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return fields, payload, err
}

// Config reads a setting of the job. There are none while the sandbox starts: what it begins as does not depend on them. AfterReturn can
// read them.
func Config(name string) (value string, ok bool) {
	for room := 256; ; {
		buf := make([]byte, room)
		n, err := configGet(name, buf)
		switch {
		case err == nil:
			return string(buf[:min(n, len(buf))]), true
		case err == errNoBuffer && n > room && n <= 1<<20:
			room = n
		default:
			return "", false
		}
	}
}

// Secret reads a secret of the job, which its manifest has to grant. Secrets can be read while a request is served.
func Secret(ctx context.Context, name string) ([]byte, error) {
	f, err := secretGet(name)
	if err != nil {
		return nil, opError("secret", name, err)
	}
	_, v, err := long(ctx, f, 1<<20)
	if err != nil {
		return nil, opError("secret", name, err)
	}
	return v, nil
}

// Bucket is a bucket of keys and values that outlive the sandbox. See KV.
type Bucket struct{ name string }

// KV names a bucket, which the job's manifest has to grant. Keys are UTF-8 of 1 to 1024 bytes, values at most 1 MiB.
func KV(bucket string) Bucket { return Bucket{bucket} }

// Item is a key in a bucket.
type Item struct {
	Key     string
	Version uint64 // changes with every put; never 0
	Size    uint64 // of the value, in bytes
}

const anyVersion = ^uint64(0)

// Get reads a key: ErrNotFound if there is none.
func (b Bucket) Get(ctx context.Context, key string) (value []byte, version uint64, err error) {
	f, err := kvGet(b.name, key)
	if err == nil {
		var fields []byte
		if fields, value, err = long(ctx, f, 1<<30); err == nil {
			version, err = decodeVersion(fields)
		}
	}
	if err != nil {
		return nil, 0, opError("kv get", b.name+"/"+key, err)
	}
	return value, version, nil
}

func decodeVersion(fields []byte) (uint64, error) {
	if len(fields) < 8 {
		return 0, errMessage
	}
	return binary.LittleEndian.Uint64(fields), nil
}

// Put writes a key and answers its new version.
func (b Bucket) Put(ctx context.Context, key string, value []byte) (version uint64, err error) {
	return b.put(ctx, key, value, anyVersion)
}

// PutIf writes a key if its version is expect, 0 meaning that there is no such key: else ErrVersion, and nothing changes.
func (b Bucket) PutIf(ctx context.Context, key string, value []byte, expect uint64) (version uint64, err error) {
	return b.put(ctx, key, value, expect)
}

func (b Bucket) put(ctx context.Context, key string, value []byte, expect uint64) (version uint64, err error) {
	f, err := kvPut(b.name, key, value, expect)
	if err == nil {
		var fields []byte
		if fields, _, err = long(ctx, f, 0); err == nil {
			version, err = decodeVersion(fields)
		}
	}
	if err != nil {
		return 0, opError("kv put", b.name+"/"+key, err)
	}
	return version, nil
}

// Delete removes a key. It is no error if there is none.
func (b Bucket) Delete(ctx context.Context, key string) error { return b.remove(ctx, key, anyVersion) }

// DeleteIf removes a key if its version is expect: else ErrVersion, and nothing changes.
func (b Bucket) DeleteIf(ctx context.Context, key string, expect uint64) error {
	return b.remove(ctx, key, expect)
}

func (b Bucket) remove(ctx context.Context, key string, expect uint64) error {
	f, err := kvDelete(b.name, key, expect)
	if err == nil {
		_, _, err = long(ctx, f, 0)
	}
	if err != nil {
		return opError("kv delete", b.name+"/"+key, err)
	}
	return nil
}

// List lists up to limit keys (1 to 1000) that begin with prefix and come after after, in the order of their bytes.
func (b Bucket) List(ctx context.Context, prefix, after string, limit int) ([]Item, error) {
	var items []Item
	f, err := kvList(b.name, prefix, after, uint32(max(limit, 0)))
	if err == nil {
		var payload []byte
		if _, payload, err = long(ctx, f, maxAnswer); err == nil {
			items, err = decodeItems(payload)
		}
	}
	if err != nil {
		return nil, opError("kv list", b.name, err)
	}
	return items, nil
}

// Count adds to a counter of the job; value is not negative.
func Count(name string, value float64) error { return measure(0, name, value) }

// Gauge sets a gauge of the job.
func Gauge(name string, value float64) error { return measure(1, name, value) }

// Record adds a measurement to a histogram of the job.
func Record(name string, value float64) error { return measure(2, name, value) }

func measure(kind uint32, name string, value float64) error {
	if err := metric(kind, name, strconv.FormatFloat(value, 'g', -1, 64)); err != nil {
		return opError("metric", name, err)
	}
	return nil
}

// An OpError says which call failed, about what, and why.
type OpError struct {
	Op   string // "kv get", "fetch", …
	Name string
	Err  error // an Errno, a context's error, or what went wrong with the descriptor
}

func (e *OpError) Error() string { return e.Op + " " + e.Name + ": " + e.Err.Error() }

// Unwrap is the reason.
func (e *OpError) Unwrap() error { return e.Err }

func opError(op, name string, err error) error { return &OpError{op, name, err} }

// stream is a descriptor of a long call.
type stream interface {
	io.ReadWriteCloser
	interrupt() // has reads and writes that wait fail
	shutdown() error
}

// lines cuts text at its line ends so that each piece is at most most bytes.
func lines(p []byte, most int) (piece, rest []byte) {
	if len(p) <= most {
		return p, nil
	}
	if i := bytes.LastIndexByte(p[:most], '\n'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return p[:most], p[most:]
}
