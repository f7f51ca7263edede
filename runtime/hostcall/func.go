package hostcall

import (
	"fmt"
	"strings"
)

// ValueType is the type of a parameter or result, in the WebAssembly binary format's encoding.
type ValueType byte

// The number types of WebAssembly (core specification, 5.3.1).
const (
	I32 ValueType = 0x7f
	I64 ValueType = 0x7e
	F32 ValueType = 0x7d
	F64 ValueType = 0x7c
)

func (t ValueType) String() string {
	switch t {
	case I32:
		return "i32"
	case I64:
		return "i64"
	case F32:
		return "f32"
	case F64:
		return "f64"
	}
	return fmt.Sprintf("type 0x%02x", byte(t))
}

// Class says what a call does to the world: whether it reads or writes, and whether what it touches is inside the
// sandbox (descriptors, clocks virtualized for it) or outside (files, the network, other jobs).
type Class uint8

// The four classes.
const (
	ReadLocal Class = iota
	WriteLocal
	ReadOutside
	WriteOutside
)

func (c Class) String() string {
	return [...]string{"read-local", "write-local", "read-outside", "write-outside"}[c&3]
}

// Outside reports whether the call touches the world outside the sandbox.
func (c Class) Outside() bool { return c >= ReadOutside }

// Writes reports whether the call changes what it touches.
func (c Class) Writes() bool { return c&1 == 1 }

// Dir is the direction of an argument.
type Dir uint8

// In arguments are read by the host; Out arguments are places the host writes to.
const (
	In Dir = iota
	Out
)

// Kind says how an argument is laid out in parameters and guest memory.
type Kind uint8

const (
	// Uint is one i32 or i64 parameter, unsigned. As Out, a pointer to Size bytes (4 or 8, little endian).
	Uint Kind = iota
	// Int is one i32 or i64 parameter, signed. As Out, like Uint.
	Int
	// FD is a descriptor number. As Out, a pointer to 4 bytes.
	FD
	// Flags is a set of bits, the lowest named by Names[0].
	Flags
	// Enum is one of Names.
	Enum
	// Path is text that names a file: a pointer and a length in bytes. Always In, always copied.
	Path
	// Text is a pointer and a length in bytes, copied: names, keys, header blocks.
	Text
	// Bytes is a payload: a pointer and a length in bytes, viewed in place.
	Bytes
	// Vectors is a pointer to, and a number of, {pointer, length} pairs. The pairs are copied, the payloads viewed.
	Vectors
	// Record is a pointer to Size bytes, or to Size times the counting parameter if Count is set. In records are
	// copied. A Size of 0 (only for Out) is known to the function alone, which checks it.
	Record
)

// Arg describes one argument of a Func, for people, policies and the decoder.
type Arg struct {
	Name  string
	Dir   Dir
	Kind  Kind
	Param int    // index of its first parameter
	Count int    // index of the parameter that counts its bytes or elements; 0 means the one after Param, none for a Record
	Size  uint32 // of a Record's element or of what an Out scalar points at, in bytes
	Max   uint32 // longest Path or Text in bytes, most Vectors or Records; 0 means no bound but the memory
	// MaxErrno is what crossing Max answers; 0 means EINVAL (ENAMETOOLONG for a Path).
	MaxErrno Errno
	Names    []string // of Flags and Enum
	Secret   bool     // never shown: traces, logs and recordings hold only its length
}

// pointer reports whether the argument is an address in guest memory.
func (a *Arg) pointer() bool { return a.Dir == Out || a.Kind >= Path }

// counted reports whether the argument has a counting parameter, and which.
func (a *Arg) counted() (int, bool) {
	switch a.Kind {
	case Path, Text, Bytes, Vectors:
		if a.Count == 0 {
			return a.Param + 1, true
		}
		return a.Count, true
	case Record:
		return a.Count, a.Count != 0
	}
	return 0, false
}

// Func is one function a guest may import. It is shared by all sandboxes and never changes.
type Func struct {
	Module, Name    string
	Params, Results []ValueType
	Class           Class
	Blocks          bool  // the call may wait; it does so between Call.Block and Call.Unblock
	Args            []Arg // at most MaxArgs
	// Fails says that the first result is an Errno, so that the call can be refused. A function without it ends the
	// guest when it is denied.
	Fails bool
	// Resolve, if set, names the objects that paths and descriptors of the call stand for, as the kernel knows them:
	// it fills in Value.Object and Value.Dir, and may keep what it opened in Call.Held for the function to use. What cannot
	// be named stays empty, with the reason in Call.Unresolved.
	Resolve func(*Call)
	// Call does what the function is for. It sets results with Fail, SetResult and the Put methods.
	Call func(*Call)
}

