package runtime_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// waiter offers a host call that waits.
func waiter(in chan<- struct{}, goOn <-chan struct{}) *hostcall.Library {
	return &hostcall.Library{Name: "wait", Funcs: []hostcall.Func{{Module: "wait", Name: "wait", Call: func(*hostcall.Call) { in <- struct{}{}; <-goOn }}}}
}

// growing is a module that waits, grows by a page and writes a secret there, or looks at what it grows by.
func growing() []byte {
	cat, get := wasmtest.Cat, wasmtest.LocalGet
	i32 := byte(wasmtest.I32)
	two := wasmtest.Type{Params: []byte{i32, i32}}
	const end = 3 * 65536
	return (&wasmtest.Module{
		Imports: []wasmtest.Import{{Module: "wait", Name: "wait"}},
		Memory:  []uint32{3, 12},
		Funcs: []wasmtest.Func{
			{Export: "late", Type: wasmtest.Type{}, Body: cat(wasmtest.Call(0), wasmtest.I32Const(1), wasmtest.MemoryGrow(), []byte{wasmtest.Drop},
				wasmtest.I32Const(end), wasmtest.I32Const(0x5ec2e7), wasmtest.Store(0))},
			{Export: "poke", Type: two, Body: cat(get(0), get(1), wasmtest.Store(0))},
			{Export: "peek", Type: wasmtest.Type{Params: []byte{i32}, Results: []byte{i32}}, Body: cat(get(0), wasmtest.Load(0))},
			{Export: "grow", Type: wasmtest.Type{Params: []byte{i32}, Results: []byte{i32}}, Body: cat(get(0), wasmtest.MemoryGrow())},
		},
	}).Bytes()
}

func closeDuringACall(t *testing.T, prepare bool) (leaked uint64) {
	ctx := context.Background()
	in, goOn := make(chan struct{}), make(chan struct{})
	rt, err := runtime.Open(ctx, onTestEngine(runtime.Options{Meter: true, Libraries: []*hostcall.Library{waiter(in, goOn)}}))
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	m := compile(t, rt, growing())
	kept, err := m.NewMemories(keptPages, nil)
	if err != nil {
		t.Fatal(err)
	}
	if kept == nil {
		return 0 // nothing is kept here
	}
	defer kept.Close()
	if prepare {
		s := sandboxOn(t, m, kept)
		if _, err := s.Call(ctx, "grow", 5); err != nil {
			t.Fatal(err)
		}
		for at := uint64(0); at < 6*65536; at += 4096 {
			if _, err := s.Call(ctx, "poke", at, 1); err != nil {
				t.Fatal(err)
			}
		}
		closed(t, s)
		for range 16 { // patience
			closed(t, sandboxOn(t, m, kept))
		}
	}
	s := sandboxOn(t, m, kept)
	done := make(chan error)
	go func() { _, err := s.Call(ctx, "late"); done <- err }()
	<-in
	closed(t, s) // "Close may come from any"
	close(goOn)
	t.Logf("the call that was under way: %v", <-done)
	next := sandboxOn(t, m, kept)
	defer closed(t, next)
	if _, err := next.Call(ctx, "grow", 1); err != nil {
		t.Fatal(err)
	}
	out, err := next.Call(ctx, "peek", 3*65536)
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// Sandbox.Close may come from any goroutine, and a call that is under way closes the memory then. Until it ends the engine has it grow without asking. A
// process of its own does that: it would end by a page that was not opened yet.
func TestAGuestThatGrowsAfterCloseFindsAndLeavesNothing(t *testing.T) {
	if how := os.Getenv("RIPSTOP_TEST_CLOSE"); how != "" {
		if leaked := closeDuringACall(t, how == "prepared"); leaked != 0 {
			t.Errorf("the next sandbox grew into another's %#x", leaked)
		}
		return
	}
	for _, how := range []string{"plain", "prepared"} {
		t.Run(how, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestAGuestThatGrowsAfterCloseFindsAndLeavesNothing$", "-test.v")
			cmd.Env = append(os.Environ(), "RIPSTOP_TEST_CLOSE="+how)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
				t.Errorf("%v\n%.900s", err, out)
			}
		})
	}
}
