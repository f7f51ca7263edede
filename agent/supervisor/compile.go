package supervisor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ripstop-vm/ripstop/agent/codecache"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// Bounds of a compiler. The child sets the first two, and its processor time, for itself as it starts.
const (
	CompileAddressSpace = 4 << 30 // bytes
	CompileOutput       = 2 << 30 // bytes of a file that it writes
	CompileSpent        = 24      // its exit status when its processor time is used up
	compileTime         = time.Minute
	compileResult       = 64 << 10 // bytes
	compileErrors       = 8 << 10  // bytes kept of what it says on standard error
	compilers           = 2        // at once, if that leaves a core
)

// CompileResult is what `ripstop compile` prints, as JSON.
type CompileResult struct {
	Program string        `json:"program,omitempty"` // digest of the compiler's own file
	Kind    string        `json:"kind,omitempty"`
	Problem *wire.Problem `json:"problem,omitempty"`
}

// target is what is compiled.
type target struct {
	engine runtime.Engine
	module string // digest
}

// compilation is one that is under way, or has just ended.
type compilation struct {
	done  chan struct{} // closed when the rest is set
	entry codecache.Entry
	err   error
	left  bool // whoever began it did not wait for its end
}

// reader opens the bytes of a module.
type reader func(ctx context.Context) (io.ReadCloser, int64, error)

// Check validates and compiles a module in a process of its own. See control.Runner.
func (s *Supervisor) Check(ctx context.Context, engine, digest string, module io.Reader, size int64) (string, error) {
	e, err := s.code(ctx, engineNamed(engine), digest, func(context.Context) (io.ReadCloser, int64, error) { return io.NopCloser(module), size, nil })
	return e.Kind, err
}

// engineNamed is the engine that a manifest names, the default if it names none.
func engineNamed(name string) runtime.Engine { return cmp.Or(runtime.Engine(name), runtime.Wazero) }

// cache is where the code for an engine is. Without one the program lacks the engine.
func (s *Supervisor) cache(engine runtime.Engine) (*codecache.Cache, error) {
	if c := s.opts.Code[engine]; c != nil {
		return c, nil
	}
	return nil, &wire.Problem{Code: "engine-missing", Status: http.StatusUnprocessableEntity, Title: "This server does not have the engine",
		Detail: fmt.Sprintf("engine %q is not in this server's program: deploy with engine: %s, or run a server that was built with it (%s)", engine, runtime.Wazero, runtime.BuildWasmtime)}
}

// code finds the sealed code of a module, or has it compiled. Those who want the same at the same time wait for one compiler.
func (s *Supervisor) code(ctx context.Context, engine runtime.Engine, digest string, open reader) (codecache.Entry, error) {
	cache, err := s.cache(engine)
	if err != nil {
		return codecache.Entry{}, err
	}
	what := target{engine, digest}
	for {
		s.mu.Lock()
		c := s.compilations[what]
		mine := c == nil
		if mine {
			c = &compilation{done: make(chan struct{})}
			s.compilations[what] = c
		}
		s.mu.Unlock()
		if mine {
			c.entry, c.err = s.findOrCompile(ctx, cache, what, open)
			c.left = ctx.Err() != nil
			s.mu.Lock()
			delete(s.compilations, what)
			s.mu.Unlock()
			close(c.done)
			return c.entry, c.err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return codecache.Entry{}, context.Cause(ctx)
		}
		if c.err == nil || !c.left {
			return c.entry, c.err
		}
	}
}

func (s *Supervisor) findOrCompile(ctx context.Context, cache *codecache.Cache, what target, open reader) (codecache.Entry, error) {
	digest := what.module
	e, err := cache.Find(digest)
	if err == nil {
		return e, nil
	}
	if !errors.Is(err, codecache.ErrMissing) {
		s.opts.Log.Warn("compiled code is not what was sealed; compiling it again", "module", digest, "error", err)
	}
	select {
	case s.compilers <- struct{}{}:
		defer func() { <-s.compilers }()
	case <-ctx.Done():
		return codecache.Entry{}, context.Cause(ctx)
	}
	module, size, err := open(ctx)
	if err != nil {
		return codecache.Entry{}, fmt.Errorf("read the module to compile it: %w", err)
	}
	defer module.Close()
	dir, end, err := cache.Begin()
	if err != nil {
		return codecache.Entry{}, err
	}
	defer func() {
		if err := end(); err != nil {
			s.opts.Log.Error("remove what a compiler left", "error", err)
		}
	}()
	began := s.opts.Clock.Now()
	kind, err := s.compile(ctx, what.engine, dir, module, size)
	if err != nil {
		return codecache.Entry{}, err
	}
	if e, err = cache.Seal(digest, kind, dir); err != nil {
		return codecache.Entry{}, err
	}
	s.opts.Log.Info("module compiled", "module", digest, "engine", what.engine, "size", size, "took", s.opts.Clock.Now().Sub(began).Round(time.Millisecond))
	return e, nil
}

