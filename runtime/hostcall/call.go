package hostcall

import (
	"context"
	"encoding/binary"
	"io"
	"unicode/utf8"
)

// Value is a pointer argument after decoding.
type Value struct {
	Ptr  uint32 // where in guest memory
	Len  uint32 // bytes, or elements of Vectors and counted Records
	Data []byte // Path, Text and In Record: a copy. Bytes and Out: a view of guest memory, valid during the call
	Vecs []Vec  // of Vectors, copied
	// Object is what a Path or FD stands for, a guest-absolute path named by the kernel. Call.Resolve fills it in.
	Object string
	Dir    bool // Object is a directory, as far as Call.Resolve could see
}

// Vec is one element of Vectors: a range of guest memory that was checked.
type Vec struct{ Ptr, Len uint32 }

// Call is one host call under way. It lives on its sandbox's stack of calls and must not be kept.
type Call struct {
	Func *Func
	// Held is what Func.Resolve took hold of for the function to use. If it is an io.Closer it is closed when the call
	// ends or when an argument is changed.
	Held any
	// Rule names what answered or changed the call ("policy[1]: deny"), for traces; empty if nobody did.
	Rule string
	// Observed names the rule that would have refused the call, had it not been in observe mode.
	Observed string
	// Unresolved is why Call.Resolve could not name an object: the errno that the function is going to fail with. Func.Resolve
	// sets it, so that a rule over objects can let the guest see the true reason.
	Unresolved Errno
	// Tag is for an interposer that must carry something small from Before to After.
	Tag int64

	door     *Door
	number   int
	params   []uint64
	results  [MaxResults]uint64
	args     [MaxArgs]Value
	answered bool
	resolved bool
	fault    Errno
}

// Context ends when the invocation is cancelled or past its deadline.
func (c *Call) Context() context.Context { return c.door.ctx }

// State is what the sandbox bound to the function's library.
func (c *Call) State() any { return c.door.states[c.door.table.library[c.number]] }

// Door is the sandbox's door.
func (c *Call) Door() *Door { return c.door }

// Answered reports whether an interposer, or a pointer check, gave the results instead of the function.
func (c *Call) Answered() bool { return c.answered }

// Num is scalar argument i, or the address of a pointer argument.
func (c *Call) Num(i int) uint64 {
	n := c.Func.Args[i].Param
	if c.Func.Params[n] == I32 {
		return uint64(uint32(c.params[n])) // engines leave anything in the upper half
	}
	return c.params[n]
}

// Uint32 is scalar argument i as 32 bits.
func (c *Call) Uint32(i int) uint32 { return uint32(c.params[c.Func.Args[i].Param]) }

// SetNum changes scalar argument i. What was resolved is forgotten.
func (c *Call) SetNum(i int, v uint64) {
	a := &c.Func.Args[i]
	if a.pointer() {
		panic("hostcall: SetNum on a pointer argument")
	}
	if c.Func.Params[a.Param] == I32 {
		v = uint64(uint32(v))
	}
	c.params[a.Param] = v
	c.unresolve()
}

// Value is pointer argument i.
func (c *Call) Value(i int) *Value { return &c.args[i] }

// Text is the copied bytes of a Path, Text or In Record.
func (c *Call) Text(i int) []byte { return c.args[i].Data }

// SetText changes a Path, Text or In Record. What was resolved is forgotten, so that the function resolves and checks
// the new one. The call keeps s.
func (c *Call) SetText(i int, s []byte) {
	switch a := &c.Func.Args[i]; {
	case a.Dir == In && (a.Kind == Path || a.Kind == Text):
	case a.Dir == In && a.Kind == Record && len(s) == len(c.args[i].Data):
	default:
		panic("hostcall: SetText on an argument that is no text")
	}
	c.args[i].Data = s
	c.args[i].Len = uint32(len(s))
	c.unresolve()
}

// Resolve names the objects the call is about (Value.Object), once.
func (c *Call) Resolve() {
	if !c.resolved && c.Func.Resolve != nil {
		c.resolved = true
		c.Func.Resolve(c)
	}
}

func (c *Call) unresolve() {
	if !c.resolved {
		return
	}
	c.resolved, c.Unresolved = false, Success
	c.release()
	for i := range c.Func.Args {
		c.args[i].Object, c.args[i].Dir = "", false
	}
}

func (c *Call) release() {
	if c.Held != nil {
		if h, ok := c.Held.(io.Closer); ok {
			_ = h.Close() // nothing was written through it that a failed close could lose
		}
		c.Held = nil
	}
}

// Fail sets the outcome of a function that Fails.
func (c *Call) Fail(e Errno) { c.results[0] = uint64(e) }

// Errno is the outcome of a function that Fails; Success for others.
func (c *Call) Errno() Errno {
	if !c.Func.Fails {
		return Success
	}
	return Errno(uint32(c.results[0]))
}

// Result is raw result i.
func (c *Call) Result(i int) uint64 { return c.results[i] }

// SetResult sets raw result i.
func (c *Call) SetResult(i int, v uint64) { c.results[i] = v }

