package simulate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// checker knows what was acknowledged, and what may have happened without being acknowledged.
type checker struct {
	w          *world
	violations []string
	items      map[name]*known
	open       []*known // acknowledged, and not known to have ended with their callbacks; in the order in which they were acknowledged
	keys       map[name]broker.InvocationID
	acked      int
	ended      int
	attempts   int

	fence uint64 // the latest tenure's
	holds map[string]*tenure
}

type name struct {
	job broker.Job
	id  string
}

// known is what is known of an invocation.
type known struct {
	broker.Invocation
	job      broker.Job
	tried    time.Time // when it was first sent
	acked    bool
	lanes    map[broker.Lane]*grant
	stored   *string // its result, once it was seen
	told     bool    // a worker was told that its result is stored
	callDone bool    // a worker was told that its callback is over
}

// grant is the last lease of an invocation or its callback.
type grant struct {
	token  string
	until  time.Time // it lasts at least so long, unless it was ended
	longer bool      // it may last longer: the reply to an extension was lost
	over   bool      // it was ended, or may have been
}

type tenure struct {
	epoch uint64
	safe  time.Time       // its holder acts until then
	gone  map[uint64]bool // epochs that were seen to be over
	seen  uint64          // the epoch that was last seen
}

func newChecker(w *world) *checker {
	return &checker{w: w, items: map[name]*known{}, keys: map[name]broker.InvocationID{}, holds: map[string]*tenure{}}
}

func (c *checker) fail(format string, args ...any) {
	text := fmt.Sprintf("%.3f s: ", c.w.Now().Sub(Epoch).Seconds()) + fmt.Sprintf(format, args...)
	c.w.Logf("VIOLATION %s", text)
	c.violations = append(c.violations, text)
}

// tries: a batch is about to be enqueued.
func (c *checker) tries(b broker.Batch) {
	for _, v := range b.Invocations {
		n := name{b.Job, string(v.ID)}
		if c.items[n] == nil {
			c.items[n] = &known{Invocation: v, job: b.Job, tried: c.w.Now(), lanes: map[broker.Lane]*grant{}}
		}
	}
}

func (c *checker) acknowledged(b broker.Batch, receipts []broker.Receipt) {
	for i, r := range receipts {
		v := b.Invocations[i]
		it := c.items[name{b.Job, string(r.ID)}]
		if it == nil {
			c.fail("the receipt of %s names %s, which nobody has sent", v.ID, r.ID)
			continue
		}
		if v.Key != "" {
			n := name{b.Job, v.Key}
			if first, ok := c.keys[n]; ok && first != r.ID {
				c.fail("%s stands for %s, and now for %s", v.Key, first, r.ID)
			}
			c.keys[n] = r.ID
		} else if r.ID != v.ID {
			c.fail("the receipt of %s, which has no key, names %s", v.ID, r.ID)
		}
		if !it.acked {
			it.acked = true
			c.acked++
			c.open = append(c.open, it)
		}
	}
}

func (c *checker) leased(l broker.Lease) {
	it, now := c.items[name{l.Job, string(l.ID)}], c.w.Now()
	if it == nil {
		c.fail("%s of %s was leased, and nobody has enqueued it", l.ID, l.Job)
		return
	}
	if g := it.lanes[l.Lane]; g != nil && !g.over && now.Before(g.until) {
		c.fail("%s %s was leased while another lease of it lasts", l.Lane, l.ID)
	}
	if l.Lane == broker.LaneCallback {
		if it.callDone {
			c.fail("the callback of %s was leased after it was done", l.ID)
		}
		if l.Attempt > it.Callback.MaxAttempts {
			c.fail("the callback of %s is at attempt %d of %d", l.ID, l.Attempt, it.Callback.MaxAttempts)
		}
	} else {
		c.attempts++
		if it.told || it.stored != nil {
			c.fail("%s was leased after it had ended", l.ID)
		}
		if l.Attempt > it.MaxAttempts {
			c.fail("%s is at attempt %d of %d", l.ID, l.Attempt, it.MaxAttempts)
		}
		if string(l.Payload) != string(it.Payload) {
			c.fail("%s was leased with the payload %q", l.ID, l.Payload)
		}
		if now.Before(it.tried.Add(it.Delay)) {
			c.fail("%s was leased before its delay of %s was over", l.ID, it.Delay)
		}
		c.inOrder(it, now)
	}
	it.lanes[l.Lane] = &grant{token: l.Token, until: now.Add(l.TTL)}
}

