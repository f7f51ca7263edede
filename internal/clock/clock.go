// Package clock is time as the rest of the project sees it: only here is time.Now called.
package clock

import "time"

// Clock tells and waits for time.
type Clock interface {
	Now() time.Time
	// NewTicker ticks every d, which is positive.
	NewTicker(d time.Duration) Ticker
	// NewTimer fires once after d.
	NewTimer(d time.Duration) Timer
	// AfterFunc calls f in a goroutine of its own after d.
	AfterFunc(d time.Duration, f func()) Timer
}

// Ticker is a time.Ticker behind an interface.
type Ticker interface {
	C() <-chan time.Time
	Stop()
}

// Timer is a time.Timer behind an interface.
type Timer interface {
	C() <-chan time.Time // nil for AfterFunc
	Stop() bool
	Reset(time.Duration) bool
}

// System is the machine's clock.
var System Clock = system{}

type system struct{}

func (system) Now() time.Time                   { return time.Now() }
func (system) NewTicker(d time.Duration) Ticker { return sysTicker{time.NewTicker(d)} }
func (system) NewTimer(d time.Duration) Timer   { return sysTimer{time.NewTimer(d)} }
func (system) AfterFunc(d time.Duration, f func()) Timer {
	return sysTimer{time.AfterFunc(d, f)}
}

type sysTicker struct{ *time.Ticker }

func (t sysTicker) C() <-chan time.Time { return t.Ticker.C }

type sysTimer struct{ *time.Timer }

func (t sysTimer) C() <-chan time.Time { return t.Timer.C }

// started is when the process began to count Elapsed.
var started = time.Now()

// Elapsed is monotonic time since the process started. It costs half of what Now does, for who asks at every host call.
func Elapsed() time.Duration { return time.Since(started) }

// Started is the time at which Elapsed was 0.
func Started() time.Time { return started }
