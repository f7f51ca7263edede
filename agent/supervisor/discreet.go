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

	"github.com/ripstop-vm/ripstop/control"
)

const (
	// leastRedacted is how long a secret, or a line of one, has to be so that it is looked for, in bytes: shorter ones would make
	// logs unreadable.
	leastRedacted = 6
	// leastPart is the same for a part of one at a place where text may have been cut.
	leastPart = 8
	// mostPart is up to what length of a secret parts are looked for.
	mostPart = 4 << 10
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
	e.Detail = d.redact(e.Job, e.Detail)
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
	type pair struct{ form, mark string }
	var all []pair
	for i, v := range n.values {
		for _, form := range forms(v) {
			all = append(all, pair{form, mark(n.names[i])})
		}
	}
	slices.SortStableFunc(all, func(a, b pair) int { return len(b.form) - len(a.form) }) // one may begin with another
	pairs := make([]string, 0, 2*len(all))
	for _, p := range all {
		pairs = append(pairs, p.form, p.mark)
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
		for n := min(len(v)-1, len(text)); n >= leastPart; n-- {
			if strings.HasPrefix(text, v[len(v)-n:]) {
				text = mark(t.names[i]) + text[n:]
				break
			}
		}
	}
	return text
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
		for k := range v {
			v[k] = d.inside(job, v[k])
		}
	}
	return v
}

func (d *discreet) of(job string) *told {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.jobs[job]
}
