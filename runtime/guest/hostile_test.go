package guest

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// handmade is a task of two pages whose exports return constants.
type handmade struct {
	buffer, answer int64
	handle         []byte // before the answer
	data           []wasmtest.Data
}

// at is an address and a length as the ABI returns them.
func at(ptr, n uint32) int64 { return int64(uint64(ptr)<<32 | uint64(n)) }

var respondImport = wasmtest.Import{Module: TaskModule, Name: "respond", Type: wasmtest.Type{
	Params: []byte{wasmtest.I32, wasmtest.I32, wasmtest.I32}, Results: []byte{wasmtest.I32},
}}

func (h handmade) module() *wasmtest.Module {
	i64 := []byte{wasmtest.I64}
	return &wasmtest.Module{
		Imports: []wasmtest.Import{respondImport}, Memory: []uint32{2}, Data: h.data,
		Funcs: []wasmtest.Func{
			{Export: TaskBuffer, Type: wasmtest.Type{Results: i64}, Body: wasmtest.I64Const(h.buffer)},
			{Export: TaskHandle, Type: wasmtest.Type{Params: []byte{wasmtest.I32}, Results: i64}, Body: wasmtest.Cat(h.handle, wasmtest.I64Const(h.answer))},
		},
	}
}

// respondCall calls respond and traps unless it answers want.
func respondCall(ptr, n, fd int32, want hostcall.Errno) []byte {
	return wasmtest.Cat(wasmtest.I32Const(ptr), wasmtest.I32Const(n), wasmtest.I32Const(fd), []byte{0x10, 0}, wasmtest.I32Const(int32(want)),
		[]byte{0x47, 0x04, 0x40, 0x00, 0x0b}) // i32.ne if unreachable end
}

