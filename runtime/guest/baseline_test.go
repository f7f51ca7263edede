package guest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

func get(t testing.TB, s *Sandbox, path string) (string, error) {
	t.Helper()
	rec := httptest.NewRecorder()
	_, err := s.Serve(t.Context(), rec, httptest.NewRequest("GET", path, nil), ServeInfo{Invocation: "i"})
	return rec.Body.String(), err
}

func TestAReturnedSandboxIsAsNewHoweverARequestEnded(t *testing.T) {
	w := newWorld()
	p := program(t, probe, w, policy.Capabilities{}, Options{})
	s := sandbox(t, p)
	if im, err := p.Image(); im == nil || err != nil {
		t.Fatalf("there is no image: %v", err)
	}
	fresh := func(after string) {
		t.Helper()
		got, err := get(t, s, "/info")
		if err != nil {
			t.Fatalf("after %s: %v\n%s", after, err, w.text())
		}
		if !strings.Contains(got, "|1|") { // the probe counts its requests
			t.Errorf("after %s: %s", after, got)
		}
		if err := s.Return(); err != nil {
			t.Fatalf("after %s: %v", after, err)
		}
	}
	fresh("nothing")
	for _, path := range []string{"/info", "/panic", "/exit", "/late", "/log?n=2", "/big?n=100000", "/hash", "/badheader", "/metric"} {
		_, _ = get(t, s, path) // however it ends
		if err := s.Return(); err != nil {
			t.Fatalf("after %s: %v", path, err)
		}
		fresh(path)
	}
	body := httptest.NewRequest("POST", "/echo", strings.NewReader(strings.Repeat("x", 100_000)))
	if _, err := s.Serve(t.Context(), httptest.NewRecorder(), body, ServeInfo{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Return(); err != nil {
		t.Fatal(err)
	}
	fresh("a streamed body")
}

func TestASandboxThatRanOutOfTimeReturnsOrSaysThatItCannot(t *testing.T) {
	p := program(t, probe, newWorld(), policy.Capabilities{}, Options{})
	for _, path := range []string{"/spin", "/sleep"} {
		s := sandbox(t, p)
		ctx, cancel := context.WithTimeout(t.Context(), 50e6)
		_, err := s.Serve(ctx, httptest.NewRecorder(), httptest.NewRequest("GET", path, nil), ServeInfo{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%s: %v", path, err)
		}
		err = s.Return()
		var d *image.DiscardError
		switch {
		case err == nil:
			if got, err := get(t, s, "/info"); err != nil || !strings.Contains(got, "|1|") {
				t.Errorf("%s: %q, %v", path, got, err)
			}
		case !errors.As(err, &d) || d.Reason != image.Ended:
			t.Errorf("%s: %v", path, err)
		default:
			if _, err := get(t, s, "/info"); !errors.Is(err, ErrUsed) {
				t.Errorf("%s: a sandbox that could not return served: %v", path, err)
			}
		}
	}
}

func TestSandboxesThatCouldNotReturnExactlyBeginAnew(t *testing.T) {
	seed := uint64(7)
	off, err := New(Options{Module: build(t, probe)})
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*Program{
		"images are off":    off,
		"seeded randomness": program(t, probe, newWorld(), policy.Capabilities{Random: policy.Random{Seed: &seed}}, Options{}),
		"interposers of one sandbox": program(t, probe, newWorld(), policy.Capabilities{},
			Options{PerSandbox: func() []hostcall.Interposer { return nil }}),
	} {
		sandbox(t, p)
		s := sandbox(t, p)
		if im, _ := p.Image(); im != nil {
			t.Errorf("%s: there is an image", name)
		}
		if _, err := get(t, s, "/info"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Return(); err == nil {
			t.Errorf("%s: returned", name)
		}
	}
}

// BenchmarkFreshRequest is a request to the hello example in a sandbox that is as new.
func BenchmarkFreshRequest(b *testing.B) {
	for _, images := range []bool{false, true} {
		b.Run(fmt.Sprintf("images=%t", images), func(b *testing.B) {
			p, err := New(Options{Module: build(b, examples+"hello"), Images: images})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			if first, err := p.NewSandbox(b.Context()); err != nil || first.Close() != nil {
				b.Fatal(err)
			}
			s, err := p.NewSandbox(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { s.Close() }()
			r := httptest.NewRequest("GET", "/?name=x", nil)
			b.ReportAllocs()
			for b.Loop() {
				rec := httptest.NewRecorder()
				if _, err := s.Serve(b.Context(), rec, r, ServeInfo{}); err != nil || rec.Code != http.StatusOK {
					b.Fatal(rec.Code, err)
				}
				if images {
					err = s.Return()
				} else {
					s.Close()
					s, err = p.NewSandbox(b.Context())
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
