package runtime_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/trace"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

const (
	scriptCalls  = 8        // host calls of one script
	scriptCall   = 4 + 8*20 // function number, parameters
	scriptSize   = scriptCalls * scriptCall
	scriptAt     = 1 << 16 // the guest's buffer
	scriptMemory = 4096
	scriptPages  = 16
)

// playsScripts is a task that makes the host calls its request's last bytes ask for, whatever they are. The whole request is
// in its memory, so that pointers may lead into it.
func playsScripts(table *hostcall.Table) []byte {
	m := wasmtest.Module{Memory: []uint32{8}}
	i32, i64 := byte(wasmtest.I32), byte(wasmtest.I64)
	funcs := table.Funcs()
	for _, f := range funcs {
		m.Imports = append(m.Imports, wasmtest.Import{Module: f.Module, Name: f.Name, Type: wasmType(f)})
	}
	// play(at): a block for each function around one jump table.
	body := wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.Load(0), []byte{0x0e}, wasmtest.U32(uint32(len(funcs))))
	for i := range funcs {
		body = append(body, wasmtest.U32(uint32(i))...)
	}
	body = append(body, wasmtest.U32(uint32(len(funcs)))...) // none of them
	body = wasmtest.Block(body)
	for i, f := range funcs {
		for p, t := range f.Params {
			op := byte(0x28) // i32.load
			if t == hostcall.I64 {
				op = 0x29
			}
			body = wasmtest.Cat(body, wasmtest.LocalGet(0), []byte{op, 0}, wasmtest.U32(uint32(4+8*p)))
		}
		body = append(body, wasmtest.Call(uint32(i))...)
		for range f.Results {
			body = append(body, wasmtest.Drop)
		}
		body = append(body, wasmtest.Return)
		if i < len(funcs)-1 {
			body = wasmtest.Block(body)
		}
	}
	body = wasmtest.Block(body)
	play := uint32(len(m.Imports))
	m.Funcs = append(m.Funcs, wasmtest.Func{Name: "play", Type: wasmtest.Type{Params: []byte{i32}}, Body: body})
	// The memory that the script wants comes to address 0.
	handle := wasmtest.Cat(wasmtest.I32Const(0), wasmtest.LocalGet(0), wasmtest.I32Const(scriptAt-scriptSize-scriptMemory), []byte{wasmtest.I32Add},
		wasmtest.I32Const(scriptMemory), []byte{0xfc, 0x0a, 0, 0})
	for n := range int32(scriptCalls) {
		handle = wasmtest.Cat(handle, wasmtest.LocalGet(0), wasmtest.I32Const(scriptAt-scriptSize+n*scriptCall), []byte{wasmtest.I32Add}, wasmtest.Call(play))
	}
	m.Funcs = append(m.Funcs,
		wasmtest.Func{Name: "handle", Export: guest.TaskHandle, Type: wasmtest.Type{Params: []byte{i32}, Results: []byte{i64}},
			Body: append(handle, wasmtest.I64Const(0)...)},
		wasmtest.Func{Name: "buffer", Export: guest.TaskBuffer, Type: wasmtest.Type{Results: []byte{i64}},
			Body: wasmtest.I64Const(scriptAt<<32 | 64<<10)})
	return m.Bytes()
}

// canned is a world that answers everything at once.
type canned struct{}

func (canned) respond() (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"A": {"b"}}, Body: io.NopCloser(strings.NewReader("body"))}, nil
}
func (c canned) Fetch(context.Context, *http.Request) (*http.Response, error) { return c.respond() }
func (c canned) Invoke(context.Context, string, *http.Request) (*http.Response, error) {
	return c.respond()
}
func (canned) Enqueue(context.Context, guest.QueuedRequest) (guest.Enqueued, error) {
	return guest.Enqueued{}, nil
}
func (canned) KVGet(context.Context, string, string) ([]byte, uint64, error) {
	return []byte("value"), 1, nil
}
func (canned) KVPut(context.Context, string, string, []byte, *uint64) (uint64, error) { return 2, nil }
func (canned) KVDelete(context.Context, string, string, *uint64) error                { return nil }
func (canned) KVList(context.Context, string, string, string, int) ([]guest.KVItem, error) {
	return []guest.KVItem{{Key: "k", Version: 1}}, nil
}
func (canned) Config(string) (string, bool)                    { return "setting", true }
func (canned) Secret(context.Context, string) ([]byte, error)  { return []byte("secret"), nil }
func (canned) Log(context.Context, guest.Line)                 {}
func (canned) Metric(context.Context, string, string, float64) {}