// inOrder: nothing else of its order runs.
func (c *checker) inOrder(it *known, now time.Time) {
	if it.Order == "" {
		return
	}
	for _, other := range c.open {
		if other == it || other.job != it.job || other.Order != it.Order {
			continue
		}
		if g := other.lanes[broker.LaneRun]; g != nil && !g.over && now.Before(g.until) {
			c.fail("%s was leased while %s of the same order runs", it.ID, other.ID)
		}
	}
}

// grantOf answers what is known of a lease, if it is the last one of its invocation.
func (c *checker) grantOf(l broker.Lease) (*known, *grant) {
	it := c.items[name{l.Job, string(l.ID)}]
	if g := it.lanes[l.Lane]; g != nil && g.token == l.Token {
		return it, g
	}
	return it, nil
}

// accepted: something was done under a lease.
func (c *checker) accepted(what string, l broker.Lease, g *grant) {
	switch {
	case g == nil:
		c.fail("%s %s was %s under a lease that another took over", l.Lane, l.ID, what)
	case !g.longer && !c.w.Now().Before(g.until):
		c.fail("%s %s was %s %s after its lease had ended", l.Lane, l.ID, what, c.w.Now().Sub(g.until))
	}
}

func lost(err error) bool { return errors.Is(err, broker.ErrLeaseLost) }

func (c *checker) extended(l broker.Lease, err error) {
	_, g := c.grantOf(l)
	switch {
	case err == nil:
		if c.accepted("extended", l, g); g != nil {
			g.until, g.longer = c.w.Now().Add(l.TTL), false
		}
	case !lost(err) && g != nil:
		g.longer = true
	}
}

func (c *checker) completed(l broker.Lease, r broker.Result, err error) {
	it, g := c.grantOf(l)
	if err == nil {
		c.accepted("completed", l, g)
		if l.Lane == broker.LaneCallback {
			it.callDone = true
		} else {
			if it.told {
				c.fail("%s has a second result", l.ID)
			}
			it.told = true
		}
	}
	if !lost(err) && g != nil {
		g.over = true
	}
	c.look(it)
	if err == nil && l.Lane == broker.LaneRun && (it.stored == nil || *it.stored != string(r.Outcome)+":"+r.Reason+":"+string(r.Payload)) {
		c.fail("%s was completed with %q, and its result is %v", l.ID, r.Reason+string(r.Payload), show(it.stored))
	}
	if err == nil && l.Lane == broker.LaneRun && r.Outcome == broker.OutcomeDead {
		c.dead(it, r.Reason)
	}
}

func show(s *string) string {
	if s == nil {
		return "not there"
	}
	return *s
}

func (c *checker) released(l broker.Lease, r broker.Return, err error) {
	it, g := c.grantOf(l)
	if err == nil {
		c.accepted("released", l, g)
		if l.Lane == broker.LaneRun && !r.Unstarted && l.Attempt == it.MaxAttempts {
			it.told = true
			c.dead(it, r.Reason)
		}
	}
	if !lost(err) && g != nil {
		g.over = true
	}
	c.look(it)
}

// dead: an invocation was given up for a reason.
func (c *checker) dead(it *known, reason string) {
	s, err := c.w.plain.Queue.Status(background, it.job, it.ID)
	if err != nil || s.State != broker.StateDead || s.Reason != reason {
		c.fail("%s was given up because %q, and is %s because %q, %v", it.ID, reason, s.State, s.Reason, err)
	}
}

