package enginetest

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

var endings = map[string]func(*testing.T, *world){
	"a context that ends ends the guest, with its cause":        cancelled,
	"a context that has ended ends the start function":          cancelledStart,
	"a context that has ended ends a call":                      cancelledBefore,
	"a context ends what runs long without a loop":              cancelledBulk,
	"the end of one guest is not that of another":               cancelledAlone,
	"a context that ends in an inner call ends the outer one":   cancelledInside,
	"an inner call's context does not end the outer call":       cancelledInner,
	"closing may be done twice, and ends an instance":           closing,
	"closing the engine closes all":                             closingAll,
	"many instances run at once":                                concurrency,
	"instances that are closed or fail give their memory back":  memoryIsGivenBack,
	"a module and its instances can be made and closed at once": churn,
}

var errOver = errors.New("over")

// soon answers a context that ends while the guest runs: by and by, as nothing tells that it does.
func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errOver)
}

// endless are functions that do not end: a loop, and a tree of calls without one.
func endless() []wasmtest.Func {
	return []wasmtest.Func{
		fn("loop", nil, nil, wasmtest.Loop(wasmtest.Br(0))),
		fn("tree", types(i32), nil, wasmtest.LocalGet(0), []byte{wasmtest.I32Eqz, 0x04, 0x40, wasmtest.Return, wasmtest.End},
			wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.Call(first+1),
			wasmtest.LocalGet(0), wasmtest.I32Const(1), []byte{wasmtest.I32Sub}, wasmtest.Call(first+1)),
		fn("f", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.Call(call)),
		fn("then", types(i32), types(i32), wasmtest.LocalGet(0), wasmtest.Call(call), []byte{wasmtest.Drop}, wasmtest.Loop(wasmtest.Br(0)), wasmtest.I32Const(0)),
	}
}

