package runtime

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/processor"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

// compileMetered validates the original, if asked to, translates it, and compiles the result, which validates that. Translation
// may make valid what was not: a guest could then reach what was added.
func (r *Runtime) compileMetered(ctx context.Context, wasm []byte, info *module.Module, compile func(context.Context, []byte) (engine.Module, error), validate bool) (*Module, error) {
	if validate {
		original, err := r.valid.Compile(ctx, wasm)
		if err != nil {
			return nil, refusedBy(err)
		}
		if err := original.Close(); err != nil {
			return nil, err
		}
	}
	res, err := translate.Translate(wasm, translate.Options{Bounds: r.opts.Bounds})
	if err != nil {
		return nil, err
	}
	code, err := compile(ctx, res.Wasm)
	if err != nil {
		return nil, refusedBy(fmt.Errorf("translated: %w", err))
	}
	res.Wasm = nil // it is compiled
	return &Module{runtime: r, code: code, info: info, digest: sha256.Sum256(wasm), state: stateOf(res.Info, translate.DirtyExport), metered: res}, nil
}

// metering is a sandbox's fuel and stack.
type metering struct {
	meter       translate.Meter
	fuel, depth engine.Global
	budget      int64 // fuel of each outermost call
	bound       int64 // bytes of frames
	used        int64 // fuel of the last outermost call
	inside      int   // calls into the guest under way
	more        int64 // bytes of frames that are held back until the stack is deep
	deep        bool  // the stack grew past shallow, ever
	tick        func(context.Context) error
	run         *processor.Run // nil: the guest does not share the processor
	memory      *image.Memory  // nil unless the sandbox began as an image
	ticks       int            // of the outermost call
}

// watched is for how many ticks of a call, some 10,000 fuel each, its memory is watched. One that takes longer may have to make way for others,
// and finding out what it wrote is little beside it.
const watched = 100

// shallow is up to where a stack may grow without being noticed: engines never shrink it, so that one that was deep costs memory for
// as long as its sandbox lives.
const shallow = 256 << 10

// What is copied into a new memory before others are let on the core, in bytes, and what a segment counts besides its own: it may be alone on a page.
const (
	copiedAtOnce = 64 << 10
	segmentCost  = 512
)

