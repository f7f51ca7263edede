package guest

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// snoop is a command that looks for what others left wherever it has memory, and leaves something there, before its request and after it.
func snoop() []byte {
	i32 := byte(w.I32)
	four := w.Type{Params: []byte{i32, i32, i32, i32}, Results: []byte{i32}}
	one := w.Type{Params: []byte{i32}}
	iff := func(body ...[]byte) []byte { return w.Cat([]byte{0x04, 0x40}, w.Cat(body...), []byte{w.End}) }
	// check(from, code): exits with code if something is there up to the end; then fills it
	check := w.Cat(
		w.LocalGet(0), w.LocalSet(2),
		w.Block(w.Loop(
			w.LocalGet(2), w.MemorySize(), w.I32Const(16), []byte{0x74}, []byte{0x4f, 0x0d, 1}, // i32.ge_u, br_if 1
			w.LocalGet(2), w.Load(0), iff(w.LocalGet(1), w.Call(1)),
			w.LocalGet(2), w.I32Const(4), []byte{w.I32Add}, w.LocalSet(2), w.Br(0))),
		w.LocalGet(0), w.I32Const(0xAB), w.MemorySize(), w.I32Const(16), []byte{0x74}, w.LocalGet(0), []byte{w.I32Sub, 0xfc, 11, 0})
	growth := func(by, code int32) []byte { // check what it grows by
		return w.Cat(w.MemorySize(), w.I32Const(16), []byte{0x74}, w.LocalSet(0),
			w.I32Const(by), w.MemoryGrow(), []byte{w.Drop}, w.LocalGet(0), w.I32Const(code), w.Call(3))
	}
	act := func(n int32, body ...[]byte) []byte {
		return w.Cat(w.I32Const(0), []byte{0x2d, 0, 16}, w.I32Const(n), []byte{0x46}, iff(body...))
	}
	all := w.Cat(w.I32Const(1024), w.I32Const(0xCD), w.MemorySize(), w.I32Const(16), []byte{0x74}, w.I32Const(1024), []byte{w.I32Sub, 0xfc, 11, 0})
	start := w.Cat(
		w.I32Const(1024), w.I32Const(77), w.Call(3),
		growth(10, 78), growth(5000, 79),
		w.I32Const(0), w.I32Const(16), w.Store(0), w.I32Const(4), w.I32Const(1), w.Store(0),
		w.I32Const(0), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), []byte{w.Drop},
		growth(7, 80),
		act('t', []byte{w.Unreachable}),
		act('l', w.Loop(w.Br(0))),
		act('b', w.Loop(all, w.Br(0))),
		act('g', w.Loop(growth(1, 81), w.Br(0))),
		act('x', w.I32Const(3), w.Call(1)),
		w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(4), w.Store(0),
		w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(2), []byte{w.Drop})
	return (&w.Module{
		Imports: []w.Import{
			{Module: "wasi_snapshot_preview1", Name: "fd_read", Type: four},
			{Module: "wasi_snapshot_preview1", Name: "proc_exit", Type: one},
			{Module: "wasi_snapshot_preview1", Name: "fd_write", Type: four}},
		Memory: []uint32{2},
		Data:   []w.Data{{Offset: 64, Bytes: []byte("\n\nok")}},
		Funcs: []w.Func{
			{Type: w.Type{Params: []byte{i32, i32}}, Locals: []byte{i32}, Body: check},
			{Export: "_start", Locals: []byte{i32}, Body: start}},
	}).Bytes()
}

// compiled is a module in a metered runtime of its own, which ends with the test.
func compiled(t *testing.T, wasm []byte) (*runtime.Runtime, *runtime.Module) {
	t.Helper()
	r, err := runtime.Open(context.Background(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() }) // a test that wants its error closes it before
	m, err := r.Compile(t.Context(), wasm)
	if err != nil {
		t.Fatal(err)
	}
	return r, m
}

// Commands look through all their memory for what others left, and end in every way, while they expire, are closed more than once, and their
// program is.
func TestNoSandboxFindsWhatOthersLeft(t *testing.T) {
	r, m := compiled(t, snoop())
	defer goruntime.GOMAXPROCS(goruntime.GOMAXPROCS(max(goruntime.GOMAXPROCS(0), 2)))
	shared, err := processor.New(processor.Options{Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	var endings sync.Map
	note := func(what string) {
		n, _ := endings.LoadOrStore(what, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}
	until := time.Now().Add(3 * time.Second)
	for round := 0; time.Now().Before(until); round++ {
		p, err := New(Options{Module: m, Images: true, MemoryPages: 60, Share: shared.Job("job", 1)})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		stop := make(chan struct{})
		for range 6 {
			all.Go(func() {
				for range 15 {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(40)+1)*time.Millisecond)
					s, err := p.NewSandbox(ctx)
					cancel()
					if e := (*runtime.ExitError)(nil); errors.As(err, &e) && e.Code >= 77 {
						t.Errorf("it found something: %v", err)
					}
					if err != nil {
						note("start: " + strings.SplitN(err.Error(), "\n", 2)[0])
						continue
					}
					var beside sync.WaitGroup
					if rand.IntN(3) == 0 {
						beside.Go(s.expire) // as its timer does
					}
					if rand.IntN(4) > 0 {
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(60)+1)*time.Millisecond)
						body := string("otlbgx"[rand.IntN(6)])
						_, err = s.Serve(ctx, httptest.NewRecorder(), httptest.NewRequest("POST", "/", strings.NewReader(body)), ServeInfo{})
						cancel()
						if e := (*runtime.ExitError)(nil); errors.As(err, &e) && e.Code >= 77 {
							t.Errorf("it found something: %v", err)
						}
						if err == nil {
							note("served")
						} else {
							note("serve: " + strings.SplitN(err.Error(), "\n", 2)[0])
						}
					}
					if rand.IntN(20) == 0 {
						beside.Go(func() { s.Abandon() })
					}
					beside.Go(func() { _ = s.Close() })
					_ = s.Close()
					beside.Wait()
				}
			})
		}
		var trims sync.WaitGroup
		trims.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					if err := p.Trim(); err != nil {
						t.Error(err)
					}
				}
			}
		})
		if round%3 == 2 {
			time.Sleep(30 * time.Millisecond)
			_ = p.Close() // while sandboxes are in use
		}
		all.Wait()
		close(stop)
		trims.Wait()
		_ = p.Close()
	}
	sp, err := r.Space()
	if err != nil {
		t.Fatal(err)
	}
	if st := sp.Stats(); st.Memories != 0 { // the mappings of those that were abandoned stay booked
		t.Errorf("%+v", st)
	}
	if _, ok := endings.Load("served"); !ok {
		t.Error("none has served")
	}
	u := shared.Job("job", 1).Usage()
	if u.Running != 0 || u.Waiting != 0 {
		t.Errorf("%+v", u)
	}
}
