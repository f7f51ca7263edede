package agent

import "sync/atomic"

// record is how long a task's requests were, where the thread of one that computes for long ends with its goroutine: requests of a task whose last
// ones were all brief are served in their connections' goroutines, which saves each a goroutine and two switches. One that is long all the same
// stays in its thread and delays others, so that the longer the record has to be the more often that happened. The zero value has none yet.
type record struct {
	briefs atomic.Int64 // requests since the last that was long, up to wanted
	longs  atomic.Int64 // how often one was in its connection's goroutine
}

// firstRecord is how many requests in a row have to be brief before the next one is taken for brief. Each time that was wrong the number doubles, as
// often as doublings.
const (
	firstRecord = 1000
	doublings   = 10
)

func (r *record) wanted() int64 { return firstRecord << min(r.longs.Load(), doublings) }

// brief reports whether the next request may be taken for one.
func (r *record) brief() bool { return r.briefs.Load() >= r.wanted() }

// note adds a request that has ended.
func (r *record) note(long bool) {
	switch {
	case long:
		if r.briefs.Swap(0) >= r.wanted() {
			r.longs.Add(1)
		}
	case !r.brief():
		r.briefs.Add(1)
	}
}
