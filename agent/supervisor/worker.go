package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// Bounds of what a worker may send and leave unread.
const (
	maxReport  = 1 << 20 // bytes of one report
	maxOrders  = 4096    // orders that it may be behind
	maxStreams = 1100    // requests under way on the link
	maxRunning = 65536   // jobs it may name as running
	linkWait   = 10 * time.Second
)

// worker is one worker process, and our end of its link.
type worker struct {
	super   *Supervisor
	store   *discreet
	process *process
	orders  chan wire.Order
	first   chan struct{} // closed when it asked for orders
	asked   sync.Once
	synced  bool // under super.mu

	mu      sync.Mutex
	running map[string]wire.Report
}

// runOne starts a worker, serves it, and returns when it is gone.
func (s *Supervisor) runOne(ctx context.Context) error {
	p, err := start(s.opts.Program, s.opts.Args, s.opts.Env, s.opts.Ingress)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	store := s.store
	w := &worker{super: s, store: &discreet{Store: store}, process: p, orders: make(chan wire.Order, maxOrders), first: make(chan struct{}), running: map[string]wire.Report{}}
	s.worker = w
	s.applied = 0
	s.notifyLocked()
	s.mu.Unlock()
	s.opts.Log.Info("worker started", "pid", p.pid)

	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: w.handler(), Protocols: protocols, MaxHeaderBytes: 256 << 10,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:    slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(newOne(p.conn)) }) // ends when the server is closed, always with an error
	wg.Go(func() { w.assign(ctx) })
	wg.Go(func() {
		// A worker that does not speak is as good as dead.
		t := s.opts.Clock.NewTimer(linkWait)
		defer t.Stop()
		select {
		case <-w.first:
		case <-ctx.Done():
		case <-t.C():
			s.opts.Log.Error("the worker did not ask for orders", "pid", p.pid)
			p.kill()
		}
	})
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		<-p.done
	}
	if s.dispatcher != nil {
		s.dispatcher.employ(nil)
	}
	cancel()
	_ = server.Close() // the link is gone anyway
	wg.Wait()

	s.mu.Lock()
	s.worker = nil
	s.applied = 0
	s.restartLocked()
	for _, prep := range s.prepared {
		if prep.worker == w {
			prep.finish(nil, true)
		}
	}
	s.notifyLocked()
	stopping := s.draining
	s.mu.Unlock()
	err = p.err
	if err == nil {
		err = errors.New("it ended by itself")
	}
	if !stopping {
		s.died(ctx, store, w, err)
	}
	return err
}

// send gives the worker an order. A worker that does not read its orders is killed.
func (w *worker) send(o wire.Order) {
	select {
	case w.orders <- o:
	default:
		w.super.opts.Log.Error("the worker does not read its orders", "pid", w.process.pid)
		w.process.kill()
	}
}

// assign tells the worker what to serve, as it changes.
func (w *worker) assign(ctx context.Context) {
	select {
	case <-w.first:
	case <-ctx.Done():
		return
	}
	served := map[string]bool{}
	put := func(a wire.Assignment, revision uint64) {
		if err := w.super.allow(a); err != nil {
			w.super.opts.Log.Error("a version cannot be assigned", "job", a.Job, "version", a.Version, "error", err)
			return
		}
		served[a.Job] = true
		if d := w.super.dispatcher; d != nil {
			d.put(a)
		}
		w.super.assigned(a.Job, a.Version)
		w.send(wire.Order{Kind: wire.OrderAssign, Assignment: &a, Revision: revision})
	}
	remove := func(job string, revision uint64) {
		delete(served, job)
		if d := w.super.dispatcher; d != nil {
			d.remove(job)
		}
		w.send(wire.Order{Kind: wire.OrderRemove, Job: job, Revision: revision})
		w.super.forbid(job)
	}
	for c := range w.store.WatchAssignments(ctx, 0) {
		switch {
		case c.Reset:
			have := map[string]bool{}
			for _, a := range c.All {
				have[a.Job] = true
				put(a, 0)
			}
			for job := range served {
				if !have[job] {
					remove(job, 0)
				}
			}
			if d := w.super.dispatcher; d != nil {
				d.retain(have)
			}
			for _, job := range w.super.hub.Traced() {
				w.send(wire.Order{Kind: wire.OrderFollow, Job: job, What: "trace"})
			}
			w.send(wire.Order{Kind: wire.OrderSynced, Revision: c.Revision})
		case c.Assignment != nil:
			put(*c.Assignment, c.Revision)
		case c.Job != "":
			remove(c.Job, c.Revision)
		default:
			w.send(wire.Order{Kind: wire.OrderSynced, Revision: c.Revision})
		}
	}
	if ctx.Err() == nil {
		w.super.opts.Log.Error("the store ended its changes; starting the worker anew")
		w.process.kill()
	}
}

