package manifest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/policy"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// Bounds of what a manifest may hold, beside those of package policy.
const (
	MaxBytes       = 256 << 10 // of a manifest
	MaxRoutes      = 64
	MaxArgs        = 256
	MaxArgsBytes   = 64 << 10 // all arguments together
	MaxConfig      = 256      // entries
	MaxConfigBytes = 64 << 10 // names and values together
	MaxRoutePath   = 1024     // bytes
	// MaxFuel of an invocation: more than an hour's work. JavaScript's numbers hold it exactly.
	MaxFuel = 1_000_000_000_000_000
)

// DefaultConcurrency is limits.concurrency where the manifest has none, and MaxConcurrency the most that it and queue.concurrency may be.
const (
	DefaultConcurrency = 16
	MaxConcurrency     = 4096
)

// DefaultWeight is a job's weight where the manifest has none. It leaves room for both less and more.
const DefaultWeight = 100

// span is what 0 means for a bounded field (with a fill of 0, no bound, or what other fields say), and the range of what may be written.
type span struct {
	key           string
	text          func(int64) string
	fill, low, hi int64
	also          int64 // one more value that is allowed; 0 for none
}

// holds reports whether n may be written.
func (s span) holds(n int64) bool { return n >= s.low && n <= s.hi || s.also != 0 && n == s.also }

// limit describes a bounded field of a section.
type limit[T any] struct {
	span
	value func(*T) int64
	set   func(*T, int64)
}

// fillIn sets a field that was left out.
func (l limit[T]) fillIn(section *T) {
	if l.value(section) == 0 {
		l.set(section, l.fill)
	}
}

// bounded adds a problem for each field that is out of range.
func bounded[T any](c *checker, section string, list []limit[T], of *T) {
	for _, l := range list {
		if n := l.value(of); n != 0 && !l.holds(n) {
			c.outOfRange(section, l.span, n)
		}
	}
}

// written adds a problem for each field that says 0: to a reader, that is a number and not "what is usual".
func written[T any](c *checker, d *decoder, section string, list []limit[T], of *T) {
	for _, l := range list {
		key := section + "." + l.key
		if _, there := d.values[key]; there && l.value(of) == 0 && !d.failed[key] {
			c.outOfRange(section, l.span, 0)
		}
	}
}

func sizeLimit[T any](key string, f func(*T) *Size, fill, low, hi Size) limit[T] {
	return limit[T]{span{key, func(n int64) string { return Size(n).String() }, int64(fill), int64(low), int64(hi), 0},
		func(l *T) int64 { return int64(*f(l)) }, func(l *T, n int64) { *f(l) = Size(n) }}
}

func timeLimit[T any](key string, f func(*T) *Duration, fill, low, hi time.Duration) limit[T] {
	return limit[T]{span{key, func(n int64) string { return Duration(n).String() }, int64(fill), int64(low), int64(hi), 0},
		func(l *T) int64 { return int64(*f(l)) }, func(l *T, n int64) { *f(l) = Duration(n) }}
}

func countLimit[T any](key string, f func(*T) *int, fill, low, hi, also int64) limit[T] {
	return limit[T]{span{key, func(n int64) string { return fmt.Sprint(n) }, fill, low, hi, also},
		func(l *T) int64 { return int64(*f(l)) }, func(l *T, n int64) { *f(l) = int(n) }}
}

// limits holds every default and range. docs/manifest.md lists them, which a test compares.
var limits = []limit[Limits]{
	sizeLimit("memory", func(l *Limits) *Size { return &l.Memory }, 256*MiB, 64*KiB, 4*GiB),
	timeLimit("time", func(l *Limits) *Duration { return &l.Time }, 10*time.Second, time.Millisecond, time.Hour),
	timeLimit("start", func(l *Limits) *Duration { return &l.Start }, 10*time.Second, time.Millisecond, 5*time.Minute),
	sizeLimit("request", func(l *Limits) *Size { return &l.Request }, 10*MiB, 1, 4*GiB),
	sizeLimit("response", func(l *Limits) *Size { return &l.Response }, 10*MiB, KiB, 4*GiB),
	countLimit("files", func(l *Limits) *int { return &l.Files }, 128, 4, 4096, 0),
	sizeLimit("log", func(l *Limits) *Size { return &l.Log }, 64*KiB, 1, 64*MiB),
	countLimit("concurrency", func(l *Limits) *int { return &l.Concurrency }, DefaultConcurrency, 1, MaxConcurrency, 0),
	countLimit("queue", func(l *Limits) *int { return &l.Queue }, 64, 1, 65536, -1),
	countLimit("hostcalls", func(l *Limits) *int { return &l.HostCalls }, 1_000_000, 1, 1_000_000_000, 0),
	timeLimit("cpu", func(l *Limits) *Duration { return &l.CPU }, 0, time.Millisecond, time.Hour),
	countLimit("fuel", func(l *Limits) *int { return &l.Fuel }, 0, 1, MaxFuel, 0),
}