func cancelled(t *testing.T, w *world) {
	for name, stack := range map[string][]uint64{"loop": nil, "tree": {60}} {
		i := w.start(module(endless()...), &host{})
		ctx, cancel := soon()
		err := i.Function(name).Call(ctx, stack)
		cancel()
		if !errors.Is(err, errOver) {
			t.Errorf("%s: %v", name, err)
		}
		if i.Ended() {
			continue
		}
		if _, err := invoke(t, i, "tree", 3); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

func cancelledStart(t *testing.T, w *world) {
	m := module(endless()...)
	start := uint32(first)
	m.Start = &start
	ctx, cancel := soon()
	defer cancel()
	if err := w.begin(ctx, m, &host{}); !errors.Is(err, errOver) {
		t.Errorf("error %v", err)
	}
}

func cancelledBefore(t *testing.T, w *world) {
	i := w.start(module(endless()...), &host{})
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errOver)
	if err := i.Function("loop").Call(ctx, nil); !errors.Is(err, errOver) {
		t.Errorf("error %v", err)
	}
}

// cancelledBulk has a guest fill 64 MiB 2,000 times, in straight code.
func cancelledBulk(t *testing.T, w *world) {
	const pages = 1024
	fill := wasmtest.Cat(wasmtest.I32Const(0), wasmtest.I32Const(1), wasmtest.I32Const(pages<<16), []byte{0xfc, 0x0b, 0})
	m := wasmtest.Module{Memory: []uint32{pages}, Funcs: []wasmtest.Func{fn("f", nil, nil, wasmtest.Repeat(2000, fill...))}}
	i, err := w.compile(build(m)).Instantiate(context.Background(), w.door(&host{}), engine.NewMemory(pages))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	ctx, cancel := soon()
	defer cancel()
	if err := i.Function("f").Call(ctx, nil); !errors.Is(err, errOver) {
		t.Errorf("error %v", err)
	}
}

func cancelledAlone(t *testing.T, w *world) {
	h := &host{}
	code := w.compile(build(module(endless()...)))
	long, err := code.Instantiate(context.Background(), w.door(h), engine.NewMemory(maxPages))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	running, done := make(chan struct{}), make(chan error)
	h.onCall = func(*hostcall.Call) { close(running) }
	ctx, end := context.WithCancelCause(context.Background())
	defer end(nil)
	go func() { done <- long.Function("then").Call(ctx, []uint64{0}) }()
	<-running
	for range 3 {
		i := w.start(module(endless()...), &host{})
		short, cancel := soon()
		if err := i.Function("loop").Call(short, nil); !errors.Is(err, errOver) {
			t.Errorf("error %v", err)
		}
		cancel()
	}
	select {
	case err := <-done:
		t.Errorf("the other guest ended with %v", err)
		return
	default:
	}
	last := errors.New("at last")
	end(last)
	if err := <-done; !errors.Is(err, last) {
		t.Errorf("the other guest ended with %v", err)
	}
}

func cancelledInside(t *testing.T, w *world) {
	h := &host{}
	i := w.start(module(endless()...), h)
	ctx, cancel := soon()
	defer cancel()
	h.onCall = func(c *hostcall.Call) {
		if err := i.Function("loop").Call(c.Context(), nil); !errors.Is(err, errOver) {
			t.Errorf("the inner call: %v", err)
		}
	}
	if err := i.Function("then").Call(ctx, []uint64{0}); !errors.Is(err, errOver) {
		t.Errorf("the outer call: %v", err)
	}
}

func cancelledInner(t *testing.T, w *world) {
	h := &host{}
	i := w.start(module(endless()...), h)
	h.onCall = func(c *hostcall.Call) {
		ctx, cancel := soon()
		defer cancel()
		if err := i.Function("loop").Call(ctx, nil); !errors.Is(err, errOver) {
			t.Errorf("the inner call: %v", err)
		}
		c.SetResult(0, 6)
	}
	stack := []uint64{0}
	err := i.Function("f").Call(context.Background(), stack)
	if i.Ended() {
		return // the engine cannot end a call alone
	}
	if err != nil || stack[0] != 6 {
		t.Errorf("the outer call: %v, %v", stack, err)
	}
}

func closing(t *testing.T, w *world) {
	code := w.compile(build(growing(2)))
	i, err := code.Instantiate(context.Background(), w.door(&host{}), engine.NewMemory(maxPages))
	if err != nil {
		t.Fatal(err)
	}
	f := i.Function("size")
	for range 2 {
		if err := i.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if !i.Ended() {
		t.Error("the instance has not ended")
	}
	for _, f := range []engine.Function{f, i.Function("load")} {
		if f == nil {
			t.Error("a closed instance has forgotten its functions")
		} else if err := f.Call(context.Background(), make([]uint64, 1)); err == nil {
			t.Error("a closed instance was called")
		}
	}
	for range 2 {
		if err := code.Close(); err != nil {
			t.Errorf("close module: %v", err)
		}
	}
}

func closingAll(t *testing.T, w *world) {
	i := w.start(growing(2), &host{})
	f := i.Function("size")
	for range 2 {
		if err := w.e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if !i.Ended() {
		t.Error("the instance has not ended")
	}
	if err := f.Call(context.Background(), make([]uint64, 1)); err == nil {
		t.Error("an instance of a closed engine was called")
	}
	if _, err := w.e.Compile(context.Background(), build(growing(1))); err == nil {
		t.Error("a closed engine compiles")
	}
}

func concurrency(t *testing.T, w *world) {
	code := w.compile(build(double()))
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for n := range 50 {
				if err := once(w, code, uint64(g*1000+n)); err != nil {
					t.Errorf("goroutine %d, instance %d: %v", g, n, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// once makes an instance that calls the host, grows, traps, exits, and is closed.
func once(w *world, code engine.Module, n uint64) error {
	h := &host{}
	h.onCall = func(c *hostcall.Call) {
		c.Write(0, []byte{byte(n), byte(n >> 8), 0, 0})
		c.SetResult(0, c.Num(0))
	}
	d, err := hostcall.NewDoor(w.table, []hostcall.Binding{{Library: w.lib, State: h}}, nil)
	if err != nil {
		return err
	}
	i, err := code.Instantiate(context.Background(), d, engine.NewMemory(4))
	if err != nil {
		return err
	}
	defer i.Close()
	for _, step := range []struct {
		name     string
		in, want uint64
	}{{"f", n, n + 1}, {"load", 0, n & 0xffff}, {"grow", 1, 1}, {"load", 2<<16 - 4, 0}} {
		stack := []uint64{step.in}
		if err := i.Function(step.name).Call(context.Background(), stack); err != nil || uint64(uint32(stack[0])) != step.want {
			return fmt.Errorf("%s gives %d, want %d: %w", step.name, stack[0], step.want, err)
		}
	}
	var trap *engine.Trap
	if err := i.Function("trap").Call(context.Background(), nil); !errors.As(err, &trap) {
		return fmt.Errorf("no trap: %w", err)
	}
	var e *hostcall.ExitError
	if err := i.Function("exit").Call(context.Background(), []uint64{n}); !errors.As(err, &e) || e.Code != uint32(n) {
		return fmt.Errorf("no exit: %w", err)
	}
	return nil
}

// memoryIsGivenBack makes instances of 8 MiB each, one after the other, half of which fail to start.
func memoryIsGivenBack(t *testing.T, w *world) {
	const pages, rounds, allowed = 128, 100, 300 << 20
	body := wasmtest.Cat(wasmtest.I32Const(0), wasmtest.I32Const(1), wasmtest.I32Const(pages<<16), []byte{0xfc, 0x0b, 0}) // memory.fill
	start := uint32(first)
	var codes []engine.Module
	for _, end := range [][]byte{nil, {wasmtest.Unreachable}} {
		m := wasmtest.Module{Memory: []uint32{pages}, Start: &start, Funcs: []wasmtest.Func{{Body: wasmtest.Cat(body, end)}}}
		codes = append(codes, w.compile(build(m)))
	}
	before := resident(t)
	for n := range rounds {
		mem := engine.NewMemory(pages)
		i, err := codes[n%2].Instantiate(context.Background(), w.door(&host{}), mem)
		if (err != nil) != (n%2 == 1) {
			t.Fatalf("instance %d: %v", n, err)
		}
		if err == nil {
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := mem.Close(); err != nil || len(mem.Bytes()) != 0 {
			t.Fatalf("%d bytes are left, %v", len(mem.Bytes()), err)
		}
	}
	goruntime.GC()
	debug.FreeOSMemory()
	if after := resident(t); after > before+allowed {
		t.Errorf("%d MiB resident, and %d MiB before %d instances of %d MiB", after>>20, before>>20, rounds, pages>>4)
	}
}

func churn(t *testing.T, w *world) {
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for n := range uint64(10) {
				code, err := w.e.Compile(context.Background(), build(double()))
				if err == nil {
					err = errors.Join(once(w, code, n), code.Close())
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
