package guest

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/processor"
	"github.com/ripstop-vm/ripstop/runtime/wasi"
)

// Options configures a Program.
type Options struct {
	Module *runtime.Module // required; compiled by a runtime that offers Libraries
	Kind   Kind            // empty: read off the module
	Job    string          // the job's name, which the guest learns; empty means "job"
	Args   []string        // of a command, after its name
	// Request is how a command gets its request; empty means RequestEnvironment. Tasks have a way of their own.
	Request Request
	Grants  *policy.Grants // nil grants nothing

	// Source finds what a file grant's source stands for on this host; nil refuses every file grant. See Volumes.
	Source func(source string) (hostPath string, err error)

	MemoryPages uint32 // bound of a sandbox's memory, in pages of 64 KiB; 0 means runtime.DefaultMemoryPages
	Descriptors int    // open at once in a sandbox; 0 means 128

	Files       *wasi.Gate // shared with other Programs, it bounds file calls under way; nil: no bound
	DiskReserve uint64     // bytes that have to stay free where files are granted, or writes fail with ENOSPC; 0 means none

	RequestBytes  int64 // longest request body; 0 means 10 MiB
	ResponseBytes int64 // longest response, header included; 0 means 10 MiB
	LogBytes      int64 // log text of one invocation, and of a sandbox's start; the rest is dropped and counted; 0 means 64 KiB
	HostCalls     int64 // of one invocation, and of a sandbox's start; 0 means 1,000,000

	// Share is what the job gets of the processor: its guests run when it is their turn, and what the host does for them is charged. It takes
	// a module that is metered. nil: they run whenever they like.
	Share *processor.Share
	Fuel  uint64        // of one invocation, of a module that is metered; 0 means any amount
	CPU   time.Duration // time at the processor of one invocation, with a Share; 0 means any

	// ReturnTime bounds, in wall time, what a task does after each return to its image, if it wants to do anything; 0 means 10 s.
	ReturnTime time.Duration

	// Images has the sandboxes of a task begin as an image, taken of the first one that was initialised, where that can be done exactly; then
	// Sandbox.Return works. Those of a command have the memories of others that are closed. The Program has to be closed then.
	Images bool
	// Part is what the job gets of the memory mappings that images take: beyond it its sandboxes start from the module. nil: all there are.
	Part *image.Part

	Services Services // nil offers nothing: every call that needs it is ENOSYS, and log lines go nowhere
	// Interposers are shared by all sandboxes and called from several goroutines.
	Interposers []hostcall.Interposer
	// Outermost, if set, gives interposers for one sandbox, before the shared ones: a tracer has to stand there, or it
	// does not see what a policy refused.
	Outermost func() []hostcall.Interposer
	// PerSandbox, if set, gives further interposers for one sandbox, after the shared ones.
	PerSandbox func() []hostcall.Interposer
	Clock      clock.Clock // nil means the system clock
}

// Request is how a command gets its request.
type Request string

// The ways of Request. A command waits for its request where it first asks for it, so that the later way leaves it less to do then.
const (
	RequestEnvironment Request = "environment" // CGI (RFC 3875): meta-variables in its environment, the body on its standard input
	RequestStdin       Request = "stdin"       // SCGI: both on its standard input
)

// The defaults of Options, as a manifest's.
const (
	DefaultDescriptors = 128
	DefaultBody        = 10 << 20
	DefaultLog         = 64 << 10
	DefaultHostCalls   = 1_000_000
	DefaultReturnTime  = 10 * time.Second
)

// MaxLine is the longest line of a guest's log that is kept whole, in bytes; longer ones are cut into several.
const MaxLine = 8 << 10

// Volumes is an Options.Source for a server: a source is a volume's name, with an optional path below it, and volumes
// says which directory of the host a name stands for.
func Volumes(volumes map[string]string) func(string) (string, error) {
	return func(source string) (string, error) {
		name, rest, _ := strings.Cut(source, "/")
		dir, ok := volumes[name]
		if !ok {
			return "", fmt.Errorf("there is no volume %q on this host: start the server with --volume NAME=DIR, or grant another source", name)
		}
		if rest == "" {
			return dir, nil
		}
		if !filepath.IsLocal(rest) {
			return "", fmt.Errorf("source %q leaves its volume", source)
		}
		return filepath.Join(dir, rest), nil
	}
}