// look reads the result as it is: once it is there, it neither changes nor vanishes.
func (c *checker) look(it *known) {
	r, err := c.w.plain.Queue.Result(background, it.job, it.ID)
	switch {
	case err == nil:
		text := string(r.Outcome) + ":" + r.Reason + ":" + string(r.Payload)
		if it.stored == nil {
			it.stored = &text
			c.ended++
		} else if *it.stored != text {
			c.fail("the result of %s was %q, and now is %q", it.ID, *it.stored, text)
		}
		if r.Outcome == broker.OutcomeDead && r.Reason == "" {
			c.fail("%s was given up without a reason", it.ID)
		}
	case !errors.Is(err, broker.ErrNotFound):
		c.fail("result of %s: %v", it.ID, err)
	case it.stored != nil:
		c.fail("the result of %s is gone", it.ID)
	}
}

// finished: everything that was acknowledged has ended, callbacks too.
func (c *checker) finished() bool {
	for len(c.open) > 0 {
		it := c.open[0]
		s, err := c.w.plain.Queue.Status(background, it.job, it.ID)
		if err != nil {
			c.fail("%s was acknowledged, and is gone: %v", it.ID, err)
			return true
		}
		if s.State == broker.StateWaiting || s.State == broker.StateLeased || s.Callback == broker.CallbackPending {
			return false
		}
		if c.look(it); it.stored == nil {
			c.fail("%s is %s, and has no result", it.ID, s.State)
		}
		c.open = c.open[1:]
	}
	return true
}

// unfinished names the first of what has not ended.
func (c *checker) unfinished() string {
	var names []string
	for _, it := range c.open[:min(len(c.open), 5)] {
		names = append(names, string(it.ID))
	}
	return strings.Join(names, " ")
}

// last is what must hold at the end.
func (c *checker) last() {
	if len(c.violations) > 0 {
		return
	}
	names := make([]name, 0, len(c.items))
	for n := range c.items {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b name) int { return strings.Compare(a.job.Name+"/"+a.id, b.job.Name+"/"+b.id) })
	for _, n := range names {
		c.look(c.items[n])
	}
	counts, err := c.w.plain.Queue.Counts(background, c.w.jobs...)
	for _, n := range counts {
		if n.Waiting+n.Leased+n.Callbacks > 0 {
			c.fail("at the end there are %+v", n)
		}
	}
	if err != nil {
		c.fail("counts: %v", err)
	}
}

// leads: a tenure has begun.
func (c *checker) leads(fence uint64) {
	if fence <= c.fence {
		c.fail("a tenure began at revision %d, after one at %d", fence, c.fence)
	}
	c.fence = fence
}

// planned: a commit of a tenure was accepted.
func (c *checker) planned(who string, fence uint64) {
	if fence < c.fence {
		c.fail("a commit of %s was accepted though another has led since", who)
	}
}

func (c *checker) tenure(name string) *tenure {
	t := c.holds[name]
	if t == nil {
		t = &tenure{gone: map[uint64]bool{}}
		c.holds[name] = t
	}
	return t
}

// held: somebody was told that it holds a name, and acts under it until safe.
func (c *checker) held(name string, epoch uint64, safe time.Time) {
	t := c.tenure(name)
	if t.epoch > epoch {
		c.fail("%s is held at epoch %d, after it was at %d", name, epoch, t.epoch)
	}
	if t.epoch != epoch && c.w.Now().Before(t.safe) {
		c.fail("%s is held at epoch %d while the holder of %d acts under it", name, epoch, t.epoch)
	}
	if t.gone[epoch] {
		c.fail("%s is held at epoch %d, which was seen to be over", name, epoch)
	}
	if epoch >= t.epoch {
		t.epoch, t.safe = epoch, safe
	}
}

// observed: the broker says that a name is held at an epoch, 0 if it is not.
func (c *checker) observed(name string, epoch uint64) {
	t := c.tenure(name)
	if t.seen != epoch && t.seen != 0 {
		t.gone[t.seen] = true
	}
	if t.seen = epoch; epoch != 0 && t.gone[epoch] {
		c.fail("%s is held at epoch %d again, which was seen to be over", name, epoch)
	}
}
