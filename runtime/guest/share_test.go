package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http/httptest"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/loop"
	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// oneToken is a processor on which one guest runs at a time.
func oneToken(t testing.TB) *processor.Processor {
	t.Helper()
	if old := goruntime.GOMAXPROCS(0); old < 2 {
		goruntime.GOMAXPROCS(2)
		t.Cleanup(func() { goruntime.GOMAXPROCS(old) })
	}
	p, err := processor.New(processor.Options{Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// compileMetered is compile for guests that count fuel.
func compileMetered(t testing.TB, wasm []byte) *runtime.Module {
	t.Helper()
	r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true})
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

const sayHi = "\xc8\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi" // 200, no fields, "hi"

// hiAfter is a task that answers "hi" once body has run.
func hiAfter(body []byte) handmade {
	return handmade{buffer: at(1024, 8192), answer: at(64, uint32(len(sayHi))), handle: body, data: []wasmtest.Data{{Offset: 64, Bytes: []byte(sayHi)}}}
}

// counting loops n times.
func counting(n int32) []byte {
	return wasmtest.Cat(wasmtest.I32Const(n), wasmtest.LocalSet(0), wasmtest.Loop(
		wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub, 0x22, 0, 0x0d, 0})) // local.tee, br_if
}

var endlessLoop = wasmtest.Loop(wasmtest.Br(0))

func shared(t testing.TB, h handmade, opts Options) *Program {
	t.Helper()
	opts.Module = compileMetered(t, h.module().Bytes())
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// idle fails the test unless a run gets a token at once: whatever ran has given it back.
func idle(t testing.TB, p *processor.Processor) {
	t.Helper()
	r := p.Job("look", processor.MaxWeight).Run()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Enter(ctx); err != nil {
		t.Fatalf("a token was not given back: %v", err)
	}
	r.Leave()
}

func TestAnInvocationMayNotUseMoreThanItsFuelOrTime(t *testing.T) {
	p := oneToken(t)
	share := p.Job("job", 1)
	for name, c := range map[string]struct {
		opts  Options
		body  []byte
		limit string
	}{
		"fuel, in a loop":                {Options{Fuel: 1_000_000}, endlessLoop, "fuel"},
		"fuel, with more work than fuel": {Options{Fuel: 10_000}, counting(10_000), "fuel"},
		"fuel that is enough":            {Options{Fuel: 100_000}, counting(10_000), ""},
		"time, in a loop":                {Options{CPU: 20 * time.Millisecond}, endlessLoop, "cpu"},
		"time that is enough":            {Options{CPU: time.Minute}, counting(10_000), ""},
		"less time than a slice":         {Options{CPU: 10 * time.Microsecond}, endlessLoop, "cpu"},
	} {
		t.Run(name, func(t *testing.T) {
			c.opts.Share = share
			for range 2 { // the bound is of one invocation
				rec, res, err := ask(t, shared(t, hiAfter(c.body), c.opts), httptest.NewRequest("GET", "/", nil), ServeInfo{})
				idle(t, p)
				if c.limit == "" {
					if err != nil || rec.Body.String() != "hi" || res.CPU <= 0 {
						t.Errorf("%v, %q, used %v", err, rec.Body, res.CPU)
					}
					continue
				}
				limit, ok := errors.AsType[*runtime.LimitError](err)
				if !ok || limit.Limit != c.limit || limit.Used < limit.Max {
					t.Errorf("%+v, %v", limit, err)
				}
				if c.limit == "cpu" && res.CPU < c.opts.CPU {
					t.Errorf("used %v of %v", res.CPU, c.opts.CPU)
				}
			}
		})
	}
	if _, err := New(Options{Module: compileMetered(t, hiAfter(nil).module().Bytes()), CPU: time.Second}); err == nil {
		t.Error("time at the processor is bounded, and nobody measures it")
	}
}

// polling is a task that waits for an hour.
func polling() *wasmtest.Module {
	i32 := byte(wasmtest.I32)
	m := hiAfter(nil).module()
	m.Imports[0] = wasmtest.Import{Module: "wasi_snapshot_preview1", Name: "poll_oneoff", Type: wasmtest.Type{Params: []byte{i32, i32, i32, i32}, Results: []byte{i32}}}
	sub := make([]byte, 48)
	sub[8] = 0  // a clock
	sub[16] = 1 // monotonic
	binary.LittleEndian.PutUint64(sub[24:], uint64(time.Hour))
	m.Data = append(m.Data, wasmtest.Data{Offset: 20000, Bytes: sub})
	wait := wasmtest.Cat(wasmtest.I32Const(20000), wasmtest.I32Const(20100), wasmtest.I32Const(1), wasmtest.I32Const(20200), wasmtest.Call(0), []byte{wasmtest.Drop})
	m.Funcs[1].Body = wasmtest.Cat(wait, m.Funcs[1].Body)
	return m
}

func TestAGuestThatWaitsHoldsNoToken(t *testing.T) {
	p := oneToken(t)
	waits, err := New(Options{Module: compileMetered(t, polling().Bytes()), Share: p.Job("waits", 1)})
	if err != nil {
		t.Fatal(err)
	}
	quick := shared(t, hiAfter(nil), Options{Share: p.Job("quick", 1)})
	s := sandbox(t, waits)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Serve(ctx, httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), ServeInfo{})
		ended <- err
	}()
	for p.Job("waits", 1).Usage().Grants < 2 { // its start, and its request
		goruntime.Gosched()
	}
	if rec, _, err := ask(t, quick, httptest.NewRequest("GET", "/", nil), ServeInfo{}); err != nil || rec.Body.String() != "hi" {
		t.Errorf("%v, %q", err, rec.Body)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the guest that waits: %v", err)
	}
	idle(t, p)
	if u := p.Job("waits", 1).Usage(); u.CPU > time.Minute {
		t.Errorf("an hour's wait took %v of the processor", u.CPU)
	}
}

