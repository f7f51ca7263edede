package guest

import (
	"context"
	"net/http"

	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// Turn is a turn at the processor that a request has before it has a sandbox. Requests that wait for the processor hold none, so that few
// sandboxes serve many requests, and the memory of those few is in the processor's caches. The zero value is none.
type Turn struct {
	program *Program
	run     *processor.Run // it has entered; nil: there is no turn, or it is over
}

// Turn waits for a turn for r, which ends with End, or with the request if a sandbox is given it (ServeInTurn). There is none for a request
// that has to wait for something else first, as for its body. It fails as ctx ends, with its cause.
func (p *Program) Turn(ctx context.Context, r *http.Request) (Turn, error) {
	if p.opts.Share == nil || p.kind != Task || r.ContentLength != 0 {
		return Turn{}, nil
	}
	run, _ := p.runs.Get().(*processor.Run)
	if run == nil {
		run = p.opts.Share.Run()
	}
	if err := enter(ctx, run, p.opts.CPU); err != nil {
		p.runs.Put(run)
		return Turn{}, err
	}
	return Turn{p, run}, nil
}

// End gives the turn back. It does nothing once the turn is over, or a sandbox has it.
func (t *Turn) End() {
	if t.run != nil {
		leave(t.run)
		t.program.runs.Put(t.run)
		t.run = nil
	}
}

// take makes a turn the sandbox's, which gives its own place at the processor for it. It reports whether there is one.
func (s *Sandbox) take(t *Turn) bool {
	if t == nil || t.run == nil || s.run == nil {
		return false
	}
	t.program.runs.Put(s.run)
	s.run, t.run, s.in = t.run, nil, true
	s.vm.SetRun(s.run)
	return true
}
