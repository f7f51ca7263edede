package hostcall

import (
	"context"
	"errors"
	"fmt"
)

// Memory is a guest's linear memory, as its engine holds it.
type Memory interface {
	// Bytes is the whole memory now, shared with the guest. Growth may move it.
	Bytes() []byte
}

// ExitError reports that the guest ended itself (WASI proc_exit).
type ExitError struct{ Code uint32 }

func (e *ExitError) Error() string { return fmt.Sprintf("guest exited with code %d", e.Code) }

// StopError reports that an interposer ended the guest.
type StopError struct {
	Func string // the function called, "module.name"
	Rule string // what decided so
}

func (e *StopError) Error() string { return fmt.Sprintf("stopped at %s by %s", e.Func, e.Rule) }

// BadPointerError reports a call with a pointer outside memory, of a function that has no way to say so.
type BadPointerError struct{ Func string }

func (e *BadPointerError) Error() string {
	return fmt.Sprintf("call of %s with a pointer outside the guest's memory", e.Func)
}

// ErrHost reports a panic in host code while it served a host call. It is a defect of ours, never the guest's fault.
var ErrHost = errors.New("host function panicked: this is a defect of the host, not of the guest")

// Binding gives a library the state that its functions see in one sandbox.
type Binding struct {
	Library *Library
	State   any
}

// Door is the only way out of one sandbox. It belongs to its sandbox and is used by one goroutine at a time.
type Door struct {
	table     *Table
	watch     [][]Interposer // by function number; nil where nobody watches
	observers []Observer
	counts    *Counts // nil: nobody counts
	states    []any   // by library
	memory    Memory
	unwind    any // what Dispatch panics with to leave guest frames
	note      func(ptr, n uint32)

	made, most uint64                  // calls since Limit, and how many there may be; 0 means no bound
	over       func(most uint64) error // the reason to end the guest at the next one

	turns Turns // nil: the guest runs whenever it likes

	refused error // why the guest's memory did not grow, when it last did not

	ctx     context.Context
	outcome error
	calls   []*Call // a stack: guests re-enter
	depth   int
	arena   []byte
	vecs    []Vec
}

// tickCalls is after how many host calls others may get their turn: the time of a call is not in the fuel of the guest that makes it, so that
// hundreds go by between two ticks of its metering.
const tickCalls = 32

// arenaKeep is how much copied argument data a sandbox keeps room for between calls.
const arenaKeep = 64 << 10

// NewDoor makes the door of one sandbox. Libraries that bind leaves out have a nil state. Interposers see calls in the
// order given.
func NewDoor(t *Table, bind []Binding, interposers []Interposer) (*Door, error) {
	d := &Door{table: t, watch: make([][]Interposer, len(t.funcs)), states: make([]any, len(t.libraries)), ctx: context.Background()}
	for _, b := range bind {
		found := false
		for i, l := range t.libraries {
			if l == b.Library {
				d.states[i], found = b.State, true
			}
		}
		if !found {
			return nil, fmt.Errorf("library %s is not offered by this runtime", b.Library.Name)
		}
	}
	for _, ip := range interposers {
		if c, ok := ip.(*Counts); ok {
			if c.table != t {
				return nil, errors.New("the counts are of another table's functions")
			}
			d.counts = c
		}
		if o, ok := ip.(Observer); ok {
			d.observers = append(d.observers, o)
		}
		for n, f := range t.funcs {
			if ip.Watches(f) {
				d.watch[n] = append(d.watch[n], ip)
			}
		}
	}
	return d, nil
}

// Attach tells the door the sandbox's memory, and what to panic with to leave the guest's frames (an engine's own
// cheapest sentinel). The engine calls it before the guest runs.
func (d *Door) Attach(m Memory, unwind any) { d.memory, d.unwind = m, unwind }

// Note has f called with every range of guest memory that a host call writes. One at a time; nil ends it.
func (d *Door) Note(f func(ptr, n uint32)) { d.note = f }

// Limit has the guest ended, for the reason that over gives, when it makes more than most host calls from now on. 0 means that
// it may make any number.
func (d *Door) Limit(most uint64, over func(most uint64) error) {
	d.made, d.most, d.over = 0, most, over
}

// Made is how many host calls there were since Limit.
func (d *Door) Made() uint64 { return d.made }

// State is what was bound to a library.
func (d *Door) State(l *Library) any {
	for i, have := range d.table.libraries {
		if have == l {
			return d.states[i]
		}
	}
	return nil
}

// Mark is a depth of nested calls, for Enter and Leave.
type Mark struct {
	depth int
	ctx   context.Context
	outer error
}