// meter makes a new instance of a translated module begin: its data, and its start function, unless it began as an image.
func (s *Sandbox) meter(ctx context.Context, opts *SandboxOptions) error {
	m := &metering{fuel: s.instance.Global(translate.FuelExport), depth: s.instance.Global(translate.DepthExport),
		budget: math.MaxInt64, bound: translate.DefaultDepth, tick: opts.Tick, run: opts.Run}
	if m.fuel == nil || m.depth == nil {
		return errors.Join(errors.New("the engine does not show the meter's globals"), s.Close())
	}
	m.limit(opts.Fuel)
	if opts.Depth != 0 {
		m.bound = int64(min(opts.Depth, math.MaxInt64))
	}
	s.metering = m
	s.instance.Meter(m.next)
	if s.rewind != nil {
		m.memory = s.rewind.memory
		return nil
	}
	memory := s.instance.Memory().Bytes()
	var courtesy processor.Courtesy
	copied := 0
	for _, e := range s.module.metered.Image { // it fits: translation held it against the memory's minimum
		for to, from := memory[e.Offset:], e.Bytes; len(from) > 0; {
			n := copy(to, from[:min(len(from), copiedAtOnce)])
			to, from = to[n:], from[n:]
			if copied += n + segmentCost; copied < copiedAtOnce {
				continue
			}
			copied = 0
			if ctx.Err() != nil {
				return errors.Join(context.Cause(ctx), s.Close())
			}
			if m.run == nil {
				courtesy.Yield()
			} else if err := m.run.Tick(ctx); err != nil {
				return errors.Join(turnOver(err), s.Close())
			}
		}
	}
	if s.module.metered.Start {
		if err := s.run(ctx, s.instance.Function(translate.StartExport), nil); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return nil
}

// next is what happens at a tick.
func (m *metering) next(ctx context.Context, fuel, depth int64) (int64, error) {
	if depth < 0 {
		if depth += m.more; depth < 0 {
			return 0, &engine.Trap{Reason: "stack overflow"}
		}
		m.depth.Set(uint64(depth))
		m.more, m.deep = 0, true
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if m.ticks++; m.ticks == watched && m.memory != nil {
		m.memory.Missed()
	}
	if m.run != nil {
		if err := m.run.Tick(ctx); err != nil {
			return 0, turnOver(err)
		}
		m.pace(m.run.Took())
	}
	grant, ok := m.meter.Tick(fuel)
	if !ok {
		return 0, &engine.LimitError{Limit: "fuel", Used: uint64(m.meter.Used(fuel)), Max: uint64(m.budget)}
	}
	if m.tick != nil {
		if err := m.tick(ctx); err != nil {
			return 0, err
		}
	}
	return grant, nil
}

// The fuel between two ticks: firstStep at the beginning of a call, more the faster the guest takes it. One that touches a new page with each
// instruction takes a hundred times as long as others for the same fuel, and would keep its core for milliseconds.
const (
	firstStep = translate.TickFuel / 8
	leastStep = translate.TickFuel / 100
	// longest is what a tick should take at most.
	longest = 50 * time.Microsecond
)

// pace sets the fuel up to a later tick by how long it was to this one.
func (m *metering) pace(took time.Duration) {
	switch {
	case took > longest:
		m.meter.Step = max(int64(float64(m.meter.Step)*float64(longest)/float64(took)), leastStep)
	case took < longest/2:
		m.meter.Step = min(m.meter.Step*2, translate.TickFuel)
	}
}

// turns is a run as host calls see it.
type turns struct {
	*processor.Run
	sandbox *Sandbox
}

var _ hostcall.Turns = (*turns)(nil)

// Block ends a watch as well: who waits should not keep a thread.
func (t *turns) Block() {
	if r := t.sandbox.rewind; r != nil {
		r.memory.Missed()
	}
	t.Run.Block()
}

func (t *turns) Tick(ctx context.Context) error { return turnOver(t.Run.Tick(ctx)) }

// turnOver is why a guest ends that gets no other turn at the processor.
func turnOver(err error) error {
	if spent, ok := errors.AsType[*processor.SpentError](err); ok {
		return &engine.LimitError{Limit: "cpu", Used: uint64(spent.Used), Max: uint64(spent.Max)}
	}
	return err
}

// limit bounds the outermost calls that begin from now on; 0 means any amount of fuel.
func (m *metering) limit(fuel uint64) {
	m.budget = math.MaxInt64
	if fuel != 0 {
		m.budget = int64(min(fuel, math.MaxInt64))
	}
}

// LimitFuel bounds each outermost call that begins from now on, in place of SandboxOptions.Fuel.
func (s *Sandbox) LimitFuel(fuel uint64) {
	if s.metering != nil {
		s.metering.limit(fuel)
	}
}

// run calls the guest. The outermost call has the whole fuel and stack; one from within a host call goes on with what is
// left, and the stack is afterwards what it was.
func (s *Sandbox) run(ctx context.Context, fn engine.Function, stack []uint64) error {
	m := s.metering
	if m == nil {
		return fn.Call(ctx, stack)
	}
	outermost, depth, more := m.inside == 0, int64(m.depth.Get()), m.more
	m.inside++
	if outermost {
		if err := ctx.Err(); err != nil {
			m.inside--
			return context.Cause(ctx)
		}
		m.ticks = 0
		if m.run != nil {
			m.meter.Step = firstStep
		}
		m.fuel.Set(uint64(m.meter.Begin(m.budget)))
		m.more = max(0, m.bound-shallow)
		m.depth.Set(uint64(m.bound - m.more))
	}
	err := fn.Call(ctx, stack)
	if m.inside--; outermost {
		m.used = m.meter.Used(int64(m.fuel.Get()))
	} else {
		m.depth.Set(uint64(depth + more - m.more)) // what was held back may have been given meanwhile
	}
	return err
}

// Deep reports that the guest's stack has grown past 256 KiB of frames since the sandbox was made, as far as the guest is metered. An
// engine keeps that memory, so that such a sandbox is better thrown away than kept.
func (s *Sandbox) Deep() bool { return s.metering != nil && s.metering.deep }

// Fuel is what the last outermost call into the guest took; 0 if it is not metered.
func (s *Sandbox) Fuel() uint64 {
	if s.metering == nil {
		return 0
	}
	return uint64(s.metering.used)
}
