package processor

import (
	"container/heap"
	"math"
	"sync/atomic"
	"time"
)

// The bounds on what a share may save up, in slices.
const (
	// credit is what a share that did nothing may use ahead of those that stayed, in its own time.
	credit = 1
	// lag is how far a share that could not use all that its weight gives may fall behind, in its own time: for want of runs, or because the kernel
	// kept others, who had its tokens, from their next tick.
	lag = 50
	// turns is how many runs of a share in their first slices go ahead of one that is past them.
	turns = 8
	// patience is how often a share's turn would have come round, by its weight, before it is served whatever its virtual time. Jobs that
	// come and go without end each begin at the front, and nobody behind them would be served.
	patience = 4
)

// queue is the order of things: who holds the tokens, and who is next. It is a plain state machine: its methods take the time, wait
// for nothing and change nothing else. The Processor's lock guards it.
type queue struct {
	slice   time.Duration
	long    int // slices after which a run is no longer young
	free    int // tokens; none is while a run waits that may have it
	longs   int // old runs that may hold a token at once
	olds    int // and that do
	overlap int // runs that may have lost their token and not know yet; there are as many Ps more
	evicted int // and that do not
	youngs  int // runs that wait and are not old
	running []*Run
	ready   readyShares
	late    lateShares
	virtual float64       // of the share served last: where shares that come back begin
	fluid   float64       // work done, over the weights that it was done for
	weights float64       // of the shares that have a run which runs or waits
	typical time.Duration // of a run's time with a token: an average over the last few
	at      time.Duration
	arrived uint64 // counts shares that became ready, to break ties
}

// usual is how long a slice takes: where the kernel runs others before those who hold tokens, longer than it should.
func (q *queue) usual() time.Duration { return max(q.slice, q.typical) }

// advance notes the work done since the last event.
func (q *queue) advance(now time.Duration) {
	if q.weights > 0 {
		q.fluid += float64(now-q.at) * float64(len(q.running)) / q.weights
	}
	q.at = now
}

// join counts a run among those that run or wait; part counts it out.
func (q *queue) join(a *account) {
	if a.active == 0 {
		q.weights += a.weight
	}
	a.active++
}

func (q *queue) part(a *account) {
	a.active--
	if a.active == 0 {
		q.weights -= a.weight
	}
}

// state of a Run.
type state uint8

const (
	out state = iota
	waiting
	running
	blocked
)

// account is what a Share knows about itself.
type account struct {
	weight  float64
	virtual float64 // nanoseconds used, over the weight; slices that run are in it whole
	active  int     // runs that run or wait
	young   runs
	old     runs
	turn    int     // runs that went ahead of old ones
	index   int     // in queue.ready, -1 outside
	late    int     // in queue.late, -1 outside
	limit   float64 // of queue.fluid: when patience is over
	before  float64 // limit as it was when a run was given a token
	order   uint64  // when it became ready
	used    time.Duration
	host    time.Duration
	waited  time.Duration
	grants  uint64
	recent  float64       // nanoseconds used lately: what is older than lately counts for less and less
	noted   time.Duration // when recent was right
	expects int           // long runs: as one was long lately
	soon    atomic.Bool   // its runs are long almost at once; read without the lock
}

// The use of the processor by a share that is remembered, and from which on its runs are long after two slices at most: half of a core. Jobs
// whose runs come one after the other are no lighter than one run that goes on.
const (
	lately = 300 * time.Millisecond
	heavy  = float64(lately) / 2
)

// use adds to what was used lately.
func (a *account) use(used, now time.Duration) {
	a.recent = a.recent*math.Exp(-float64(now-a.noted)/float64(lately)) + float64(used)
	a.noted = now
}

// forgiven is how many brief runs of a share it takes for the next ones to be taken for brief.
const forgiven = 8

// ends notes how a run of the share ended, or that it is one that has to be expected again.
func (a *account) ends(long bool) {
	if long {
		a.expects = forgiven
	} else if a.expects > 0 {
		a.expects--
	}
}

// enough is how long a run of the share is young. Where long ones are to be expected of a share that uses much, it is hardly at all: eight that begin together,
// three times a second, are what a neighbour's p99 consists of, if each goes on like everybody for longer. One whose runs are brief is spared that,
// since it may cost a run its thread.
func (q *queue) enough(a *account) time.Duration {
	is := a.recent > heavy
	a.soon.Store(is && a.expects > 0)
	switch {
	case is && a.expects > 0:
		return almost(q.slice)
	case is:
		return 2 * q.slice
	}
	return time.Duration(q.long) * q.slice
}

