package guest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/processor"
	"github.com/ripstop-vm/ripstop/runtime/virtual"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// Sandbox is one process VM of a Program, ready for a request. It is used by one goroutine at a time; Close may come
// from any, once nobody serves with it.
type Sandbox struct {
	program *Program
	vm      *runtime.Sandbox
	state   *state
	out     *lineWriter
	err     *lineWriter
	used    bool      // cannot serve again
	base    *baseline // nil unless it began as its image
	closed  atomic.Bool
	run     *processor.Run // its turns at the processor; nil without Options.Share. It is in only while the guest runs or starts
	in      bool           // run has entered

	// of a task
	handle  *runtime.Function
	hook    *runtime.Function // what it wants to do after each return; nil: nothing
	buffer  uint32            // address of its request buffer
	room    uint32            // and its capacity
	scratch []byte
	stack   [1]uint64
	touched byte // what touch read

	// of a command
	parking   *parking
	bytes     uint64   // of memory when it began to wait
	successor *Sandbox // what serves in its place once it has expired
	lost      error    // of closing it when it expired; set before parking.gone is closed
}

// NewSandbox makes a sandbox and gets it ready: a task is initialised, a command runs up to the first host call that needs its request. ctx
// bounds it. While a sandbox starts, guests have no invocation: a task's secret, fetch and other long calls answer EAGAIN, and a command waits
// at such a call. What it logs by then is the start's.
func (p *Program) NewSandbox(ctx context.Context) (*Sandbox, error) {
	s := &Sandbox{program: p, state: &state{program: p}}
	log := &s.state.log
	log.services, log.most = p.opts.Services, uint64(p.opts.LogBytes)
	log.begin(ctx)
	s.out = &lineWriter{log: log, stream: "stdout", level: "info"}
	s.err = &lineWriter{log: log, stream: "stderr", level: "info"}
	w := wasi.Options{
		Args: append([]string{p.opts.Job}, p.opts.Args...), Env: p.env, Stdout: s.out, Stderr: s.err, MaxFiles: p.opts.Descriptors,
		Gate: p.opts.Files, DiskReserve: p.opts.DiskReserve,
	}
	for _, d := range p.dirs {
		w.Preopens = append(w.Preopens, wasi.Preopen{Guest: d.file.Guest, Host: d.host, ReadOnly: d.file.Access != "rw", Except: d.file.Except})
	}
	sys, err := wasi.New(w)
	if err != nil {
		return nil, fmt.Errorf("sandbox of %s: %w", p.opts.Job, err)
	}
	s.state.system = sys
	if p.opts.Share != nil {
		s.run = p.opts.Share.Run()
	}
	interposers := p.interposers()
	if p.kind == Command {
		s.parking = newParking(sys, &p.clearing, p.opts.Request == RequestStdin)
		s.parking.run, s.parking.most = s.run, p.opts.CPU
		interposers = append([]hostcall.Interposer{s.parking}, interposers...)
	}
	opts := runtime.SandboxOptions{
		MemoryPages: p.opts.MemoryPages, Memories: p.memories, Interposers: interposers, HostCalls: uint64(p.opts.HostCalls), Run: s.run,
		Bind: []hostcall.Binding{{Library: wasi.Library(), State: sys}, {Library: taskLibrary, State: s.state}},
	}
	if err := s.enter(ctx, 0); err != nil {
		return nil, errors.Join(err, sys.Close())
	}
	defer s.leave()
	if s.base = p.base.get(); s.base != nil {
		opts.Image, opts.Part = s.base.image, p.opts.Part
	}
	s.vm, err = p.opts.Module.NewSandbox(ctx, opts)
	if errors.Is(err, image.ErrMappings) {
		// The job has its part, or others hold them all. One that starts from the module needs next to none.
		s.base, opts.Image = nil, nil
		s.vm, err = p.opts.Module.NewSandbox(ctx, opts)
	}
	if err != nil {
		return nil, errors.Join(err, sys.Close())
	}
	switch {
	case s.base != nil:
		s.buffer, s.room = s.base.buffer, s.base.room
		if s.handle, err = s.vm.Function(TaskHandle); err == nil {
			err = sys.Rewind(s.base.mark)
		}
		if err == nil && s.base.hook {
			s.hook, err = s.vm.Function(TaskReturned)
		}
	case p.kind == Task:
		s.state.starting = true
		if err = s.initialize(ctx); err == nil && p.images() {
			p.base.take(s)
		}
		s.state.starting = false
	default:
		s.leave()
		err = s.park(ctx)
	}
	if err == nil && s.hook != nil {
		err = s.callHook(ctx)
	}
	s.out.flush()
	s.err.flush()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if p.kind == Task {
		s.vm.LimitFuel(p.opts.Fuel)
	}
	return s, nil
}

