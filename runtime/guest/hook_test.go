package guest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

const hooks = "github.com/ripstop-vm/ripstop/runtime/guest/testdata/hooks"

func TestWarmStateIsInEachSandboxAndThatOfARequestNever(t *testing.T) {
	w := newWorld()
	w.config, w.secrets = map[string]string{"greeting": "hello"}, map[string]string{"token": "x"}
	grant := policy.Capabilities{Secrets: []string{"token"}, KV: []string{"b"}, Fetch: []policy.Fetch{{Scheme: "http", Host: "127.0.0.1", Port: 1}}}
	p := program(t, hooks, w, grant, Options{})
	const fresh = `warmed 1, early [], returns 1, greeting hello, served 1`
	for range 2 {
		s := sandbox(t, p)
		for range 4 {
			if got, err := get(t, s, "/"); err != nil || got != fresh {
				t.Fatalf("%q %v\n%s", got, err, w.text())
			}
			if err := s.Return(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A sandbox that begins as no image is as new once.
	kept, err := start(t, Options{Module: build(t, hooks), Services: w, Grants: p.opts.Grants})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		if got, err := get(t, kept, "/"); err != nil || got != fmt.Sprintf("warmed 1, early [], returns 1, greeting hello, served %d", n) {
			t.Errorf("%q %v", got, err)
		}
	}
}

func TestWhatIsDoneAfterAReturnHasNewNumbersAndTheTime(t *testing.T) {
	p := program(t, hooks, newWorld(), policy.Capabilities{}, Options{})
	seen := map[uint64]bool{}
	last := int64(0)
	const rounds = 5
	for range 2 {
		s := sandbox(t, p)
		for range rounds {
			before := time.Now().UnixNano()
			if err := s.Return(); err != nil {
				t.Fatal(err)
			}
			got, err := get(t, s, "/hook")
			if err != nil {
				t.Fatal(err)
			}
			var drawn uint64
			var at int64
			if _, err := fmt.Sscan(got, &drawn, &at); err != nil {
				t.Fatal(err)
			}
			seen[drawn] = true
			if at < before || at <= last || at > time.Now().UnixNano() {
				t.Errorf("the time was %d, returned after %d", at, before)
			}
			last = at
		}
	}
	if len(seen) != 2*rounds {
		t.Errorf("%d different numbers in %d returns", len(seen), 2*rounds)
	}
}

func TestAGuestThatWantsNothingIsNotCalledAfterAReturn(t *testing.T) {
	for name, pkg := range map[string]string{"a hook": hooks, "none": examples + "hello"} {
		s := sandbox(t, program(t, pkg, newWorld(), policy.Capabilities{}, Options{}))
		if (s.hook != nil) != (pkg == hooks) {
			t.Errorf("%s: called: %t", name, s.hook != nil)
		}
	}
}

// hookedTask is a task that answers "hi". Its hook does as told once the setting "hi" is there.
func hookedTask(hook []byte, more ...wasmtest.Func) *wasmtest.Module {
	ok := "\xc8\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00hi"
	m := handmade{buffer: at(1024, 8192), answer: at(64, uint32(len(ok))), data: []wasmtest.Data{{Offset: 64, Bytes: []byte(ok)}}}.module()
	i32 := byte(wasmtest.I32)
	m.Imports = append(m.Imports, wasmtest.Import{Module: TaskModule, Name: "config_get",
		Type: wasmtest.Type{Params: []byte{i32, i32, i32, i32, i32}, Results: []byte{i32}}})
	m.Funcs = append(m.Funcs, wasmtest.Func{Export: TaskReturned, Body: wasmtest.Cat(
		wasmtest.I32Const(76), wasmtest.I32Const(2), wasmtest.I32Const(512), wasmtest.I32Const(8), wasmtest.I32Const(600), wasmtest.Call(1),
		[]byte{0x45, 0x04, 0x40}, hook, []byte{wasmtest.End})}) // i32.eqz if … end
	m.Funcs = append(m.Funcs, more...)
	return m
}

func TestWantsVectorsAreRead(t *testing.T) {
	compile := modules(t)
	sandboxOf := func(m *wasmtest.Module) *Sandbox {
		s, err := start(t, Options{Module: compile(m)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, v := range readVectors(t).Wants {
		wants := wasmtest.Func{Export: TaskWants, Type: wasmtest.Type{Results: []byte{wasmtest.I32}}, Body: wasmtest.I32Const(int32(v.Value))}
		if s := sandboxOf(hookedTask(nil, wants)); (s.hook != nil) != v.Returned {
			t.Errorf("%s: called: %t", v.Name, s.hook != nil)
		}
	}
	if s := sandboxOf(hookedTask(nil)); s.hook == nil {
		t.Error("without ripstop_wants it is not called")
	}
}

func TestAHookThatFailsCostsTheSandboxAndIsLogged(t *testing.T) {
	compile := modules(t)
	loop := wasmtest.Loop(wasmtest.Br(0))
	calls := wasmtest.Loop(wasmtest.Cat(wasmtest.I32Const(76), wasmtest.I32Const(2), wasmtest.I32Const(512), wasmtest.I32Const(8),
		wasmtest.I32Const(600), wasmtest.Call(1), []byte{wasmtest.Drop}), wasmtest.Br(0))
	for name, c := range map[string]struct {
		hook []byte
		opts Options
		want string
	}{
		"a trap":              {[]byte{wasmtest.Unreachable}, Options{}, "unreachable"},
		"too much fuel":       {loop, Options{Fuel: 100_000}, "fuel limit"},
		"too much time":       {loop, Options{ReturnTime: 20 * time.Millisecond}, "its time after a return is over"},
		"too many host calls": {calls, Options{HostCalls: 100}, "host calls limit"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.opts.Module, c.opts.Services, c.opts.Images = compile(hookedTask(c.hook)), w, true
			p, err := New(c.opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = p.Close() })
			s := sandbox(t, p)
			if err := s.Return(); err != nil {
				t.Fatal(err)
			}
			w.config = map[string]string{"hi": "x"}
			var d *image.DiscardError
			if err := s.Return(); !errors.As(err, &d) || d.Reason != image.Hook || !strings.Contains(err.Error(), c.want) {
				t.Errorf("returned: %v", err)
			}
			if !strings.Contains(w.text(), "stderr error after a return: ") || !strings.Contains(w.text(), c.want) {
				t.Errorf("log %q", w.text())
			}
			if _, err := get(t, s, "/"); !errors.Is(err, ErrUsed) {
				t.Errorf("it served: %v", err)
			}
			if name == "a trap" {
				if _, err := p.NewSandbox(t.Context()); err == nil || !strings.Contains(err.Error(), "after a return: ") {
					t.Errorf("started: %v", err)
				}
			}
		})
	}
}
