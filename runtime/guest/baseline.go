package guest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// baseline is what the sandboxes of a task begin as: its image, taken once the first of them was initialised, and the host's
// side of it.
type baseline struct {
	image  *image.Image
	mark   wasi.Mark
	buffer uint32
	room   uint32
	hook   bool // it wants to be called after each return
}

// baselines is a Program's baseline, or why it has none.
type baselines struct {
	mu     sync.Mutex
	tried  bool
	have   *baseline
	why    error
	closed bool
}

// get is the baseline, if there is one by now.
func (b *baselines) get() *baseline {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.have
}

// take makes the first sandbox that was initialised the baseline.
func (b *baselines) take(s *Sandbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tried || b.closed {
		return
	}
	b.tried = true
	mark, err := s.state.system.Mark()
	if err != nil {
		b.why = fmt.Errorf("%w after initialisation", err)
		return
	}
	im, err := s.vm.Snapshot()
	if err != nil {
		b.why = err
		return
	}
	b.have = &baseline{im, mark, s.buffer, s.room, s.hook != nil}
}

func (b *baselines) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.have == nil {
		return nil
	}
	err := b.have.image.Close()
	b.have = nil
	return err
}

// Image is what sandboxes begin as. Without an error there is none because none was taken yet, or because Options.Images is
// off; the error is why none can be.
func (p *Program) Image() (*image.Image, error) {
	p.base.mu.Lock()
	defer p.base.mu.Unlock()
	if p.base.have == nil {
		return nil, p.base.why
	}
	return p.base.have.image, nil
}

// Close lets go of the program's image, and of memory that it kept. Its sandboxes may still be there.
func (p *Program) Close() error {
	err := p.base.close()
	if p.memories != nil {
		err = errors.Join(err, p.memories.Close())
	}
	return err
}

// Retire gives back memory that is kept for sandboxes, of which few are made any more. It may be called twice.
func (p *Program) Retire() error {
	if p.memories == nil {
		return nil
	}
	return p.memories.Retire()
}

// Trim gives back memory that was kept for sandboxes and not used lately. It is meant to be called now and then.
func (p *Program) Trim() error {
	if p.memories == nil {
		return nil
	}
	return p.memories.Trim()
}

// images reports whether sandboxes may begin as an image: what interposers keep for one sandbox would not return with it.
func (p *Program) images() bool {
	return p.opts.Images && p.kind == Task && p.opts.PerSandbox == nil && !p.world().Active()
}

// Return brings a sandbox that has served back to its image, so that the next request finds it as new: however the last
// one ended, unless its time was over. A guest that wants to be called then is. After an error the sandbox can only be closed; a *image.DiscardError says why. Those made
// before there was an image fail with ErrNoImage.
func (s *Sandbox) Return() error { return s.ReturnIn(context.Background()) }

// ReturnIn is Return in a loop's place, if ctx leads to one (package internal/loop), which learns when the guest takes long. Nothing ends with ctx.
func (s *Sandbox) ReturnIn(ctx context.Context) error {
	switch {
	case s.closed.Load():
		return ErrUsed
	case s.base == nil:
		return ErrNoImage
	}
	s.used = true
	if s.run != nil {
		began := clock.Elapsed()
		defer func() { s.run.Charge(clock.Elapsed() - began) }()
	}
	if err := s.vm.Return(); err != nil {
		return err
	}
	if err := s.state.system.Rewind(s.base.mark); err != nil {
		return &image.DiscardError{Reason: image.Descriptors, Err: err}
	}
	if s.hook != nil {
		if err := s.returned(ctx); err != nil {
			return &image.DiscardError{Reason: image.Hook, Err: err}
		}
	}
	s.used = false
	return nil
}

// ErrNoImage reports a sandbox that did not begin as an image.
var ErrNoImage = errors.New("the sandbox did not begin as an image")