// compile makes a module with a runtime that ends with the test.
func compile(t *testing.T, wasm []byte) *runtime.Module {
	t.Helper()
	r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	m, err := r.Compile(t.Context(), wasm)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const memorySize = 2 << 16

func TestTasksThatBreakTheRulesAreRefused(t *testing.T) {
	good := at(1024, 8192)
	ok := "\xc8\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi" // 200, no fields, "hi"
	head := ok[:8]
	data := []wasmtest.Data{{Offset: 64, Bytes: []byte(ok)}, {Offset: 128, Bytes: []byte("\xc7\x00\x00\x00\x00\x00\x00\x00")}}
	start := respondCall(64, int32(len(head)), 0, hostcall.Success)
	for name, c := range map[string]struct {
		h    handmade
		want string // of the error; empty: status 200 and "hi"
		body string
	}{
		"a good one":                        {handmade{buffer: good, answer: at(64, uint32(len(ok)))}, "", "hi"},
		"a buffer outside memory":           {handmade{buffer: at(memorySize-4096, 4097)}, "outside the memory", ""},
		"a buffer at the end of addresses":  {handmade{buffer: -1}, "request buffer of 4294967295 bytes", ""},
		"a buffer that is too small":        {handmade{buffer: at(0, 16)}, "request buffer of 16 bytes", ""},
		"no answer":                         {handmade{buffer: good}, "returned no response and started none", ""},
		"an answer outside memory":          {handmade{buffer: good, answer: at(memorySize-1, 2)}, "outside the memory", ""},
		"an answer of all addresses":        {handmade{buffer: good, answer: -1}, "outside the memory", ""},
		"an answer that is none":            {handmade{buffer: good, answer: at(512, 64)}, "status 0", ""},
		"an answer that is cut":             {handmade{buffer: good, answer: at(64, uint32(len(ok)-1))}, "2 bytes, but 1 are left", ""},
		"an answer that is empty":           {handmade{buffer: good, answer: at(64, 0)}, "ends within the status", ""},
		"a response that is only started":   {handmade{buffer: good, handle: start}, "", ""},
		"a response started and returned":   {handmade{buffer: good, handle: start, answer: at(64, uint32(len(ok)))}, "answered twice", ""},
		"a response started twice":          {handmade{buffer: good, handle: wasmtest.Cat(start, respondCall(64, int32(len(head)), 0, hostcall.EALREADY))}, "", ""},
		"a head that cannot be":             {handmade{buffer: good, handle: respondCall(128, 8, 0, hostcall.EINVAL), answer: at(64, uint32(len(ok)))}, "", "hi"},
		"a head with something after it":    {handmade{buffer: good, handle: respondCall(64, 9, 0, hostcall.EINVAL), answer: at(64, uint32(len(ok)))}, "", "hi"},
		"a head outside memory":             {handmade{buffer: good, handle: respondCall(memorySize, 8, 0, hostcall.EFAULT), answer: at(64, uint32(len(ok)))}, "", "hi"},
		"a head over its bound":             {handmade{buffer: good, handle: respondCall(0, MaxHeaderBytes+1, 0, hostcall.EMSGSIZE), answer: at(64, uint32(len(ok)))}, "", "hi"},
		"a place for the descriptor beyond": {handmade{buffer: good, handle: respondCall(64, 8, memorySize-3, hostcall.EFAULT), answer: at(64, uint32(len(ok)))}, "", "hi"},
	} {
		t.Run(name, func(t *testing.T) {
			c.h.data = data
			p, err := New(Options{Module: compile(t, c.h.module().Bytes()), Services: newWorld()})
			if err != nil {
				t.Fatal(err)
			}
			rec := httptest.NewRecorder()
			s, err := p.NewSandbox(t.Context())
			if err == nil {
				defer s.Close()
				var res Result
				res, err = s.Serve(t.Context(), rec, httptest.NewRequest("GET", "/", nil), ServeInfo{})
				if res.Reusable != (err == nil) {
					t.Errorf("%+v after %v", res, err)
				}
			}
			if c.want == "" {
				if err != nil || rec.Code != 200 || rec.Body.String() != c.body {
					t.Errorf("%v, %d %q", err, rec.Code, rec.Body)
				}
				return
			}
			var bad *BadResponseError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestRequestThatDoesNotFitTheBufferIsRefused(t *testing.T) {
	ok := "\xc8\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi"
	h := handmade{buffer: at(1024, minBuffer), answer: at(64, uint32(len(ok))), data: []wasmtest.Data{{Offset: 64, Bytes: []byte(ok)}}}
	p, err := New(Options{Module: compile(t, h.module().Bytes())})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/", strings.NewReader(strings.Repeat("b", minBuffer)))
	if rec, _, err := ask(t, p, r, ServeInfo{}); err != nil || rec.Body.String() != "hi" {
		t.Errorf("a body that does not fit has to stream: %v", err)
	}
	r = httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Long", strings.Repeat("x", minBuffer))
	_, res, err := ask(t, p, r, ServeInfo{})
	var limit *runtime.LimitError
	if !errors.As(err, &limit) || limit.Limit != "request header" || res.HeadSent {
		t.Errorf("%+v %v", res, err)
	}
}

func TestKindIsReadOffTheExports(t *testing.T) {
	i32, i64 := []byte{wasmtest.I32}, []byte{wasmtest.I64}
	fn := func(name string, params, results []byte) wasmtest.Func {
		body := []byte{0x00}
		return wasmtest.Func{Export: name, Type: wasmtest.Type{Params: params, Results: results}, Body: body}
	}
	start, handle, buffer := fn(CommandStart, nil, nil), fn(TaskHandle, i32, i64), fn(TaskBuffer, nil, i64)
	for name, c := range map[string]struct {
		funcs  []wasmtest.Func
		memory []uint32
		want   Kind
		err    string
	}{
		"a command":               {[]wasmtest.Func{start}, []uint32{1}, Command, ""},
		"a task":                  {[]wasmtest.Func{handle, buffer}, []uint32{1}, Task, ""},
		"a task without a buffer": {[]wasmtest.Func{handle}, []uint32{1}, "", "not ripstop_buffer"},
		"a buffer alone":          {[]wasmtest.Func{buffer}, []uint32{1}, "", "not ripstop_handle"},
		"a task without memory":   {[]wasmtest.Func{handle, buffer}, nil, "", "no memory"},
		"both":                    {[]wasmtest.Func{handle, buffer, start}, []uint32{1}, "", "either a task or a command"},
		"a handler of its own":    {[]wasmtest.Func{fn(TaskHandle, i64, i64), buffer}, []uint32{1}, "", "wrong type"},
		"a buffer of its own":     {[]wasmtest.Func{handle, fn(TaskBuffer, nil, i32)}, []uint32{1}, "", "wrong type"},
		"a start of its own":      {[]wasmtest.Func{fn(CommandStart, i32, nil)}, nil, "", "wrong type"},
		"a wish of its own":       {[]wasmtest.Func{handle, buffer, fn(TaskWants, nil, nil)}, []uint32{1}, "", "wrong type"},
		"a hook of its own":       {[]wasmtest.Func{handle, buffer, fn(TaskReturned, nil, i32)}, []uint32{1}, "", "wrong type"},
		"a reactor":               {[]wasmtest.Func{fn(TaskInitialize, nil, nil)}, []uint32{1}, "", "import github.com/ripstop-vm/ripstop/sdk"},
		"nothing":                 {nil, nil, "", "neither _start nor ripstop_handle"},
	} {
		t.Run(name, func(t *testing.T) {
			m := compile(t, (&wasmtest.Module{Funcs: c.funcs, Memory: c.memory}).Bytes())
			kind, err := KindOf(m.Info())
			if kind != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q %v, want %q %q", kind, err, c.want, c.err)
			}
		})
	}
}

func TestBadOptionsAreReportedAtOnce(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a program without a module")
	}
	g, err := policy.Grant(policy.Capabilities{Files: []policy.File{{Guest: "/a", Source: "missing"}, {Guest: "/b", Source: "v/../../etc"}}})
	if err != nil {
		t.Fatal(err)
	}
	m := compile(t, handmade{}.module().Bytes())
	_, err = New(Options{Module: m, Kind: Command, Grants: g, Source: Volumes(map[string]string{"v": t.TempDir()}), Descriptors: -1, LogBytes: -1, HostCalls: -1, MemoryPages: 1 << 20, Args: []string{"a\x00"}})
	for _, want := range []string{"is a task, not a command", `no volume "missing" on this host: start the server with --volume NAME=DIR`, "leaves its volume", "descriptors", "log bytes", "host calls", "memory", "NUL"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestFilesAreThoseOfTheVolume(t *testing.T) {
	g, err := policy.Grant(policy.Capabilities{Files: []policy.File{{Guest: "/etc", Source: "v"}}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Module: build(t, examples+"nosy"), Grants: g, Source: Volumes(map[string]string{"v": t.TempDir()})})
	if err != nil {
		t.Fatal(err)
	}
	rec, _, err := ask(t, p, httptest.NewRequest("GET", "/", nil), ServeInfo{})
	if err != nil || !strings.Contains(rec.Body.String(), "/etc/passwd: No such file") {
		t.Errorf("%v %s", err, rec.Body)
	}
}

func TestHeadRequestsHaveALengthAndNoBody(t *testing.T) {
	s := serveJob(t, newWorld(), policy.Capabilities{}, Options{})
	resp, err := http.Head(s.URL + "/header")
	if err != nil || resp.StatusCode != 201 {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp, err := http.Head(s.URL + "/big?n=200000"); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") == "" {
		t.Errorf("%v %v", resp, err)
	}
}

// mappingsFor opens a runtime with so many mappings for images, and makes Programs of one small task that takes 4 of them a sandbox.
func mappingsFor(t *testing.T, n int) func(*image.Part) *Program {
	r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Meter: true, Memory: image.SpaceOptions{Mappings: n}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	ok := "\xc8\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi" // 200, no fields, "hi"
	return func(part *image.Part) *Program {
		m, err := r.Compile(t.Context(), handmade{buffer: at(1024, 8192), answer: at(64, uint32(len(ok))), data: []wasmtest.Data{{Offset: 64, Bytes: []byte(ok)}}}.module().Bytes())
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(Options{Module: m, Services: newWorld(), Images: true, Part: part})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
}

func TestAJobThatHoldsAllMappingsKeepsNoOtherFromStarting(t *testing.T) {
	job := mappingsFor(t, 6)
	greedy, other := job(nil), job(nil)
	asImages := 0
	for range 5 {
		if s := sandbox(t, greedy); s.Return() == nil {
			asImages++
		}
	}
	if asImages == 0 || asImages == 5 {
		t.Fatalf("%d of 5 sandboxes began as the image", asImages)
	}
	for range 2 {
		s := sandbox(t, other)
		if body, err := get(t, s, "/"); err != nil || body != "hi" {
			t.Errorf("%q, %v", body, err)
		}
		if err := s.Return(); !errors.Is(err, ErrNoImage) {
			t.Errorf("returned: %v", err)
		}
	}
}

func TestAJobThatWantsAllMappingsLeavesOthersSome(t *testing.T) {
	job := mappingsFor(t, 10*4)
	greedy, other := job(new(image.Part)), job(new(image.Part))
	serve := func(s *Sandbox) error {
		t.Helper()
		if body, err := get(t, s, "/"); err != nil || body != "hi" {
			t.Errorf("%q, %v", body, err)
		}
		return s.Return()
	}
	var held []*Sandbox
	for range 20 {
		if s := sandbox(t, greedy); serve(s) == nil { // those that did not begin as the image serve all the same
			held = append(held, s)
		}
	}
	if len(held) != 5 {
		t.Fatalf("of 10 images alone, it has %d", len(held))
	}
	for range 2 {
		if err := serve(sandbox(t, other)); err != nil {
			t.Errorf("another job, whose part is free: %v", err)
		}
	}
	var why *image.DiscardError
	if err := serve(held[0]); !errors.As(err, &why) || why.Reason != image.Surplus {
		t.Errorf("the first has more than it leaves, and its sandbox returns with %v", err)
	}
	for _, s := range held[:3] {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := serve(held[3]); err != nil {
		t.Errorf("within its part: %v", err)
	}
}

// answerHead is the beginning of an answer without fields: the body follows.
func answerHead(body uint32) []byte {
	return appendUint32(appendUint32(appendUint32(nil, 200), 0), body)
}

// TestAnAnswerInMemoryThatNobodyTouchedLeavesNothing has a guest answer with memory that it never touched, which is read once its time is over, and
// then write there: where the kernel lends no page of zeros, reading it is what made it the sandbox's own.
func TestAnAnswerInMemoryThatNobodyTouchedLeavesNothing(t *testing.T) {
	const (
		answers = 1000 // bytes of request from which on the answer is long; all of a request lies in one page
		writes  = 2000 // and from which on it is short again, and something is written
	)
	longer := func(n int32, then ...[]byte) []byte { // if the request is longer than n, then
		return wasmtest.Cat(wasmtest.LocalGet(0), wasmtest.I32Const(n), []byte{0x4b, 0x04, 0x40}, wasmtest.Cat(then...), []byte{wasmtest.End})
	}
	type turn struct {
		method image.Method
		long   int
	}
	for _, c := range []turn{{image.Scan, 60_000}, {image.Scan, 120_000}, {image.Pagemap, 60_000}, {image.Pagemap, 120_000}} {
		t.Run(fmt.Sprintf("%s, %d bytes", c.method, c.long), func(t *testing.T) {
			target := c.long - 20_000 // one that is long enough is read after its turn
			m := handmade{buffer: at(1<<16, 16<<10), answer: at(8192, 14), data: []wasmtest.Data{{Offset: 16, Bytes: answerHead(uint32(c.long))}, {Offset: 8192, Bytes: append(answerHead(2), "hi"...)}},
				handle: wasmtest.Cat(
					longer(writes, wasmtest.I32Const(int32(target)), wasmtest.I32Const(1), wasmtest.Store(0), wasmtest.I64Const(at(8192, 14)), []byte{wasmtest.Return}),
					longer(answers, wasmtest.I64Const(at(16, uint32(12+c.long))), []byte{wasmtest.Return}))}.module()
			r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true, Memory: image.SpaceOptions{Method: c.method}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = r.Close() })
			if _, err := r.Space(); err != nil {
				t.Skipf("not on this machine: %v", err)
			}
			code, err := r.Compile(t.Context(), m.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			p, err := New(Options{Module: code, Services: newWorld(), Images: true})
			if err != nil {
				t.Fatal(err)
			}
			sandbox(t, p)
			im, err := p.Image()
			if im == nil {
				t.Fatalf("there is no image: %v", err)
			}
			want := make([]byte, im.MemoryBytes())
			im.CopyTo(want)
			s := sandbox(t, p)
			serve := func(path int, body int) {
				t.Helper()
				w := httptest.NewRecorder()
				if _, err := s.Serve(t.Context(), w, httptest.NewRequest("GET", "/"+strings.Repeat("a", path), nil), ServeInfo{}); err != nil || w.Body.Len() != body {
					t.Fatalf("%d bytes, %v", w.Body.Len(), err)
				}
				if err := s.Return(); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				serve(1, 2) // what these touch is known from now on
			}
			serve(answers, c.long)
			serve(writes, 2)
			if got := s.vm.Memory().Bytes(); string(got) != string(want) {
				t.Errorf("memory differs from the image: %d at %d", got[target], target)
			}
		})
	}
}
