package sdk

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"time"
	"unsafe"
)

// The functions of ABI.md. A string passes as its address and length.

//go:wasmimport ripstop_task_1 log
func hostLog(level uint32, text unsafe.Pointer, textLen uint32) uint32

//go:wasmimport ripstop_task_1 config_get
func hostConfigGet(name unsafe.Pointer, nameLen uint32, value unsafe.Pointer, valueCap uint32, size unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 secret_get
func hostSecretGet(name unsafe.Pointer, nameLen uint32, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 kv_get
func hostKVGet(bucket unsafe.Pointer, bucketLen uint32, key unsafe.Pointer, keyLen uint32, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 kv_put
func hostKVPut(bucket unsafe.Pointer, bucketLen uint32, key unsafe.Pointer, keyLen uint32, value unsafe.Pointer, valueLen uint32, expect uint64, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 kv_delete
func hostKVDelete(bucket unsafe.Pointer, bucketLen uint32, key unsafe.Pointer, keyLen uint32, expect uint64, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 kv_list
func hostKVList(bucket unsafe.Pointer, bucketLen uint32, prefix unsafe.Pointer, prefixLen uint32, after unsafe.Pointer, afterLen uint32, limit uint32, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 fetch
func hostFetch(method unsafe.Pointer, methodLen uint32, url unsafe.Pointer, urlLen uint32, header unsafe.Pointer, headerLen uint32, length uint64, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 invoke
func hostInvoke(job unsafe.Pointer, jobLen uint32, method unsafe.Pointer, methodLen uint32, target unsafe.Pointer, targetLen uint32, header unsafe.Pointer, headerLen uint32, length uint64, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 enqueue
func hostEnqueue(job unsafe.Pointer, jobLen uint32, method unsafe.Pointer, methodLen uint32, target unsafe.Pointer, targetLen uint32, header unsafe.Pointer, headerLen uint32, body unsafe.Pointer, bodyLen uint32, key unsafe.Pointer, keyLen uint32, order unsafe.Pointer, orderLen uint32, callback unsafe.Pointer, callbackLen uint32, priority uint32, delay, deadline uint64, fd unsafe.Pointer) uint32

//go:wasmimport ripstop_task_1 metric
func hostMetric(kind uint32, name unsafe.Pointer, nameLen uint32, value unsafe.Pointer, valueLen uint32) uint32

//go:wasmimport ripstop_task_1 respond
func hostRespond(head unsafe.Pointer, headLen uint32, fd unsafe.Pointer) uint32

//go:wasmimport wasi_snapshot_preview1 sock_shutdown
func wasiSockShutdown(fd, how uint32) uint32

// buffer is where the host writes requests. Go does not move package variables.
var buffer [256 << 10]byte

// response keeps what ripstop_handle returned until the host has read it.
var response []byte

//go:wasmexport ripstop_buffer
func exportBuffer() uint64 {
	warm()
	if handler != nil { // without one the first request will say so
		if err := rehearse(handler, rehearsals); err != nil {
			panic(fmt.Sprintf("sdk: %v", err))
		}
	}
	return uint64(uintptr(unsafe.Pointer(&buffer[0])))<<32 | uint64(len(buffer))
}

//go:wasmexport ripstop_wants
func exportWants() uint32 { return wants() }

//go:wasmexport ripstop_returned
func exportReturned() { afterReturn() }

//go:wasmexport ripstop_handle
func exportHandle(n uint32) uint64 {
	if handler == nil {
		panic("sdk: there is no handler: call sdk.Handle in an init function")
	}
	b, err := serve(handler, buffer[:n], sandbox{})
	if err != nil {
		panic(fmt.Sprintf("sdk: %v", err))
	}
	if response = b; b == nil {
		return 0
	}
	return uint64(uintptr(unsafe.Pointer(&b[0])))<<32 | uint64(len(b))
}

func init() { http.DefaultTransport = Transport{} }

func ptr[S string | []byte](s S) (unsafe.Pointer, uint32) {
	switch s := any(s).(type) {
	case string:
		return unsafe.Pointer(unsafe.StringData(s)), uint32(len(s))
	case []byte:
		return unsafe.Pointer(unsafe.SliceData(s)), uint32(len(s))
	}
	return nil, 0
}

func check(e uint32) error {
	if e != 0 {
		return Errno(e)
	}
	return nil
}

// sandbox is the host beyond this sandbox.
type sandbox struct{}

func (sandbox) open(fd uint32) io.ReadWriteCloser { return newDescriptor(fd) }

func (sandbox) respond(head []byte) (io.WriteCloser, error) {
	var fd uint32
	p, n := ptr(head)
	if err := check(hostRespond(p, n, unsafe.Pointer(&fd))); err != nil {
		return nil, fmt.Errorf("start the response: %w", err)
	}
	runtime.KeepAlive(head)
	return newDescriptor(fd), nil
}

// descriptor is a non-blocking descriptor of the host's, waited on by Go's poller.
type descriptor struct {
	*os.File
	fd uint32
}

func newDescriptor(fd uint32) *descriptor {
	return &descriptor{os.NewFile(uintptr(fd), "host"), fd}
}

func (d *descriptor) interrupt()      { _ = d.SetDeadline(time.Unix(1, 0)) }
func (d *descriptor) shutdown() error { return check(wasiSockShutdown(d.fd, 2)) }

func opened(e, fd uint32) (stream, error) {
	if e != 0 {
		return nil, Errno(e)
	}
	return newDescriptor(fd), nil
}

func logText(level uint32, text []byte) error {
	p, n := ptr(text)
	defer runtime.KeepAlive(text)
	return check(hostLog(level, p, n))
}

func configGet(name string, buf []byte) (int, error) {
	var size uint32
	p, n := ptr(name)
	v, room := ptr(buf)
	err := check(hostConfigGet(p, n, v, room, unsafe.Pointer(&size)))
	runtime.KeepAlive(buf)
	return int(size), err
}

func secretGet(name string) (stream, error) {
	var fd uint32
	p, n := ptr(name)
	e := hostSecretGet(p, n, unsafe.Pointer(&fd))
	return opened(e, fd)
}

func kvGet(bucket, key string) (stream, error) {
	var fd uint32
	b, bn := ptr(bucket)
	k, kn := ptr(key)
	e := hostKVGet(b, bn, k, kn, unsafe.Pointer(&fd))
	return opened(e, fd)
}

func kvPut(bucket, key string, value []byte, expect uint64) (stream, error) {
	var fd uint32
	b, bn := ptr(bucket)
	k, kn := ptr(key)
	v, vn := ptr(value)
	e := hostKVPut(b, bn, k, kn, v, vn, expect, unsafe.Pointer(&fd))
	runtime.KeepAlive(value)
	return opened(e, fd)
}

func kvDelete(bucket, key string, expect uint64) (stream, error) {
	var fd uint32
	b, bn := ptr(bucket)
	k, kn := ptr(key)
	e := hostKVDelete(b, bn, k, kn, expect, unsafe.Pointer(&fd))
	return opened(e, fd)
}

func kvList(bucket, prefix, after string, limit uint32) (stream, error) {
	var fd uint32
	b, bn := ptr(bucket)
	p, pn := ptr(prefix)
	a, an := ptr(after)
	e := hostKVList(b, bn, p, pn, a, an, limit, unsafe.Pointer(&fd))
	return opened(e, fd)
}

func fetch(method, url string, header []byte, length uint64) (stream, error) {
	var fd uint32
	m, mn := ptr(method)
	u, un := ptr(url)
	h, hn := ptr(header)
	e := hostFetch(m, mn, u, un, h, hn, length, unsafe.Pointer(&fd))
	runtime.KeepAlive(header)
	return opened(e, fd)
}

func invoke(job, method, target string, header []byte, length uint64) (stream, error) {
	var fd uint32
	j, jn := ptr(job)
	m, mn := ptr(method)
	t, tn := ptr(target)
	h, hn := ptr(header)
	e := hostInvoke(j, jn, m, mn, t, tn, h, hn, length, unsafe.Pointer(&fd))
	runtime.KeepAlive(header)
	return opened(e, fd)
}

func enqueue(q *queued) (stream, error) {
	var fd uint32
	j, jn := ptr(q.job)
	m, mn := ptr(q.method)
	t, tn := ptr(q.target)
	h, hn := ptr(q.header)
	b, bn := ptr(q.body)
	k, kn := ptr(q.Key)
	o, on := ptr(q.Order)
	c, cn := ptr(q.Callback)
	e := hostEnqueue(j, jn, m, mn, t, tn, h, hn, b, bn, k, kn, o, on, c, cn, uint32(q.Priority), uint64(q.Delay), uint64(q.Deadline), unsafe.Pointer(&fd))
	runtime.KeepAlive(q)
	return opened(e, fd)
}

func metric(kind uint32, name, value string) error {
	p, n := ptr(name)
	v, vn := ptr(value)
	return check(hostMetric(kind, p, n, v, vn))
}
