package trace

import (
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Bounds of what is kept of one call.
const (
	maxText    = 128 // bytes of one argument's text
	maxPayload = 32  // bytes of one payload
	bufferSize = 384 // bytes of all arguments of a call
)

// entry is a captured call or event. It is filled in place and allocates nothing.
type entry struct {
	at, took time.Duration // since clock.Started
	fn       *hostcall.Func
	event    hostcall.EventKind
	isEvent  bool
	raw      bool // pointers were refused before anything was decoded
	answered bool
	errno    hostcall.Errno
	rule     string
	observed string
	result   uint64
	nums     [hostcall.MaxArgs]uint64 // of scalars, also those written; addresses of what was not decoded
	sizes    [hostcall.MaxArgs]uint64 // of texts and payloads, in bytes
	ends     [hostcall.MaxArgs]uint16 // of their captured part in buf; it begins where the one before ends
	objects  [hostcall.MaxArgs]string
	buf      [bufferSize]byte

	name     string
	from, to uint64
	err      string
}

// Sink takes what a Tracer captures: a Ring, or what NewWriter or NewFunc make. One may serve many tracers.
type Sink interface {
	begin() *entry // gives an entry to fill in, and keeps it until commit
	commit()
}

// Options configures a Tracer.
type Options struct {
	// Objects has every call's paths and descriptors named by the kernel, as a rule over paths does. It costs system
	// calls; without it only what somebody else had named is shown.
	Objects bool
	// Watches leaves out functions; nil sees all.
	Watches func(*hostcall.Func) bool
	// Elapsed is monotonic time; nil means clock.Elapsed.
	Elapsed func() time.Duration
}

// Tracer is an interposer that sees everything and changes nothing. It may be shared by sandboxes.
type Tracer struct {
	sink    Sink
	opts    Options
	elapsed func() time.Duration // nil: clock.Elapsed, called directly
}

var (
	_ hostcall.Interposer = (*Tracer)(nil)
	_ hostcall.Observer   = (*Tracer)(nil)
)

// New makes a Tracer that hands what it sees to sink.
func New(sink Sink, opts Options) *Tracer {
	return &Tracer{sink: sink, opts: opts, elapsed: opts.Elapsed}
}

func (t *Tracer) now() time.Duration {
	if t.elapsed == nil {
		return clock.Elapsed()
	}
	return t.elapsed()
}

// Watches reports whether f is traced.
func (t *Tracer) Watches(f *hostcall.Func) bool { return t.opts.Watches == nil || t.opts.Watches(f) }

// timed reports whether a call's duration is measured. One that stays inside the sandbox and cannot wait is over before
// the clock is read twice.
func timed(f *hostcall.Func) bool { return f.Blocks || f.Class.Outside() }

// untimed marks, in Call.Tag, a call that was seen from its begin and is not timed.
const untimed = -1

// Before notes when the call began.
func (t *Tracer) Before(c *hostcall.Call) hostcall.Verdict {
	if t.opts.Objects {
		c.Resolve()
	}
	c.Tag = untimed
	if timed(c.Func) {
		c.Tag = int64(t.now()) | 1 // never 0, which means that nobody was asked before
	}
	return hostcall.Proceed
}

// After captures the call.
func (t *Tracer) After(c *hostcall.Call) {
	now := t.now()
	e := t.sink.begin()
	e.fn, e.isEvent, e.answered = c.Func, false, c.Answered()
	// Pointers are written only where they change: most entries have none of these.
	if c.Rule != "" || e.rule != "" {
		e.rule = c.Rule
	}
	if c.Observed != "" || e.observed != "" {
		e.observed = c.Observed
	}
	e.errno = c.Errno()
	if len(c.Func.Results) > 0 {
		e.result = c.Result(0)
	}
	if c.Tag == 0 {
		e.at, e.took, e.raw = now, 0, true
		for i := range c.Func.Args {
			e.nums[i] = c.Num(i)
		}
	} else {
		e.at, e.took, e.raw = now, 0, false
		if c.Tag != untimed {
			e.at = time.Duration(c.Tag)
			e.took = max(1, now-e.at)
		}
		c.Tag = 0
		e.capture(c)
	}
	t.sink.commit()
}

// capture copies what will be shown of the arguments.
func (e *entry) capture(c *hostcall.Call) {
	used := 0
	args := c.Func.Args
	for i := range args {
		a := &args[i]
		switch {
		case a.Kind < hostcall.Path && a.Dir == hostcall.In:
			e.nums[i] = c.Num(i)
			if a.Kind == hostcall.FD {
				if o := c.Value(i).Object; o != "" || e.objects[i] != "" {
					e.objects[i] = o
				}
			}
		case a.Kind < hostcall.Path:
			e.nums[i] = c.GetNum(i)
		case a.Kind == hostcall.Vectors:
			v := c.Value(i)
			e.sizes[i] = 0
			room := maxPayload
			for _, vec := range v.Vecs {
				e.sizes[i] += uint64(vec.Len)
				if room > 0 && !a.Secret {
					if b, ok := c.View(vec.Ptr, vec.Len); ok {
						n := copy(e.buf[used:min(used+room, bufferSize)], b)
						used, room = used+n, room-n
					}
				}
			}
		default:
			v := c.Value(i)
			if v.Object != "" || e.objects[i] != "" {
				e.objects[i] = v.Object
			}
			e.sizes[i] = uint64(len(v.Data))
			if a.Secret || a.Kind == hostcall.Record {
				break
			}
			most := maxText
			if a.Kind == hostcall.Bytes {
				most = maxPayload
			}
			used += copy(e.buf[used:min(used+most, bufferSize)], v.Data)
		}
		e.ends[i] = uint16(used)
	}
}

// Event captures what happens between host calls.
func (t *Tracer) Event(ev hostcall.Event) {
	now := t.now()
	text := ""
	if ev.Err != nil {
		text = ev.Err.Error()
	}
	e := t.sink.begin()
	e.isEvent, e.event, e.fn = true, ev.Kind, nil
	e.at, e.took = now, ev.Took
	e.name, e.from, e.to, e.err = ev.Name, ev.From, ev.To, text
	e.rule, e.observed = "", ""
	t.sink.commit()
}

// Ring keeps the latest calls and events. Capturing into it allocates nothing; records are made when it is read. It is
// safe for concurrent use.
type Ring struct {
	mu      sync.Mutex
	entries []entry
	next    int    // where the next one goes: a division at each call would be felt
	seen    uint64 // ever begun
}

// NewRing makes a ring of n entries of about 1 KiB each; less than 1 means 1024.
func NewRing(n int) *Ring {
	if n < 1 {
		n = 1024
	}
	return &Ring{entries: make([]entry, n)}
}

func (r *Ring) begin() *entry {
	r.mu.Lock()
	e := &r.entries[r.next]
	if r.next++; r.next == len(r.entries) {
		r.next = 0
	}
	r.seen++
	return e
}

func (r *Ring) commit() { r.mu.Unlock() }

// Records makes records of what the ring holds, oldest first.
func (r *Ring) Records() []Record { list, _ := r.Since(0); return list }

// Since makes records of what came after the first seen entries and is still there, oldest first, and answers how many
// were ever seen, for the next call. What was overwritten in between is lost.
func (r *Ring) Since(seen uint64) ([]Record, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := max(seen, r.seen-min(r.seen, uint64(len(r.entries))))
	var list []Record
	for n := first; n < r.seen; n++ {
		list = append(list, r.entries[n%uint64(len(r.entries))].record())
	}
	return list, r.seen
}

// live is a sink that makes a record at once.
type live struct {
	mu   sync.Mutex
	e    entry
	each func(*Record)
}

func (l *live) begin() *entry { l.mu.Lock(); return &l.e }

func (l *live) commit() {
	r := l.e.record()
	l.each(&r)
	l.mu.Unlock()
}

// NewFunc makes a sink that calls f with each record, one at a time, on the sandbox's goroutine. f owns the record.
func NewFunc(f func(*Record)) Sink { return &live{each: f} }
