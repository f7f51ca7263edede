package simulate

import (
	"container/heap"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"math/rand/v2"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Epoch is when each simulation begins.
var Epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Loop runs events in order of time, and those of one moment in the order in which they were made. Everything in it runs
// on the goroutine that calls Run, and draws its chances from Rand.
type Loop struct {
	Rand *rand.Rand

	clock  *clock.Manual
	events events
	made   uint64
	trace  []string
	hash   hash.Hash
}

// NewLoop makes a loop from a seed. Its clock stands at Epoch.
func NewLoop(seed uint64) *Loop {
	return &Loop{Rand: rand.New(rand.NewPCG(seed, 0x73696d)), clock: clock.NewManual(Epoch), hash: sha256.New()}
}

// Clock is the loop's clock. Nothing but Run may move it.
func (l *Loop) Clock() clock.Clock { return l.clock }

// Now is the loop's time.
func (l *Loop) Now() time.Time { return l.clock.Now() }

// After lets f run after d.
func (l *Loop) After(d time.Duration, f func()) {
	l.made++
	heap.Push(&l.events, event{l.Now().Add(max(d, 0)), l.made, f})
}

// Between draws a duration from lo to less than hi.
func (l *Loop) Between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(l.Rand.Int64N(int64(hi-lo)))
}

// Chance is true once in n.
func (l *Loop) Chance(n int) bool { return l.Rand.IntN(n) == 0 }

// Logf adds a line to the trace.
func (l *Loop) Logf(format string, args ...any) {
	line := fmt.Sprintf("%9.3f ", l.Now().Sub(Epoch).Seconds()) + fmt.Sprintf(format, args...)
	l.trace = append(l.trace, line)
	fmt.Fprintln(l.hash, line)
}

// Trace is what happened, a line each.
func (l *Loop) Trace() []string { return l.trace }

// Digest is the trace's SHA-256 in hex.
func (l *Loop) Digest() string { return hex.EncodeToString(l.hash.Sum(nil)) }

// Run runs events until there are none, or one has made over true, or the next one is later than limit from Epoch. It
// answers whether over was true.
func (l *Loop) Run(limit time.Duration, over func() bool) bool {
	for !over() {
		if len(l.events) == 0 || l.events[0].at.Sub(Epoch) > limit {
			return false
		}
		e := heap.Pop(&l.events).(event)
		l.clock.Advance(e.at.Sub(l.Now()))
		e.do()
	}
	return true
}

type event struct {
	at   time.Time
	made uint64
	do   func()
}

type events []event

func (e events) Len() int { return len(e) }

func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].made < e[j].made
}

func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

func (e *events) Push(x any) { *e = append(*e, x.(event)) }

func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}