// CheckName reports why s cannot name a job: it has to be a DNS label (RFC 1123), 1 to 63 of a-z, 0-9 and '-', with
// neither end a '-'.
func CheckName(s string) error { return policy.CheckLabel(s) }

// Fill sets what the manifest leaves out. name is the job's, and is taken if the manifest has none; it may be empty.
// After Fill, Validate finds nothing that it did not find before.
func (m *Manifest) Fill(name string) {
	if m.Name == "" {
		m.Name = name
	}
	if m.Isolation == "" {
		m.Isolation = "request"
	}
	if m.Engine == "" {
		m.Engine = "wazero"
	}
	if m.Weight == 0 {
		m.Weight = DefaultWeight
	}
	if len(m.Routes) == 0 && m.Name != "" {
		m.Routes = []Route{{Path: "/" + m.Name + "/"}}
	}
	for _, l := range limits {
		l.fillIn(&m.Limits)
	}
	m.Queue.fill(m.Limits)
	for i := range m.Schedule {
		m.Schedule[i].fill()
	}
	for i := range m.Capabilities.Files {
		if m.Capabilities.Files[i].Access == "" {
			m.Capabilities.Files[i].Access = "ro"
		}
	}
}

// MemoryPages is the memory limit in WebAssembly's pages of 64 KiB, rounded down.
func (l Limits) MemoryPages() uint32 { return uint32(l.Memory / (64 * KiB)) }

// Validate checks all that Parse checks but for syntax, on a manifest that came from elsewhere. Rules are compiled against
// table; nil leaves them unchecked. The error joins an *Error, without a position, for every problem.
func (m *Manifest) Validate(table *hostcall.Table) error {
	var c checker
	c.manifest(m, table)
	return errors.Join(c.errs...)
}

// checker collects problems. Its position finder is set when there is a text to point into.
type checker struct {
	errs []error
	at   func(key string, offset int) (line, column int)
}

func (c *checker) add(key, format string, args ...any) { c.addAt(key, -1, format, args...) }

func (c *checker) addAt(key string, offset int, format string, args ...any) {
	e := &Error{Key: key, Msg: fmt.Sprintf(format, args...)}
	if c.at != nil {
		e.Line, e.Column = c.at(key, offset)
	}
	c.errs = append(c.errs, e)
}

func (c *checker) manifest(m *Manifest, table *hostcall.Table) {
	if m.Name != "" {
		if err := CheckName(m.Name); err != nil {
			c.add("name", "%s", err)
		}
	}
	if strings.ContainsRune(m.Module, 0) {
		c.add("module", "is no path")
	}
	switch m.Kind {
	case "", "command", "task":
	default:
		c.add("kind", "%s is neither command nor task", quote(m.Kind))
	}
	switch m.Isolation {
	case "", "request", "task":
	default:
		c.add("isolation", "%s is neither request nor task", quote(m.Isolation))
	}
	if m.Isolation == "task" && m.Kind == "command" {
		c.add("isolation", "a command is a fresh run for each request, and cannot keep a sandbox")
	}
	switch m.Engine {
	case "", "wazero", "wasmtime":
	default:
		c.add("engine", "%s is neither wazero nor wasmtime", quote(m.Engine))
	}
	if m.Weight != 0 && (m.Weight < processor.MinWeight || m.Weight > processor.MaxWeight) {
		c.add("weight", "%d is out of range: %d to %d is allowed", m.Weight, processor.MinWeight, processor.MaxWeight)
	}
	switch m.Request {
	case "", "environment", "stdin":
		if m.Request != "" && m.Kind == "task" {
			c.add("request", "a task is given its request in memory: the key is for commands")
		}
	default:
		c.add("request", "%s is neither environment nor stdin", quote(m.Request))
	}
	c.arguments(m)
	c.routes(m.Routes)
	bounded(c, "limits", limits, &m.Limits)
	bounded(c, "queue", queueLimits, &m.Queue)
	c.queueConcurrency(m)
	c.schedules(m.Schedule)
	c.config(m.Config)
	if _, err := policy.Grant(m.Capabilities); err != nil {
		c.policyErrors(err)
	}
	if table != nil {
		if _, err := policy.Compile(m.Policy, table); err != nil {
			c.policyErrors(err)
		}
	}
}