// MaxArgs and MaxResults bound Func.Args and Func.Results.
const (
	MaxArgs    = 12
	MaxResults = 2
)

// Arg finds an argument by name; -1 if there is none.
func (f *Func) Arg(name string) int {
	for i := range f.Args {
		if f.Args[i].Name == name {
			return i
		}
	}
	return -1
}

func (f *Func) String() string { return f.Module + "." + f.Name }

// Matches reports whether a pattern names the function: "path_open" of any module, "wasi_snapshot_preview1.path_open", or
// either with * for any text.
func (f *Func) Matches(pattern string) bool {
	if strings.Contains(pattern, ".") {
		return wildcard(pattern, f.String())
	}
	return wildcard(pattern, f.Name)
}

func wildcard(pattern, name string) bool {
	first, rest, any := strings.Cut(pattern, "*")
	if !any {
		return pattern == name
	}
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	for {
		part, more, any := strings.Cut(rest, "*")
		if !any {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], more
	}
}

// check reports what is wrong with a Func's own description. It guards against our mistakes, not a guest's.
func (f *Func) check() error {
	if f.Call == nil {
		return fmt.Errorf("host function %s has no implementation", f)
	}
	if len(f.Args) > MaxArgs || len(f.Results) > MaxResults {
		return fmt.Errorf("host function %s has too many arguments or results", f)
	}
	if f.Fails && (len(f.Results) != 1 || f.Results[0] != I32) {
		return fmt.Errorf("host function %s fails, but its result is no errno", f)
	}
	used := make([]bool, len(f.Params))
	for i := range f.Args {
		a := &f.Args[i]
		if a.Param < 0 || a.Param >= len(f.Params) {
			return fmt.Errorf("host function %s: argument %s is parameter %d of %d", f, a.Name, a.Param, len(f.Params))
		}
		used[a.Param] = true
		if a.pointer() && f.Params[a.Param] != I32 {
			return fmt.Errorf("host function %s: argument %s is a pointer but no i32", f, a.Name)
		}
		if n, ok := a.counted(); ok {
			if n >= len(f.Params) || f.Params[n] != I32 {
				return fmt.Errorf("host function %s: argument %s is counted by parameter %d", f, a.Name, n)
			}
			used[n] = true
		}
		if a.Dir == Out && a.Size == 0 {
			switch a.Kind {
			case Bytes, Vectors, Record:
			default:
				return fmt.Errorf("host function %s: argument %s is written but has no size", f, a.Name)
			}
		}
	}
	for i, u := range used {
		if !u {
			return fmt.Errorf("host function %s: parameter %d belongs to no argument", f, i)
		}
	}
	return nil
}

// A Library is the host's side of one ABI: its functions, in a fixed order. Each sandbox binds a state of its own
// to it, which Call.State returns.
type Library struct {
	Name  string
	Funcs []Func
}

// A Table numbers the functions of several libraries. It is shared by all sandboxes of an engine and never changes.
type Table struct {
	libraries []*Library
	funcs     []*Func
	library   []int // of each function
	entries   []entry
	byName    map[[2]string]int
}

// entry is what Dispatch has to know of a function.
type entry struct {
	f       *Func
	results int
	points  bool // it has pointer arguments
	plain   bool // it has none, and resolves nothing
}

// NewTable numbers the functions of libs in order. It fails on a Func that describes itself wrongly or twice.
func NewTable(libs ...*Library) (*Table, error) {
	t := &Table{libraries: libs, byName: map[[2]string]int{}}
	for n, lib := range libs {
		for i := range lib.Funcs {
			f := &lib.Funcs[i]
			if err := f.check(); err != nil {
				return nil, err
			}
			key := [2]string{f.Module, f.Name}
			if _, ok := t.byName[key]; ok {
				return nil, fmt.Errorf("host function %s is there twice", f)
			}
			t.byName[key] = len(t.funcs)
			t.funcs = append(t.funcs, f)
			t.library = append(t.library, n)
			points := false
			for j := range f.Args {
				points = points || f.Args[j].pointer()
			}
			t.entries = append(t.entries, entry{f: f, results: len(f.Results), points: points, plain: !points && f.Resolve == nil})
		}
	}
	return t, nil
}

// Funcs lists all functions by number. The caller must not change it.
func (t *Table) Funcs() []*Func { return t.funcs }

// Lookup finds a function by the names a guest imports it under.
func (t *Table) Lookup(module, name string) (*Func, bool) {
	n, ok := t.byName[[2]string{module, name}]
	if !ok {
		return nil, false
	}
	return t.funcs[n], true
}
