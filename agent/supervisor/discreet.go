package supervisor

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

const (
	// leastRedacted is how long a secret, or a line of one, has to be so that it is looked for, in bytes: shorter ones would make
	// logs unreadable.
	leastRedacted = 6
	// leastPart is the same for a part of one at a place where text may have been cut. Where it was, what is shorter is not shown,
	// whatever it is: were it left out only where a secret begins like it, whoever can have a guest write something could guess a
	// secret letter by letter.
	leastPart = 8
	// mostPart is up to what length of a secret parts are looked for.
	mostPart = 4 << 10
	// maxDetail is how long an audit entry may be, in bytes.
	maxDetail = 2048
	// keptSecrets bounds the values remembered of a job. A job has at most 256 secrets; the rest is for values that were
	// replaced since.
	keptSecrets = 512
)

// discreet is a store that remembers which secrets it gave to a worker's guests, and takes them out of what is then told of them.
// It helps against mistakes; a guest that wants to tell a secret can always disguise it.
type discreet struct {
	Store

	mu   sync.RWMutex
	jobs map[string]*told
}

// told is the secrets that a job's guests have read.
type told struct {
	names  []string // of values
	values []string
	whole  *strings.Replacer
	forms  []form // in the order of their text, each text once
}

// form is one way in which a secret may be written.
type form struct {
	text, mark string
	within     int // the index of the longest other form that text begins with; -1: none
}

// Secret implements Store.
func (d *discreet) Secret(ctx context.Context, job, name string) ([]byte, error) {
	b, err := d.Store.Secret(ctx, job, name)
	if err == nil {
		d.note(job, name, strings.TrimSpace(string(b)))
	}
	return b, err
}

// Audit implements Store.
func (d *discreet) Audit(ctx context.Context, e control.AuditEntry) error {
	e.Detail = cut(d.redactQuotes(e.Job, e.Detail), maxDetail)
	return d.Store.Audit(ctx, e)
}

func (d *discreet) note(job, name, value string) {
	d.mu.RLock()
	t := d.jobs[job]
	known := len(value) < leastRedacted || t != nil && slices.Contains(t.values, value)
	d.mu.RUnlock()
	if known {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := told{}
	if t = d.jobs[job]; t != nil {
		from := max(0, len(t.values)+1-keptSecrets)
		n.names, n.values = slices.Clone(t.names[from:]), slices.Clone(t.values[from:])
	}
	n.names, n.values = append(n.names, name), append(n.values, value)
	for i, v := range n.values {
		for _, text := range forms(v) {
			n.forms = append(n.forms, form{text: text, mark: mark(n.names[i])})
		}
	}
	slices.SortStableFunc(n.forms, func(a, b form) int { return strings.Compare(a.text, b.text) })
	n.forms = slices.CompactFunc(n.forms, func(a, b form) bool { return a.text == b.text })
	for i := range n.forms {
		w := i - 1
		for w >= 0 && !strings.HasPrefix(n.forms[i].text, n.forms[w].text) {
			w = n.forms[w].within
		}
		n.forms[i].within = w
	}
	pairs := make([]string, 0, 2*len(n.forms))
	for _, f := range slices.Backward(n.forms) { // one that begins with another comes before it
		pairs = append(pairs, f.text, f.mark)
	}
	n.whole = strings.NewReplacer(pairs...)
	if d.jobs == nil {
		d.jobs = map[string]*told{}
	}
	d.jobs[job] = &n
}

// mark is what stands where a secret was.
func mark(name string) string { return "[secret " + name + "]" }

// forms is how a value may be written: as it is, escaped as JSON, Go and URLs do, in base64, and each of its lines.
func forms(v string) []string {
	all := []string{v}
	if strings.Contains(v, "\n") {
		for line := range strings.SplitSeq(v, "\n") {
			if line = strings.TrimSpace(line); len(line) >= leastRedacted {
				all = append(all, line)
			}
		}
	}
	for _, s := range slices.Clone(all) {
		j, _ := json.Marshal(s) // strings always encode
		q := strconv.Quote(s)
		all = append(all, string(j[1:len(j)-1]), q[1:len(q)-1], url.QueryEscape(s), url.PathEscape(s),
			base64.StdEncoding.EncodeToString([]byte(s)), base64.RawStdEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s)))
	}
	return all
}

