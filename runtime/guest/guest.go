package guest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// Kind is how a module wants to be given requests.
type Kind string

// The kinds of guests.
const (
	Command Kind = "command" // a WASI program: _start, CGI
	Task    Kind = "task"    // a module built for the task ABI: TaskHandle
)

// The exports by which a task is known (sdk/ABI.md).
const (
	TaskBuffer     = "ripstop_buffer"
	TaskHandle     = "ripstop_handle"
	TaskInitialize = "_initialize"
	TaskWants      = "ripstop_wants"
	TaskReturned   = "ripstop_returned"
	CommandStart   = "_start"
)

// KindOf reads the kind off what a module exports. The error says what is missing and what to build instead.
func KindOf(info *module.Module) (Kind, error) {
	has := func(name string, params, results []hostcall.ValueType) (present, right bool) {
		e, ok := info.Export(name)
		if !ok || e.Kind != module.ExternFunc {
			return false, false
		}
		return true, equal(e.Type.Params, params) && equal(e.Type.Results, results)
	}
	i32, i64 := hostcall.I32, hostcall.I64
	handle, handleOK := has(TaskHandle, []hostcall.ValueType{i32}, []hostcall.ValueType{i64})
	buffer, bufferOK := has(TaskBuffer, nil, []hostcall.ValueType{i64})
	start, startOK := has(CommandStart, nil, nil)
	switch {
	case handle || buffer:
		switch {
		case !handle:
			return "", fmt.Errorf("the module exports %s but not %s: a task needs both", TaskBuffer, TaskHandle)
		case !buffer:
			return "", fmt.Errorf("the module exports %s but not %s: a task needs both", TaskHandle, TaskBuffer)
		case !handleOK:
			return "", fmt.Errorf("the export %s has the wrong type: it takes an i32 and gives an i64", TaskHandle)
		case !bufferOK:
			return "", fmt.Errorf("the export %s has the wrong type: it takes nothing and gives an i64", TaskBuffer)
		case start:
			return "", fmt.Errorf("the module exports both %s and %s: it is either a task or a command", TaskHandle, CommandStart)
		}
		if wants, ok := has(TaskWants, nil, []hostcall.ValueType{i32}); wants && !ok {
			return "", fmt.Errorf("the export %s has the wrong type: it takes nothing and gives an i32", TaskWants)
		}
		if returned, ok := has(TaskReturned, nil, nil); returned && !ok {
			return "", fmt.Errorf("the export %s has the wrong type: it takes nothing and gives nothing", TaskReturned)
		}
		if !hasMemory(info) {
			return "", errors.New("the module exports no memory: a task needs one named \"memory\"")
		}
		return Task, nil
	case start && !startOK:
		return "", fmt.Errorf("the export %s has the wrong type: it takes nothing and gives nothing", CommandStart)
	case start:
		return Command, nil
	}
	if _, ok := info.Export(TaskInitialize); ok {
		return "", fmt.Errorf("the module is a reactor without %s: import github.com/ripstop-vm/ripstop/sdk and give it a handler in an init function", TaskHandle)
	}
	return "", fmt.Errorf("the module exports neither %s nor %s: build a WASI program (GOOS=wasip1 GOARCH=wasm go build) or a task (the same with -buildmode=c-shared and the SDK)", CommandStart, TaskHandle)
}

func hasMemory(info *module.Module) bool {
	e, ok := info.Export("memory")
	return ok && e.Kind == module.ExternMemory
}

func equal(a, b []hostcall.ValueType) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// A BadResponseError reports that a guest broke the rules of its kind: a pointer outside its memory, an encoding that
// cannot be read, CGI output with an impossible status. The host is healthy, and the guest's author has to act.
type BadResponseError struct {
	What string // what is wrong, in a sentence's half
}

func (e *BadResponseError) Error() string { return "bad response: " + e.What }

// ErrUsed reports that a sandbox cannot serve any more: it is closed, a command that has run, or a guest that failed.
var ErrUsed = errors.New("the sandbox cannot serve again")

// ServeInfo is what a guest learns of a request beside the request itself.
type ServeInfo struct {
	ScriptName string    // the part of the path that led to the job ("/hello"), without a slash at its end; the guest sees the rest as its path
	Scheme     string    // "http" or "https", as the client used it; empty means "http"
	RemoteAddr string    // the client's address, host:port; empty means the request's own
	Invocation string    // id of the invocation
	Deadline   time.Time // when the invocation will be ended; the guest learns how much time is left; zero means it does not
}

