package module

import (
	"fmt"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Audit holds a module's imports against the host functions on offer. Its error, a *Error, names every import that can't
// be served, each with the nearest known function or what is wrong with its type.
func Audit(m *Module, t *hostcall.Table) error {
	var bad []string
	more := 0
	for i := range m.Imports {
		msg := auditImport(&m.Imports[i], t)
		switch {
		case msg == "":
		case len(bad) == maxListed:
			more++
		default:
			bad = append(bad, msg)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	if more > 0 {
		bad = append(bad, fmt.Sprintf("and %d more", more))
	}
	return &Error{Check: "imports", Offset: -1, Msg: strings.Join(bad, "; ")}
}

// maxListed bounds a message; a module built for another host has dozens of imports nobody knows.
const maxListed = 50

// auditImport is what is wrong with an import, or empty.
func auditImport(im *Import, t *hostcall.Table) string {
	name := fmt.Sprintf("%s.%s", printable(im.Module), printable(im.Name))
	if im.Kind != ExternFunc {
		return fmt.Sprintf("%s is an imported %s; only functions can be imported: have the module define its own", name, im.Kind)
	}
	f, ok := t.Lookup(im.Module, im.Name)
	if !ok {
		if n := nearest(im, t); n != nil {
			return fmt.Sprintf("%s is unknown; the nearest known function is %s", name, n)
		}
		return fmt.Sprintf("%s is unknown", name)
	}
	want := FuncType{f.Params, f.Results}
	if !equal(im.Type.Params, want.Params) || !equal(im.Type.Results, want.Results) {
		return fmt.Sprintf("%s is imported as %s; the host's is %s", name, im.Type, want)
	}
	return ""
}

// Known reports whether an import can be served, and if not, why.
func Known(im *Import, t *hostcall.Table) (ok bool, why string) {
	why = auditImport(im, t)
	return why == "", why
}

func (t FuncType) String() string { return "(" + types(t.Params) + ") → (" + types(t.Results) + ")" }

func types(ts []hostcall.ValueType) string {
	var b strings.Builder
	for i, t := range ts {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == 16 {
			fmt.Fprintf(&b, "… %d in all", len(ts))
			break
		}
		switch t {
		case 0x7b:
			b.WriteString("v128")
		case 0x70:
			b.WriteString("funcref")
		case 0x6f:
			b.WriteString("externref")
		default:
			b.WriteString(t.String())
		}
	}
	return b.String()
}

func equal(a, b []hostcall.ValueType) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// printable is a name from a binary as it may stand in a message: short, and nothing that steers a terminal.
func printable(s string) string {
	s = fmt.Sprintf("%+q", clip(s))
	return s[1 : len(s)-1]
}

// nearest is the function whose name is the fewest edits away; those of the same module come first.
func nearest(im *Import, t *hostcall.Table) *hostcall.Func {
	if len(im.Name) > 64 {
		return nil
	}
	var best *hostcall.Func
	least := 1 << 30
	for _, f := range t.Funcs() {
		d := 2 * edits(im.Name, f.Name)
		if f.Module != im.Module {
			d++
		}
		if d < least {
			best, least = f, d
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
