package guest

import (
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// reading is a command that grows to 4 GiB and reads a byte of each page if its request says r, and answers.
func reading() []byte {
	i32 := byte(w.I32)
	four := w.Type{Params: []byte{i32, i32, i32, i32}, Results: []byte{i32}}
	iff := func(body ...[]byte) []byte { return w.Cat([]byte{0x04, 0x40}, w.Cat(body...), []byte{w.End}) }
	return (&w.Module{
		Imports: []w.Import{{Module: "wasi_snapshot_preview1", Name: "fd_read", Type: four}, {Module: "wasi_snapshot_preview1", Name: "fd_write", Type: four}},
		Memory:  []uint32{1},
		Data:    []w.Data{{Offset: 64, Bytes: []byte("\n\nok")}},
		Funcs: []w.Func{{Export: "_start", Locals: []byte{i32, i32}, Body: w.Cat(
			w.I32Const(0), w.I32Const(16), w.Store(0), w.I32Const(4), w.I32Const(1), w.Store(0),
			w.I32Const(0), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), []byte{w.Drop},
			w.I32Const(16), w.Load(0), w.I32Const('r'), []byte{0x46}, iff(
				w.I32Const(65534), w.MemoryGrow(), []byte{w.Drop},
				w.I32Const(65536), w.LocalSet(0),
				w.Loop(w.LocalGet(1), w.LocalGet(0), w.Load(0), []byte{w.I32Add}, w.LocalSet(1), w.LocalGet(0), w.I32Const(4096), []byte{w.I32Add, 0x22, 0}, w.I32Const(-65536), []byte{0x47, 0x0d, 0})),
			w.I32Const(32), w.LocalGet(1), w.Store(0),
			w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(4), w.Store(0),
			w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(1), []byte{w.Drop})}},
	}).Bytes()
}

// What closing a sandbox takes is charged to its job, and does not depend on what another's guest did.
func TestClosingACommandIsChargedAndCostsOthersNothing(t *testing.T) {
	r, m := compiled(t, reading())
	defer goruntime.GOMAXPROCS(goruntime.GOMAXPROCS(max(goruntime.GOMAXPROCS(0), 2)))
	shared, err := processor.New(processor.Options{Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	job := shared.Job("hostile", 1)
	p, err := New(Options{Module: m, Images: true, MemoryPages: 65535, Share: job})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	sp, err := r.Space()
	if err != nil {
		t.Fatal(err)
	}
	memories := func() int { return int(sp.Stats().Memories) }
	ask := func(body string) (closing, charged time.Duration) {
		s, err := p.NewSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		if _, err := s.Serve(t.Context(), rec, httptest.NewRequest("POST", "/", strings.NewReader(body)), ServeInfo{}); err != nil || !strings.Contains(rec.Body.String(), "ok") {
			t.Fatal(err, rec.Body)
		}
		before, began := job.Usage().Host, time.Now()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return time.Since(began), job.Usage().Host - before
	}
	right := false
	for range 20 { // who measures may be kept waiting at the wrong moment
		closing, charged := ask("b")
		right = right || charged >= closing/2
	}
	if !right {
		t.Error("closing a sandbox takes twice as long as its job is charged for it")
	}
	ask("r")
	if n := memories(); n > 0 {
		t.Errorf("%d memories are kept of sandboxes that read 4 GiB: all that come after would look through that much", n)
	}
}
