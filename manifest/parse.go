package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// An Error is one problem of a manifest.
type Error struct {
	Line, Column int    // from 1, in characters; 0 if there is no text to point into
	Key          string // the key it is about: "limits.memory", "policy[2].when"; empty for the whole
	Msg          string // what is wrong, and what to write instead
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Key != "" {
		s = e.Key + ": " + s
	}
	if e.Line > 0 {
		s = fmt.Sprintf("%d:%d: %s", e.Line, e.Column, s)
	}
	return s
}

// Errors lists the problems that an error of this package joins, in the order of their positions.
func Errors(err error) []*Error {
	var list []*Error
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) {
		case nil:
		case *Error:
			list = append(list, e)
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	slices.SortStableFunc(list, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return list
}

// Parse reads a manifest in YAML (of which JSON is a part), checks all of it, and compiles its rules against table; nil
// leaves rules unchecked. Nothing is filled in. The error joins an *Error for every problem, in the order of the text.
func Parse(yaml []byte, table *hostcall.Table) (*Manifest, error) {
	m := &Manifest{}
	d := &decoder{}
	d.decode(yaml, m)
	c := checker{errs: d.errs, at: d.position}
	if d.root == nil && len(d.errs) > 0 { // no YAML at all
		return nil, join(c.errs)
	}
	written(&c, d, "limits", limits, &m.Limits)
	written(&c, d, "queue", queueLimits, &m.Queue)
	if _, there := d.values["weight"]; there && m.Weight == 0 && !d.failed["weight"] {
		c.add("weight", "0 is out of range: %d to %d is allowed", processor.MinWeight, processor.MaxWeight)
	}
	c.manifest(m, table)
	if len(c.errs) > 0 {
		return nil, join(d.without(c.errs))
	}
	return m, nil
}

// ParsePolicy reads the capabilities and rules of a manifest for a run without a server. The file may be a whole
// manifest, or have no more than these two keys. Errors are as for Parse.
func ParsePolicy(yaml []byte, table *hostcall.Table) (policy.Capabilities, []policy.Rule, error) {
	m, err := Parse(yaml, table)
	if err != nil {
		return policy.Capabilities{}, nil, err
	}
	return m.Capabilities, m.Policy, nil
}

func join(errs []error) error {
	var all []error
	for _, e := range Errors(errors.Join(errs...)) {
		all = append(all, e)
	}
	return errors.Join(all...)
}

// JSON is the canonical form: the same manifest gives the same bytes. Module is left out, as it names a file of whoever
// deployed. Map keys are sorted, sizes and durations are text.
func (m *Manifest) JSON() ([]byte, error) {
	stored := *m
	stored.Module = ""
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(&stored); err != nil {
		return nil, fmt.Errorf("write manifest of %s: %w", quote(m.Name), err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ParseJSON reads what JSON writes, strictly: an unknown key is an error. It checks neither values nor rules; see Validate.
func ParseJSON(b []byte) (*Manifest, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	m := &Manifest{}
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if d.More() {
		return nil, errors.New("read manifest: something follows it")
	}
	return m, nil
}