func (c *checker) outOfRange(section string, l span, n int64) {
	also := ""
	if l.also != 0 {
		also = ", or " + l.text(l.also)
	}
	c.add(section+"."+l.key, "%s is out of range: %s to %s%s is allowed", l.text(n), l.text(l.low), l.text(l.hi), also)
}

func (c *checker) arguments(m *Manifest) {
	if m.Kind == "task" && len(m.Args) > 0 {
		c.add("args", "a task takes no arguments: use config")
	}
	if len(m.Args) > MaxArgs {
		c.add("args", "%d arguments, at most %d are allowed", len(m.Args), MaxArgs)
	}
	total := 0
	for i, a := range m.Args {
		total += len(a) + 1
		if strings.ContainsRune(a, 0) {
			c.add(fmt.Sprintf("args[%d]", i), "holds a NUL, which ends it for the guest")
		}
	}
	if total > MaxArgsBytes {
		c.add("args", "%d bytes, at most %d are allowed", total, MaxArgsBytes)
	}
}

func (c *checker) routes(routes []Route) {
	if len(routes) > MaxRoutes {
		c.add("routes", "%d routes, at most %d are allowed", len(routes), MaxRoutes)
		return
	}
	seen := map[Route]int{}
	for i, r := range routes {
		at := fmt.Sprintf("routes[%d]", i)
		if r.Host != "" {
			if why := checkHost(r.Host); why != "" {
				c.add(at+".host", "%s %s", quote(r.Host), why)
			}
		}
		if why := checkRoutePath(r.Path); why != "" {
			c.add(at+".path", "%s", why)
		}
		if first, dup := seen[r]; dup {
			c.add(at, "is the same as routes[%d]", first)
		}
		seen[r] = i
	}
}

func checkHost(h string) string {
	if len(h) > 253 {
		return "is no host name"
	}
	if strings.ToLower(h) != h {
		return "is not lower case: write " + quote(strings.ToLower(h))
	}
	if strings.Contains(h, "*") {
		return "has a wildcard: each host is named by itself"
	}
	if strings.Contains(h, ":") {
		return "has a port: routes match the host alone"
	}
	for label := range strings.SplitSeq(h, ".") {
		if policy.CheckLabel(label) != nil {
			return "is no host name"
		}
	}
	return ""
}

func checkRoutePath(p string) string {
	switch {
	case p == "":
		return `is missing: write "/a/" for everything below, or "/a" for that path alone`
	case p[0] != '/':
		return quote(p) + " does not begin with a /"
	case len(p) > MaxRoutePath:
		return fmt.Sprintf("%d bytes, at most %d are allowed", len(p), MaxRoutePath)
	}
	for i := range len(p) {
		// RFC 3986, 3.3: pchar without percent-encoding, so that each path is written in one way.
		if b := p[i]; b <= ' ' || b >= 0x7f || strings.IndexByte(`"#%<>?[\]^`+"`{|}", b) >= 0 {
			return fmt.Sprintf("%s holds %q, which no route may", quote(p), b)
		}
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(p[1:], "/"), "/") {
		if segment == "." || segment == ".." || segment == "" && p != "/" {
			return quote(p) + " is not clean: it has an empty, . or .. segment"
		}
	}
	return ""
}

func (c *checker) config(config map[string]string) {
	if len(config) > MaxConfig {
		c.add("config", "%d entries, at most %d are allowed", len(config), MaxConfig)
	}
	total := 0
	for _, k := range slices.Sorted(maps.Keys(config)) {
		total += len(k) + len(config[k])
		if k == "" || len(k) > 128 || strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			c.add("config."+k, "%s is no name: 1 to 128 bytes without spaces are allowed", quote(k))
		}
	}
	if total > MaxConfigBytes {
		c.add("config", "%d bytes of names and values, at most %d are allowed", total, MaxConfigBytes)
	}
}

// policyErrors takes over what package policy found.
func (c *checker) policyErrors(err error) {
	var walk func(error)
	walk = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
			return
		}
		e, ok := err.(*policy.Error)
		if !ok {
			c.add("policy", "%s", err)
			return
		}
		key := "capabilities"
		if e.Rule >= 0 {
			key = fmt.Sprintf("policy[%d]", e.Rule)
		}
		if e.Field != "" {
			key += "." + e.Field
		}
		c.addAt(key, e.Offset, "%s", e.Msg)
	}
	walk(err)
}
