package guest

import (
	"bytes"
	"net/http/httptest"
	"os"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/image"
)

// held is how many mappings and descriptors this process has.
func held(t *testing.T) (maps, fds int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n")), len(d)
}

func TestOfManyProgramsThatComeAndGoNothingStays(t *testing.T) {
	r, m := compiled(t, snoop())
	part := new(image.Part)
	var maps, fds, routines int
	for i := range 1000 {
		if i == 100 {
			maps, fds = held(t)
			routines = goruntime.NumGoroutine()
		}
		p, err := New(Options{Module: m, Images: true, MemoryPages: 60, Part: part})
		if err != nil {
			t.Fatal(err)
		}
		a, err := p.NewSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b, err := p.NewSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			b.expire()
		}
		_, _ = b.Serve(t.Context(), httptest.NewRecorder(), httptest.NewRequest("POST", "/", strings.NewReader("ot"[i%2:i%2+1])), ServeInfo{})
		_ = b.Close()
		if i%3 == 0 {
			_ = p.Close()
		}
		_ = a.Close()
		_ = p.Trim()
		_ = p.Close()
	}
	mapsNow, fdsNow := held(t)
	if mapsNow > maps+50 || fdsNow > fds+3 || goruntime.NumGoroutine() > routines+5 {
		t.Errorf("%d mappings, %d descriptors, %d goroutines; there were %d, %d, %d", mapsNow, fdsNow, goruntime.NumGoroutine(), maps, fds, routines)
	}
	sp, err := r.Space()
	if err != nil {
		t.Fatal(err)
	}
	if st := sp.Stats(); st.Memories != 0 || st.Mappings != 0 || st.Reserved != 0 || st.Private != 0 {
		t.Errorf("%+v", st)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
