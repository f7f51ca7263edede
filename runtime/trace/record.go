package trace

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// The kinds of Record.
const (
	KindCall  = "call"
	KindStart = "start" // an exported function was entered
	KindEnd   = "end"   // it returned
	KindGrow  = "grow"  // memory grew, or could not
)

// Record is a host call or an event, decoded. String is its line in a text trace.
type Record struct {
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
	Took int64     `json:"took_ns"` // nanoseconds; 0 for calls that stay inside the sandbox and cannot wait, which are not timed

	// Of a call.
	Module   string  `json:"module,omitempty"`
	Function string  `json:"function,omitempty"`
	Args     []Value `json:"args,omitempty"`     // as the function used them, after every change
	Out      []Value `json:"out,omitempty"`      // what it wrote
	Errno    string  `json:"errno,omitempty"`    // "SUCCESS", "EACCES", …; empty for a function that has none
	Rule     string  `json:"rule,omitempty"`     // who answered or changed the call
	Observed string  `json:"observed,omitempty"` // who would have
	Denied   bool    `json:"denied,omitempty"`   // Rule refused the call

	// Of an event.
	Name  string `json:"name,omitempty"`  // the exported function
	From  uint64 `json:"from,omitempty"`  // bytes of memory before it grew
	To    uint64 `json:"to,omitempty"`    // bytes wanted
	Error string `json:"error,omitempty"` // how it ended, or why it could not grow
}

