package guest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestStreamNeverWaitsForTheGuest(t *testing.T) {
	s := newStream(nil)
	woken := 0
	s.Subscribe(func() { woken++ })
	buf := make([]byte, streamBuffer+1)
	if _, err := s.Read(buf); err != hostcall.EAGAIN {
		t.Errorf("read of nothing: %v", err)
	}
	if r := s.Ready(); r.Readable || !r.Writable || r.Hangup {
		t.Errorf("%+v", r)
	}
	if n, err := s.Write(buf); n != streamBuffer || err != nil {
		t.Errorf("%d bytes taken, %v", n, err)
	}
	if _, err := s.Write(buf); err != hostcall.EAGAIN || s.Ready().Writable {
		t.Errorf("write to a full buffer: %v", err)
	}
	if n, err := s.take(buf[:10]); n != 10 || err != nil || woken != 1 || !s.Ready().Writable {
		t.Errorf("%d bytes, %v, woken %d times", n, err, woken)
	}
	s.send([]byte("abc"))
	s.end(io.EOF)
	if r := s.Ready(); !r.Readable || r.Bytes != 3 {
		t.Errorf("%+v", r)
	}
	if n, err := s.Read(buf); n != 3 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if n, err := s.Read(buf); n != 0 || err != nil || !s.Ready().Readable {
		t.Errorf("the end: %d %v", n, err)
	}
	s.refuse(hostcall.EPIPE)
	if _, err := s.Write(buf); err != hostcall.EPIPE || !s.Ready().Hangup {
		t.Errorf("%v %+v", err, s.Ready())
	}
}

func TestStreamHoldsNoMoreThanItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStream(nil)
		done := make(chan struct{})
		go func() { s.feed(strings.NewReader(strings.Repeat("x", 5*streamBuffer))); close(done) }()
		total := 0
		buf := make([]byte, 1000)
		for {
			synctest.Wait()
			if n := s.Ready().Bytes; n > streamBuffer {
				t.Fatalf("%d bytes wait", n)
			}
			n, err := s.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			total += n
		}
		if <-done; total != 5*streamBuffer {
			t.Errorf("%d bytes came", total)
		}
	})
}

func TestStreamThatStopsFreesBothSides(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*stream)
		read error // of the host, after "ab"
		rest string
	}{
		"stopped":                 {func(s *stream) { s.stop(hostcall.ECANCELED) }, errGone, ""},
		"closed":                  {func(s *stream) { _ = s.Close() }, errGone, ""},
		"shut down":               {func(s *stream) { _ = s.Shutdown() }, nil, "ab"},
		"shut down, then closed":  {func(s *stream) { _ = s.Shutdown(); _ = s.Close() }, nil, "ab"},
		"shut down, then stopped": {func(s *stream) { _ = s.Shutdown(); s.stop(hostcall.ECANCELED) }, errGone, ""},
		"closed where that ends":  {func(s *stream) { s.closeEnds = true; _ = s.Close() }, nil, "ab"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stops := 0
				s := newStream(func() { stops++ })
				if _, err := s.Write([]byte("ab")); err != nil {
					t.Fatal(err)
				}
				fed := make(chan bool, 1)
				go func() { fed <- s.put(bytes.Repeat([]byte("x"), 2*streamBuffer)) }()
				synctest.Wait()
				c.end(s)
				b, err := io.ReadAll(body{s})
				if !errors.Is(err, c.read) || string(b) != c.rest {
					t.Errorf("%q %v", b, err)
				}
				s.stop(hostcall.ECANCELED)
				_ = s.Close()
				if <-fed || stops != 1 {
					t.Errorf("stopped %d times", stops)
				}
			})
		})
	}
}
