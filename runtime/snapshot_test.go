package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/translate"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// guestLibrary is put(addr, value), which writes a guest's memory from the host, and exit(code).
func guestLibrary() *hostcall.Library {
	i32 := hostcall.I32
	return &hostcall.Library{Name: "test", Funcs: []hostcall.Func{
		{Module: "test", Name: "exit", Params: []hostcall.ValueType{i32}, Args: []hostcall.Arg{{Name: "code"}},
			Call: func(c *hostcall.Call) { c.Stop(&hostcall.ExitError{Code: c.Uint32(0)}) }},
		{Module: "test", Name: "put", Params: []hostcall.ValueType{i32, i32}, Args: []hostcall.Arg{{Name: "at"}, {Name: "value", Param: 1}},
			Call: func(c *hostcall.Call) { c.Write(c.Uint32(0), []byte{byte(c.Uint32(1))}) }},
	}}
}

// restless is a guest that changes all the state it has, in every way.
func restless() *wasmtest.Module {
	cat, get := wasmtest.Cat, wasmtest.LocalGet
	i32, i64, f64 := byte(wasmtest.I32), byte(wasmtest.I64), byte(wasmtest.F64)
	two := wasmtest.Type{Params: []byte{i32, i32}}
	store := cat(get(0), get(1), wasmtest.Store(0))
	return &wasmtest.Module{
		Imports: []wasmtest.Import{{Module: "test", Name: "exit", Type: wasmtest.Type{Params: []byte{i32}}}, {Module: "test", Name: "put", Type: two}},
		Memory:  []uint32{3, 12},
		Data:    []wasmtest.Data{{Offset: 100, Bytes: []byte("as the module says")}, {Offset: 70000, Bytes: bytes.Repeat([]byte{7}, 5000)}},
		Globals: []wasmtest.Global{
			{Type: i64, Init: wasmtest.I64Const(-1), Export: "long"}, {Type: f64, Init: wasmtest.F64Const(math.Pi), Export: "float"},
			{Type: i32, Init: wasmtest.I32Const(5), Export: "int"}},
		Funcs: []wasmtest.Func{
			{Export: "poke", Type: two, Body: store},
			{Export: "host", Type: two, Body: cat(get(0), get(1), wasmtest.Call(1))},
			{Export: "trap", Type: two, Body: cat(store, []byte{wasmtest.Unreachable})},
			{Export: "exit", Type: two, Body: cat(store, get(1), wasmtest.Call(0))},
			{Export: "forever", Type: two, Body: wasmtest.Loop(store, wasmtest.Br(0))},
			{Export: "grow", Type: wasmtest.Type{Params: []byte{i32}, Results: []byte{i32}}, Body: cat(get(0), wasmtest.MemoryGrow())},
			{Export: "size", Type: wasmtest.Type{Results: []byte{i32}}, Body: wasmtest.MemorySize()},
			{Export: "set", Type: wasmtest.Type{Params: []byte{i64, f64, i32}}, Body: cat(
				get(0), wasmtest.GlobalSet(0), get(1), wasmtest.GlobalSet(1), get(2), wasmtest.GlobalSet(2))},
			{Export: "long_", Type: wasmtest.Type{Results: []byte{i64}}, Body: wasmtest.GlobalGet(0)},
			{Export: "float_", Type: wasmtest.Type{Results: []byte{f64}}, Body: wasmtest.GlobalGet(1)},
			{Export: "int_", Type: wasmtest.Type{Results: []byte{i32}}, Body: wasmtest.GlobalGet(2)},
			{Export: "peek", Type: wasmtest.Type{Params: []byte{i32}, Results: []byte{i32}}, Body: cat(get(0), wasmtest.Load(0))},
		},
	}
}

func enter(t interface{ Fatalf(string, ...any) }, s *runtime.Sandbox, name string, params ...uint64) uint64 {
	out, err := s.Call(context.Background(), name, params...)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(out) == 0 {
		return 0
	}
	return out[0]
}

func snapshot(t testing.TB, s *runtime.Sandbox) *image.Image {
	t.Helper()
	im, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	})
	return im
}

// discarded is why a sandbox could not return; empty if it could.
func discarded(t interface{ Fatal(...any) }, err error) image.Reason {
	var d *image.DiscardError
	if err != nil && !errors.As(err, &d) {
		t.Fatal(err)
	}
	if d == nil {
		return ""
	}
	return d.Reason
}