// Value is an argument.
type Value struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`             // "num", "fd", "flags", "enum", "path", "text", "bytes", "record", "pointer"
	Text   string `json:"text,omitempty"`   // a number in decimal, names of flags, or what was kept of a text
	Size   uint64 `json:"size,omitempty"`   // of a text or payload, in bytes
	Cut    bool   `json:"cut,omitempty"`    // Text is only its begin
	Object string `json:"object,omitempty"` // what a path or descriptor stands for, guest-absolute
	Secret bool   `json:"secret,omitempty"` // only the size is known
}

// record decodes an entry.
func (e *entry) record() Record {
	r := Record{Time: clock.Started().Add(e.at).Round(0).UTC(), Took: int64(e.took)}
	if e.isEvent {
		r.Kind = [...]string{hostcall.EventStart: KindStart, hostcall.EventEnd: KindEnd, hostcall.EventGrow: KindGrow}[min(e.event, hostcall.EventGrow)]
		r.Name, r.From, r.To, r.Error = valid(e.name), e.from, e.to, valid(e.err)
		return r
	}
	f := e.fn
	r.Kind, r.Module, r.Function, r.Rule, r.Observed = KindCall, f.Module, f.Name, e.rule, e.observed
	if f.Fails {
		r.Errno = e.errno.String()
	}
	r.Denied = e.rule != "" && e.answered && (!f.Fails || e.errno != hostcall.Success || strings.HasSuffix(e.rule, ": stop"))
	written := e.written()
	for i := range f.Args {
		a := &f.Args[i]
		v := Value{Name: a.Name}
		switch {
		case e.raw:
			v.Kind, v.Text = "num", strconv.FormatUint(e.nums[i], 10)
			if a.Dir == hostcall.Out || a.Kind >= hostcall.Path {
				v.Kind, v.Text = "pointer", "0x"+strconv.FormatUint(e.nums[i], 16)
			}
			r.Args = append(r.Args, v)
			continue
		case a.Kind < hostcall.Path:
			v.scalar(a, f.Params[a.Param], e.nums[i])
			if a.Kind == hostcall.FD && a.Dir == hostcall.In {
				v.Object = valid(e.objects[i])
			}
		default:
			v.Kind = [...]string{hostcall.Path: "path", hostcall.Text: "text", hostcall.Bytes: "bytes", hostcall.Vectors: "bytes", hostcall.Record: "record"}[a.Kind]
			v.Size, v.Secret = e.sizes[i], a.Secret
			if a.Kind == hostcall.Path {
				v.Object = valid(e.objects[i])
			}
			if a.Dir == hostcall.Out {
				v.Size = min(v.Size, written)
			}
			if !a.Secret {
				begin := 0
				if i > 0 {
					begin = int(e.ends[i-1])
				}
				b := e.buf[begin:max(begin, int(e.ends[i]))]
				if uint64(len(b)) > v.Size {
					b = b[:v.Size]
				}
				if v.Cut = uint64(len(b)) < v.Size; v.Cut {
					b = whole(b)
				}
				v.Text = valid(string(b))
			}
		}
		switch {
		case a.Dir == hostcall.In:
			r.Args = append(r.Args, v)
		case e.answered || f.Fails && e.errno != hostcall.Success:
			// Nothing was written.
		case a.Kind >= hostcall.Path && written == unknown:
			r.Out = append(r.Out, Value{Name: a.Name, Kind: v.Kind, Size: e.sizes[i], Secret: v.Secret})
		default:
			r.Out = append(r.Out, v)
		}
	}
	return r
}

const unknown = ^uint64(0)

// written is how much of its buffers a call filled, if one number it wrote can mean nothing else.
func (e *entry) written() uint64 {
	n, found := unknown, false
	for i := range e.fn.Args {
		if a := &e.fn.Args[i]; a.Dir == hostcall.Out && a.Kind == hostcall.Uint && a.Size == 4 {
			if found {
				return unknown
			}
			n, found = e.nums[i], true
		}
	}
	return n
}

func (v *Value) scalar(a *hostcall.Arg, typ hostcall.ValueType, n uint64) {
	v.Kind = "num"
	if a.Secret {
		v.Secret = true
		return
	}
	switch {
	case a.Kind == hostcall.FD:
		v.Kind = "fd"
	case a.Kind == hostcall.Flags:
		v.Kind, v.Text = "flags", flags(a.Names, n)
		return
	case a.Kind == hostcall.Enum && n < uint64(len(a.Names)):
		v.Kind, v.Text = "enum", a.Names[n]
		return
	case a.Kind == hostcall.Int && (a.Dir == hostcall.In && typ == hostcall.I32 || a.Dir == hostcall.Out && a.Size == 4):
		v.Text = strconv.FormatInt(int64(int32(n)), 10)
		return
	case a.Kind == hostcall.Int:
		v.Text = strconv.FormatInt(int64(n), 10)
		return
	case a.Dir == hostcall.In && (typ == hostcall.F64 || typ == hostcall.F32):
		v.Text = float(typ, n)
		return
	}
	v.Text = strconv.FormatUint(n, 10)
}

// flags names the bits of n: "CREAT|EXCL", "0", and what has no name in hexadecimal.
func flags(names []string, n uint64) string {
	var b strings.Builder
	rest := n
	for i, name := range names {
		if i < 64 && n&(1<<i) != 0 {
			if b.Len() > 0 {
				b.WriteByte('|')
			}
			b.WriteString(name)
			rest &^= 1 << i
		}
	}
	if rest != 0 || n == 0 {
		if b.Len() > 0 {
			b.WriteByte('|')
		}
		if rest != 0 {
			b.WriteString("0x")
		}
		b.WriteString(strconv.FormatUint(rest, 16))
	}
	return b.String()
}

// valid makes s UTF-8: other bytes become U+FFFD.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// whole leaves out a character at the end of b that was cut in the middle.
func whole(b []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if utf8.RuneStart(b[len(b)-n]) {
			if !utf8.FullRune(b[len(b)-n:]) {
				return b[:len(b)-n]
			}
			break
		}
	}
	return b
}

// Escape makes guest text safe for a terminal and a line of its own: control characters, direction marks and the like are
// written as escapes.
func Escape(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			q := strconv.Quote(s)
			return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
		}
	}
	return s
}

// String is the record as one line of a text trace, without its end.
func (r *Record) String() string {
	var b strings.Builder
	switch r.Kind {
	case KindStart:
		fmt.Fprintf(&b, "--- start %s ---", Escape(r.Name))
		return b.String()
	case KindEnd:
		fmt.Fprintf(&b, "--- end %s", Escape(r.Name))
		if r.Error != "" {
			b.WriteString(": " + Escape(r.Error))
		}
		fmt.Fprintf(&b, "  %s ---", milliseconds(r.Took))
		return b.String()
	case KindGrow:
		fmt.Fprintf(&b, "--- memory grows from %d to %d bytes", r.From, r.To)
		if r.Error != "" {
			b.WriteString(": " + Escape(r.Error))
		}
		b.WriteString(" ---")
		return b.String()
	}
	b.WriteString(Escape(r.Function))
	b.WriteByte('(')
	for i := range r.Args {
		if i > 0 {
			b.WriteString(", ")
		}
		r.Args[i].write(&b)
	}
	b.WriteString(") = ")
	if r.Errno != "" && !(r.Denied && strings.HasSuffix(r.Rule, ": stop")) {
		b.WriteString(Escape(r.Errno))
	} else {
		b.WriteByte('?')
	}
	for i := range r.Out {
		b.WriteString(", ")
		r.Out[i].write(&b)
	}
	switch {
	case r.Denied && strings.HasSuffix(r.Rule, ": stop"):
		fmt.Fprintf(&b, "  [stopped by %s]", Escape(strings.TrimSuffix(r.Rule, ": stop")))
	case r.Denied:
		fmt.Fprintf(&b, "  [denied by %s]", Escape(strings.TrimSuffix(r.Rule, ": deny")))
	case r.Rule != "":
		fmt.Fprintf(&b, "  [by %s]", Escape(r.Rule))
	}
	if r.Observed != "" {
		fmt.Fprintf(&b, "  [observed: %s]", Escape(r.Observed))
	}
	if r.Took > 0 {
		b.WriteString("  " + milliseconds(r.Took))
	}
	return b.String()
}

func milliseconds(ns int64) string { return strconv.FormatFloat(float64(ns)/1e6, 'f', 3, 64) + "ms" }

func (v *Value) write(b *strings.Builder) {
	b.WriteString(Escape(v.Name))
	b.WriteByte('=')
	switch {
	case v.Secret:
		fmt.Fprintf(b, "<secret, %d bytes>", v.Size)
	case v.Kind == "path" || v.Kind == "text" || v.Kind == "bytes":
		if v.Text == "" && v.Size > 0 {
			fmt.Fprintf(b, "<%d bytes>", v.Size)
			break
		}
		b.WriteString(strconv.Quote(v.Text))
		if v.Cut {
			fmt.Fprintf(b, "… <%d bytes>", v.Size)
		}
	case v.Kind == "record":
		fmt.Fprintf(b, "<%d bytes>", v.Size)
	case v.Kind == "flags":
		b.WriteString(Escape(fewFlags(v.Text)))
	default:
		b.WriteString(Escape(v.Text))
	}
	if v.Object != "" {
		fmt.Fprintf(b, " <%s>", Escape(v.Object))
	}
}

// fewFlags shortens a long list of flags, as rights often are. A JSON record has them all.
func fewFlags(s string) string {
	const shown = 4
	names := strings.Split(s, "|")
	if len(names) <= shown+2 {
		return s
	}
	return fmt.Sprintf("%s|…%d more", strings.Join(names[:shown], "|"), len(names)-shown)
}

// Format is how a trace is written.
type Format string

// The formats.
const (
	Text Format = "text" // a line as String makes it
	JSON Format = "json" // a Record as a JSON object a line
)

// NewWriter makes a sink that writes a line for each record. The first error of w is kept for Err, and ends the writing.
func NewWriter(w io.Writer, format Format) *Writer {
	out := &Writer{w: w, format: format}
	out.each = out.write
	return out
}

// Writer is a Sink that writes lines.
type Writer struct {
	live
	w      io.Writer
	format Format
	err    error
}

func (w *Writer) write(r *Record) {
	if w.err != nil {
		return
	}
	var line []byte
	if w.format == JSON {
		line, w.err = json.Marshal(r)
	} else {
		line = []byte(r.String())
	}
	if w.err == nil {
		_, w.err = w.w.Write(append(line, '\n'))
	}
}

// Err is the first error of writing.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func float(typ hostcall.ValueType, n uint64) string {
	if typ == hostcall.F32 {
		return strconv.FormatFloat(float64(math.Float32frombits(uint32(n))), 'g', -1, 32)
	}
	return strconv.FormatFloat(math.Float64frombits(n), 'g', -1, 64)
}
