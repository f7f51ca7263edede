package broker

import "time"

// Backoff says how long to wait before another attempt. The zero value waits 1 s after the first, twice as long after each
// further one, and at most 5 minutes.
type Backoff struct {
	First time.Duration // 0 means one second
	Max   time.Duration // 0 means five minutes, or First if that is longer
}

// Delay answers the delay after an attempt (1 for the first). spread is a random number of [0, 1): the delay is between
// half of the full one and all of it, so that what failed together does not come back together.
func (b Backoff) Delay(attempt int, spread float64) time.Duration {
	first, longest := b.First, b.Max
	if first <= 0 {
		first = time.Second
	}
	if longest <= 0 {
		longest = max(5*time.Minute, first)
	}
	d := min(first, longest)
	for i := 1; i < attempt && d < longest; i++ {
		d = min(2*d, longest)
	}
	return d/2 + time.Duration(spread*float64(d/2))
}
