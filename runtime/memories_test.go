package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	goruntime "runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
)

const keptPages = 14

// keeping is a module whose sandboxes have the memories of others; nil where the system does not tell which pages were touched.
func keeping(t *testing.T, opts runtime.Options, wasm []byte) (*runtime.Runtime, *runtime.Module, *runtime.Memories) {
	t.Helper()
	opts.Libraries = []*hostcall.Library{guestLibrary()}
	rt, err := runtime.Open(context.Background(), onTestEngine(opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Close(); err != nil { // it refuses if memories are open
			t.Error(err)
		}
	})
	m := compile(t, rt, wasm)
	kept, err := m.NewMemories(keptPages, nil)
	if err != nil {
		t.Fatal(err)
	}
	if kept != nil {
		t.Cleanup(func() {
			if err := kept.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return rt, m, kept
}

// notHere ends a test on systems that do not tell which pages were touched.
func notHere(t *testing.T, rt *runtime.Runtime) {
	t.Helper()
	sp, err := rt.Space()
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range sp.Trials() {
		if tr.Method == image.Scan && goruntime.GOOS == "linux" && !errors.Is(tr.Err, syscall.ENOTTY) && !errors.Is(tr.Err, fs.ErrPermission) && !errors.Is(tr.Err, fs.ErrNotExist) {
			t.Errorf("%s does not work: %v", tr.Method, tr.Err)
		}
	}
}

func sandboxOn(t interface{ Fatal(...any) }, m *runtime.Module, kept *runtime.Memories) *runtime.Sandbox {
	s, err := m.NewSandbox(context.Background(), runtime.SandboxOptions{MemoryPages: keptPages, Memories: kept})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closed(t interface{ Fatal(...any) }, s *runtime.Sandbox) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A sandbox finds the memory of one that was closed as if it were new, whatever was done there, and so does what it grows by.
func TestASandboxSeesNothingOfThoseWhoseMemoryItHas(t *testing.T) {
	for name, opts := range map[string]runtime.Options{"compiled": {}, "interpreted": {Interpret: true}, "metered": {Meter: true},
		"little is kept": {Meter: true, Memory: image.SpaceOptions{Private: 64 << 10}}} {
		t.Run(name, func(t *testing.T) {
			rt, m, kept := keeping(t, opts, restless().Bytes())
			if kept == nil {
				notHere(t, rt)
				return
			}
			first := sandboxOn(t, m, nil)
			want := bytes.Clone(first.Memory().Bytes())
			closed(t, first)
			if !bytes.Contains(want, []byte("as the module says")) {
				t.Fatal("the module's data is not there")
			}
			rapid.Check(t, func(t *rapid.T) {
				for range rapid.IntRange(1, 4).Draw(t, "sandboxes") {
					var all []*runtime.Sandbox
					for range rapid.IntRange(1, 2).Draw(t, "at once") {
						s := sandboxOn(t, m, kept)
						if all = append(all, s); !bytes.Equal(s.Memory().Bytes(), want) {
							t.Fatal("it does not begin as the module says")
						}
					}
					for _, s := range all {
						mess(t, s)
						closed(t, s)
						closed(t, s) // it may be called twice
						if s.Memory().Bytes() != nil {
							t.Fatal("a sandbox that was closed shows a memory that may be another's")
						}
					}
				}
			})
		})
	}
}

// mess has a guest write and grow, and may end it in the middle.
func mess(t *rapid.T, s *runtime.Sandbox) {
	for range rapid.IntRange(0, 8).Draw(t, "acts") {
		size := uint64(len(s.Memory().Bytes()))
		at := rapid.Uint64Range(0, size-8).Draw(t, "at")
		call := rapid.SampledFrom([]string{"poke", "host", "trap", "exit", "grow", "all", "forever"}).Draw(t, "act")
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		params := []uint64{at, 0xff}
		switch call {
		case "grow":
			before := len(s.Memory().Bytes())
			_, _ = s.Call(ctx, "grow", rapid.Uint64Range(0, 6).Draw(t, "by"))
			if more := s.Memory().Bytes()[before:]; len(bytes.Trim(more, "\x00")) > 0 {
				t.Fatal("what it grew by is not empty")
			}
			continue
		case "all":
			for b := s.Memory().Bytes(); len(b) > 0; b = b[min(len(b), 4096):] {
				b[0] = 1
			}
			continue
		case "forever":
			ctx, cancel = context.WithTimeout(ctx, time.Millisecond)
		}
		_, err := s.Call(ctx, call, params...)
		if cancel(); err != nil && call != "poke" && call != "host" {
			return // the engine may have ended the instance
		}
	}
}

func TestNoMoreMemoriesAreKeptThanWereInUseLately(t *testing.T) {
	rt, m, kept := keeping(t, runtime.Options{Meter: true}, restless().Bytes())
	if kept == nil {
		notHere(t, rt)
		return
	}
	sp, err := rt.Space()
	if err != nil {
		t.Fatal(err)
	}
	are := func(want int, when string) {
		t.Helper()
		if n := sp.Stats().Memories; n != want {
			t.Errorf("%s there are %d memories, want %d", when, n, want)
		}
	}
	trim := func() {
		t.Helper()
		if err := kept.Trim(); err != nil {
			t.Fatal(err)
		}
	}
	use := func(n int) {
		t.Helper()
		var all []*runtime.Sandbox
		for range n {
			all = append(all, sandboxOn(t, m, kept))
		}
		are(max(n, sp.Stats().Memories), fmt.Sprintf("with %d sandboxes", n))
		for _, s := range all {
			closed(t, s)
		}
	}
	use(5)
	are(5, "after five at once")
	use(2)
	trim()
	are(5, "with five of late")
	use(2)
	trim()
	are(2, "with two of late")
	s := sandboxOn(t, m, kept)
	trim()
	trim()
	are(1, "with one in use")
	closed(t, s)
	are(1, "when it is closed")
	trim()
	trim()
	are(0, "with none for a while")
	a, b := sandboxOn(t, m, kept), sandboxOn(t, m, kept)
	closed(t, a)
	if err := kept.Close(); err != nil {
		t.Fatal(err)
	}
	are(1, "once nothing is kept")
	closed(t, b)
	are(0, "in the end")
}

func TestAnAbandonedSandboxKeepsItsMemoryAndHoldsUpNothing(t *testing.T) {
	rt, m, kept := keeping(t, runtime.Options{Meter: true}, restless().Bytes())
	if kept == nil {
		notHere(t, rt)
		return
	}
	s := sandboxOn(t, m, kept)
	mem := s.Memory().Bytes()
	mem[0] = 42
	s.Abandon()
	closed(t, s)
	next := sandboxOn(t, m, kept)
	if next.Memory().Bytes()[0] != 0 || mem[0] != 42 {
		t.Error("its memory is another's")
	}
	closed(t, next)
	im := snapshot(t, sandboxOn(t, m, nil))
	begun, err := m.NewSandbox(t.Context(), runtime.SandboxOptions{MemoryPages: keptPages, Image: im})
	if err != nil {
		t.Fatal(err)
	}
	begun.Abandon()
	sp, err := rt.Space()
	if err != nil {
		t.Fatal(err)
	}
	if n := sp.Stats().Memories; n != 1 {
		t.Errorf("%d memories count, want the one that is kept", n)
	}
}

func TestWithoutRoomForMappingsSandboxesHaveMemoriesOfTheirOwn(t *testing.T) {
	rt, m, kept := keeping(t, runtime.Options{Meter: true, Memory: image.SpaceOptions{Mappings: 4}}, restless().Bytes())
	if kept == nil {
		notHere(t, rt)
		return
	}
	var all []*runtime.Sandbox
	for range 8 {
		s := sandboxOn(t, m, kept)
		if _, err := s.Call(t.Context(), "poke", 7, 9); err != nil || s.Memory().Bytes()[7] != 9 {
			t.Errorf("%v", err)
		}
		all = append(all, s)
	}
	for _, s := range all {
		closed(t, s)
	}
}

func TestSandboxesShareMemoriesFromManyGoroutines(t *testing.T) {
	rt, m, kept := keeping(t, runtime.Options{Meter: true}, restless().Bytes())
	if kept == nil {
		notHere(t, rt)
		return
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				s, err := m.NewSandbox(context.Background(), runtime.SandboxOptions{MemoryPages: keptPages, Memories: kept})
				if err != nil {
					t.Error(err)
					return
				}
				mem := s.Memory().Bytes()
				if mem[7] != 0 {
					t.Errorf("another's byte is there: %d", mem[7])
				}
				if _, err := s.Call(context.Background(), "poke", 7, uint64(i+1)); err != nil || mem[7] != byte(i+1) {
					t.Errorf("%v; %d is not what was written", err, mem[7])
				}
				var both sync.WaitGroup // Close may come from any, and more than once
				both.Go(func() { _ = s.Close() })
				_ = s.Close()
				both.Wait()
				if err := kept.Trim(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestModulesWithoutMemoryKeepNone(t *testing.T) {
	_, _, kept := keeping(t, runtime.Options{}, (&wasmtest.Module{Funcs: []wasmtest.Func{{Export: "f"}}}).Bytes())
	if kept != nil {
		t.Error("there are memories for a module that has none")
	}
}
