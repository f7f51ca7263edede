package manifest

import (
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// Queue says how a job's queued invocations are kept and run. A zero field means the default in brackets. What a request asks for
// itself goes first.
type Queue struct {
	Concurrency int      `json:"concurrency,omitempty"` // at once [one less than limits.concurrency, but at least 1]
	Attempts    int      `json:"attempts,omitempty"`    // at most, for one that fails [5]
	Backoff     Backoff  `json:"backoff,omitzero"`      // between attempts
	TTL         Duration `json:"ttl,omitempty"`         // how long a result is kept [24h]
	Length      int      `json:"length,omitempty"`      // unfinished ones, dead letters included; more get 429 [100000]
	Ordered     bool     `json:"ordered,omitempty"`     // one after another, in the order in which they came
}

// Backoff is the wait before another attempt: First after the first, twice as long after each further one, at most Max.
type Backoff struct {
	First Duration `json:"first,omitempty"` // [1s]
	Max   Duration `json:"max,omitempty"`   // [5m]
}

// queueLimits holds the defaults and ranges of Queue, as limits does for Limits. A default of 0 depends on other fields.
var queueLimits = []limit[Queue]{
	countLimit("concurrency", func(q *Queue) *int { return &q.Concurrency }, 0, 1, MaxConcurrency, 0),
	countLimit("attempts", func(q *Queue) *int { return &q.Attempts }, broker.DefaultAttempts, 1, broker.MaxAttempts, 0),
	timeLimit("backoff.first", func(q *Queue) *Duration { return &q.Backoff.First }, time.Second, time.Millisecond, 24*time.Hour),
	timeLimit("backoff.max", func(q *Queue) *Duration { return &q.Backoff.Max }, 5*time.Minute, time.Millisecond, 24*time.Hour),
	timeLimit("ttl", func(q *Queue) *Duration { return &q.TTL }, broker.DefaultResultTTL, broker.MinResultTTL, broker.MaxResultTTL),
	countLimit("length", func(q *Queue) *int { return &q.Length }, broker.DefaultQueueLength, 1, broker.MaxQueueLength, 0),
}

// fill sets what is left out. One slot is left to requests that somebody waits for, if there is more than one.
func (q *Queue) fill(l Limits) {
	if q.Concurrency == 0 {
		q.Concurrency = max(1, l.Concurrency-1)
	}
	for _, l := range queueLimits {
		l.fillIn(q)
	}
	q.Backoff.Max = max(q.Backoff.Max, q.Backoff.First)
}

// queueConcurrency refuses more queued invocations at once than there may be invocations at once: they would only hold each other up.
// What is out of its own range was told.
func (c *checker) queueConcurrency(m *Manifest) {
	most, usually := m.Limits.Concurrency, ""
	if most == 0 {
		most, usually = DefaultConcurrency, " if left out"
	}
	if n := m.Queue.Concurrency; n > most && n <= MaxConcurrency && most > 0 {
		c.add("queue.concurrency", "%d is more than limits.concurrency, which is %d%s: raise that, or write at most %d here", n, most, usually, most)
	}
}
