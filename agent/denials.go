package agent

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Bounds of the refused calls that a task reports. The control process writes down fewer, but has to read all of them.
const (
	denialsPerSecond = 10
	denialsAtOnce    = 20
	// denialsWindow is how often each function is reported whatever the others do: a sixth of the minute by which the control process
	// counts entries, as its minutes begin at other times.
	denialsWindow = 10 * time.Second
)

// denials decides which refused calls of a task are reported, and counts the others. The zero value is ready to use.
type denials struct {
	mu    sync.Mutex
	rate  *rate.Limiter       // nil until the first
	began time.Time           // of the window
	seen  map[denial]struct{} // reported in the window; there are no more functions than the table has
	left  map[string]uint64   // what was not reported, by level
}

type denial struct {
	function *hostcall.Func
	level    string
}

// take reports whether a refused call is reported, and if so how many of its level were not before it.
func (d *denials) take(f *hostcall.Func, level string, now time.Time) (ok bool, omitted uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rate == nil {
		d.rate, d.seen, d.left = rate.NewLimiter(denialsPerSecond, denialsAtOnce), map[denial]struct{}{}, map[string]uint64{}
	}
	if age := now.Sub(d.began); age < 0 || age >= denialsWindow {
		d.began = now
		clear(d.seen)
	}
	what := denial{f, level}
	_, seen := d.seen[what]
	if !d.rate.AllowN(now, 1) && seen {
		d.left[level]++
		return false, 0
	}
	d.seen[what] = struct{}{}
	omitted = d.left[level]
	d.left[level] = 0
	return true, omitted
}

// omit adds n that were not reported after all.
func (d *denials) omit(level string, n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left[level] += n
}

// omitted is what was not reported of a level; whoever calls it reports that.
func (d *denials) omitted(level string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.left[level]
	if n > 0 {
		d.left[level] = 0
	}
	return n
}
