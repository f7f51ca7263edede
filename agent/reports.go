package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// reportsAhead is how many reports may wait to be sent. Logs, traces and audits past it are dropped and counted; what
// the control process waits for is never dropped.
const reportsAhead = 4096

// gather is for how long what nobody waits for is gathered after something was sent: each time the control process is woken costs both processes more
// than a line does.
const gather = 5 * time.Millisecond

// reports sends what a worker has to say.
type reports struct {
	clock   clock.Clock
	queue   chan queued
	urgent  chan struct{}      // has a value if somebody waits for what is in queue
	last    chan chan struct{} // takes what run closes once the control process has read everything
	done    chan struct{}      // closed when nothing is sent any more
	dropped atomic.Uint64
}

type queued struct {
	report  wire.Report
	flushed chan struct{} // closed once the report was written; may be nil
}

func newReports(c clock.Clock) *reports {
	return &reports{clock: c, queue: make(chan queued, reportsAhead), urgent: make(chan struct{}, 1), last: make(chan chan struct{}), done: make(chan struct{})}
}

// maxText bounds the text of a report, in bytes: written as JSON it is up to six times as long, and the control process ends a
// worker whose reports are longer than 1 MiB.
const maxText = 64 << 10

// stamp is r as it is sent: now, and not longer than may be.
func (s *reports) stamp(r wire.Report) wire.Report {
	r.Time = s.clock.Now()
	r.Text = r.Text[:min(len(r.Text), maxText)]
	if p := r.Problem; p != nil && len(p.Detail) > maxText {
		short := *p
		short.Detail = p.Detail[:maxText]
		r.Problem = &short
	}
	return r
}

// offer sends r if there is room, and counts it as dropped otherwise. It reports whether there was.
func (s *reports) offer(r wire.Report) bool {
	select {
	case s.queue <- queued{report: s.stamp(r)}:
		return true
	default:
		s.dropped.Add(1)
		return false
	}
}

// must sends r at once, waiting for room.
func (s *reports) must(r wire.Report) {
	select {
	case s.queue <- queued{report: s.stamp(r)}:
		s.hurry()
	case <-s.done:
	}
}

// hurry has run send what there is.
func (s *reports) hurry() {
	select {
	case s.urgent <- struct{}{}:
	default:
	}
}

// flush sends r at once and waits until it was handed to the kernel, ctx ends, or nothing is sent any more.
func (s *reports) flush(ctx context.Context, r wire.Report) {
	q := queued{s.stamp(r), make(chan struct{})}
	select {
	case s.queue <- q:
		s.hurry()
	case <-s.done:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-q.flushed:
	case <-s.done:
	case <-ctx.Done():
	}
}

// settle ends the reports with what there is, and waits until the control process has read them, ctx ends, or nothing is sent any more.
func (s *reports) settle(ctx context.Context) {
	read := make(chan struct{})
	select {
	case s.last <- read:
	case <-s.done:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-read:
	case <-s.done:
	case <-ctx.Done():
	}
}

// run sends reports over l until the link breaks or ctx ends.
func (s *reports) run(ctx context.Context, l *Link) error {
	defer close(s.done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	r, err := request(ctx, http.MethodPost, wire.PathReports, pr)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		resp, err := l.Do(r)
		if err == nil { // the head comes at once; the end, when there is one
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close() // nothing in it is needed
			if err == nil {
				err = fmt.Errorf("the control process ended the reports: %s", resp.Status)
			}
		}
		_ = pr.CloseWithError(err)
		failed <- err
	}()
	defer pw.Close()
	w := bufio.NewWriterSize(pw, 64<<10)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // nobody shows them to a browser, and each would take six bytes
	var waiting []chan struct{}
	var courtesy processor.Courtesy // a line of control characters takes six times its length, and there may be thousands of lines
	pause := clock.System.NewTimer(0)
	defer func() { pause.Stop() }()
	var read chan struct{} // closed at the end, if not nil
	for read == nil {
		select {
		case <-pause.C():
		case <-s.urgent:
		case read = <-s.last:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
		var q queued
		have := false
		if read == nil {
			select {
			case q = <-s.queue:
				have = true
			case read = <-s.last:
			case err := <-failed:
				return err
			case <-ctx.Done():
				return nil
			}
		}
		// No more than there is now: guests may be as quick to write as this is to send, and somebody waits for what is flushed.
		for left := len(s.queue); have || left > 0; {
			if !have {
				q = <-s.queue
				left--
			}
			have = false
			courtesy.Yield()
			q.report.Pack()
			if err := enc.Encode(q.report); err != nil {
				return fmt.Errorf("send reports: %w", err)
			}
			if q.flushed != nil {
				waiting = append(waiting, q.flushed)
			}
		}
		if n := s.dropped.Swap(0); n > 0 {
			if err := enc.Encode(wire.Report{Kind: wire.ReportLog, Time: s.clock.Now(), Stream: "system", Level: "warn", Text: fmt.Sprintf("%d log lines, traces and audit entries were dropped: guests write faster than they can be taken", n)}); err != nil {
				return fmt.Errorf("send reports: %w", err)
			}
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("send reports: %w", err)
		}
		for _, c := range waiting {
			close(c)
		}
		waiting = waiting[:0]
		pause.Stop()
		pause = clock.System.NewTimer(gather)
	}
	_ = pw.Close()
	select {
	case <-failed: // the control process ends its answer once it has read everything
	case <-ctx.Done():
	}
	close(read)
	<-ctx.Done()
	return nil
}
