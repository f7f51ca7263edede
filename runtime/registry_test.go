package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// callsEverything is a guest that imports every function of a table and exports, under the function's own "module.name", a
// function that passes its parameters on.
func callsEverything(table *hostcall.Table) []byte {
	m := wasmtest.Module{Memory: []uint32{1}}
	for i, f := range table.Funcs() {
		t := wasmType(f)
		m.Imports = append(m.Imports, wasmtest.Import{Module: f.Module, Name: f.Name, Type: t})
		var body []byte
		for p := range f.Params {
			body = append(body, wasmtest.LocalGet(uint32(p))...)
		}
		m.Funcs = append(m.Funcs, wasmtest.Func{Export: f.String(), Type: t, Body: append(body, wasmtest.Call(uint32(i))...)})
	}
	return m.Bytes()
}

func wasmType(f *hostcall.Func) wasmtest.Type {
	var t wasmtest.Type
	for _, p := range f.Params {
		t.Params = append(t.Params, byte(p))
	}
	for _, r := range f.Results {
		t.Results = append(t.Results, byte(r))
	}
	return t
}

// each is one function of the registry in a sandbox of its own.
type each struct {
	t       *testing.T
	f       *hostcall.Func
	sandbox *runtime.Sandbox
	ran     *int                 // how often the function itself ran
	during  func(*hostcall.Call) // what the function does instead of its own work, if not nil
	params  []uint64
}

// watcher is an interposer made of functions.
type watcher struct {
	before func(*hostcall.Call) hostcall.Verdict
	after  func(*hostcall.Call)
}

func (w *watcher) Watches(*hostcall.Func) bool { return true }
func (w *watcher) Before(c *hostcall.Call) hostcall.Verdict {
	if w.before == nil {
		return hostcall.Proceed
	}
	return w.before(c)
}
func (w *watcher) After(c *hostcall.Call) {
	if w.after != nil {
		w.after(c)
	}
}

// Where the guest keeps what its arguments point at: argument i at 4096 × (i+1).
func place(i int) uint32 { return 4096 * uint32(i+1) }

const (
	word    = "abcdefgh" // of every text; as a vector it would point outside, so those are filled apart
	outSize = 8          // of every counted out argument
)

// prepare writes valid arguments for f to guest memory and answers the parameters.
func prepare(f *hostcall.Func, mem []byte) []uint64 {
	params := make([]uint64, len(f.Params))
	for i, a := range f.Args {
		if a.Dir == hostcall.In && a.Kind < hostcall.Path {
			params[a.Param] = uint64(i + 1)
			continue
		}
		at := place(i)
		params[a.Param] = uint64(at)
		count := a.Count
		if count == 0 {
			count = a.Param + 1
		}
		switch a.Kind {
		case hostcall.Path, hostcall.Text, hostcall.Bytes:
			copy(mem[at:], word)
			params[count] = uint64(len(word))
		case hostcall.Vectors:
			// one vector of 4 bytes, 64 further on
			copy(mem[at:], []byte{byte(at + 64), byte((at + 64) >> 8), 0, 0, 4, 0, 0, 0})
			copy(mem[at+64:], "data")
			params[count] = 1
		case hostcall.Record:
			if a.Count != 0 {
				params[a.Count] = 1
			}
		}
	}
	return params
}