func TestAStartTakesItsTurnAndIsEnded(t *testing.T) {
	p := oneToken(t)
	share := p.Job("job", 1)
	h := hiAfter(nil)
	m := h.module()
	first := uint32(len(m.Imports))
	m.Funcs = append(m.Funcs, wasmtest.Func{Body: endlessLoop})
	start := first + uint32(len(m.Funcs)) - 1
	m.Start = &start
	prog, err := New(Options{Module: compileMetered(t, m.Bytes()), Share: share, Images: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := prog.NewSandbox(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the start: %v", err)
	}
	idle(t, p)
	if u := share.Usage(); u.CPU <= 0 || u.Running != 0 || u.Waiting != 0 {
		t.Errorf("%+v", u)
	}
}

func TestReturningToAnImageIsCharged(t *testing.T) {
	p := oneToken(t)
	share := p.Job("job", 1)
	prog := shared(t, hiAfter(nil), Options{Share: share, Images: true})
	sandbox(t, prog) // leaves the image
	s := sandbox(t, prog)
	if _, err := s.Serve(t.Context(), httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), ServeInfo{}); err != nil {
		t.Fatal(err)
	}
	before := share.Usage().Host
	if err := s.Return(); err != nil {
		t.Fatal(err)
	}
	if after := share.Usage().Host; after <= before {
		t.Errorf("charged %v, then %v", before, after)
	}
}

// told is a loop that counts what it is told.
type told struct{ left, computes int }

func (l *told) Leave()   { l.left++ }
func (l *told) Compute() { l.computes++ }

// What a guest does after a return is done in the place of the loop whose request it was returned from, and others wait for that.
func TestALoopLearnsThatAGuestTakesLongAfterAReturn(t *testing.T) {
	w := newWorld()
	prog, err := New(Options{Module: compileMetered(t, hookedTask(endlessLoop).Bytes()), Services: w, Share: oneToken(t).Job("job", 1), Images: true,
		ReturnTime: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	sandbox(t, prog) // leaves the image
	s := sandbox(t, prog)
	w.config = map[string]string{"hi": "x"}
	if _, err := s.Serve(t.Context(), httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), ServeInfo{}); err != nil {
		t.Fatal(err)
	}
	var l told
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), loop.Key, &l))
	cancel() // it ends with nobody's request
	if err := s.ReturnIn(ctx); !errors.Is(err, context.DeadlineExceeded) || l.computes == 0 || l.left != 0 {
		t.Errorf("it computed %d times and left %d times: %v", l.computes, l.left, err)
	}
}
