package runtime

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wazero"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/image"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/processor"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

// The errors a guest can end with are the engine's and the door's.
type (
	// Trap reports that guest code ended abnormally.
	Trap = engine.Trap
	// LimitError reports that a guest ran into a bound.
	LimitError = engine.LimitError
	// ExitError reports that a guest ended itself.
	ExitError = hostcall.ExitError
	// StopError reports that an interposer ended the guest.
	StopError = hostcall.StopError
)

// ErrNoExport reports that a module has no function of that name.
var ErrNoExport = errors.New("no such exported function")

// Options configures a Runtime. The zero value compiles, offers no host function and keeps no cache.
type Options struct {
	Libraries []*hostcall.Library // what guests may import
	// Beside is a runtime, of another engine, whose host functions and memories of sandboxes are this one's, too, in place of Libraries
	// and Memory. It has to be closed after this one.
	Beside    *Runtime
	Bounds    module.Bounds // of modules; zero fields mean the platform's defaults
	Engine    Engine        // what executes guests; empty means Wazero
	Interpret bool          // interpret instead of compiling
	CacheDir  string        // compiled code between runs (wasmtime leaves it there for Load alone); empty for nowhere
	// Endless runs guests without the engine's check for a done context, so that a guest ends only by itself.
	Endless bool
	// Meter translates modules before they are compiled (package translate). Guests are then bounded in fuel and stack and see
	// deadlines at their ticks, not by the engine's means, which cost tight loops 30 times their time.
	Meter bool
	Clock clock.Clock // nil means the system clock
	// Memory is how sandboxes that begin as images get and return their memories.
	Memory image.SpaceOptions
}

// Runtime compiles modules against a set of host functions. Its methods are safe for concurrent use. Closing it ends its
// modules and sandboxes.
type Runtime struct {
	opts   Options
	table  *hostcall.Table
	engine engine.Engine
	valid  engine.Engine // validates what is to be translated; nil without Meter
	space  space
	taken  image.Set
}