// redact takes the secrets of a job out of text, and parts of them at its ends, where it may have been cut.
func (d *discreet) redact(job, text string) string {
	t := d.of(job)
	if t == nil {
		return text
	}
	text = t.whole.Replace(text)
	for i, v := range t.values {
		if len(v) > mostPart {
			continue
		}
		for n := min(len(v)-1, len(text)); n >= leastPart; n-- {
			if strings.HasSuffix(text, v[:n]) {
				text = text[:len(text)-n] + mark(t.names[i])
				break
			}
		}
		text = withoutRest(text, v, t.names[i])
	}
	return text
}

// withoutRest takes the end of a secret out of the begin of text.
func withoutRest(text, value, name string) string {
	for n := min(len(value)-1, len(text)); n >= leastPart; n-- {
		if strings.HasPrefix(text, value[len(value)-n:]) {
			return mark(name) + text[n:]
		}
	}
	return text
}

// redactCut takes the secrets of a job out of a text whose end was cut off. Nothing of a secret that the cut left a part of is
// in what it answers, in whatever form, and therefore it is at least leastPart-1 bytes shorter.
func (d *discreet) redactCut(job, text string) string {
	t := d.of(job)
	if t == nil {
		return text
	}
	text = t.hide(text)
	for i, v := range t.values {
		if len(v) <= mostPart {
			text = withoutRest(text, v, t.names[i])
		}
	}
	return text
}

// redactQuotes takes the secrets of a job out of text in which quoted texts may have been cut.
func (d *discreet) redactQuotes(job, text string) string {
	parts := strings.Split(text, wire.CutQuote)
	for i := range parts {
		if i < len(parts)-1 {
			parts[i] = d.redactCut(job, parts[i])
		} else {
			parts[i] = d.redact(job, parts[i])
		}
	}
	return strings.Join(parts, wire.CutQuote)
}

// hide is what may be shown of a text whose end was cut off. It looks for secrets in the text as it was, since of what is left
// when one was replaced nobody can say whether it is a part of another.
func (t *told) hide(text string) string {
	most := max(0, len(text)-(leastPart-1))
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	var b strings.Builder
	hidden := 0 // where what is being left out ends
	for i := 0; i < most || i < hidden && i < len(text); i++ {
		if n, mark := t.at(text[i:]); i+n > hidden {
			if i >= hidden {
				b.WriteString(mark)
			}
			hidden = i + n
		}
		if i >= hidden {
			b.WriteByte(text[i])
		}
	}
	return b.String()
}

// at is how much of the begin of rest is a secret, or, up to its end, a part of one, and what stands in its place. 0: nothing.
func (t *told) at(rest string) (n int, mark string) {
	after, found := slices.BinarySearchFunc(t.forms, rest, func(f form, s string) int { return strings.Compare(f.text, s) })
	if found {
		after++
	}
	// All that begin with rest follow it in the order; all that rest begins with are the one before it, or within that.
	if len(rest) >= leastPart && after < len(t.forms) && strings.HasPrefix(t.forms[after].text, rest) {
		return len(rest), t.forms[after].mark
	}
	for i := after - 1; i >= 0; i = t.forms[i].within {
		if f := &t.forms[i]; strings.HasPrefix(rest, f.text) {
			return len(f.text), f.mark
		}
	}
	return 0, ""
}

// record takes the secrets of a job out of the strings of a trace's record.
func (d *discreet) record(job string, b json.RawMessage) json.RawMessage {
	t := d.of(job)
	if t == nil || len(b) == 0 {
		return b
	}
	var v any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		return json.RawMessage("{}")
	}
	out, err := json.Marshal(d.inside(job, v))
	if err != nil {
		return json.RawMessage("{}")
	}
	return out
}

// inside redacts the strings in a value of JSON.
func (d *discreet) inside(job string, v any) any {
	switch v := v.(type) {
	case string:
		return d.redact(job, v)
	case []any:
		for i := range v {
			v[i] = d.inside(job, v[i])
		}
	case map[string]any:
		isCut, _ := v["cut"].(bool)
		for k := range v {
			if text, ok := v[k].(string); ok && isCut && k == "text" { // of a trace.Value
				v[k] = d.redactCut(job, text)
			} else {
				v[k] = d.inside(job, v[k])
			}
		}
	}
	return v
}

func (d *discreet) of(job string) *told {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.jobs[job]
}
