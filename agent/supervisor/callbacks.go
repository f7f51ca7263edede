package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/envelope"
)

// Types of the events that callbacks send.
const (
	eventDone = "dev.ripstop.invocation.done"
	eventDead = "dev.ripstop.invocation.dead"
)

// callTime bounds one delivery of a callback. What the receiver answers beyond callAnswer bytes is not read.
const (
	callTime   = 30 * time.Second
	callAnswer = 64 << 10
)

// call tells somebody that an invocation has ended, and ends the callback if it was taken.
func (d *dispatcher) call(ctx context.Context, l broker.Lease) {
	h := d.keeper.hold(l)
	defer d.keeper.drop(h)
	sending, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	going := make(chan struct{})
	defer close(going)
	go func() {
		select {
		case <-h.lost:
			cancel()
		case <-going:
		}
	}()
	err := d.deliver(sending, l)
	select {
	case <-h.lost:
		return
	default:
	}
	last, end := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer end()
	var hopeless *hopelessCall
	switch {
	case err == nil:
		err = d.queue.Complete(last, l, broker.Result{Outcome: broker.OutcomeDone})
	case errors.As(err, &hopeless):
		err = d.queue.Complete(last, l, broker.Result{Outcome: broker.OutcomeDead, Reason: broker.CutReason(err.Error())})
	default:
		delay := l.Backoff.Delay(l.Attempt, rand.Float64())
		err = d.queue.Release(last, l, broker.Return{Delay: delay, Reason: broker.CutReason(err.Error())})
	}
	if err != nil && !errors.Is(err, broker.ErrLeaseLost) {
		d.log.Warn("the end of a callback could not be stored; it is sent again", "invocation", l.ID, "error", err)
	}
}

// hopelessCall is a callback that no other try would deliver.
type hopelessCall struct{ why string }

func (e *hopelessCall) Error() string { return e.why }

// deliver sends the event (CloudEvents 1.0 over HTTP, binary mode) under the fetch grant that the job has now.
func (d *dispatcher) deliver(ctx context.Context, l broker.Lease) error {
	s, ok := d.served(l.Job)
	if !ok {
		return errors.New("the job is not served")
	}
	g := d.super.grantOf(s.name, s.version)
	if g == nil {
		return errors.New("the job is not served")
	}
	if l.Callback == nil {
		return &hopelessCall{"there is no callback"}
	}
	to, err := envelope.DecodeCallback(l.Callback.Document)
	if err != nil {
		return &hopelessCall{err.Error()}
	}
	st, err := d.queue.Status(ctx, l.Job, l.ID)
	if err != nil {
		return err
	}
	result, err := d.queue.Result(ctx, l.Job, l.ID)
	if err != nil {
		return err
	}
	header, body, err := event(s.name, st, result)
	if err != nil {
		return &hopelessCall{err.Error()}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, bytes.NewReader(body))
	if err != nil {
		return &hopelessCall{err.Error()}
	}
	r.Header = header
	resp, err := g.transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, callAnswer) // so that the connection can be used again
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusGone:
		// CloudEvents' HTTP webhooks: the receiver wants no more of it.
		return &hopelessCall{"the receiver answered 410 Gone"}
	}
	return fmt.Errorf("the receiver answered %s", resp.Status)
}

// event is the end of an invocation as headers and body. The event's id is the invocation's, so that who gets it twice knows.
func event(job string, st broker.Status, result broker.Result) (h http.Header, body []byte, err error) {
	h = http.Header{}
	set := func(name, value string) { h.Set("Ce-"+name, escapedAttribute(value)) }
	set("Specversion", "1.0")
	set("Id", string(st.ID))
	set("Source", "/v1/jobs/"+job)
	set("Subject", string(st.ID))
	set("Time", st.Finished.UTC().Format(time.RFC3339Nano))
	set("Attempts", strconv.Itoa(st.Attempts))
	h.Set("User-Agent", "ripstop")
	if result.Outcome == broker.OutcomeDone {
		resp, err := envelope.DecodeResponse(result.Payload)
		if err != nil {
			return nil, nil, err
		}
		set("Type", eventDone)
		set("Httpstatus", strconv.Itoa(resp.Status))
		for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Language"} {
			if vs := resp.Header.Values(name); len(vs) > 0 {
				h[name] = vs
			}
		}
		body = resp.Body
	} else {
		set("Type", eventDead)
		set("Reason", result.Reason)
	}
	return h, body, nil
}

// escapedAttribute writes an attribute's value as a header's (CloudEvents 1.0, HTTP binding, 3.1.3.2): space, quote, percent and what
// is no printable ASCII are percent-encoded.
func escapedAttribute(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
