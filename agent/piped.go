package agent

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// piped is the answer of an invocation on its way to the guest that asked: a response writer on one side, a body on the
// other.
type piped struct {
	header http.Header
	body   *io.PipeReader
	in     *io.PipeWriter
	once   sync.Once
	head   chan struct{} // closed when status, sent or err are set
	status int
	sent   http.Header
	err    error
	cancel func()
}

func (p *piped) Header() http.Header { return p.header }

func (p *piped) WriteHeader(status int) {
	if status < 200 {
		return
	}
	p.once.Do(func() {
		p.status, p.sent = status, p.header.Clone()
		close(p.head)
	})
}

func (p *piped) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	return p.in.Write(b)
}

// Flush does nothing: what was written is on its way.
func (p *piped) Flush() {}

func (p *piped) Read(b []byte) (int, error) { return p.body.Read(b) }

// Close ends the invocation if it still runs.
func (p *piped) Close() error {
	p.cancel()
	return p.body.Close()
}

// finish ends the answer. A refusal becomes a response as a client of ingress would see it.
func (p *piped) finish(sent bool, err error) {
	var problem *wire.Problem
	switch {
	case err == nil:
		p.WriteHeader(http.StatusOK)
	case sent:
	case errors.As(err, &problem) && problem.Status == http.StatusNotFound:
		p.once.Do(func() { p.err = hostcall.ENOENT; close(p.head) })
	case errors.As(err, &problem):
		p.header = http.Header{"Content-Type": {"application/problem+json"}}
		p.WriteHeader(problem.Status)
		if b, e := json.Marshal(problem); e == nil {
			_, _ = p.in.Write(b) // a caller that left misses nothing
		}
		err = nil
	default:
		p.once.Do(func() { p.err = hostcall.EIO; close(p.head) })
	}
	_ = p.in.CloseWithError(err)
}
