package guest

import (
	"context"
	"errors"
	"net/http"
)

// Sandbox is one process VM of a Program, ready for a request. It is used by one goroutine at a time; Close may come
// from any, once nobody serves with it.
type Sandbox struct {
	program *Program
}

// NewSandbox makes a sandbox and gets it ready: a task is initialised, a command waits at its start. ctx bounds it. While
// a sandbox starts, guests have no invocation: secret, fetch and the other long calls answer EAGAIN.
func (p *Program) NewSandbox(ctx context.Context) (*Sandbox, error) {
	return nil, errors.ErrUnsupported
}

// Serve hands r to the guest and its answer to w, and returns when the guest is done. info is what else the guest
// learns. The guest is ended when ctx ends, which the caller sees to: at the deadline, and when the client leaves. The error is the guest's failure: *runtime.Trap, *runtime.LimitError, *runtime.ExitError,
// *runtime.StopError, *BadResponseError, a context's error; or ours, hostcall.ErrHost. Unless Result.HeadSent, nothing
// went to w and the caller answers the client; after it, the caller should break the connection
// (panic(http.ErrAbortHandler)).
//
// A sandbox whose Result says Reusable may serve again; any other has to be closed.
func (s *Sandbox) Serve(ctx context.Context, w http.ResponseWriter, r *http.Request, info ServeInfo) (Result, error) {
	return Result{}, errors.ErrUnsupported
}

// Close ends the sandbox and all that it held open. It may be called twice.
func (s *Sandbox) Close() error { return nil }
