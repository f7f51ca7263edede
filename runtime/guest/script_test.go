package guest

import (
	"slices"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// script is a command that makes host calls one after another, whatever they answer. Texts lie in its memory at 4096 and up, vectors for
// them at 1024 and up; what calls write goes below.
type script struct {
	imports []wasmtest.Import
	body    []byte
	data    []wasmtest.Data
	vector  uint32
	text    uint32
}

func newScript() *script { return &script{vector: 1024, text: 4096} }

// call makes a host call, by the name of its function.
func (s *script) call(name string, params ...int64) *script {
	var f *hostcall.Func
	for _, lib := range Libraries() {
		for i := range lib.Funcs {
			if lib.Funcs[i].Name == name {
				f = &lib.Funcs[i]
			}
		}
	}
	if f == nil || len(params) != len(f.Params) {
		panic(name)
	}
	im := wasmtest.Import{Module: f.Module, Name: name}
	for i, t := range f.Params {
		im.Type.Params = append(im.Type.Params, byte(t))
		if t == hostcall.I64 {
			s.do(wasmtest.I64Const(params[i]))
		} else {
			s.do(wasmtest.I32Const(int32(params[i])))
		}
	}
	at := slices.IndexFunc(s.imports, func(have wasmtest.Import) bool { return have.Name == name })
	if at < 0 {
		at = len(s.imports)
		for _, t := range f.Results {
			im.Type.Results = append(im.Type.Results, byte(t))
		}
		s.imports = append(s.imports, im)
	}
	s.do(wasmtest.Call(uint32(at)))
	if len(f.Results) > 0 {
		s.do([]byte{wasmtest.Drop})
	}
	return s
}

// do adds instructions.
func (s *script) do(code ...[]byte) *script {
	s.body = wasmtest.Cat(s.body, wasmtest.Cat(code...))
	return s
}

// place puts bytes into memory and answers where.
func (s *script) place(b string) int64 {
	at := s.text
	s.data = append(s.data, wasmtest.Data{Offset: at, Bytes: []byte(b)})
	s.text += (uint32(len(b)) + 7) &^ 7
	return int64(at)
}

// vectors puts one {address, length} pair into memory and answers where.
func (s *script) vectors(at int64, n int) int64 {
	v := s.vector
	s.data = append(s.data, wasmtest.Data{Offset: v, Bytes: []byte{byte(at), byte(at >> 8), 0, 0, byte(n), byte(n >> 8), 0, 0}})
	s.vector += 8
	return int64(v)
}

// print writes text to a descriptor.
func (s *script) print(fd int64, text string) *script {
	return s.call("fd_write", fd, s.vectors(s.place(text), len(text)), 1, 0)
}

// echo reads up to 256 bytes of the standard input once, and writes what it got to the standard output.
func (s *script) echo() *script {
	in := s.vectors(512, 256)
	s.call("fd_read", 0, in, 1, 0)
	out := s.vectors(512, 0)
	s.do(wasmtest.I32Const(int32(out)+4), wasmtest.I32Const(0), wasmtest.Load(0), wasmtest.Store(0))
	return s.call("fd_write", 1, out, 1, 0)
}

func (s *script) module() *wasmtest.Module {
	return &wasmtest.Module{Imports: s.imports, Memory: []uint32{1}, Data: s.data, Funcs: []wasmtest.Func{{Export: CommandStart, Body: s.body}}}
}

// modules compiles with one metered runtime that ends with the test.
func modules(t testing.TB) func(*wasmtest.Module) *runtime.Module {
	t.Helper()
	r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return func(m *wasmtest.Module) *runtime.Module {
		t.Helper()
		code, err := r.Compile(t.Context(), m.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
}

// scripts is modules for scripts.
func scripts(t testing.TB) func(*script) *runtime.Module {
	compile := modules(t)
	return func(s *script) *runtime.Module { return compile(s.module()) }
}

// start makes a Program of a script and, unless that fails, a sandbox that is closed with the test.
func start(t testing.TB, opts Options) (*Sandbox, error) {
	t.Helper()
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.NewSandbox(t.Context())
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return s, err
}