// expected is how many slices a run computes if others like it are to be expected of its share.
const expected = 5

// almost is what almost at once means.
func almost(slice time.Duration) time.Duration { return slice / 5 }

// runs is a list of waiting runs, the first to be served first.
type runs struct{ first, last *Run }

func (l *runs) push(r *Run) {
	r.before, r.after = l.last, nil
	if l.last != nil {
		l.last.after = r
	} else {
		l.first = r
	}
	l.last = r
}

func (l *runs) remove(r *Run) {
	if r.before != nil {
		r.before.after = r.after
	} else {
		l.first = r.after
	}
	if r.after != nil {
		r.after.before = r.before
	} else {
		l.last = r.before
	}
	r.before, r.after = nil, nil
}

// arrive takes a run that wants to run, and reports whether it does from now on. One that does not is served later, by next. victim
// is a run that should make way at its next tick, nil if none has to: for the run that arrived, which has its token already if granted.
func (q *queue) arrive(r *Run, now time.Duration) (granted bool, victim *Run) {
	q.advance(now)
	a := &r.share.account
	behind := float64(lag*q.usual()) / a.weight
	if a.active == 0 {
		behind = float64(credit*q.slice) / a.weight
		a.limit = q.patient(a)
	}
	a.virtual = max(a.virtual, q.virtual-behind)
	q.moved(r.share)
	q.join(a)
	r.since = now
	if q.free > 0 && (!r.old || q.olds < q.longs) {
		q.free--
		q.grant(r, now)
		return true, nil
	}
	victim = q.victim(r, now)
	if victim == nil || r.old || q.evicted >= q.overlap {
		q.wait(r)
		return false, victim
	}
	// Whoever runs behind others may take a while to reach its next tick.
	q.stop(victim, now, waiting)
	q.again(victim, now)
	victim.evicted = true
	q.evicted++
	q.grant(r, now)
	return true, victim
}

// begun is how many times a run that has lost its token after so short a time would go into a slice: it had hardly begun. Its share's patience goes
// on as if it had waited, or those who come and go would give it tick after tick, each a turn that it has had.
const begun = 8

// again has a run that lost its token wait for another.
func (q *queue) again(r *Run, now time.Duration) {
	hardly := now-r.started < q.slice/begun
	a := &r.share.account
	a.virtual = max(a.virtual, q.virtual-float64(lag*q.usual())/a.weight)
	q.moved(r.share)
	q.join(a)
	r.since = now
	q.wait(r)
	if hardly && a.before < a.limit {
		a.limit = a.before
		heap.Fix(&q.late, a.late)
	}
}

// patient is when the patience of a share that waits from now on is over.
func (q *queue) patient(a *account) float64 { return q.fluid + float64(patience*q.usual())/a.weight }

// wait queues a run.
func (q *queue) wait(r *Run) {
	a := &r.share.account
	r.state = waiting
	if r.old {
		a.old.push(r)
	} else {
		a.young.push(r)
		q.youngs++
	}
	if a.index >= 0 {
		return
	}
	q.arrived++
	a.order = q.arrived
	a.limit = q.patient(a)
	heap.Push(&q.ready, r.share)
	heap.Push(&q.late, r.share)
}

// victim is the running run that is furthest past its due, if r is due by a quarter of a slice more.
func (q *queue) victim(r *Run, now time.Duration) *Run {
	var worst *Run
	var most float64
	for _, x := range q.running {
		a := &x.share.account
		if x.due || x.evicted {
			continue
		}
		if x.share == r.share {
			if x.old && !r.old {
				return x
			}
			continue
		}
		margin := float64(q.slice/4) / max(a.weight, r.share.weight)
		if over := a.virtual + float64(now-x.started-q.slice)/a.weight - r.share.virtual - margin; over > most {
			worst, most = x, over
		}
	}
	return worst
}

// grant gives a token, which the caller took from the free ones or from another run. The slice is paid in advance.
func (q *queue) grant(r *Run, now time.Duration) {
	a := &r.share.account
	q.virtual = max(q.virtual, a.virtual)
	a.virtual += float64(q.slice) / a.weight
	a.waited += now - r.since
	r.waited += now - r.since
	a.grants++
	a.before = a.limit
	r.state = running
	end := now + q.slice
	if r.most > 0 {
		end = min(end, now+max(r.most-r.used, 0))
	}
	r.started = now
	r.end.Store(int64(end))
	r.preempt.Store(false)
	r.due = false
	if r.counted = r.old; r.counted {
		q.olds++
	}
	r.place = len(q.running)
	q.running = append(q.running, r)
	q.moved(r.share)
}

