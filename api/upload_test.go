package api

import (
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// deadlines is a response writer that notes the deadlines for reading that it is given.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

// chunks answers one string a read, and then err.
type chunks struct {
	texts []string
	err   error
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.texts) == 0 {
		return 0, c.err
	}
	n := copy(p, c.texts[0])
	c.texts = c.texts[1:]
	return n, nil
}

func TestAClientMayTakeAsLongAsItSendsEnough(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := clock.NewManual(start)
	w := &deadlines{ResponseWriter: httptest.NewRecorder()}
	megabyte := strings.Repeat("x", 1<<20)
	b := &body{r: &chunks{texts: []string{"a", megabyte, "b"}, err: io.EOF}, left: 2 << 20, limit: 2 << 20, what: "module",
		ctl: http.NewResponseController(w), clock: now, started: start}
	p := make([]byte, 2<<20)
	read := func(want time.Time) {
		t.Helper()
		if _, err := b.Read(p); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if got := w.set[len(w.set)-1]; !got.Equal(want) {
			t.Errorf("deadline is %v after the start, want %v", got.Sub(start), want.Sub(start))
		}
		w.set = nil
	}
	read(start.Add(30 * time.Second))
	now.Advance(20 * time.Second)
	read(start.Add(30 * time.Second)) // one byte buys no time
	now.Advance(100 * time.Second)
	read(start.Add(150 * time.Second)) // a megabyte does, but never more than 30 s without a byte
	now.Advance(160 * time.Second)
	b.read = 1 << 20
	if _, err := b.Read(p); err != io.EOF {
		t.Fatal(err)
	}
	if want := start.Add(30*time.Second + 256*time.Second); !w.set[0].Equal(want) {
		t.Errorf("deadline is %v after the start, want %v", w.set[0].Sub(start), want.Sub(start))
	}
	if !w.set[1].IsZero() {
		t.Error("the deadline outlives the body, and would end the handler's context")
	}
}

func TestAnUploadThatIsTooSlowIsToldSo(t *testing.T) {
	b := &body{r: &chunks{texts: []string{"abc"}, err: os.ErrDeadlineExceeded}, left: 10, limit: 10, what: "module",
		ctl: http.NewResponseController(httptest.NewRecorder()), clock: clock.System}
	_, err := b.all()
	var p *wire.Problem
	if !errors.As(err, &p) || p.Code != "upload-interrupted" || !strings.Contains(p.Detail, "after 3 bytes: the client was too slow") {
		t.Errorf("error is %v", err)
	}
}

func TestTheAuditLogIsNotFilledByStrangers(t *testing.T) {
	var r refusals
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	written := 0
	for range 1000 {
		if _, ok := r.take(now); ok {
			written++
		}
	}
	if written != refusalBurst {
		t.Errorf("%d entries at once, want %d", written, refusalBurst)
	}
	if omitted, ok := r.take(now.Add(refusalEvery)); !ok || omitted != 1000-refusalBurst {
		t.Errorf("later: %v, %d left out", ok, omitted)
	}
}

func FuzzUpload(f *testing.F) {
	var good bytes.Buffer
	form := multipart.NewWriter(&good)
	_ = form.SetBoundary("b")
	for _, part := range [][2]string{{"manifest", "name: hello\n"}, {"module", "\x00asm\x01\x00\x00\x00"}} {
		w, err := form.CreateFormFile(part[0], "file")
		if err != nil {
			f.Fatal(err)
		}
		_, _ = io.WriteString(w, part[1])
	}
	_ = form.Close()
	f.Add("multipart/form-data; boundary=b", good.Bytes())
	f.Add("multipart/form-data; boundary=b", good.Bytes()[:good.Len()-4])
	f.Add("multipart/form-data; boundary=\"b", good.Bytes())
	f.Add("text/plain", []byte("--b--"))
	f.Fuzz(func(t *testing.T, kind string, text []byte) {
		const limit = 1 << 10
		s := &Server{opts: Options{MaxUpload: limit}}
		r := httptest.NewRequest(http.MethodPut, "/v1/jobs/hello", nil)
		r.Header.Set("Content-Type", kind)
		b := &body{r: bytes.NewReader(text), left: limit, limit: limit, what: "module", ctl: http.NewResponseController(httptest.NewRecorder()), clock: clock.System}
		u, err := s.readUpload(r, b)
		if err == nil && u.module != nil {
			var module []byte
			module, err = io.ReadAll(u.module)
			if len(module) > limit {
				t.Fatalf("read %d bytes, more than the limit of %d", len(module), limit)
			}
		}
		var p *wire.Problem
		if err != nil && (!errors.As(err, &p) || p.Status < 400 || p.Status > 499) {
			t.Fatalf("error %v is no refusal", err)
		}
	})
}
