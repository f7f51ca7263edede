// Package module reads WebAssembly binaries before any engine sees them: what a module imports, exports and would need,
// and whether it stays within the platform's bounds.
//
// It checks form and size, not types: an engine validates the whole module afterwards. Time and memory are bounded by the
// bytes that are really there, never by a count that they claim.
package module

import (
	"fmt"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// ExternKind is what is imported or exported (core specification, 5.5.5).
type ExternKind byte

// The kinds of imports and exports.
const (
	ExternFunc ExternKind = iota
	ExternTable
	ExternMemory
	ExternGlobal
	ExternTag
)

func (k ExternKind) String() string {
	if int(k) < 5 {
		return [...]string{"function", "table", "memory", "global", "tag"}[k]
	}
	return fmt.Sprintf("extern kind %d", byte(k))
}

// FuncType is a function's type.
type FuncType struct {
	Params, Results []hostcall.ValueType
}

// Import is one import. Type is set for functions.
type Import struct {
	Module, Name string
	Kind         ExternKind
	Type         FuncType
}

// Export is one export. Type is set for functions.
type Export struct {
	Name  string
	Kind  ExternKind
	Index uint32
	Type  FuncType
}

// Limits are those of a memory (in pages of 64 KiB) or a table (in elements).
type Limits struct {
	Min    uint64
	Max    uint64
	HasMax bool
}

// GlobalType is a global's type.
type GlobalType struct {
	Type    hostcall.ValueType
	Mutable bool
}

// Module is what a binary declares.
type Module struct {
	Size      int // bytes
	Imports   []Import
	Exports   []Export
	Memories  []Limits // defined here, not imported
	Tables    []Limits // defined here, not imported
	Functions int      // defined here
	Globals   int      // defined here
	// GlobalTypes are those of the globals defined here, in order.
	GlobalTypes []GlobalType
	// Mutates says that functions have instructions that change tables or drop segments (table.set, table.grow, table.fill,
	// table.copy, table.init, elem.drop, data.drop): state that no engine hands out.
	Mutates   bool
	HasStart  bool
	CodeBytes int
	DataBytes int
	Name      string   // from the name section; may be empty
	Custom    []string // names of custom sections, in order
	Producers []string // "language Go 1.26", "processed-by clang 14", …
	HasDebug  bool     // has DWARF sections
	HasNames  bool     // has function names
	Largest   Largest
}

// Largest is the highest figure of any one function, for each that is bounded.
type Largest struct {
	Bytes, Locals, Nesting, Labels int
	BlockLocals                    uint64
}

// Export finds an export by name.
func (m *Module) Export(name string) (Export, bool) {
	for _, e := range m.Exports {
		if e.Name == name {
			return e, true
		}
	}
	return Export{}, false
}

// Error reports why a binary was refused: the check that failed, and where.
type Error struct {
	Check  string // "header", "sections", "bounds", "imports", …
	Offset int    // byte in the binary; -1 if it has no place
	Msg    string // what is wrong, and what to do if there is something
}

func (e *Error) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s: %s", e.Check, e.Msg)
	}
	return fmt.Sprintf("%s: %s (at byte %d)", e.Check, e.Msg, e.Offset)
}
