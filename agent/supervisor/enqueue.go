package supervisor

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// How fast the guests of one job may enqueue, for whichever jobs: in the long run, and at once. It is what an embedded store on
// a common disk takes from one caller, so that no job keeps the store from all others.
const (
	enqueueRate  = 1000 // a second
	enqueueBurst = 2000
)

// guestKey is the idempotency key, or the order, that a queue keeps for one that a guest gave. It belongs to the guest's job: a job must not learn
// of another's invocations, take their place, or hold them up, by guessing keys.
func guestKey(job, key string) string {
	if key == "" {
		return ""
	}
	return job + "/" + key
}

// enqueue queues a request that a guest of job made for another one.
func (w *worker) enqueue(rw http.ResponseWriter, r *http.Request, job string, g *grant) error {
	to := r.PathValue("job")
	if err := g.grants.Enqueue(to); err != nil {
		return err
	}
	now := w.super.opts.Clock.Now()
	v, err := queuedBy(job, r, g.grants, now)
	if err != nil {
		return err
	}
	if !g.enqueues.AllowN(now, 1) {
		return hostcall.EBUSY
	}
	payload, err := io.ReadAll(io.LimitReader(r.Body, broker.MaxPayload+1))
	switch {
	case err != nil:
		return err
	case len(payload) > broker.MaxPayload:
		return hostcall.EMSGSIZE
	}
	deadline := v.Request.Deadline
	if v.Request, err = envelope.DecodeRequest(payload); err != nil {
		return err
	}
	if v.Request.Hops < 1 { // that of a guest comes after one
		return hostcall.EINVAL
	}
	for name := range v.Request.Header {
		if strings.HasPrefix(name, "Ripstop-") {
			return hostcall.EINVAL
		}
	}
	v.Request.Deadline = deadline
	got, err := w.store.Enqueue(r.Context(), to, v)
	if err != nil {
		return err
	}
	return json.NewEncoder(rw).Encode(wire.Enqueued{ID: string(got.ID), Known: got.Known})
}

// queuedBy reads what a guest of job asks for beside the request itself. The callback has to be granted to that job; that it is to the other
// one is checked as for everybody.
func queuedBy(job string, r *http.Request, g *policy.Grants, now time.Time) (control.NewInvocation, error) {
	q := r.URL.Query()
	v := control.NewInvocation{Key: guestKey(job, q.Get("key")), Order: guestKey(job, q.Get("order")), From: job, Callback: q.Get("callback")}
	if v.Callback != "" {
		to, err := url.Parse(v.Callback)
		if err != nil {
			return v, hostcall.EINVAL
		}
		if err := g.Fetch(to); err != nil {
			return v, fmt.Errorf("callback: %w", err)
		}
	}
	var err error
	if v.Priority, err = strconv.Atoi(q.Get("priority")); err != nil {
		return v, hostcall.EINVAL
	}
	span := func(name string) time.Duration {
		n, e := strconv.ParseInt(q.Get(name), 10, 64)
		if e != nil || n < 0 {
			err = hostcall.EINVAL
		}
		return time.Duration(n)
	}
	v.Delay = span("delay")
	if d := span("deadline"); d > 0 {
		v.Request.Deadline = now.Add(d).UTC()
	}
	return v, err
}