// call encodes one call of a script.
func call(table *hostcall.Table, name string, params ...uint64) []byte {
	b := make([]byte, scriptCall)
	binary.LittleEndian.PutUint32(b, ^uint32(0))
	for n, f := range table.Funcs() {
		if f.String() == name {
			binary.LittleEndian.PutUint32(b, uint32(n))
		}
	}
	for i, p := range params {
		binary.LittleEndian.PutUint64(b[4+8*i:], p)
	}
	return b
}

// FuzzHostCalls: a guest that calls any host function with any arguments, on any memory, gets an answer. The host does not
// panic, does not wait past the deadline, and does not grow.
func FuzzHostCalls(f *testing.F) {
	ctx := context.Background()
	rt, err := runtime.Open(ctx, onTestEngine(runtime.Options{Libraries: guest.Libraries()}))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { rt.Close() })
	m, err := rt.Compile(ctx, playsScripts(rt.Table()))
	if err != nil {
		f.Fatal(err)
	}
	grants, err := policy.Grant(policy.Capabilities{
		Files: []policy.File{{Guest: "/rw", Source: "v", Access: "rw"}}, Env: map[string]string{"A": "b"}, KV: []string{"a"}, Invoke: []string{"a"},
		Secrets: []string{"a"}, Fetch: []policy.Fetch{{Scheme: "http", Host: "a"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	rules, err := policy.Compile([]policy.Rule{{On: policy.OneOrMany{"path_open"}, When: `call.path.startsWith("/rw/private")`, Do: "deny"}}, rt.Table())
	if err != nil {
		f.Fatal(err)
	}
	prog, err := guest.New(guest.Options{
		Module: m, Grants: grants, Source: guest.Volumes(map[string]string{"v": f.TempDir()}), MemoryPages: scriptPages, Services: canned{},
		Interposers: []hostcall.Interposer{rules},
		Outermost: func() []hostcall.Interposer {
			return []hostcall.Interposer{trace.New(trace.NewRing(64), trace.Options{})}
		},
	})
	if err != nil {
		f.Fatal(err)
	}

	table := rt.Table()
	for _, fn := range table.Funcs() {
		for _, p := range []uint64{0, 1, 3, 64, 1<<32 - 1, 1 << 63} {
			params := make([]uint64, len(fn.Params))
			for i := range params {
				params[i] = p
			}
			f.Add([]byte(word), call(table, fn.String(), params...))
		}
	}
	w := wasi.Module
	// Open a file, write to it, seek, list the directory, rename.
	memory := make([]byte, 1024)
	copy(memory[64:], "file")
	copy(memory[256:], []byte{64, 0, 0, 0, 4, 0, 0, 0}) // a vector
	f.Add(memory, bytes.Join([][]byte{
		call(table, w+".path_open", 3, 0, 64, 4, 1, 1<<29-1, 1<<29-1, 0, 128), call(table, w+".fd_write", 4, 256, 1, 512), call(table, w+".fd_seek", 4, 1<<40, 0, 512),
		call(table, w+".fd_readdir", 3, 1024, 512, 0, 512), call(table, w+".path_rename", 3, 64, 4, 3, 64, 3),
		call(table, w+".fd_renumber", 4, 3), call(table, w+".fd_allocate", 3, 0, 1<<62),
	}, nil))
	f.Add(make([]byte, 96), call(table, w+".poll_oneoff", 0, 512, 2, 256))

	f.Fuzz(func(t *testing.T, memory, script []byte) {
		body := make([]byte, scriptMemory+scriptSize)
		copy(body[:scriptMemory], memory)
		for n := range scriptCalls { // calls that the script leaves out are of no function
			binary.LittleEndian.PutUint32(body[scriptMemory+n*scriptCall:], ^uint32(0))
		}
		copy(body[scriptMemory:], script)
		s, err := prog.NewSandbox(ctx)
		if err != nil {
			t.Fatalf("sandbox: %v", err)
		}
		defer s.Close()
		var before, after goruntime.MemStats
		goruntime.ReadMemStats(&before)
		limit, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		began := clock.System.Now()
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body)).WithContext(limit)
		_, err = s.Serve(limit, httptest.NewRecorder(), r, guest.ServeInfo{})
		if errors.Is(err, hostcall.ErrHost) {
			t.Fatal(err)
		}
		if took := clock.System.Now().Sub(began); took > 10*time.Second {
			t.Fatalf("took %s", took)
		}
		// Memory of 1 MiB may be filled by each call, copied, and traced.
		if goruntime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 64<<20 {
			t.Fatalf("%d MiB were allocated", (after.TotalAlloc-before.TotalAlloc)>>20)
		}
	})
}