// stop takes the token of a run back and charges what it used. The token is the caller's, to give on or to free.
func (q *queue) stop(r *Run, now time.Duration, to state) {
	q.advance(now)
	a := &r.share.account
	used := now - r.started
	q.typical += (used - q.typical) / 16
	a.used += used
	r.used += used
	enough := q.enough(a)
	r.old = r.old || r.used >= enough
	a.virtual += float64(used-q.slice) / a.weight
	q.part(a)
	last := len(q.running) - 1
	q.running[r.place] = q.running[last]
	q.running[r.place].place = r.place
	q.running[last] = nil
	q.running = q.running[:last]
	if r.counted {
		q.olds--
	}
	r.state = to
	q.moved(r.share)
}

// next gives a token that the caller holds to the run that is due, and answers it; nil if none waits that may have it, and the token is
// free.
func (q *queue) next(now time.Duration) *Run {
	s := q.first()
	if s == nil {
		q.free++
		return nil
	}
	overdue := false
	if l := q.late[0]; l != s && q.fluid > l.limit && q.may(l) {
		s, overdue = l, true
	}
	r := s.young.first
	if r == nil || s.old.first != nil && s.turn >= turns && q.olds < q.longs {
		r = s.old.first
	}
	due := overdue || r.old && s.young.first != nil
	if r.old {
		s.turn = 0
	} else if s.old.first != nil {
		s.turn++
	}
	q.unqueue(r)
	q.grant(r, now)
	r.due = due
	// The others of its share wait from now on.
	if s.late >= 0 {
		s.limit = q.patient(&s.account)
		heap.Fix(&q.late, s.late)
	}
	return r
}

// may reports whether a share has a run waiting that may have a token.
func (q *queue) may(s *Share) bool { return s.young.first != nil || q.olds < q.longs }

// first is the share with the least virtual time of those that have a run waiting that may have a token; nil if there is none. It takes longer
// the more shares wait with old runs alone while those have all that they may, and it does not even look unless a young one waits.
func (q *queue) first() *Share {
	if len(q.ready) == 0 || q.youngs == 0 && q.olds >= q.longs {
		return nil
	}
	if q.may(q.ready[0]) {
		return q.ready[0]
	}
	var least *Share
	for i, s := range q.ready {
		if q.may(s) && (least == nil || q.ready.Less(i, least.index)) {
			least = s
		}
	}
	return least
}

// unqueue takes a run that waits out of its list.
func (q *queue) unqueue(r *Run) {
	a := &r.share.account
	if r.old {
		a.old.remove(r)
	} else {
		a.young.remove(r)
		q.youngs--
	}
	if a.young.first == nil && a.old.first == nil {
		heap.Remove(&q.ready, a.index)
		heap.Remove(&q.late, a.late)
	}
}

// leave has a run that waits wait no more.
func (q *queue) leave(r *Run, now time.Duration) {
	q.advance(now)
	q.unqueue(r)
	r.share.waited += now - r.since
	r.waited += now - r.since
	q.part(&r.share.account)
	r.state = out
}

// turn ends a slice: the run goes to the end of its job's line, and the run that is due, often the same, is answered.
func (q *queue) turn(r *Run, now time.Duration) *Run {
	q.stop(r, now, waiting)
	q.again(r, now)
	return q.next(now)
}

// charge adds work that was done for a share without a token.
func (q *queue) charge(s *Share, d time.Duration) {
	s.host += d
	s.virtual += float64(d) / s.weight
	q.moved(s)
}

// moved puts a share whose virtual time changed where it belongs.
func (q *queue) moved(s *Share) {
	if s.index >= 0 {
		heap.Fix(&q.ready, s.index)
	}
}

// readyShares is a heap of the shares that have a run waiting, the least virtual time first.
type readyShares []*Share

func (h readyShares) Len() int { return len(h) }

func (h readyShares) Less(i, j int) bool {
	if h[i].virtual != h[j].virtual {
		return h[i].virtual < h[j].virtual
	}
	return h[i].order < h[j].order
}

func (h readyShares) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *readyShares) Push(x any) {
	s := x.(*Share)
	s.index = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *readyShares) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	s.index = -1
	return s
}

// lateShares is a heap of the same shares, the one whose patience is over first.
type lateShares []*Share

func (h lateShares) Len() int           { return len(h) }
func (h lateShares) Less(i, j int) bool { return h[i].limit < h[j].limit }

func (h lateShares) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].late, h[j].late = i, j
}

// Push implements heap.Interface.
func (h *lateShares) Push(x any) {
	s := x.(*Share)
	s.late = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *lateShares) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	s.late = -1
	return s
}