// Open makes a runtime.
func Open(ctx context.Context, opts Options) (*Runtime, error) {
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	var t *hostcall.Table
	var err error
	if opts.Beside != nil {
		t = opts.Beside.table
	} else if t, err = hostcall.NewTable(opts.Libraries...); err != nil {
		return nil, err
	}
	e, err := openEngine(ctx, t, &opts)
	if err != nil {
		return nil, err
	}
	r := &Runtime{opts: opts, table: t, engine: e}
	if opts.Meter && opts.Beside != nil && opts.Beside.valid != nil {
		r.valid = opts.Beside.valid
	} else if opts.Meter {
		if r.valid, err = wazero.Open(ctx, t, wazero.Options{Interpret: true, Endless: true}); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	return r, nil
}

// Table is the numbered host functions that guests may import.
func (r *Runtime) Table() *hostcall.Table { return r.table }

// Close ends the runtime.
func (r *Runtime) Close() error {
	err := r.engine.Close()
	if r.valid != nil && (r.opts.Beside == nil || r.valid != r.opts.Beside.valid) {
		err = errors.Join(err, r.valid.Close())
	}
	r.space.once.Do(func() { r.space.err = ErrClosed })
	if r.space.space != nil {
		err = errors.Join(err, r.space.space.Close())
	}
	return err
}

// Digest names a module: the SHA-256 of its bytes.
type Digest [sha256.Size]byte

func (d Digest) String() string { return fmt.Sprintf("%x", d[:]) }

// Module is compiled code.
type Module struct {
	runtime *Runtime
	code    engine.Module
	info    *module.Module
	digest  Digest
	state   state
	metered *translate.Result // nil without Options.Meter
}

// Compile checks a binary against the bounds, audits its imports against the host functions on offer, and compiles it.
// A refused binary is a *module.Error.
func (r *Runtime) Compile(ctx context.Context, wasm []byte) (*Module, error) {
	return r.build(ctx, wasm, r.engine.Compile, true)
}

// build checks a binary and has compile do what the engine does with it. One that is to be translated is validated before, unless it
// is known to be valid.
func (r *Runtime) build(ctx context.Context, wasm []byte, compile func(context.Context, []byte) (engine.Module, error), validate bool) (*Module, error) {
	info, err := module.Parse(wasm, r.opts.Bounds)
	if err != nil {
		return nil, err
	}
	if err := module.Audit(info, r.table); err != nil {
		return nil, err
	}
	if r.opts.Meter {
		return r.compileMetered(ctx, wasm, info, compile, validate)
	}
	code, err := compile(ctx, wasm)
	if err != nil {
		return nil, refusedBy(err)
	}
	return &Module{runtime: r, code: code, info: info, digest: sha256.Sum256(wasm), state: stateOf(info, "")}, nil
}

// refusedBy is an engine's error as a refusal of the module, unless the module has nothing to do with it.
func refusedBy(err error) error {
	if errors.Is(err, engine.ErrNoCode) {
		return err
	}
	return &module.Error{Check: "validation", Offset: -1, Msg: err.Error()}
}

// Info is what the module declares. The caller must not change it.
func (m *Module) Info() *module.Module { return m.info }

// Digest names the module.
func (m *Module) Digest() Digest { return m.digest }

// Runtime is what compiled the module.
func (m *Module) Runtime() *Runtime { return m.runtime }

// Close forgets the code. Its sandboxes must be closed before.
func (m *Module) Close() error { return m.code.Close() }

// SandboxOptions configures a sandbox. The zero value has the default memory and nobody watching.
type SandboxOptions struct {
	MemoryPages  uint32 // bound of its memory, in pages of 64 KiB; 0 means DefaultMemoryPages
	Bind         []hostcall.Binding
	Interposers  []hostcall.Interposer // in the order in which they see a call
	StartTimeout time.Duration         // for the module's start function; 0 means no more than ctx allows
	// Image is what the sandbox begins as: Sandbox.Snapshot of another sandbox of the module. Nothing of the module runs then. nil:
	// it begins as the module says.
	Image *image.Image
	// Memories, of the same module, is where the memory of a sandbox comes from that begins without an image, and goes to; MemoryPages is its bound.
	// nil: it is a new one.
	Memories *Memories
	// Part is what the memory of a sandbox that begins as an image counts as; nil: as nobody's.
	Part *image.Part
	// Entropy renews a guest's random state whenever it begins as the image; nil means the operating system's randomness.
	Entropy io.Reader
	// Fuel bounds each outermost call into a guest that is metered, and its start function; 0 means any amount. The guest
	// ends with a LimitError of the limit "fuel". Package translate says what costs how much.
	Fuel uint64
	// Depth bounds the stack of a guest that is metered, in bytes of frames; 0 means translate.DefaultDepth. The guest ends with a
	// Trap, "stack overflow".
	Depth uint64
	// Tick is called at each tick of a guest that is metered, every few microseconds while it computes. An error ends the
	// guest, with that error. nil means nothing.
	Tick func(context.Context) error
	// Run is the sandbox's place among those that share the processor: it makes way at its ticks, and while host calls wait. The caller has
	// it enter before a call into a guest, and before NewSandbox. nil: the guest runs whenever it likes. It takes a guest that is metered.
	Run *processor.Run
	// HostCalls bounds the host calls from the start function on, until Door.Limit sets another bound; 0 means any number.
	// The guest ends with a LimitError of the limit "host calls".
	HostCalls uint64
}

// DefaultMemoryPages is 256 MiB: a Go program of a few megabytes runs in it with room to spare.
const DefaultMemoryPages = 4096

// Sandbox is one running process VM. It is used by one goroutine at a time; Close may come from any.
type Sandbox struct {
	module   *Module
	door     *hostcall.Door
	instance engine.Instance
	clock    clock.Clock
	observed bool
	closed   atomic.Bool
	metering *metering    // nil unless the module is metered
	memory   ownedMemory  // of instance
	rewind   *rewind      // nil unless it began as an image
	calls    atomic.Int32 // under way
	turns    turns        // of SandboxOptions.Run
}

// SetRun gives the sandbox another place among those that share the processor, of the same share as SandboxOptions.Run, which was not nil. No
// call into the guest is under way.
func (s *Sandbox) SetRun(r *processor.Run) {
	s.turns.Run = r
	if s.metering != nil {
		s.metering.run = r
	}
}

// NewSandbox makes a sandbox of m and runs the module's start function, if it has one.
func (m *Module) NewSandbox(ctx context.Context, opts SandboxOptions) (*Sandbox, error) {
	if opts.MemoryPages == 0 {
		opts.MemoryPages = DefaultMemoryPages
	}
	for _, mem := range m.info.Memories {
		if mem.Min > uint64(opts.MemoryPages) {
			return nil, &LimitError{Limit: "memory", Used: mem.Min * engine.PageSize, Max: uint64(opts.MemoryPages) * engine.PageSize}
		}
	}
	d, err := hostcall.NewDoor(m.runtime.table, opts.Bind, opts.Interposers)
	if err != nil {
		return nil, err
	}
	LimitHostCalls(d, opts.HostCalls)
	if opts.StartTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, opts.StartTimeout)
		defer cancel()
	}
	s := &Sandbox{module: m, door: d, clock: m.runtime.opts.Clock}
	if opts.Run != nil {
		s.turns = turns{opts.Run, s}
		d.Share(&s.turns)
	}
	switch {
	case opts.Image != nil:
		err = s.begin(ctx, &opts)
	case opts.Memories != nil:
		err = s.reuse(ctx, opts.Memories)
	default:
		err = s.instantiate(ctx, engine.NewMemory(opts.MemoryPages))
	}
	if err == nil && m.metered != nil {
		err = s.meter(ctx, &opts)
	}
	if err != nil {
		return nil, err
	}
	for _, ip := range opts.Interposers {
		if _, ok := ip.(hostcall.Observer); ok {
			s.observed = true
		}
	}
	return s, nil
}