// Result is what is known of a request that was served, whether or not it went well.
type Result struct {
	// HeadSent says that a status went to the client, so that an error page cannot be sent any more.
	HeadSent   bool
	Status     int           // sent to the client; 0 if none was
	Response   uint64        // bytes of body handed to the client
	LogBytes   uint64        // log text of the invocation that was kept
	LogDropped uint64        // log text over the bound, in bytes
	HostCalls  uint64        // made during the invocation
	CPU        time.Duration // with a turn at the processor; 0 without Options.Share
	Waited     time.Duration // for turns
	// Reusable says that the sandbox may serve another request.
	Reusable bool
}

// Line is a piece of a guest's log.
type Line struct {
	Stream string // "stdout", "stderr" or "log" (the log call)
	Level  string // "debug", "info", "warn" or "error"
	Text   string // one line, without its end; at most MaxLine bytes, as the guest wrote it: escape it for terminals
}

// KVItem is a key in a bucket.
type KVItem struct {
	Key     string
	Version uint64 // changes with every put; never 0
	Size    uint64 // of the value, in bytes
}

// QueuedRequest is a request that a guest has queued. Key and Order are UTF-8.
type QueuedRequest struct {
	Job             string // which has to answer it
	Method, Target  string // the target is a path with a query
	Header          http.Header
	Body            []byte
	Key             string        // idempotency key; empty: none
	Order           string        // of those with one Order, each starts after the one before has ended; empty: none
	Callback        string        // URL that is told of the end; empty: none
	Priority        int           // 0 to 9
	Delay, Deadline time.Duration // from now; a Deadline of 0: none
	// Nth is how many the guest asked for before this one, in the same invocation.
	Nth int
}

// Enqueued says what became of a QueuedRequest.
type Enqueued struct {
	ID    string // of the invocation
	Known bool   // one with the same Key was there before, and stays as it was
}

// Services is what the world offers to the guests of a job. Methods are safe for concurrent use. Every context leads to
// the ServeInfo of its invocation (InfoOf) and ends with it; methods return soon after. Errors that wrap a
// hostcall.Errno reach the guest as it (ENOENT no such key, ESTALE the version differs, EDQUOT over a quota,
// ENOTCAPABLE not granted, ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT, …); any other is EIO. Grants have been checked on the
// arguments before a method is called.
type Services interface {
	// Fetch makes one outbound request. It follows no redirects: the guest does. The response's body is closed by the caller.
	Fetch(ctx context.Context, r *http.Request) (*http.Response, error)
	// Invoke sends a request to another job. The response's body is closed by the caller.
	Invoke(ctx context.Context, job string, r *http.Request) (*http.Response, error)
	// Enqueue queues a request for a job, and returns once it is durable: ENOENT if there is no such job, EBUSY if its queue is full,
	// EDQUOT if the invocation asked for too many, ELOOP if too many led to each other. After these nothing has changed; after EIO it may have.
	Enqueue(ctx context.Context, q QueuedRequest) (Enqueued, error)
	// KVGet reads a key: ENOENT if there is none.
	KVGet(ctx context.Context, bucket, key string) (value []byte, version uint64, err error)
	// KVPut writes a key if its version is *expect (0: it must not exist; nil: whatever it is): ESTALE if it is another.
	KVPut(ctx context.Context, bucket, key string, value []byte, expect *uint64) (version uint64, err error)
	// KVDelete removes a key under the same condition. Removing what is not there is no error without one.
	KVDelete(ctx context.Context, bucket, key string, expect *uint64) error
	// KVList lists up to limit keys that begin with prefix and come after after, in byte order.
	KVList(ctx context.Context, bucket, prefix, after string, limit int) ([]KVItem, error)
	// Config reads a setting of the job. It does not wait.
	Config(name string) (value string, ok bool)
	// Secret reads a secret of the job: ENOENT if there is none.
	Secret(ctx context.Context, name string) ([]byte, error)
	// Log takes a line of the guest's output or log. It does not wait.
	Log(ctx context.Context, line Line)
	// Metric takes a measurement: kind is "counter" (value is added), "gauge" or "histogram". It does not wait.
	Metric(ctx context.Context, kind, name string, value float64)
}

type infoKey struct{}

// InfoOf is the ServeInfo of the invocation that a context belongs to; false outside one, as while a sandbox starts.
func InfoOf(ctx context.Context) (ServeInfo, bool) {
	info, ok := ctx.Value(infoKey{}).(*ServeInfo)
	if !ok {
		return ServeInfo{}, false
	}
	return *info, true
}
