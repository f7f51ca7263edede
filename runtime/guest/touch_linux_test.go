package guest

import (
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"unsafe"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime"
)

// atHead calls a function when a response begins, and drops it.
type atHead struct {
	header http.Header
	call   func()
}

func (w atHead) Header() http.Header         { return w.header }
func (w atHead) Write(b []byte) (int, error) { return len(b), nil }
func (w atHead) WriteHeader(int)             { w.call() }

// TestALongAnswerIsNotReadInTheGuestsTurn has a guest answer with memory that it never touched. Each page of it that is read takes time, for which
// nobody would get the guest's turn, whatever its limits are.
func TestALongAnswerIsNotReadInTheGuestsTurn(t *testing.T) {
	const (
		pages = 160
		long  = pages<<16 - 100
	)
	m := handmade{buffer: at(1<<12, 4<<10), answer: at(16, 12+long), data: []wasmtest.Data{{Offset: 16, Bytes: answerHead(long)}}}.module()
	m.Memory = []uint32{pages}
	r, err := runtime.Open(t.Context(), runtime.Options{Libraries: Libraries(), Engine: testEngine, Meter: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if _, err := r.Space(); err != nil {
		t.Skipf("not on this machine: %v", err)
	}
	entries, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Skip(err)
	}
	defer entries.Close()
	code, err := r.Compile(t.Context(), m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Module: code, Services: newWorld(), Images: true, MemoryPages: pages, Share: oneToken(t).Job("job", 1)})
	if err != nil {
		t.Fatal(err)
	}
	sandbox(t, p)
	s := sandbox(t, p)
	host := os.Getpagesize()
	there := func() (n int) {
		mem := s.vm.Memory().Bytes()
		b := make([]byte, len(mem)/host*8)
		if _, err := entries.ReadAt(b, int64(uintptr(unsafe.Pointer(&mem[0])))/int64(host)*8); err != nil {
			t.Fatal(err)
		}
		for ; len(b) > 0; b = b[8:] {
			n += int(binary.LittleEndian.Uint64(b) >> 63) // present
		}
		return n
	}
	began := false
	w := atHead{http.Header{}, func() {
		began = true
		if n := there(); n > maxTouched/host {
			t.Errorf("%d pages were touched by the time the turn was over", n)
		}
	}}
	if _, err := s.Serve(t.Context(), w, httptest.NewRequest("GET", "/", nil), ServeInfo{}); err != nil || !began {
		t.Error(began, err)
	}
}