// reuse makes the sandbox's instance on a memory that was another's, or on a new one where there is no room for those.
func (s *Sandbox) reuse(ctx context.Context, from *Memories) error {
	mem, err := from.take()
	if errors.Is(err, image.ErrMappings) {
		return s.instantiate(ctx, engine.NewMemory(uint32(from.max/engine.PageSize)))
	}
	if err != nil {
		return err
	}
	return s.instantiate(ctx, mem)
}

// ownedMemory is a memory that somebody has to close.
type ownedMemory interface {
	engine.Memory
	Close() error
}

// instantiate makes the sandbox's instance on mem, which it owns.
func (s *Sandbox) instantiate(ctx context.Context, mem ownedMemory) error {
	inst, err := s.module.code.Instantiate(ctx, s.door, mem)
	if err != nil {
		return errors.Join(err, mem.Close())
	}
	s.instance, s.memory = inst, mem
	return nil
}

// LimitHostCalls has the guest behind d ended with a LimitError when it makes more than most host calls from now on; 0 means
// that it may make any number.
func LimitHostCalls(d *hostcall.Door, most uint64) {
	d.Limit(most, tooManyHostCalls)
}

func tooManyHostCalls(most uint64) error {
	return &LimitError{Limit: "host calls", Used: most + 1, Max: most}
}

// Module is what the sandbox runs.
func (s *Sandbox) Module() *Module { return s.module }

// Door is the sandbox's door.
func (s *Sandbox) Door() *hostcall.Door { return s.door }

// Memory is the guest's memory.
func (s *Sandbox) Memory() hostcall.Memory { return s.instance.Memory() }

// Function is an exported function of a sandbox, looked up once and called often.
type Function struct {
	sandbox *Sandbox
	name    string
	fn      engine.Function
}

// Function finds an exported function. It fails with ErrNoExport.
func (s *Sandbox) Function(name string) (*Function, error) {
	fn := s.instance.Function(name)
	if fn == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoExport, name)
	}
	return &Function{s, name, fn}, nil
}

// Call enters the guest: stack holds the parameters, and the results after it; it is as long as the longer of the two.
// The guest is ended when ctx ends. See engine.Function for the errors; an *ExhaustedError wraps those that lack of memory led to.
func (f *Function) Call(ctx context.Context, stack []uint64) error {
	_ = f.sandbox.door.TakeRefusedGrowth() // an earlier call's
	if err := f.call(ctx, stack); err != nil {
		return f.sandbox.exhausted(err)
	}
	return nil
}

func (f *Function) call(ctx context.Context, stack []uint64) error {
	s := f.sandbox
	if !s.enter() {
		return ErrClosed
	}
	defer s.leave()
	if !s.observed {
		return s.run(ctx, f.fn, stack)
	}
	began := s.clock.Now()
	s.door.Emit(hostcall.Event{Kind: hostcall.EventStart, Context: ctx, Name: f.name})
	err := s.run(ctx, f.fn, stack)
	s.door.Emit(hostcall.Event{Kind: hostcall.EventEnd, Name: f.name, Err: err, Took: s.clock.Now().Sub(began)})
	return err
}

// Call looks up an exported function and calls it with raw parameters, and answers its raw results.
func (s *Sandbox) Call(ctx context.Context, name string, params ...uint64) ([]uint64, error) {
	f, err := s.Function(name)
	if err != nil {
		return nil, err
	}
	e, ok := s.module.info.Export(name)
	if !ok || len(params) != len(e.Type.Params) {
		return nil, fmt.Errorf("call %s: %d parameters given, %d wanted", name, len(params), len(e.Type.Params))
	}
	stack := make([]uint64, max(len(e.Type.Params), len(e.Type.Results)))
	copy(stack, params)
	if err := f.Call(ctx, stack); err != nil {
		return nil, err
	}
	return stack[:len(e.Type.Results)], nil
}

// Abandon is for a sandbox that cannot be closed, since nobody knows whether its guest still runs: it keeps what it has, for good.
func (s *Sandbox) Abandon() {
	if s.closed.Swap(true) {
		return
	}
	switch m := s.memory.(type) {
	case *kept:
		_ = m.drop(func() error { m.memory.Abandon(); return nil })
	case *image.Memory:
		m.Abandon()
	}
}

// Close ends the sandbox and gives its memory back. What was bound to its libraries is closed by whoever made it.
func (s *Sandbox) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.instance.Close()
	if s.calls.Load() == 0 { // else the call that is under way does it
		err = errors.Join(err, s.memory.Close())
	}
	return err
}
