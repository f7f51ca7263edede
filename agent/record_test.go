package agent

import (
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

func TestARecordHasToBeLongerTheOftenerItWasWrong(t *testing.T) {
	var r record
	for wrong := range 12 {
		want := int64(firstRecord) << min(wrong, doublings)
		for n := range want {
			if r.brief() {
				t.Fatalf("brief after %d requests of %d", n, want)
			}
			r.note(false)
		}
		if !r.brief() {
			t.Fatalf("not brief after %d requests", want)
		}
		r.note(false)
		r.note(true)
		if r.brief() {
			t.Fatal("brief after one that was long")
		}
		r.note(true) // apart, where it does no harm
	}
	if r.longs.Load() != 12 {
		t.Errorf("it was wrong %d times", r.longs.Load())
	}
}

// moody is a task that computes for long when a request is longer than 1,000 bytes.
func moody() []byte {
	response := w.TaskResponse(200, "Content-Type", "text/plain", "done")
	const buffer, capacity, answer = 4 << 10, 4 << 10, 16 << 10
	return (&w.Module{
		Memory: []uint32{1},
		Data:   []w.Data{{Offset: answer, Bytes: response}},
		Funcs: []w.Func{
			{Export: "ripstop_buffer", Type: w.Type{Results: []byte{w.I64}}, Body: w.I64Const(buffer<<32 | capacity)},
			{Export: "ripstop_handle", Type: w.Type{Params: []byte{w.I32}, Results: []byte{w.I64}}, Locals: []byte{w.I32}, Body: w.Cat(
				w.Block(
					w.LocalGet(0), w.I32Const(1000), []byte{0x49, 0x0d, 0}, // i32.lt_u, br_if 0
					w.Loop(w.LocalGet(1), w.I32Const(1), []byte{w.I32Add, 0x22, 1}, w.I32Const(3_000_000), []byte{0x49, 0x0d, 0})), // local.tee 1, i32.lt_u, br_if 0
				w.I64Const(answer<<32|int64(len(response))))},
		},
	}).Bytes()
}

func TestBriefRequestsAreServedWhereTheyAreAndLongOnesApart(t *testing.T) {
	if old := goruntime.GOMAXPROCS(0); old < 2 {
		goruntime.GOMAXPROCS(2)
		t.Cleanup(func() { goruntime.GOMAXPROCS(old) })
	}
	lowered := 0
	p, err := processor.New(processor.Options{Tokens: 1, Long: 1, OnLong: func() bool { lowered++; return true }, OnLongEnd: func() {}})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := tinyAgent(t, Options{Processor: p, Apart: true}, 1)
	code, err := a.engines.first.Compile(t.Context(), moody())
	if err != nil {
		t.Fatal(err)
	}
	tk := serveTiny(t, a, code, "moody", 1)
	serve := func(long bool) {
		t.Helper()
		r := httptest.NewRequest("GET", "/", nil)
		if long {
			r.Header.Set("X-Long", strings.Repeat("x", 1000))
		}
		rec := httptest.NewRecorder()
		if _, err := a.Serve("moody", guest.ServeInfo{}, rec, r); err != nil || rec.Code != http.StatusOK || rec.Body.String() != "done" {
			t.Fatal(rec.Code, rec.Body, err)
		}
	}
	serve(true)
	if lowered != 1 {
		t.Fatalf("the first long one: lowered %d times", lowered)
	}
	for !tk.record.brief() {
		serve(false)
	}
	lowered = 0 // a machine that does other things may make brief ones long
	serve(true)
	if lowered != 0 || tk.record.brief() {
		t.Errorf("a long one after many that were brief: lowered %d times; the next is taken for brief: %t", lowered, tk.record.brief())
	}
	serve(true)
	if lowered != 1 {
		t.Errorf("the next long one: lowered %d times", lowered)
	}
}