// HostPaths is an Options.Source for a program run by its own user: a source is a path of the host.
func HostPaths(source string) (string, error) { return filepath.Abs(source) }

// Program is a module with all that its sandboxes share. It is safe for concurrent use.
type Program struct {
	opts Options
	kind Kind
	env  []string
	dirs []preopen
	base baselines
	runs sync.Pool // of *processor.Run that are out

	memories *runtime.Memories // of a command's sandboxes; nil: each has a new one
	clearing sync.Mutex        // held while a sandbox that ran for long is closed
}

// preopen is a file grant whose source was found.
type preopen struct {
	file policy.File
	host string
}

// New checks opts and makes a Program. The error joins every problem. Closing the module is the caller's business.
func New(opts Options) (*Program, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	p := &Program{opts: opts}
	o := &p.opts
	if o.Module == nil {
		return nil, errors.New("guest options: there is no module")
	}
	kind, err := KindOf(o.Module.Info())
	switch {
	case err != nil:
		errs = append(errs, err)
	case o.Kind != "" && o.Kind != Command && o.Kind != Task:
		fail("kind %q is neither command nor task", o.Kind)
	case o.Kind != "" && o.Kind != kind:
		fail("the module is a %s, not a %s", kind, o.Kind)
	}
	p.kind = kind
	switch o.Request {
	case "":
		o.Request = RequestEnvironment
	case RequestEnvironment:
	case RequestStdin:
		if kind == Task {
			fail("the module is a task, which is given its request in memory: request %q is for commands", o.Request)
		}
	default:
		fail("request %q is neither environment nor stdin", o.Request)
	}
	if o.Job == "" {
		o.Job = "job"
	}
	for _, a := range append([]string{o.Job}, o.Args...) {
		if strings.IndexByte(a, 0) >= 0 {
			fail("argument %q holds a NUL", a)
		}
	}
	bound := func(name string, v *int64, def int64) {
		if *v < 0 {
			fail("%s: %d is negative", name, *v)
		} else if *v == 0 {
			*v = def
		}
	}
	bound("request bytes", &o.RequestBytes, DefaultBody)
	bound("response bytes", &o.ResponseBytes, DefaultBody)
	bound("log bytes", &o.LogBytes, DefaultLog)
	bound("host calls", &o.HostCalls, DefaultHostCalls)
	switch {
	case o.CPU < 0:
		fail("cpu: %v is negative", o.CPU)
	case o.CPU > 0 && o.Share == nil:
		fail("cpu: there is no share to measure it by")
	}
	switch {
	case o.ReturnTime < 0:
		fail("return time: %v is negative", o.ReturnTime)
	case o.ReturnTime == 0:
		o.ReturnTime = DefaultReturnTime
	}
	switch {
	case o.Descriptors < 0:
		fail("descriptors: %d is negative", o.Descriptors)
	case o.Descriptors == 0:
		o.Descriptors = DefaultDescriptors
	}
	if o.MemoryPages == 0 {
		o.MemoryPages = runtime.DefaultMemoryPages
	} else if o.MemoryPages > 65536 {
		fail("memory: %d pages, at most 65536 can be addressed", o.MemoryPages)
	}
	if o.Grants == nil {
		g, err := policy.Grant(policy.Capabilities{})
		if err != nil {
			return nil, err
		}
		o.Grants = g
	}
	p.env = o.Grants.Environ()
	for _, f := range o.Grants.Files {
		if o.Source == nil {
			fail("files are granted at %s, but this host has no volumes", f.Guest)
			continue
		}
		host, err := o.Source(f.Source)
		if err != nil {
			fail("files at %s: %w", f.Guest, err)
			continue
		}
		p.dirs = append(p.dirs, preopen{f, host})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.Images && kind == Command {
		if p.memories, err = o.Module.NewMemories(o.MemoryPages, o.Part); err != nil {
			return nil, err
		}
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Services == nil {
		o.Services = nothing{}
	}
	return p, nil
}

// Kind is the guest's kind.
func (p *Program) Kind() Kind { return p.kind }

var _ io.Closer = (*Sandbox)(nil)