// park starts a command and has it wait for its request, for a while.
func (s *Sandbox) park(ctx context.Context) error {
	s.vm.LimitFuel(s.program.opts.Fuel) // of the whole run, wherever it waits
	if err := s.parking.start(ctx, s.vm); err != nil {
		return err
	}
	s.bytes = uint64(len(s.vm.Memory().Bytes()))
	s.parking.expiry = s.program.opts.Clock.AfterFunc(maxParked, s.expire)
	return nil
}

// expire gives up a command that has waited for too long, and its memory. Serve starts another in its place.
func (s *Sandbox) expire() {
	if s.parking.abandon(fateExpired) {
		s.lost = errors.Join(s.vm.Close(), s.state.system.Close())
		close(s.parking.gone)
	}
}

// enter waits for the sandbox's turn at the processor, and bounds how long its turns may take in all; 0 means any time. The goroutine that
// runs the guest enters and leaves, however the guest ends.
func (s *Sandbox) enter(ctx context.Context, most time.Duration) error {
	err := enter(ctx, s.run, most)
	s.in = err == nil
	return err
}

// leave ends what enter began, and may be called twice.
func (s *Sandbox) leave() {
	if !s.in {
		return
	}
	s.in = false
	leave(s.run)
}

func enter(ctx context.Context, r *processor.Run, most time.Duration) error {
	if r == nil {
		return nil
	}
	r.Bound(most)
	return r.Enter(ctx)
}

func leave(r *processor.Run) {
	if r != nil {
		r.Leave()
	}
}

// perNanosecond is how many bytes are moved between the guest and its client in a nanosecond, which is charged: some 4 GB go through the kernel in a
// second.
const perNanosecond = 4

// chargeMoved charges what was moved for a request, if it is more than a short one has.
func (s *Sandbox) chargeMoved(bytes uint64) {
	if s.run != nil && bytes > maxInline {
		s.run.Charge(time.Duration(bytes / perNanosecond))
	}
}

// chargeFor calls f and charges what its thread computed, if that is known, or how long it took. r may be nil.
func chargeFor(r *processor.Run, f func()) {
	if r == nil {
		f()
		return
	}
	began := clock.Elapsed()
	thread, before := processor.Computed()
	f()
	took := clock.Elapsed() - began
	if now, used := processor.Computed(); thread != 0 && now == thread {
		took = min(took, used-before)
	}
	r.Charge(took)
}

// Serve hands r to the guest and its answer to w, and returns when the guest is done and nobody uses r or w any more.
// info is what else the guest learns. The guest is ended when ctx ends, which the caller sees to: at the deadline, and
// when the client leaves. The error is the guest's failure: *runtime.Trap, *runtime.LimitError (of the limit "request"
// when the client asked for too much), *runtime.ExitError, *runtime.StopError, *BadResponseError, a context's error; or
// nobody's, ErrClientGone; or ours, hostcall.ErrHost or ErrUsed. Unless Result.HeadSent, nothing went to w and the caller
// answers the client; after it, the caller should break the connection (panic(http.ErrAbortHandler)).
//
// A sandbox whose Result says Reusable may serve again; any other has to be closed.
func (s *Sandbox) Serve(ctx context.Context, w http.ResponseWriter, r *http.Request, info ServeInfo) (Result, error) {
	return s.ServeInTurn(ctx, w, r, info, nil)
}

