package guest

import (
	"context"
	"errors"
	"fmt"

	"github.com/ripstop-vm/ripstop/internal/loop"
	"github.com/ripstop-vm/ripstop/runtime"
)

// wantsReturned is the bit of ripstop_wants for ripstop_returned.
const wantsReturned = 1

// wants asks a task that was initialised whether it is to be called whenever a sandbox is as new.
func (s *Sandbox) wants(ctx context.Context) error {
	hook, err := s.vm.Function(TaskReturned)
	if errors.Is(err, runtime.ErrNoExport) {
		return nil
	}
	if err != nil {
		return err
	}
	out, err := s.vm.Call(ctx, TaskWants)
	switch {
	case errors.Is(err, runtime.ErrNoExport):
		s.hook = hook
	case err != nil:
		return fmt.Errorf("ask what it wants: %w", err)
	case wanted(uint32(out[0])):
		s.hook = hook
	}
	return nil
}

func wanted(bits uint32) bool { return bits&wantsReturned != 0 }

// errReturnTime is why a guest ends that does too much after a return.
var errReturnTime = fmt.Errorf("its time after a return is over: %w", context.DeadlineExceeded)

// returned has the guest do what it wants to after a return, in its turn and within the bounds of an invocation, in the place of in's loop. A failure is
// in the job's log.
func (s *Sandbox) returned(in context.Context) error {
	o := &s.program.opts
	ctx, cancel := context.WithTimeoutCause(loop.With(context.Background(), in), o.ReturnTime, errReturnTime)
	defer cancel()
	log := &s.state.log
	log.begin(ctx)
	err := s.enter(ctx, o.CPU)
	if err == nil {
		runtime.LimitHostCalls(s.vm.Door(), uint64(o.HostCalls))
		s.vm.Watch()
		err = s.callHook(ctx)
		s.vm.Unwatch()
		s.leave()
	}
	s.out.flush()
	s.err.flush()
	if err != nil {
		log.text("stderr", "error", err.Error())
	}
	log.ctx = nil
	return err
}

func (s *Sandbox) callHook(ctx context.Context) error {
	if err := s.hook.Call(ctx, nil); err != nil {
		return fmt.Errorf("after a return: %w", err)
	}
	return nil
}
