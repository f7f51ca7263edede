package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Figure is one line of the report.
type Figure struct {
	Name        string    `json:"name"`
	Value       float64   `json:"value"` // the median of the rounds
	Unit        string    `json:"unit"`
	Against     string    `json:"against"`
	Ratio       float64   `json:"ratio"`                  // Value over Other; 0 if there is no other
	Other       float64   `json:"other,omitempty"`        // the same of what it stands against, in the same unit
	Spread      []float64 `json:"spread,omitempty"`       // least and most of the rounds
	OtherSpread []float64 `json:"other_spread,omitempty"` // and of the other's
	Runs        int       `json:"runs,omitempty"`         // rounds
	Target      string    `json:"target,omitempty"`
	Met         *bool     `json:"met,omitempty"` // nil: there is no target, or it could not be judged
	Note        string    `json:"note,omitempty"`
	Comparison  string    `json:"comparison"`
	Commit      string    `json:"commit,omitempty"`
	Measured    time.Time `json:"measured"`
}

// target is what a figure should come to. The zero value is none.
type target struct {
	bound   float64
	atLeast bool
	ratio   bool // of the figure's ratio; else of its value
}

func atMost(bound float64) target       { return target{bound: bound} }
func atMostTimes(bound float64) target  { return target{bound: bound, ratio: true} }
func atLeastTimes(bound float64) target { return target{bound: bound, ratio: true, atLeast: true} }

// String is "≤ 40 µs", "≥ 2.5 ×" or, for a ratio below a tenth, "≤ 1/100 ×".
func (t target) String(unit string) string {
	if t.bound == 0 {
		return ""
	}
	sign := "≤ "
	if t.atLeast {
		sign = "≥ "
	}
	if t.ratio {
		return sign + ratioText(t.bound) + " ×"
	}
	return sign + number(t.bound) + " " + unit
}

// met judges f; nil if it cannot be.
func (t target) met(f Figure) *bool {
	v := f.Value
	if t.ratio {
		v = f.Ratio
	}
	if t.bound == 0 || v == 0 || math.IsNaN(v) {
		return nil
	}
	ok := v <= t.bound
	if t.atLeast {
		ok = v >= t.bound
	}
	return &ok
}

func ratioText(r float64) string {
	switch {
	case r == 0:
		return ""
	case r < 0.1:
		return fmt.Sprintf("1/%.3g", 1/r)
	}
	return fmt.Sprintf("%.3g", r)
}

func number(v float64) string {
	if math.Abs(v) >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func spreadText(s []float64) string {
	if len(s) != 2 {
		return ""
	}
	return " (" + number(s[0]) + "–" + number(s[1]) + ")"
}

func (f Figure) verdict() string {
	switch {
	case f.Met == nil:
		return ""
	case *f.Met:
		return "met"
	}
	return "missed"
}

// columns are what both kinds of tables show.
func (f Figure) columns() []string {
	other := ""
	if f.Other != 0 {
		other = number(f.Other) + spreadText(f.OtherSpread)
	}
	return []string{f.Name, number(f.Value) + spreadText(f.Spread), f.Unit, f.Against, other, ratioText(f.Ratio), f.Target, f.verdict(), f.Note}
}

var headings = []string{"what", "value", "unit", "against", "its value", "ratio", "target", "", "note"}

func writeTable(w io.Writer, figs []Figure) error {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(headings, "\t")))
	for _, f := range figs {
		fmt.Fprintln(t, strings.Join(f.columns(), "\t"))
	}
	return t.Flush()
}

func writeMarkdown(w io.Writer, figs []Figure) error {
	var b strings.Builder
	row := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	row(append(slices.Clone(headings), "commit"))
	row(slices.Repeat([]string{"---"}, len(headings)+1))
	for _, f := range figs {
		row(append(f.columns(), f.Commit))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func readReport(file string) ([]Figure, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	var figs []Figure
	if err := json.Unmarshal(b, &figs); err != nil {
		return nil, fmt.Errorf("read the report %s: %w", file, err)
	}
	return figs, nil
}

// addTo replaces the comparisons of figs in the report, and keeps the others; all come in the order of the program.
func addTo(file string, figs []Figure) ([]Figure, error) {
	old, err := readReport(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fresh := map[string]bool{}
	for _, f := range figs {
		fresh[f.Comparison] = true
	}
	var all []Figure
	for _, c := range comparisons {
		from := old
		if fresh[c.name] {
			from = figs
		}
		for _, f := range from {
			if f.Comparison == c.name {
				all = append(all, f)
			}
		}
	}
	return all, nil
}

func writeReport(file string, figs []Figure) error {
	for i, f := range figs { // JSON has no word for what could not be measured
		for _, v := range []float64{f.Value, f.Ratio, f.Other} {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("write the report: %q (%d) came to no number", f.Name, i)
			}
		}
	}
	b, err := json.MarshalIndent(figs, "", "  ")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