// serveOrders streams orders for as long as the worker lives.
func (w *worker) serveOrders(rw http.ResponseWriter, r *http.Request) {
	mine := false
	w.asked.Do(func() { mine = true; close(w.first) })
	if !mine {
		http.Error(rw, "orders are read already", http.StatusConflict)
		return
	}
	flush := http.NewResponseController(rw)
	rw.WriteHeader(http.StatusOK)
	if flush.Flush() != nil {
		return
	}
	enc := json.NewEncoder(rw)
	for {
		select {
		case o := <-w.orders:
			o2 := o
			if o2.Assignment != nil {
				o2.Assignment.Schema = wire.Schema
			}
			if enc.Encode(o2) != nil || flush.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// takeReports reads what the worker has to say. A report that cannot be read ends the worker.
func (w *worker) takeReports(rw http.ResponseWriter, r *http.Request) {
	rw.WriteHeader(http.StatusOK)
	if http.NewResponseController(rw).Flush() != nil {
		return
	}
	in := bufio.NewReaderSize(r.Body, 64<<10)
	var line []byte
	var courtesy processor.Courtesy // floods of log come in bursts, and each line takes a while
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(line) <= maxReport:
			continue
		case errors.Is(err, io.EOF) || err != nil && r.Context().Err() != nil: // what was read before counts
			return
		case err != nil || len(line) > maxReport:
			w.super.opts.Log.Error("the worker's reports cannot be read", "error", err, "bytes", len(line))
			w.process.kill()
			return
		}
		courtesy.Yield()
		var report wire.Report
		if err := json.Unmarshal(line, &report); err != nil {
			w.super.opts.Log.Error("the worker's reports cannot be read", "error", err)
			w.process.kill()
			return
		}
		line = line[:0]
		report.Unpack()
		w.report(r.Context(), report)
	}
}

// report takes note of one report. What names a job that the worker was not given is left out.
func (w *worker) report(ctx context.Context, r wire.Report) {
	s := w.super
	switch r.Kind {
	case wire.ReportReady:
		s.mu.Lock()
		if s.worker == w {
			w.synced = true
			s.notifyLocked()
		}
		mine := s.worker == w
		s.mu.Unlock()
		if d := s.dispatcher; d != nil && mine {
			d.employ(w)
		}
	case wire.ReportApplied:
		s.mu.Lock()
		if s.worker == w && r.Revision > s.applied {
			s.applied = r.Revision
			s.notifyLocked()
		}
		s.mu.Unlock()
	case wire.ReportStarted:
		s.started(w, r)
	case wire.ReportPrepared:
		if p := r.Problem; p != nil { // it may have what the guest wrote, and is not cut before it is redacted
			redacted := *p
			redacted.Detail = w.store.redact(r.Job, p.Detail)
			r.Problem = &redacted
		}
		problem := sane(r.Problem)
		s.mu.Lock()
		p := s.prepared[r.ID]
		if p != nil && p.worker == w {
			p.finish(problem, false)
		}
		s.mu.Unlock()
	case wire.ReportLog:
		r.Text, r.Stream, r.Level, r.Invocation = cut(readable(w.store.redact(r.Job, r.Text)), maxText), oneOf(r.Stream, "log", "stdout", "stderr", "system"), oneOf(r.Level, "info", "debug", "warn", "error"), cut(r.Invocation, 64)
		if r.Job == "" && r.Stream == "system" {
			s.opts.Log.Warn(r.Text)
		} else if s.known(r.Job) {
			s.hub.Log(r)
		}
	case wire.ReportTrace:
		if !s.known(r.Job) {
			return
		}
		if r.Omitted > 0 { // they may be of any invocation
			s.hub.Trace(wire.Report{Kind: r.Kind, Time: r.Time, Job: r.Job, Version: r.Version, Omitted: r.Omitted})
			r.Omitted = 0
		}
		if len(r.Trace) > 0 {
			r.Invocation, r.Trace = cut(r.Invocation, 64), w.store.record(r.Job, r.Trace)
			s.hub.Trace(r)
		}
	case wire.ReportAudit:
		if !s.known(r.Job) {
			return
		}
		kind := control.AuditDenied
		if r.Level == "info" { // nothing was refused: the rule only observes
			kind = control.AuditObserved
		}
		e := control.AuditEntry{Kind: kind, Job: r.Job, Version: r.Version, Invocation: cut(r.Invocation, 64), Detail: r.Text, Function: r.Function, Omitted: r.Omitted}
		if err := w.store.Audit(ctx, e); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("write audit entry", "job", r.Job, "error", err)
		}
	case wire.ReportRunning:
		if s.known(r.Job) {
			w.mu.Lock()
			if len(w.running) < maxRunning {
				r.Invocation = cut(r.Invocation, 64)
				w.running[r.Job] = r
			}
			w.mu.Unlock()
		}
	case wire.ReportIdle:
		w.mu.Lock()
		delete(w.running, r.Job)
		w.mu.Unlock()
	}
}

func (w *worker) runningJobs() map[string]wire.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	jobs := w.running
	w.running = map[string]wire.Report{}
	return jobs
}

// sane is a problem that a worker sent, as something to show to a user.
func sane(p *wire.Problem) *wire.Problem {
	if p == nil {
		return nil
	}
	q := &wire.Problem{Code: cut(p.Code, 64), Status: p.Status, Title: cut(p.Title, 256), Detail: cut(p.Detail, 8<<10)}
	if q.Status < 400 || q.Status > 599 {
		q.Status = http.StatusInternalServerError
	}
	return q
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// readable is s as JSON would have it: each byte that is no UTF-8 is U+FFFD.
func readable(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

func oneOf(s string, allowed ...string) string {
	for _, a := range allowed {
		if s == a {
			return s
		}
	}
	return allowed[0]
}

// one is a listener that has a single connection.
type one struct {
	conn chan net.Conn
	addr net.Addr
	done chan struct{}
	once sync.Once
}

func newOne(c net.Conn) *one {
	o := &one{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), done: make(chan struct{})}
	o.conn <- c
	return o
}

func (o *one) Accept() (net.Conn, error) {
	select {
	case c := <-o.conn:
		return c, nil
	case <-o.done:
		return nil, fmt.Errorf("accept on the link: %w", net.ErrClosed)
	}
}

func (o *one) Close() error {
	o.once.Do(func() { close(o.done) })
	return nil
}

func (o *one) Addr() net.Addr { return o.addr }
