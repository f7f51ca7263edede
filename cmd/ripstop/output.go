package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/api/client"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// jsonFlag adds --json to cmd.
func jsonFlag(cmd *cobra.Command, v *bool) {
	cmd.Flags().BoolVar(v, "json", false, "print JSON")
}

// printJSON writes v indented, and a newline.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printDone writes, under --json, what a command was done to, by the command's own name; nothing if that is nothing.
func printDone(w io.Writer, command string, those ...string) error {
	if len(those) == 0 {
		return nil
	}
	return printJSON(w, map[string][]string{command: those})
}

// errorDocument is an error under --json: the server's problem (RFC 9457), or what went wrong on this side, which has a code and a
// detail alone.
type errorDocument struct {
	Type   string `json:"type,omitempty"`
	Title  string `json:"title,omitempty"`
	Status int    `json:"status,omitempty"`
	Code   string `json:"code"` // the server's, or "usage", "unreachable", "failed"
	Detail string `json:"detail"`
	// Of a command that was given several names: what became of those that failed.
	Failures []failureDocument `json:"failures,omitempty"`
}

// failureDocument is an error of one of several names.
type failureDocument struct {
	Name string `json:"name"`
	errorDocument
}

// wantsJSON says whether cmd was called with --json. Flags that could not be parsed count, too: the caller will read what is wrong.
func wantsJSON(cmd *cobra.Command, args []string) bool {
	f := cmd.Flags().Lookup("json")
	return f != nil && (f.Value.String() == "true" || slices.Contains(args, "--json"))
}

// printErrorJSON writes err, which ends the process with code, as one line of JSON.
func printErrorJSON(w io.Writer, code int, err error) {
	_ = printLine(w, documentOf(code, err)) // nobody is left to tell
}

func documentOf(code int, err error) errorDocument {
	d := errorDocument{Code: "failed", Detail: err.Error()}
	var p *model.Problem
	var several *failuresError
	switch {
	case errors.As(err, &several):
		for _, f := range several.list {
			d.Failures = append(d.Failures, failureDocument{f.name, documentOf(code, f.err)})
		}
	case errors.As(err, &p):
		d.Type, d.Title, d.Status, d.Code = p.Type, p.Title, p.Status, p.Code
	case errors.As(err, new(*client.UnreachableError)):
		d.Code = "unreachable"
	case code == exitUsage:
		d.Code = "usage"
	}
	return d
}

// isTerminal says whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// escapeText makes text that a guest or a server wrote harmless on a terminal: control characters (escape sequences
// among them), bidirectional overrides and bytes that are no UTF-8 are written as \x1b, \u202e, \xff. Newlines and tabs stay.
func escapeText(s string) string {
	clean := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 && c != '\n' && c != '\t' || c >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1, r < 0x80 && unicode.IsControl(r) && r != '\n' && r != '\t':
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r >= 0x80 && !unicode.IsPrint(r):
			if r > 0xffff {
				fmt.Fprintf(&b, `\U%08x`, r)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// escapeLine is escapeText for one cell or line: newlines and tabs are written as \n and \t, too.
func escapeLine(s string) string {
	return strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(escapeText(s))
}

// table writes rows with their columns aligned and two spaces between them. The first row is the heading. Cells are escaped.
func table(w io.Writer, rows [][]string) error {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			row[i] = escapeLine(cell)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// sizeText writes bytes for people: 512 B, 2.5 MiB.
func sizeText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < len("KMGTPE")-1 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[i])
}
