package envelope

import (
	"bytes"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

var at = time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	high := string(every[0x80:])
	for _, r := range []Request{
		{Method: "GET", Target: "/", Header: http.Header{}, Body: []byte{}},
		{Method: "POST", Target: "/a?b=c", Header: http.Header{"X-A": {"1", "2"}, "X-High": {high}}, Body: every, Deadline: at, Hops: MaxHops},
		{Method: "PUT", Target: "/", Header: http.Header{}, Body: make([]byte, MaxBody)},
	} {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeRequest(b); err != nil || !reflect.DeepEqual(got, r) || len(b) > broker.MaxPayload {
			t.Errorf("a request is read back as %+v, %v", got, err)
		}
	}
	p := Response{Status: 201, Header: http.Header{"X-High": {high}, "Set-Cookie": {"a", "b"}}, Body: every}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeResponse(b); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("a response is read back as %+v, %v", got, err)
	}
	c := Callback{URL: "https://example.com/x"}
	if b, err = c.Encode(); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeCallback(b); err != nil || got != c {
		t.Errorf("a callback is read back as %+v, %v", got, err)
	}
}

func TestWhatIsTooLargeOrNoRequestIsRefused(t *testing.T) {
	long := strings.Repeat("x", MaxHead)
	for what, c := range map[string]struct {
		r    Request
		want error
	}{
		"a body too large": {Request{Method: "GET", Target: "/", Body: make([]byte, MaxBody+1)}, ErrTooLarge},
		"a head too large": {Request{Method: "GET", Target: "/" + long}, ErrTooLarge},
		"no method":        {Request{Target: "/"}, ErrInvalid},
		"a bad method":     {Request{Method: "G T", Target: "/"}, ErrInvalid},
		"no path":          {Request{Method: "GET"}, ErrInvalid},
		"a relative path":  {Request{Method: "GET", Target: "a"}, ErrInvalid},
		"a bad name":       {Request{Method: "GET", Target: "/", Header: http.Header{"A b": {"1"}}}, ErrInvalid},
		"too many hops":    {Request{Method: "GET", Target: "/", Hops: MaxHops + 1}, ErrInvalid},
		"a bad value":      {Request{Method: "GET", Target: "/", Header: http.Header{"A": {"1\n2"}}}, ErrInvalid},
	} {
		if _, err := c.r.Encode(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	for _, status := range []int{0, 199, 600} {
		if _, err := (Response{Status: status}).Encode(); !errors.Is(err, ErrInvalid) {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	if _, err := DecodeRequest([]byte(`{"schema":2,"method":"GET","target":"/"}` + "\n")); !errors.Is(err, broker.ErrNewer) {
		t.Errorf("schema 2: %v", err)
	}
	if _, err := DecodeRequest([]byte(`{"schema":1,"method":"GET","target":"/","header":{"A":["Ā"]}}` + "\n")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a value that no byte stands for: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schema":1,"method":"GET","target":"/","header":{"A":["é"]}}` + "\nbody"))
	f.Add([]byte(`{"schema":1,"status":200}` + "\n"))
	f.Add([]byte(`{"schema":1,"url":"http://a"}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRequest(b); err == nil {
			again, err := r.Encode()
			if err != nil && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("%+v was read, and is not written: %v", r, err)
			}
			if got, err2 := DecodeRequest(again); err == nil && (err2 != nil || got.Method != r.Method || got.Target != r.Target || !bytes.Equal(got.Body, r.Body) || !reflect.DeepEqual(got.Header, r.Header)) {
				t.Fatalf("%+v became %+v, %v", r, got, err2)
			}
		}
		if p, err := DecodeResponse(b); err == nil {
			again, err := p.Encode()
			if err != nil && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("%+v was read, and is not written: %v", p, err)
			}
			if got, err2 := DecodeResponse(again); err == nil && (err2 != nil || got.Status != p.Status || !bytes.Equal(got.Body, p.Body) || !reflect.DeepEqual(got.Header, p.Header)) {
				t.Fatalf("%+v became %+v, %v", p, got, err2)
			}
		}
		_, _ = DecodeCallback(b) // it must not panic
	})
}