// registry runs check for every function that guests may import.
func registry(t *testing.T, make func(*each) hostcall.Interposer, check func(*each, []uint64, error)) {
	t.Helper()
	ctx := context.Background()
	count := 0
	all, err := hostcall.NewTable(guest.Libraries()...)
	if err != nil {
		t.Fatal(err)
	}
	// Shared by all functions: copies of the libraries whose functions do what the case says.
	var now *each
	var libs []*hostcall.Library
	for _, lib := range guest.Libraries() {
		c := &hostcall.Library{Name: lib.Name, Funcs: slices.Clone(lib.Funcs)}
		for i := range c.Funcs {
			c.Funcs[i].Call = func(c *hostcall.Call) {
				*now.ran++
				if now.during != nil {
					now.during(c)
				}
			}
			c.Funcs[i].Resolve = nil
		}
		libs = append(libs, c)
	}
	rt, err := runtime.Open(ctx, runtime.Options{Libraries: libs})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	m, err := rt.Compile(ctx, callsEverything(all))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all.Funcs() {
		count++
		t.Run(f.String(), func(t *testing.T) {
			e := &each{t: t, f: f, ran: new(int)}
			now = e
			s, err := m.NewSandbox(ctx, runtime.SandboxOptions{MemoryPages: 1, Interposers: []hostcall.Interposer{make(e)}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			e.sandbox = s
			e.params = prepare(f, s.Memory().Bytes())
			results, err := s.Call(ctx, f.String(), e.params...)
			check(e, results, err)
		})
	}
	if want := 46 + len(guest.TaskLibrary().Funcs); count != want {
		t.Errorf("%d functions, want %d", count, want)
	}
}

func TestEveryHostFunctionIsInspectedDecoded(t *testing.T) {
	registry(t, func(e *each) hostcall.Interposer {
		return &watcher{before: func(c *hostcall.Call) hostcall.Verdict {
			for i, a := range c.Func.Args {
				v := c.Value(i)
				switch {
				case a.Name == "":
					e.t.Errorf("argument %d has no name", i)
				case a.Dir == hostcall.In && a.Kind < hostcall.Path:
					if c.Num(i) != uint64(i+1) {
						e.t.Errorf("%s is %d, want %d", a.Name, c.Num(i), i+1)
					}
				case a.Kind == hostcall.Vectors:
					if len(v.Vecs) != 1 || v.Vecs[0] != (hostcall.Vec{Ptr: place(i) + 64, Len: 4}) {
						e.t.Errorf("%s is %v", a.Name, v.Vecs)
					}
				case a.Kind == hostcall.Path || a.Kind == hostcall.Text || a.Kind == hostcall.Bytes:
					if string(v.Data) != word || v.Ptr != place(i) {
						e.t.Errorf("%s is %q at %d", a.Name, v.Data, v.Ptr)
					}
					// What is judged is a copy, but for payloads.
					copied := a.Kind != hostcall.Bytes
					c.Memory()[place(i)] = 'X'
					if (v.Data[0] == 'a') != copied {
						e.t.Errorf("%s: copied %t, want %t", a.Name, !copied, copied)
					}
				default:
					if v.Ptr != place(i) || a.Size != 0 && (len(v.Data) == 0 || len(v.Data)%int(a.Size) != 0) {
						e.t.Errorf("%s is %d bytes at %d, want %d at %d", a.Name, len(v.Data), v.Ptr, a.Size, place(i))
					}
				}
			}
			return hostcall.Proceed
		}}
	}, func(e *each, _ []uint64, err error) {
		if err != nil || *e.ran != 1 {
			e.t.Errorf("error %v, ran %d times", err, *e.ran)
		}
	})
}

func TestEveryHostFunctionIsAnswered(t *testing.T) {
	registry(t, func(*each) hostcall.Interposer {
		return &watcher{before: func(c *hostcall.Call) hostcall.Verdict {
			for i := range c.Func.Results {
				c.SetResult(i, 77)
			}
			for i, a := range c.Func.Args {
				if a.Dir == hostcall.Out {
					c.PutBytes(i, []byte("answered")[:min(8, room(c, i))])
				}
			}
			return hostcall.Answer
		}}
	}, func(e *each, results []uint64, err error) {
		if err != nil || *e.ran != 0 || len(results) > 0 && results[0] != 77 {
			e.t.Errorf("results %v, error %v, ran %d times", results, err, *e.ran)
		}
		e.outs("answered")
	})
}

// room is how many bytes argument i takes.
func room(c *hostcall.Call, i int) int {
	if c.Func.Args[i].Kind == hostcall.Vectors {
		return 4
	}
	return len(c.Value(i).Data)
}

// outs checks that every out argument begins with text, as far as it has room.
func (e *each) outs(text string) {
	mem := e.sandbox.Memory().Bytes()
	for i, a := range e.f.Args {
		if a.Dir != hostcall.Out {
			continue
		}
		at, n := place(i), 0
		switch {
		case a.Kind == hostcall.Vectors:
			at, n = at+64, 4
		case a.Kind == hostcall.Bytes:
			n = outSize
		default:
			n = int(a.Size)
		}
		n = min(n, len(text))
		if got := mem[at:][:n]; !bytes.Equal(got, []byte(text)[:n]) {
			e.t.Errorf("%s holds %q, want %q", a.Name, got, text[:n])
		}
	}
}

func TestEveryHostFunctionIsModifiedBefore(t *testing.T) {
	registry(t, func(e *each) hostcall.Interposer {
		e.during = func(c *hostcall.Call) {
			for i, a := range c.Func.Args {
				switch {
				case a.Dir == hostcall.In && a.Kind < hostcall.Path:
					if c.Num(i) != 99 {
						e.t.Errorf("%s reached the function as %d", a.Name, c.Num(i))
					}
				case a.Dir == hostcall.In && (a.Kind == hostcall.Path || a.Kind == hostcall.Text):
					if string(c.Text(i)) != "another text" {
						e.t.Errorf("%s reached the function as %q", a.Name, c.Text(i))
					}
				}
			}
		}
		return &watcher{before: func(c *hostcall.Call) hostcall.Verdict {
			for i, a := range c.Func.Args {
				switch {
				case a.Dir == hostcall.In && a.Kind < hostcall.Path:
					c.SetNum(i, 99)
				case a.Dir == hostcall.In && (a.Kind == hostcall.Path || a.Kind == hostcall.Text):
					c.SetText(i, []byte("another text"))
				}
			}
			return hostcall.Proceed
		}}
	}, func(e *each, _ []uint64, err error) {
		if err != nil || *e.ran != 1 {
			e.t.Errorf("error %v, ran %d times", err, *e.ran)
		}
	})
}

func TestEveryHostFunctionIsModifiedAfter(t *testing.T) {
	registry(t, func(e *each) hostcall.Interposer {
		e.during = func(c *hostcall.Call) {
			if c.Func.Fails {
				c.Fail(hostcall.EIO)
			}
		}
		return &watcher{after: func(c *hostcall.Call) {
			if c.Func.Fails && c.Errno() != hostcall.EIO {
				e.t.Errorf("after: errno %v", c.Errno())
			}
			for i := range c.Func.Results {
				c.SetResult(i, 42)
			}
			for i, a := range c.Func.Args {
				if a.Dir == hostcall.Out {
					c.PutBytes(i, []byte("modified")[:min(8, room(c, i))])
				}
			}
		}}
	}, func(e *each, results []uint64, err error) {
		if err != nil || *e.ran != 1 || len(results) > 0 && results[0] != 42 {
			e.t.Errorf("results %v, error %v, ran %d times", results, err, *e.ran)
		}
		e.outs("modified")
	})
}

func TestEveryHostFunctionIsDenied(t *testing.T) {
	registry(t, func(*each) hostcall.Interposer {
		return &watcher{before: func(c *hostcall.Call) hostcall.Verdict { return c.Deny(hostcall.EACCES, "rule 1") }}
	}, func(e *each, results []uint64, err error) {
		if *e.ran != 0 {
			e.t.Error("the function ran")
		}
		if e.f.Fails {
			if err != nil || results[0] != uint64(hostcall.EACCES) {
				e.t.Errorf("results %v, error %v; want EACCES", results, err)
			}
			return
		}
		var stop *runtime.StopError
		if !errors.As(err, &stop) || stop.Rule != "rule 1" || stop.Func != e.f.String() {
			e.t.Errorf("error %v; want the guest stopped by rule 1", err)
		}
	})
}

func TestEveryHostFunctionIsStopped(t *testing.T) {
	reason := errors.New("enough")
	registry(t, func(*each) hostcall.Interposer {
		return &watcher{before: func(c *hostcall.Call) hostcall.Verdict {
			c.Stop(fmt.Errorf("%s: %w", c.Func, reason))
			return hostcall.Stop
		}}
	}, func(e *each, _ []uint64, err error) {
		if !errors.Is(err, reason) || *e.ran != 0 {
			e.t.Errorf("error %v, ran %d times", err, *e.ran)
		}
	})
}

// TestOnlyProcExitCannotBeDeniedWithAnErrno keeps the registry honest: a function without an errno ends the guest when it
// is denied.
func TestOnlyProcExitCannotBeDeniedWithAnErrno(t *testing.T) {
	for _, lib := range guest.Libraries() {
		for i := range lib.Funcs {
			if f := &lib.Funcs[i]; !f.Fails && f.Name != "proc_exit" {
				t.Errorf("%s does not fail", f)
			}
		}
	}
	if n := len(wasi.Library().Funcs); n != 46 {
		t.Errorf("WASI preview 1 has %d functions", n)
	}
}
