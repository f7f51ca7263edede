package clock

import (
	"sort"
	"sync"
	"time"
)

// Manual is a clock that moves only when told to. It is safe for concurrent use.
type Manual struct {
	mu     sync.Mutex
	now    time.Time
	timers []*manualTimer
}

// NewManual makes a clock that stands at now.
func NewManual(now time.Time) *Manual { return &Manual{now: now} }

// Now implements Clock.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Advance moves the clock by d and fires what falls due, in order of time. Functions given to AfterFunc run before it
// returns, on the caller's goroutine.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	end := m.now.Add(d)
	for {
		sort.SliceStable(m.timers, func(i, j int) bool { return m.timers[i].at.Before(m.timers[j].at) })
		if len(m.timers) == 0 || m.timers[0].at.After(end) {
			break
		}
		t := m.timers[0]
		m.now = t.at
		if t.every > 0 {
			t.at = t.at.Add(t.every)
		} else {
			m.timers = m.timers[1:]
		}
		if t.f != nil {
			m.mu.Unlock()
			t.f()
			m.mu.Lock()
		} else {
			select {
			case t.c <- m.now:
			default:
			}
		}
	}
	m.now = end
	m.mu.Unlock()
}

// NewTicker implements Clock.
func (m *Manual) NewTicker(d time.Duration) Ticker {
	if d <= 0 {
		panic("clock: a ticker needs a positive period")
	}
	return manualTicker{m.add(d, d, nil)}
}

// NewTimer implements Clock.
func (m *Manual) NewTimer(d time.Duration) Timer { return m.add(d, 0, nil) }

// AfterFunc implements Clock.
func (m *Manual) AfterFunc(d time.Duration, f func()) Timer { return m.add(d, 0, f) }

func (m *Manual) add(d, every time.Duration, f func()) *manualTimer {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &manualTimer{clock: m, at: m.now.Add(d), every: every, f: f, c: make(chan time.Time, 1)}
	m.timers = append(m.timers, t)
	return t
}

type manualTimer struct {
	clock *Manual
	at    time.Time
	every time.Duration
	f     func()
	c     chan time.Time
}

func (t *manualTimer) C() <-chan time.Time {
	if t.f != nil {
		return nil
	}
	return t.c
}

func (t *manualTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	return t.removeLocked()
}

func (t *manualTimer) removeLocked() bool {
	for i, o := range t.clock.timers {
		if o == t {
			t.clock.timers = append(t.clock.timers[:i:i], t.clock.timers[i+1:]...)
			return true
		}
	}
	return false
}

func (t *manualTimer) Reset(d time.Duration) bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	was := t.removeLocked()
	t.at = t.clock.now.Add(d)
	t.clock.timers = append(t.clock.timers, t)
	return was
}

type manualTicker struct{ t *manualTimer }

func (t manualTicker) C() <-chan time.Time { return t.t.C() }
func (t manualTicker) Stop()               { t.t.Stop() }
