package redis

import (
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// A module of 64 MiB is stored and read while another client measures how long its own commands take. The worst is told. What is
// asserted is that all but a thousandth take less than half as long as storing it in one command would: a machine that does
// other things too makes some commands slow, whatever the server does.
func TestALargeBlobDoesNotHoldUpOthers(t *testing.T) {
	server := redistest.Start(t, "appendonly yes", "appendfsync everysec")
	s := mustOpen(t, server.URL(), Options{})
	other := mustOpen(t, server.URL(), Options{})
	measure := func(during func()) (worst, most, median time.Duration) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var took []time.Duration
		wg.Go(func() {
			for ctx.Err() == nil {
				begin := clock.System.Now()
				if _, err := other.Records().number(t.Context()); err != nil {
					t.Error(err)
					return
				}
				took = append(took, clock.System.Now().Sub(begin))
			}
		})
		during()
		cancel()
		wg.Wait()
		slices.Sort(took)
		return took[len(took)-1], took[len(took)*999/1000], took[len(took)/2]
	}
	const size = 64 << 20
	source := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{7}), size) }
	var slow time.Duration
	for what, during := range map[string]func(){
		"storing": func() {
			if _, err := s.Blobs().Put(t.Context(), source()); err != nil {
				t.Error(err)
			}
		},
		"storing again": func() {
			if _, err := s.Blobs().Put(t.Context(), source()); err != nil {
				t.Error(err)
			}
		},
		"reading": func() {
			blob, err := s.Blobs().Put(t.Context(), source())
			if err != nil {
				t.Error(err)
				return
			}
			r, err := s.Blobs().Open(t.Context(), blob.Digest)
			if err != nil {
				t.Error(err)
				return
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != size {
				t.Errorf("%d bytes were read, %v", n, err)
			}
		},
	} {
		worst, most, median := measure(during)
		t.Logf("%s 64 MiB: another client's commands took at most %s, all but a thousandth of them %s, half of them %s", what, worst, most, median)
		slow = max(slow, most)
	}
	begin := clock.System.Now()
	server.Must("SET", "whole", string(make([]byte, size)))
	whole := clock.System.Now().Sub(begin)
	t.Logf("storing it in one command takes %s", whole)
	if slow > whole/2 {
		t.Errorf("another client's commands took %s", slow)
	}
}
