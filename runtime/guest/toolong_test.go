package guest

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
)

// swallowing is a command that reads all that it can and says ok, or, if that ended with an error, exits with code; 0: it says ok then, too.
func swallowing(code int32) []byte {
	i32 := byte(w.I32)
	four := w.Type{Params: []byte{i32, i32, i32, i32}, Results: []byte{i32}}
	exit := []byte{}
	if code != 0 {
		exit = w.Cat(w.LocalGet(0), []byte{0x04, 0x40}, w.I32Const(code), w.Call(2), []byte{w.End})
	}
	return (&w.Module{
		Imports: []w.Import{
			{Module: "wasi_snapshot_preview1", Name: "fd_read", Type: four},
			{Module: "wasi_snapshot_preview1", Name: "fd_write", Type: four},
			{Module: "wasi_snapshot_preview1", Name: "proc_exit", Type: w.Type{Params: []byte{i32}}}},
		Memory: []uint32{1},
		Data:   []w.Data{{Offset: 64, Bytes: []byte("\n\nok")}},
		Funcs: []w.Func{{Export: "_start", Locals: []byte{i32}, Body: w.Cat(
			w.I32Const(0), w.I32Const(1024), w.Store(0), w.I32Const(4), w.I32Const(4096), w.Store(0),
			w.Loop(
				w.I32Const(8), w.I32Const(0), w.Store(0),
				w.I32Const(0), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), []byte{0x22, 0, 0x45}, // local.tee, i32.eqz
				w.I32Const(8), w.Load(0), w.I32Const(0), []byte{0x47, 0x71, 0x0d, 0}), // i32.ne, i32.and, br_if
			exit,
			w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(4), w.Store(0),
			w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(1), []byte{w.Drop})}},
	}).Bytes()
}

// A program may take what it could read of a body for all of it.
func TestABodyThatTurnsOutToBeTooLongIsTooLongForACommandToo(t *testing.T) {
	r, err := runtime.Open(context.Background(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	const most = 10_000
	for name, c := range map[string]struct {
		code, size int32
		refused    bool
	}{
		"as long as may be":           {1, most, false},
		"a byte longer, and it fails": {1, most + 1, true},
		"and it does not notice":      {0, most + 1, true},
		"much longer":                 {0, 10 * most, true},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := r.Compile(t.Context(), swallowing(c.code))
			if err != nil {
				t.Fatal(err)
			}
			p, err := New(Options{Module: m, RequestBytes: most})
			if err != nil {
				t.Fatal(err)
			}
			s, err := p.NewSandbox(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			req := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader(strings.Repeat("a", int(c.size)))))
			req.ContentLength = -1 // nobody knows
			rec := httptest.NewRecorder()
			_, err = s.Serve(t.Context(), rec, req, ServeInfo{})
			limit, ok := errors.AsType[*runtime.LimitError](err)
			switch {
			case !c.refused && (err != nil || !strings.HasSuffix(rec.Body.String(), "ok")):
				t.Errorf("it ended with %q, %v", rec.Body, err)
			case c.refused && (!ok || limit.Limit != "request" || rec.Body.Len() > 0):
				t.Errorf("it ended with %q, %v", rec.Body, err)
			}
		})
	}
}