// compile runs a compiler for an engine, which writes to dir, and answers the module's kind.
func (s *Supervisor) compile(ctx context.Context, engine runtime.Engine, dir string, module io.Reader, size int64) (string, error) {
	// Twice the processor time, and more: it runs behind everything else on a busy machine.
	wall := 2*s.opts.CompileTime + 30*time.Second
	ctx, cancel := context.WithTimeout(ctx, wall)
	defer cancel()
	out, said := &limited{most: compileResult}, &head{most: compileErrors}
	// Standard input is copied by us: an error of the store must not look like a truncated module.
	in := &remembering{r: module}
	cpu := max(1, int64(s.opts.CompileTime/time.Second))
	cmd := exec.CommandContext(ctx, s.opts.Program, "compile", "--code", dir, "--cpu", strconv.FormatInt(cpu, 10), "--engine", string(engine), "--size", strconv.FormatInt(size, 10))
	cmd.Env = []string{"GOMAXPROCS=1", "GOMEMLIMIT=" + strconv.Itoa(CompileAddressSpace/4*3), "GOTRACEBACK=none"}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, said
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = 5 * time.Second
	// As far behind others as a guest that computes for long: a tenth of what a worker's thread gets where both want a core. Such guests must not be
	// kept from it for long, or the garbage collector waits for them.
	err := processor.Behind(cmd.Run)
	if in.err != nil {
		return "", fmt.Errorf("read the module to compile it: %w", in.err)
	}
	if err == nil {
		var r CompileResult
		if err = json.Unmarshal(out.Bytes(), &r); err != nil {
			return "", fmt.Errorf("read the compiler's result: %w", err)
		}
		switch {
		case r.Problem != nil:
			return "", sane(r.Problem)
		case r.Program != s.opts.ProgramDigest:
			return "", errReplaced
		}
		return r.Kind, nil
	}
	if parent := context.Cause(ctx); parent != nil && !errors.Is(parent, context.DeadlineExceeded) {
		return "", parent
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) && ctx.Err() == nil {
		return "", fmt.Errorf("compile the module: %w", err)
	}
	s.opts.Log.Warn("a module could not be compiled", "error", err, "size", size, "compiler", said.String())
	costly := func(more, format string, args ...any) (string, error) {
		return "", &wire.Problem{Code: "module-too-costly", Status: http.StatusUnprocessableEntity, Title: "The module could not be compiled",
			Detail: "compiling the module " + fmt.Sprintf(format, args...) + ": build it with smaller functions (less inlining, generated code in several functions)" + more}
	}
	const longer = ", or start the server with a longer --compile-time"
	var status syscall.WaitStatus
	var used time.Duration
	if p := cmd.ProcessState; p != nil { // else it has not even begun
		status, _ = p.Sys().(syscall.WaitStatus)
		used = p.UserTime() + p.SystemTime()
	}
	switch {
	case ctx.Err() != nil && used < s.opts.CompileTime/2:
		return "", &wire.Problem{Code: "host-busy", Status: http.StatusServiceUnavailable, Title: "The host is busy",
			Detail: fmt.Sprintf("compiling the module got %v of processor time in %d s, of the %v that it may have: other work keeps this host from it, so try again when there is less",
				used.Round(time.Millisecond), int64(wall/time.Second), s.opts.CompileTime)}
	case ctx.Err() != nil:
		return costly(longer, "took more than %d s", int64(wall/time.Second))
	case status.ExitStatus() == CompileSpent:
		return costly(longer, "took more than %d s of processor time", cpu)
	case status.Signaled():
		return costly("", "was ended by the system (%s), which may lack memory", status.Signal())
	case status.ExitStatus() == 2 && strings.Contains(said.String(), "memory"):
		return costly("", "took more than %d GiB of memory", CompileAddressSpace>>30)
	case status.ExitStatus() == 2:
		return costly("", "led the compiler into a failure")
	}
	return "", fmt.Errorf("compile the module: %w: %s", err, said.String())
}

// errReplaced is what a process of another program meets.
var errReplaced = errors.New("the program's file was replaced while the server runs: restart the server")

// tidyCode removes the code of modules that the store has no more, now and every hour, until ctx ends.
func (s *Supervisor) tidyCode(ctx context.Context, store Store) {
	tick := s.opts.Clock.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		var all error
		for _, cache := range s.opts.Code {
			all = errors.Join(all, tidy(ctx, cache, store))
		}
		if all != nil && ctx.Err() == nil {
			s.opts.Log.Warn("remove code that is not needed", "error", all)
		}
		select {
		case <-tick.C():
		case <-ctx.Done():
			return
		}
	}
}

// tidy removes from a cache the code of modules that the store has no more.
func tidy(ctx context.Context, cache *codecache.Cache, store Store) error {
	modules, err := cache.Modules()
	var old []string
	for _, digest := range modules {
		r, _, e := store.Module(ctx, digest)
		if e == nil {
			e = r.Close()
		} else if gone(e) {
			old, e = append(old, digest), nil
		}
		err = errors.Join(err, e)
	}
	return errors.Join(err, cache.Remove(old...))
}

// remembering is a compiler's standard input, which keeps the error that reading ended with.
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

// WriteTo implements io.WriterTo, for who starts a process with a reader as its input. Reading a module takes hashing it, and is behind others like
// the compiler.
func (r *remembering) WriteTo(w io.Writer) (n int64, err error) {
	err = processor.Behind(func() error {
		n, err = io.Copy(w, processor.Courteous(struct{ io.Reader }{r}))
		return err
	})
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

// head is a buffer that keeps the beginning.
type head struct {
	bytes.Buffer
	most int
}

func (h *head) Write(p []byte) (int, error) {
	if left := h.most - h.Len(); left > 0 {
		h.Buffer.Write(p[:min(left, len(p))])
	}
	return len(p), nil
}
