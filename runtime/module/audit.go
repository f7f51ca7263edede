package module

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ripstop-vm/ripstop/internal/nearest"
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
		why := name + " is unknown"
		if n := nearestTo(im, t); n != nil {
			why += "; the nearest known function is " + n.String()
		} else if builtFor := otherHosts[im.Module]; builtFor != "" {
			why += "; modules that import from " + im.Module + " are built for " + builtFor + ": build for WASI preview 1 (wasip1)"
		}
		return why
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

// otherHosts are the import modules of hosts that are often mistaken for this one.
var otherHosts = map[string]string{
	"env":                      "Emscripten or a browser, or lack a library",
	"wbg":                      "a browser (wasm-bindgen)",
	"__wbindgen_placeholder__": "a browser (wasm-bindgen)",
	"go":                       "a browser (GOOS=js)",
	"gojs":                     "a browser (GOOS=js)",
	"wasi_unstable":            "WASI's first draft",
	"extism:host/env":          "Extism",
	"http_handler":             "http-wasm",
}

// nearestTo is the function that im may have meant; nil if no name is close. Those of the same module come first.
func nearestTo(im *Import, t *hostcall.Table) *hostcall.Func {
	funcs := slices.Clone(t.Funcs())
	slices.SortStableFunc(funcs, func(a, b *hostcall.Func) int { return rank(a, im) - rank(b, im) })
	names := make([]string, len(funcs))
	for i, f := range funcs {
		names[i] = f.Name
	}
	meant := nearest.Of(im.Name, names)
	if i := slices.Index(names, meant); i >= 0 && meant != "" {
		return funcs[i]
	}
	return nil
}

// rank is 0 for functions of the module that im names, else 1.
func rank(f *hostcall.Func, im *Import) int {
	if f.Module == im.Module {
		return 0
	}
	return 1
}
