package agent

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestTheFurtherAwayTheLessAGuestMayEnqueue(t *testing.T) {
	total := 0 // that may come of one from outside
	for hops := envelope.MaxHops - 1; hops >= 0; hops-- {
		n := allowance(hops)
		if n < 1 || hops > 0 && n > allowance(hops-1) {
			t.Errorf("after %d: %d", hops, n)
		}
		total = n * (1 + total)
	}
	if total > 7_000_000 {
		t.Errorf("one request may lead to %d", total)
	}
	s := &services{}
	good := guest.QueuedRequest{Job: "j", Method: "GET", Target: "/"}
	for what, c := range map[string]struct {
		hops   int
		change func(*guest.QueuedRequest)
		want   hostcall.Errno
	}{
		"too many guests led to it":  {envelope.MaxHops, func(*guest.QueuedRequest) {}, hostcall.ELOOP},
		"one more than there may be": {0, func(q *guest.QueuedRequest) { q.Nth = 1000 }, hostcall.EDQUOT},
		"the same, further away":     {2, func(q *guest.QueuedRequest) { q.Nth = 10 }, hostcall.EDQUOT},
		"a head that is too large": {0, func(q *guest.QueuedRequest) {
			q.Header = http.Header{"X-A": {string(filled(40 << 10))}}
		}, hostcall.EMSGSIZE},
		"a path that is no UTF-8": {0, func(q *guest.QueuedRequest) { q.Target = "/\xff" }, hostcall.EINVAL},
	} {
		q := good
		c.change(&q)
		if _, err := s.Enqueue(context.WithValue(t.Context(), hopsKey{}, c.hops), q); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	if maxBody := envelope.MaxBody; maxBody != 960<<10 { // package guest's bound, and the SDK's
		t.Errorf("the bound of a body is %d", maxBody)
	}
}

// filled is text of n bytes that takes twice as many in an envelope.
func filled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xe9
	}
	return b
}