// TestTheNextInvocationSeesTheImage has a guest do anything, and looks at the sandbox that the next invocation would get.
func TestTheNextInvocationSeesTheImage(t *testing.T) {
	for _, method := range image.Methods() {
		for name, opts := range map[string]runtime.Options{"compiled": {}, "interpreted": {Interpret: true}, "metered": {Meter: true}} {
			t.Run(fmt.Sprintf("%s/%s", method, name), func(t *testing.T) {
				opts.Libraries, opts.Memory = []*hostcall.Library{guestLibrary()}, image.SpaceOptions{Method: method}
				rt, err := runtime.Open(context.Background(), onTestEngine(opts))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := rt.Close(); err != nil {
						t.Error(err)
					}
				})
				if _, err := rt.Space(); err != nil {
					t.Logf("not on this machine: %v", err)
					return
				}
				m := compile(t, rt, restless().Bytes())
				rapid.Check(t, func(t *rapid.T) { restlessly(t, m, opts.Meter || !opts.Interpret && testEngine == runtime.Wasmtime) })
			})
		}
	}
}

// restlessly has guests of m act. A metered one survives a deadline, as it is not the engine that ends it, and so does
// any on wasmtime.
func restlessly(t *rapid.T, m *runtime.Module, survives bool) {
	ctx := context.Background()
	first, err := m.NewSandbox(ctx, runtime.SandboxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range rapid.IntRange(0, 5).Draw(t, "before") {
		act(t, first, false)
	}
	im, err := first.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, im.MemoryBytes())
	im.CopyTo(want)
	var s *runtime.Sandbox
	defer func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	for range rapid.IntRange(1, 6).Draw(t, "invocations") {
		if s == nil {
			if s, err = m.NewSandbox(ctx, runtime.SandboxOptions{MemoryPages: 14, Image: im}); err != nil {
				t.Fatal(err)
			}
		}
		watched := rapid.SampledFrom([]string{"by nobody", "throughout", "at last"}).Draw(t, "watched")
		if watched == "throughout" {
			s.Watch()
		}
		again, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if again.Digest() != im.Digest() {
			t.Fatalf("an image of it is %s, and it began as %s", again.Digest(), im.Digest())
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.Memory().Bytes(), want) || enter(t, s, "size") != uint64(len(want))>>16 {
			t.Fatalf("memory differs from the image")
		}
		for _, g := range im.Globals() {
			if strings.HasPrefix(g.Name, translate.Prefix) {
				continue
			}
			if got := enter(t, s, g.Name+"_"); got != g.Bits {
				t.Fatalf("global %s is %#x, in the image %#x", g.Name, got, g.Bits)
			}
		}
		if _, err := s.Call(ctx, "peek", uint64(len(want)-3)); err == nil {
			t.Fatalf("there is memory beyond the image's")
		}
		ended := false
		for range rapid.IntRange(0, 6).Draw(t, "acts") {
			if ended = act(t, s, true); ended {
				break
			}
			if watched == "at last" {
				s.Watch()
			}
		}
		s.Unwatch()
		why := discarded(t, s.Return())
		if survives {
			ended = false
		}
		if ended != (why == image.Ended) || !ended && why != "" {
			t.Fatalf("discarded: %q, ended by a deadline: %t", why, ended)
		}
		if why != "" {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = nil
		}
	}
	if s == nil {
		s, err = m.NewSandbox(ctx, runtime.SandboxOptions{MemoryPages: 14, Image: im})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// act has the guest do one thing. It reports whether the engine had to end the guest.
func act(t *rapid.T, s *runtime.Sandbox, cancel bool) bool {
	ctx := context.Background()
	size := len(s.Memory().Bytes())
	at := uint64(rapid.IntRange(0, size-4).Draw(t, "at"))
	v := uint64(rapid.Uint32().Draw(t, "value"))
	var exit *runtime.ExitError
	var trap *runtime.Trap
	switch kind := rapid.SampledFrom([]string{"poke", "poke", "host", "trap", "exit", "grow", "set", "forever"}).Draw(t, "act"); kind {
	case "grow":
		n := uint64(rapid.IntRange(0, 4).Draw(t, "pages"))
		if got := uint32(enter(t, s, kind, n)); got != math.MaxUint32 && int(got) != size>>16 {
			t.Fatalf("memory.grow answered %d", got)
		}
	case "set":
		enter(t, s, kind, rapid.Uint64().Draw(t, "long"), math.Float64bits(rapid.Float64().Draw(t, "float")), v)
	case "forever":
		if !cancel || rapid.IntRange(0, 3).Draw(t, "really") > 0 { // it costs an instance
			return false
		}
		over, stop := context.WithTimeout(ctx, time.Millisecond)
		defer stop()
		if _, err := s.Call(over, kind, at, v); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%s: %v", kind, err)
		}
		return true
	default:
		_, err := s.Call(ctx, kind, at, v)
		if kind == "trap" && !errors.As(err, &trap) || kind == "exit" && !errors.As(err, &exit) || (kind == "poke" || kind == "host") && err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	return false
}

func TestSandboxesWithoutAnExactImageAreRefused(t *testing.T) {
	rt := open(t, runtime.Options{})
	start := uint32(0)
	nothing := wasmtest.Func{Export: "f"}
	i32, i64 := byte(wasmtest.I32), byte(wasmtest.I64)
	for want, m := range map[string]*wasmtest.Module{
		"a start function":              {Funcs: []wasmtest.Func{nothing}, Start: &start},
		"that change tables":            {Table: []uint32{1}, Funcs: []wasmtest.Func{{Body: []byte{0x41, 0, 0xd0, 0x70, 0x26, 0}}}},
		"global 1 is mutable and not":   {Globals: []wasmtest.Global{{Type: i32, Init: wasmtest.I32Const(0), Export: "a"}, {Type: i64, Init: wasmtest.I64Const(0)}}},
		"global 0 is mutable and holds": {Globals: []wasmtest.Global{{Type: wasmtest.FuncRef, Init: []byte{0xd0, 0x70}, Export: "a"}}},
	} {
		s := sandbox(t, compile(t, rt, m.Bytes()), runtime.SandboxOptions{})
		if _, err := s.Snapshot(); !errors.Is(err, runtime.ErrNoImage) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestAnImageFitsOnlyItsModuleAndABoundThatHoldsIt(t *testing.T) {
	rt := open(t, runtime.Options{Libraries: []*hostcall.Library{guestLibrary()}})
	m := compile(t, rt, restless().Bytes())
	im := snapshot(t, sandbox(t, m, runtime.SandboxOptions{}))
	other := compile(t, rt, (&wasmtest.Module{Memory: []uint32{1}}).Bytes())
	if _, err := other.NewSandbox(t.Context(), runtime.SandboxOptions{Image: im}); err == nil || !strings.Contains(err.Error(), "is one of module") {
		t.Errorf("another module: %v", err)
	}
	s := sandbox(t, m, runtime.SandboxOptions{})
	enter(t, s, "grow", 2)
	im = snapshot(t, s)
	var limit *runtime.LimitError
	if _, err := m.NewSandbox(t.Context(), runtime.SandboxOptions{Image: im, MemoryPages: 4}); !errors.As(err, &limit) || limit.Used != 5<<16 {
		t.Errorf("a bound below the image: %v", err)
	}
	if err := sandbox(t, m, runtime.SandboxOptions{}).Return(); err == nil {
		t.Error("a sandbox that began anew returned")
	}
}

func TestATableThatWasWrittenToCostsTheSandbox(t *testing.T) {
	rt := open(t, runtime.Options{Meter: true})
	m := compile(t, rt, (&wasmtest.Module{Table: []uint32{1}, Funcs: []wasmtest.Func{
		{Export: "write", Body: []byte{0x41, 0, 0xd0, 0x70, 0x26, 0}}, {Export: "read", Body: []byte{0x41, 0, 0x25, 0, wasmtest.Drop}}}}).Bytes())
	first := sandbox(t, m, runtime.SandboxOptions{})
	im := snapshot(t, first)
	s := sandbox(t, m, runtime.SandboxOptions{Image: im})
	enter(t, s, "read")
	if why := discarded(t, s.Return()); why != "" {
		t.Errorf("after a read: %q", why)
	}
	enter(t, s, "write")
	if why := discarded(t, s.Return()); why != image.Tables {
		t.Errorf("after a write: %q", why)
	}
	enter(t, first, "write")
	if _, err := first.Snapshot(); !errors.Is(err, runtime.ErrNoImage) {
		t.Errorf("an image after a write: %v", err)
	}
}

func TestMemoryStaysWhileAGuestRunsOnIt(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	lib := &hostcall.Library{Name: "test", Funcs: []hostcall.Func{{Module: "test", Name: "wait", Call: func(c *hostcall.Call) {
		close(entered)
		<-release
		c.Write(8, []byte{1})
	}}}}
	rt := open(t, runtime.Options{Libraries: []*hostcall.Library{lib}})
	m := compile(t, rt, (&wasmtest.Module{Imports: []wasmtest.Import{{Module: "test", Name: "wait"}}, Memory: []uint32{1},
		Funcs: []wasmtest.Func{{Export: "f", Body: wasmtest.Cat(wasmtest.Call(0), wasmtest.I32Const(16), wasmtest.I32Const(1), wasmtest.Store(0))}}}).Bytes())
	im := snapshot(t, sandbox(t, m, runtime.SandboxOptions{}))
	s, err := m.NewSandbox(t.Context(), runtime.SandboxOptions{Image: im})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Call(context.Background(), "f")
		done <- err
	}()
	<-entered
	if err := s.Return(); !errors.Is(err, runtime.ErrBusy) {
		t.Errorf("returned under a call: %v", err)
	}
	if _, err := s.Snapshot(); !errors.Is(err, runtime.ErrBusy) {
		t.Errorf("an image was taken under a call: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	sp, err := rt.Space()
	if err != nil {
		t.Fatal(err)
	}
	if n := sp.Stats().Memories; n != 1 {
		t.Errorf("%d memories while the guest runs", n)
	}
	close(release)
	<-done
	if n := sp.Stats().Memories; n != 0 {
		t.Errorf("%d memories are left", n)
	}
	if _, err := s.Call(t.Context(), "f"); !errors.Is(err, runtime.ErrClosed) {
		t.Errorf("called after it was closed: %v", err)
	}
}

var reactor = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "reactor")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "reactor.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, "./testdata/reactor")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if b, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, b)
	}
	return os.ReadFile(out)
})

// goGuest is testdata/reactor, compiled, and a way to make sandboxes of it.
func goGuest(t testing.TB, opts runtime.Options) (m *runtime.Module, begin func(*image.Image) *runtime.Sandbox) {
	t.Helper()
	wasm, err := reactor()
	if err != nil {
		t.Fatal(err)
	}
	lib := wasi.Library()
	opts.Libraries, opts.Meter = []*hostcall.Library{lib}, true
	if cache, err := os.UserCacheDir(); err == nil {
		opts.CacheDir = filepath.Join(cache, "ripstop-runtime-test")
	}
	rt, err := runtime.Open(context.Background(), onTestEngine(opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	})
	if m, err = rt.Compile(context.Background(), wasm); err != nil {
		t.Fatal(err)
	}
	return m, func(im *image.Image) *runtime.Sandbox {
		sys, err := wasi.New(wasi.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSandbox(context.Background(), runtime.SandboxOptions{Image: im, Bind: []hostcall.Binding{{Library: lib, State: sys}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(s.Close(), sys.Close()); err != nil {
				t.Error(err)
			}
		})
		return s
	}
}

func TestGoGuestsDrawOtherNumbersInEachRequest(t *testing.T) {
	_, begin := goGuest(t, runtime.Options{})
	first := begin(nil)
	enter(t, first, "_initialize")
	im := snapshot(t, first)
	if r := im.Random(); len(r.Offsets) != 1 || r.Warning != "" {
		t.Fatalf("Go's random state was not found in a guest of this version: %+v", r)
	}
	second := snapshot(t, begin(im)) // an image of a sandbox that began as one
	if len(second.Random().Offsets) != 1 {
		t.Errorf("an image's image: %+v", second.Random())
	}
	for _, im := range []*image.Image{im, second} {
		s := begin(im)
		for _, name := range []string{"v1", "v2", "hash", "order"} {
			seen := map[uint64]bool{}
			for range 20 {
				seen[enter(t, s, name)] = true
				if why := discarded(t, s.Return()); why != "" {
					t.Fatal(why)
				}
			}
			seen[enter(t, begin(im), name)] = true
			least := 21
			if name == "order" { // a map begins at one of 64 keys
				least = 8
			}
			if len(seen) < least {
				t.Errorf("%s: %d different values in 21 requests", name, len(seen))
			}
		}
		for _, name := range []string{"kept", "seeded"} {
			a := enter(t, s, name)
			if why := discarded(t, s.Return()); why != "" {
				t.Fatal(why)
			}
			if b := enter(t, s, name); a != b {
				t.Errorf("%s: %x, then %x", name, a, b)
			}
			if why := discarded(t, s.Return()); why != "" {
				t.Fatal(why)
			}
		}
	}
}

func TestGoGuestsReturnExactly(t *testing.T) {
	_, begin := goGuest(t, runtime.Options{})
	first := begin(nil)
	enter(t, first, "_initialize")
	im := snapshot(t, first)
	want := make([]byte, im.MemoryBytes())
	im.CopyTo(want)
	s := begin(im)
	for i := range 30 {
		enter(t, s, "work", uint64(i))
		if i%5 == 0 {
			enter(t, s, "allocate", 3)
		}
		if why := discarded(t, s.Return()); why != "" {
			t.Fatal(why)
		}
		got := bytes.Clone(s.Memory().Bytes())
		for _, o := range im.Random().Offsets {
			copy(got[o:], want[o:o+300]) // all of the state is renewed
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: not the image", i)
		}
	}
	sp, err := s.Module().Runtime().Space()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("image of %d KiB, %d stored, %+v", im.MemoryBytes()>>10, im.StoredBytes()>>10, sp.Stats())
}
