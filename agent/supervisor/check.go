package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"time"

	"github.com/ripstop-vm/ripstop/internal/wire"
)

// Bounds of a check. The child sets the first two for itself, as it starts.
const (
	CheckAddressSpace = 4 << 30          // bytes
	CheckCPU          = 60               // seconds
	checkTime         = 90 * time.Second // by the clock on the wall
	checkOutput       = 64 << 10
)

// CheckResult is what `ripstop check` prints, as JSON.
type CheckResult struct {
	Kind    string        `json:"kind,omitempty"`
	Problem *wire.Problem `json:"problem,omitempty"`
}

// Check validates a module in a process of its own. See control.Runner.
func (s *Supervisor) Check(ctx context.Context, module io.Reader, size int64) (string, error) {
	select {
	case s.checks <- struct{}{}:
		defer func() { <-s.checks }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	out := &limited{most: checkOutput}
	// Standard input is copied by us: an error of the store must not look like a truncated module.
	in := &remembering{r: module}
	cmd := exec.CommandContext(ctx, s.opts.Program, "check")
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout = in, out
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if in.err != nil {
		return "", fmt.Errorf("read the module to check it: %w", in.err)
	}
	var r CheckResult
	if err == nil {
		if err = json.Unmarshal(out.Bytes(), &r); err != nil {
			return "", fmt.Errorf("read the check's result: %w", err)
		}
		if r.Problem != nil {
			return "", r.Problem
		}
		return r.Kind, nil
	}
	if parent := context.Cause(ctx); parent != nil && !errors.Is(parent, context.DeadlineExceeded) {
		return "", parent
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) || ctx.Err() != nil {
		s.opts.Log.Warn("a module could not be checked", "error", err, "size", size)
		return "", &wire.Problem{Code: "module-too-costly", Status: http.StatusUnprocessableEntity, Title: "The module could not be checked",
			Detail: fmt.Sprintf("checking the module took more than %d s of processor time or %d GiB of memory: build it with smaller functions", CheckCPU, CheckAddressSpace>>30)}
	}
	return "", fmt.Errorf("check the module: %w", err)
}

// remembering keeps the error that reading ended with.
type remembering struct {
	r   io.Reader
	err error
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// limited is a buffer that refuses to grow past its bound.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.most {
		return 0, fmt.Errorf("more than %d bytes", l.most)
	}
	return l.Buffer.Write(p)
}