// Deny refuses the call: with e where the function can fail, else by ending the guest. An interposer returns what it returns.
func (c *Call) Deny(e Errno, rule string) Verdict {
	c.Rule = rule
	if c.Func.Fails {
		c.Fail(e)
		return Answer
	}
	c.Stop(&StopError{Func: c.Func.String(), Rule: rule})
	return Stop
}

// Stop ends the guest once the call is done, for the reason err. The first reason stays.
func (c *Call) Stop(err error) {
	if c.door.outcome == nil {
		c.door.outcome = err
	}
}

// Memory is the guest's memory now. It may move when the guest runs.
func (c *Call) Memory() []byte { return c.door.memory.Bytes() }

// View is n bytes of guest memory at ptr; false if they are not all there.
func (c *Call) View(ptr, n uint32) ([]byte, bool) {
	m := c.door.memory.Bytes()
	if uint64(ptr)+uint64(n) > uint64(len(m)) {
		return nil, false
	}
	return m[ptr : uint64(ptr)+uint64(n) : uint64(ptr)+uint64(n)], true
}

// Wrote notes that the call wrote n bytes at ptr through a view.
func (c *Call) Wrote(ptr, n uint32) {
	if c.door.note != nil && n > 0 {
		c.door.note(ptr, n)
	}
}

// Write copies b to ptr; false, and nothing written, if there is no room.
func (c *Call) Write(ptr uint32, b []byte) bool {
	if uint64(len(b)) > 1<<32-1 {
		return false
	}
	v, ok := c.View(ptr, uint32(len(b)))
	if !ok {
		return false
	}
	copy(v, b)
	c.Wrote(ptr, uint32(len(b)))
	return true
}

// PutUint32 writes v where Out argument i points.
func (c *Call) PutUint32(i int, v uint32) {
	binary.LittleEndian.PutUint32(c.args[i].Data, v)
	c.Wrote(c.args[i].Ptr, 4)
}

// PutUint64 writes v where Out argument i points.
func (c *Call) PutUint64(i int, v uint64) {
	binary.LittleEndian.PutUint64(c.args[i].Data, v)
	c.Wrote(c.args[i].Ptr, 8)
}

// PutNum writes v where Out scalar i points, in the argument's own size.
func (c *Call) PutNum(i int, v uint64) {
	if c.Func.Args[i].Size == 8 {
		c.PutUint64(i, v)
	} else {
		c.PutUint32(i, uint32(v))
	}
}

// GetNum reads Out scalar i back from guest memory.
func (c *Call) GetNum(i int) uint64 {
	switch d := c.args[i].Data; len(d) {
	case 8:
		return binary.LittleEndian.Uint64(d)
	case 4:
		return uint64(binary.LittleEndian.Uint32(d))
	case 2:
		return uint64(binary.LittleEndian.Uint16(d))
	case 1:
		return uint64(d[0])
	}
	return 0
}

// PutBytes copies b into Out argument i (Bytes, Record, or Vectors one after another) and returns how much fitted.
func (c *Call) PutBytes(i int, b []byte) int {
	v := &c.args[i]
	if c.Func.Args[i].Kind != Vectors {
		n := copy(v.Data, b)
		c.Wrote(v.Ptr, uint32(n))
		return n
	}
	total := 0
	for _, vec := range v.Vecs {
		if total == len(b) {
			break
		}
		m, ok := c.View(vec.Ptr, vec.Len)
		if !ok {
			break
		}
		n := copy(m, b[total:])
		c.Wrote(vec.Ptr, uint32(n))
		total += n
	}
	return total
}

// decode checks every pointer argument and copies what a decision may rest on. It answers the errno to fail with.
func (c *Call) decode() Errno {
	mem := c.door.memory.Bytes()
	size := uint64(len(mem))
	for i := range c.Func.Args {
		a := &c.Func.Args[i]
		if !a.pointer() {
			continue
		}
		v := &c.args[i]
		*v = Value{Ptr: uint32(c.params[a.Param])}
		if n, ok := a.counted(); ok {
			v.Len = uint32(c.params[n])
			if a.Max != 0 && v.Len > a.Max {
				switch {
				case a.MaxErrno != 0:
					return a.MaxErrno
				case a.Kind == Path:
					return ENAMETOOLONG
				}
				return EINVAL
			}
		} else {
			v.Len = 1
		}
		width := uint64(1)
		switch a.Kind {
		case Path, Text, Bytes:
		case Vectors:
			width = 8
		default:
			width = uint64(a.Size)
		}
		end := uint64(v.Ptr) + uint64(v.Len)*width
		if end > size {
			return EFAULT
		}
		view := mem[v.Ptr:end:end]
		switch {
		case a.Kind == Vectors:
			vecs := c.door.takeVecs(int(v.Len))
			for j := range vecs {
				vec := Vec{binary.LittleEndian.Uint32(view[8*j:]), binary.LittleEndian.Uint32(view[8*j+4:])}
				if uint64(vec.Ptr)+uint64(vec.Len) > size {
					return EFAULT
				}
				vecs[j] = vec
			}
			v.Vecs = vecs
		case a.Dir == Out || a.Kind == Bytes:
			v.Data = view
		default:
			v.Data = c.door.copy(view)
			if a.Kind == Path && !utf8.Valid(v.Data) {
				return EILSEQ
			}
		}
	}
	return Success
}