// Enter is called by the engine before it calls into the guest, with the context of the invocation.
func (d *Door) Enter(ctx context.Context) Mark {
	m := Mark{d.depth, d.ctx, d.outcome}
	d.ctx = ctx
	d.outcome = nil
	return m
}

// Leave is called by the engine once the guest returned, whatever way, with the error the engine reports. It answers the
// error that counts: how the guest was ended, if a host call ended it, or ErrHost if a host function panicked.
func (d *Door) Leave(m Mark, engine error) error {
	panicked := d.depth > m.depth
	for d.depth > m.depth { // frames that a panic left behind
		d.depth--
		d.calls[d.depth].release()
	}
	out := d.outcome
	d.ctx, d.outcome = m.ctx, m.outer
	switch {
	case engine == nil:
		return nil
	case out != nil:
		return out
	case panicked:
		return fmt.Errorf("%w: %w", ErrHost, engine)
	}
	return engine
}

// Emit hands an event to everyone who observes the sandbox.
func (d *Door) Emit(e Event) {
	if e.Kind == EventGrow && e.Err != nil {
		d.refused = e.Err
	}
	for _, o := range d.observers {
		o.Event(e)
	}
}

// TakeRefusedGrowth answers why the guest's memory did not grow when it last asked in vain, and forgets it; nil if it never did.
func (d *Door) TakeRefusedGrowth() error {
	err := d.refused
	d.refused = nil
	return err
}

// Dispatch serves a call of function n: params holds the parameters, and the results after it. It panics with the
// sentinel given to Attach when the guest has to end.
func (d *Door) Dispatch(n int, params []uint64) {
	if d.made++; d.made > d.most && d.most != 0 {
		if d.outcome == nil {
			d.outcome = d.over(d.most)
		}
		panic(d.unwind)
	}
	e := &d.table.entries[n]
	if d.depth == len(d.calls) {
		d.calls = append(d.calls, &Call{door: d})
	}
	c := d.calls[d.depth]
	d.depth++
	c.Func, c.number, c.params = e.f, n, params
	c.results = [MaxResults]uint64{}
	c.answered, c.resolved, c.fault = false, false, Success

	if ws := d.watch[n]; ws == nil && e.plain {
		e.f.Call(c)
	} else {
		c.guarded(e, ws)
	}

	if d.counts != nil {
		d.counts.count(c, d.outcome)
	}
	if d.made%tickCalls == 0 && d.outcome == nil {
		c.Tick()
	}
	switch e.results {
	case 1:
		params[0] = c.results[0]
	case 2:
		params[0], params[1] = c.results[0], c.results[1]
	}
	d.depth--
	if d.outcome != nil {
		panic(d.unwind)
	}
}

// guarded takes a call through all there is: pointers, interposers, and what it resolves.
func (c *Call) guarded(e *entry, ws []Interposer) {
	d := c.door
	mark, vmark := len(d.arena), len(d.vecs)
	if e.points {
		c.fault = c.decode()
	}
	switch {
	case c.fault != Success:
		c.answered = true
		if e.f.Fails {
			c.Fail(c.fault)
		} else {
			c.Stop(&BadPointerError{Func: e.f.String()})
		}
		c.Rule, c.Observed = "", ""
		for i := len(ws) - 1; i >= 0; i-- {
			ws[i].After(c)
		}
	case ws != nil:
		c.watched(ws)
	default:
		e.f.Call(c)
	}
	c.unresolve()
	d.arena, d.vecs = d.arena[:mark], d.vecs[:vmark]
	if cap(d.arena) > arenaKeep && mark == 0 {
		d.arena = nil
	}
}

// watched takes a call past its interposers.
func (c *Call) watched(ws []Interposer) {
	c.Rule, c.Observed = "", ""
	asked, run := 0, true
	for _, ip := range ws {
		asked++
		if v := ip.Before(c); v != Proceed {
			run, c.answered = false, true
			if v == Stop && c.door.outcome == nil {
				c.Stop(&StopError{Func: c.Func.String(), Rule: fmt.Sprintf("%T", ip)})
			}
			break
		}
	}
	if run {
		c.Func.Call(c)
	}
	for i := asked - 1; i >= 0; i-- {
		ws[i].After(c)
	}
}

// copy puts b into the arena. Growing it leaves earlier copies where they are.
func (d *Door) copy(b []byte) []byte {
	n := len(d.arena)
	d.arena = append(d.arena, b...)
	return d.arena[n:len(d.arena):len(d.arena)]
}

func (d *Door) takeVecs(n int) []Vec {
	have := len(d.vecs)
	for cap(d.vecs) < have+n {
		d.vecs = append(d.vecs[:cap(d.vecs)], Vec{})
	}
	d.vecs = d.vecs[:have+n]
	return d.vecs[have : have+n : have+n]
}
