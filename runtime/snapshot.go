package runtime

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

var (
	// ErrNoImage reports that a sandbox has state that an image could not hold.
	ErrNoImage = errors.New("no exact image can be taken")
	// ErrClosed reports a call of a sandbox that was closed.
	ErrClosed = errors.New("the sandbox is closed")
	// ErrBusy reports that a call into the guest is under way.
	ErrBusy = errors.New("a call into the guest is under way")
)

// state is where a module's sandboxes keep what an image has to hold beside memory.
type state struct {
	globals []image.Global // names and types
	dirty   string         // the exported global that is not 0 once tables or segments changed; empty: nothing can change them
	random  bool           // Go's runtime is in it
	why     error          // no image can be taken, and why
}

// stateOf reads the state off what a module declares. Modules have to export all their mutable globals.
func stateOf(info *module.Module, dirty string) state {
	s := state{dirty: dirty, random: slices.ContainsFunc(info.Producers, func(p string) bool { return strings.HasPrefix(p, "language Go") })}
	no := func(format string, args ...any) state {
		return state{why: fmt.Errorf("%w: %s", ErrNoImage, fmt.Sprintf(format, args...))}
	}
	if info.HasStart {
		return no("the module has a start function, which every instantiation runs")
	}
	if info.Mutates && dirty == "" {
		return no("the module has instructions that change tables or drop segments")
	}
	names := make(map[uint32]string)
	for _, e := range info.Exports {
		if e.Kind == module.ExternGlobal {
			names[e.Index] = e.Name
		}
	}
	for i, g := range info.GlobalTypes {
		if !g.Mutable {
			continue
		}
		name, ok := names[uint32(i)]
		if !ok {
			return no("global %d is mutable and not exported", i)
		}
		switch g.Type {
		case hostcall.I32, hostcall.I64, hostcall.F32, hostcall.F64:
			s.globals = append(s.globals, image.Global{Name: name, Type: g.Type})
		default:
			return no("global %d is mutable and holds no number", i)
		}
	}
	slices.SortFunc(s.globals, func(a, b image.Global) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// space is where memories of sandboxes that begin as images lie; it is made when the first is.
type space struct {
	once  sync.Once
	space *image.Space
	err   error
}

// Space is where sandboxes that begin as images have their memories. The first call tries the ways to return on this
// machine, for some milliseconds.
func (r *Runtime) Space() (*image.Space, error) {
	if r.opts.Beside != nil {
		return r.opts.Beside.Space()
	}
	r.space.once.Do(func() { r.space.space, r.space.err = image.NewSpace(r.opts.Memory) })
	return r.space.space, r.space.err
}

// images are those that were taken of sandboxes.
func (r *Runtime) images() *image.Set {
	if r.opts.Beside != nil {
		return r.opts.Beside.images()
	}
	return &r.taken
}

// rewind is what a sandbox that began as an image needs to return to it.
type rewind struct {
	image   *image.Image
	memory  *image.Memory
	globals []engine.Global // in the image's order
	dirty   engine.Global   // may be nil
	random  image.Random
	entropy io.Reader
}

// Snapshot takes the image of the sandbox between two calls: others can begin as it (SandboxOptions.Image). The caller
// closes it. It fails with ErrNoImage if the module, or what the guest has done, makes that impossible to do exactly.
func (s *Sandbox) Snapshot() (*image.Image, error) {
	st := &s.module.state
	switch {
	case st.why != nil:
		return nil, st.why
	case s.calls.Load() > 0:
		return nil, ErrBusy
	case s.closed.Load() || s.instance.Ended():
		return nil, ErrClosed
	}
	if d := s.instance.Global(st.dirty); st.dirty != "" && (d == nil || d.Get() != 0) {
		return nil, fmt.Errorf("%w: the guest has changed a table or dropped a segment", ErrNoImage)
	}
	src := image.Source{Module: s.module.digest, Memory: s.instance.Memory().Bytes(), Globals: slices.Clone(st.globals)}
	for i := range src.Globals {
		g := &src.Globals[i]
		v := s.instance.Global(g.Name)
		if v == nil {
			return nil, fmt.Errorf("%w: the engine does not show global %q", ErrNoImage, g.Name)
		}
		g.Bits = v.Get()
	}
	switch {
	case s.rewind != nil: // the state may have been renewed since, and cannot be told from other bytes then
		src.Random = s.rewind.random
	case st.random:
		src.Random = image.FindGoRandom(src.Memory)
	}
	return s.module.runtime.images().Take(src)
}

// begin makes the instance of a sandbox that begins as opts.Image.
func (s *Sandbox) begin(ctx context.Context, opts *SandboxOptions) error {
	im, m := opts.Image, s.module
	if im.Module() != m.digest {
		return fmt.Errorf("image %s is one of module %x, not of %s", im.Digest(), im.Module(), m.digest)
	}
	if m.state.why != nil {
		return m.state.why
	}
	sp, err := m.runtime.Space()
	if err != nil {
		return err
	}
	mem, err := sp.NewMemory(im, uint64(opts.MemoryPages)*engine.PageSize, opts.Part)
	if err != nil {
		return err
	}
	if err := s.instantiate(ctx, mem); err != nil {
		return err
	}
	s.rewind = &rewind{image: im, memory: mem, random: im.Random(), entropy: opts.Entropy}
	r := s.rewind
	if r.entropy == nil {
		r.entropy = rand.Reader
	}
	if err = r.find(s.instance, &m.state); err == nil {
		err = r.restore() // instantiating has written the module's data to it
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// find looks up the image's globals in an instance.
func (r *rewind) find(inst engine.Instance, st *state) error {
	have := r.image.Globals()
	same := func(a, b image.Global) bool { return a.Name == b.Name && a.Type == b.Type }
	if !slices.EqualFunc(have, st.globals, same) {
		return fmt.Errorf("image %s has other globals than the module", r.image.Digest())
	}
	for _, g := range have {
		v := inst.Global(g.Name)
		if v == nil {
			return fmt.Errorf("the engine does not show global %q", g.Name)
		}
		r.globals = append(r.globals, v)
	}
	if st.dirty != "" {
		r.dirty = inst.Global(st.dirty)
	}
	return nil
}

// restore brings memory and globals back.
func (r *rewind) restore() error {
	if err := r.memory.Return(); err != nil {
		return &image.DiscardError{Reason: image.NoReturn, Err: err}
	}
	for i, g := range r.image.Globals() {
		r.globals[i].Set(g.Bits)
	}
	if err := r.random.Renew(r.memory.Bytes(), r.entropy); err != nil {
		return &image.DiscardError{Reason: image.NoEntropy, Err: err}
	}
	for _, o := range r.random.Offsets {
		r.memory.Written(o, image.RandomBytes)
	}
	return nil
}

// Watch has the sandbox return faster if it began as an image: from here to Unwatch the caller's goroutine keeps its thread, unless a host call
// waits, and is the only one that writes to the sandbox's memory or reads it. Everything that is written or first read there after Return, by calls into the guest or otherwise,
// has to be so; calls outside are noticed, but not what others write. Without Watch sandboxes return all the same.
func (s *Sandbox) Watch() {
	if s.rewind != nil {
		s.rewind.memory.Watch()
	}
}

// Unwatch ends what Watch began.
func (s *Sandbox) Unwatch() {
	if s.rewind != nil {
		s.rewind.memory.Unwatch()
	}
}

// Missed ends what Watch began: the memory is, or will be, written or read where no watch sees it.
func (s *Sandbox) Missed() {
	if s.rewind != nil {
		s.rewind.memory.Missed()
	}
}

// Image is what the sandbox began as; nil if it began anew.
func (s *Sandbox) Image() *image.Image {
	if s.rewind == nil {
		return nil
	}
	return s.rewind.image
}

// Private is how much of its memory a sandbox that began as an image held for itself when it last returned, in bytes; false if it began anew,
// and all of it is its own.
func (s *Sandbox) Private() (uint64, bool) {
	if s.rewind == nil {
		return 0, false
	}
	return s.rewind.memory.Private(), true
}

// Return brings a sandbox that began as an image back to it: memory and globals are the image's, byte for byte, but for
// random state, which is new each time. However the last call ended, it has returned. The host's side of the sandbox (what is
// bound to its libraries) is its maker's to bring back. A *image.DiscardError says that it cannot be done exactly, or should
// not be, and why: the sandbox can only be closed.
func (s *Sandbox) Return() error {
	r := s.rewind
	switch {
	case r == nil:
		return errors.New("the sandbox did not begin as an image")
	case s.calls.Load() > 0:
		return ErrBusy
	case s.closed.Load():
		return ErrClosed
	case s.instance.Ended():
		return &image.DiscardError{Reason: image.Ended}
	case r.dirty != nil && r.dirty.Get() != 0:
		return &image.DiscardError{Reason: image.Tables}
	case s.Deep():
		return &image.DiscardError{Reason: image.Stack}
	case r.memory.Surplus():
		return &image.DiscardError{Reason: image.Surplus}
	}
	grown := r.memory.Grown()
	if err := r.restore(); err != nil {
		return err
	}
	if grown && !s.instance.Shorten() {
		return &image.DiscardError{Reason: image.Grown}
	}
	return nil
}

// enter notes that a call begins. It is false once the sandbox is closed. Memory that is mapped must not go while a guest
// runs on it.
func (s *Sandbox) enter() bool {
	s.calls.Add(1)
	if s.closed.Load() {
		s.leave()
		return false
	}
	if s.rewind != nil && !s.rewind.memory.Watching() {
		s.rewind.memory.Missed()
	}
	return true
}

func (s *Sandbox) leave() {
	if s.calls.Add(-1) > 0 || !s.closed.Load() {
		return
	}
	if k, ok := s.memory.(*kept); ok {
		_ = k.drop(k.memory.Close) // the call went on while the engine had let go of the memory; Close has returned already
		return
	}
	_ = s.memory.Close() // likewise
}