// ServeInTurn is Serve with a turn that was waited for before this sandbox was taken; nil, or one that is over: it waits for one of its own.
func (s *Sandbox) ServeInTurn(ctx context.Context, w http.ResponseWriter, r *http.Request, info ServeInfo, turn *Turn) (Result, error) {
	if s.used || s.closed.Load() {
		return Result{}, ErrUsed
	}
	s.used = true
	if s.take(turn) {
		defer s.leave() // mostly done by then
	}
	o := &s.program.opts
	if r.ContentLength > o.RequestBytes {
		s.used = false
		return Result{Reusable: true}, &runtime.LimitError{Limit: "request", Used: uint64(r.ContentLength), Max: uint64(o.RequestBytes)}
	}
	if s.parking != nil && !s.parking.take(fateServed) {
		return s.serveAnew(ctx, w, r, info)
	}
	if info.RemoteAddr == "" {
		info.RemoteAddr = r.RemoteAddr
	}
	if info.Scheme == "" {
		info.Scheme = "http"
	}
	inv := newInvocation(ctx, info, w, r, o)
	in := &inv.body
	s.state.inv = inv
	s.state.log.begin(inv.ctx)
	runtime.LimitHostCalls(s.vm.Door(), uint64(o.HostCalls))
	var err error
	if s.program.kind == Task {
		err = s.serveTask(inv, in, r, &info)
	} else {
		err = s.serveCommand(inv, in, r, &info)
	}
	inv.blocksNoMore()
	s.state.inv = nil
	s.out.flush()
	s.err.flush()
	log, resp := &s.state.log, &inv.responder
	res := Result{
		HeadSent: resp.sent, Status: resp.status, Response: resp.bytes, LogBytes: log.used, LogDropped: log.dropped,
		HostCalls: s.vm.Door().Made(),
	}
	if !resp.sent {
		res.Status = 0
	}
	if s.run != nil {
		res.CPU, res.Waited = s.run.Used(), s.run.Waited()
		s.chargeMoved(resp.bytes + uint64(in.moved(o.RequestBytes)))
	}
	res.Reusable = s.program.kind == Task && (err == nil || errors.Is(err, ErrClientGone)) && ctx.Err() == nil
	s.used = !res.Reusable
	log.ctx = nil
	return res, err
}

// serveAnew serves with a command that is started now, as this one has expired.
func (s *Sandbox) serveAnew(ctx context.Context, w http.ResponseWriter, r *http.Request, info ServeInfo) (Result, error) {
	fresh, err := s.program.NewSandbox(ctx)
	if err != nil {
		return Result{}, err
	}
	s.successor = fresh
	return fresh.Serve(ctx, w, r, info)
}

// Abandon is for a sandbox that a panic of ours left as nobody knows: its guest may still run, so that it cannot be closed, and keeps what it has.
func (s *Sandbox) Abandon() {
	if s.closed.Swap(true) {
		return
	}
	s.vm.Abandon()
	if s.successor != nil {
		s.successor.Abandon()
	}
}

// Close ends the sandbox and all that it held open. It may be called twice.
func (s *Sandbox) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	var err error
	if s.parking != nil {
		err = s.unpark()
	}
	if s.vm != nil {
		chargeFor(s.run, func() { err = errors.Join(err, s.vm.Close()) })
	}
	return errors.Join(err, s.state.system.Close())
}

// unpark ends a command that waits, and what serves in its place.
func (s *Sandbox) unpark() error {
	if s.parking.expiry != nil {
		s.parking.expiry.Stop()
	}
	if s.parking.abandon(fateClosed) || s.parking.fate.Load() != fateExpired {
		return nil
	}
	<-s.parking.gone
	if s.successor != nil {
		return errors.Join(s.lost, s.successor.Close())
	}
	return s.lost
}

// world is the time and randomness that were granted.
func (p *Program) world() virtual.Options {
	g := p.opts.Grants
	return virtual.Options{Offset: g.Clock.Offset, Frozen: g.Clock.Frozen, Seed: g.Random.Seed}
}

// interposers lists who sees a new sandbox's calls, outermost first. Time and randomness are granted, and so virtual
// ones come from the grants; they stand next to the functions, so that everyone sees what the guest does.
func (p *Program) interposers() []hostcall.Interposer {
	var all []hostcall.Interposer
	if p.opts.Outermost != nil {
		all = p.opts.Outermost()
	}
	all = append(slices.Clip(all), p.opts.Interposers...)
	if p.opts.PerSandbox != nil {
		all = append(all, p.opts.PerSandbox()...)
	}
	if world := p.world(); world.Active() {
		all = append(all, virtual.New(world))
	}
	return all
}

// MemoryBytes is how much memory the guest has now, in bytes; for a command, how much it had when it was started.
func (s *Sandbox) MemoryBytes() uint64 {
	if s.parking != nil {
		return s.bytes
	}
	return uint64(len(s.vm.Memory().Bytes()))
}

// beside is about what a sandbox takes beside its guest's memory: the engine's instance and stack, and the tables of its door.
const beside = 24 << 10

// PrivateBytes is about how much memory the sandbox holds that nobody else uses: of one that began as an image, the pages that differed
// when it last returned.
func (s *Sandbox) PrivateBytes() uint64 {
	if s.parking == nil {
		if n, ok := s.vm.Private(); ok {
			return n + beside
		}
	}
	return s.MemoryBytes() + beside
}
