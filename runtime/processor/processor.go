package processor

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/loop"
)

// Bounds of a share's weight.
const (
	MinWeight = 1
	MaxWeight = 1000
)

// Options configures a Processor. The zero value is ready to use where GOMAXPROCS is at least 2.
type Options struct {
	// Tokens is how many runs hold one at once, fewer than GOMAXPROCS; 0 means one fewer. A run that arrives may take the token of one that runs,
	// which goes on up to its next tick: so may as many as there are tokens, or Ps besides one for each token and one for everything else.
	Tokens int
	Slice  time.Duration // how long a run goes on while others wait; 0 means 1 ms
	Long   int           // slices after which a run counts as long; 0 means 10
	// Longs is how many long runs may hold a token at once, for a machine on which they cannot be kept behind others in another way; 0 means as
	// many as there are tokens.
	Longs int
	// OnLong is called once in each run that becomes long, by its goroutine, which holds a token, and answers whether OnLongEnd is due.
	// Threads.Lower is meant for it. May be nil.
	OnLong func() bool
	// OnLongEnd is called once for each such OnLong when its run leaves, by the goroutine that has it leave, which holds no token any more;
	// it is the same if who runs a guest also leaves. Threads.Raise is meant for it. May be nil.
	OnLongEnd func()
	// Computed is the calling thread and the processor time that it has used. A run whose time was mostly spent by others, which the kernel ran
	// instead, is not long yet. Computed is meant for it; nil means that all time counts, and so it does for a thread 0.
	Computed func() (thread int, used time.Duration)
	// Yield is called ten times a slice by each run that goes on, without the processor's lock: threads that the kernel should run before that may
	// wait until it looks. Yield is meant for it. May be nil. A run that others had most of the time of, by Computed, has made way for them already.
	Yield func()
	// Undone says that OnLongEnd takes back what OnLong did. It is called when a long run blocks as well then, and OnLong when that goes on to compute.
	Undone bool
	// Procs is GOMAXPROCS while runs are long, from before OnLong, which waits for that, until a second after the last OnLongEnd; 0, or fewer than it
	// is, leaves it as it is.
	Procs int
	Clock clock.Clock // nil means the system clock
}

// Processor hands out tokens. Its methods are safe for concurrent use.
type Processor struct {
	onLong    func() bool
	onLongEnd func()
	yield     func()
	computed  func() (int, time.Duration)
	undone    bool
	now       func() time.Duration
	tokens    int
	spare     spare

	mu     sync.Mutex
	queue  queue
	shares map[string]*Share
}

// New makes a Processor. It fails if there are to be as many tokens as GOMAXPROCS, or an option is negative.
func New(opts Options) (*Processor, error) {
	var errs []error
	procs := goruntime.GOMAXPROCS(0)
	if opts.Tokens == 0 {
		opts.Tokens = max(procs-1, 1)
	}
	switch {
	case opts.Tokens < 0:
		errs = append(errs, fmt.Errorf("%d tokens", opts.Tokens))
	case opts.Tokens >= procs:
		errs = append(errs, fmt.Errorf("%d tokens take a GOMAXPROCS of at least %d, not %d", opts.Tokens, opts.Tokens+1, procs))
	}
	if opts.Slice < 0 {
		errs = append(errs, fmt.Errorf("a slice of %v", opts.Slice))
	} else if opts.Slice == 0 {
		opts.Slice = time.Millisecond
	}
	if opts.Procs < 0 {
		errs = append(errs, fmt.Errorf("%d Ps", opts.Procs))
	}
	if opts.Long < 0 {
		errs = append(errs, fmt.Errorf("runs are long after %d slices", opts.Long))
	} else if opts.Long == 0 {
		opts.Long = 10
	}
	if opts.Longs < 0 {
		errs = append(errs, fmt.Errorf("%d long runs at once", opts.Longs))
	} else if opts.Longs == 0 {
		opts.Longs = opts.Tokens
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("processor options: %w", errors.Join(errs...))
	}
	p := &Processor{
		onLong: opts.OnLong, onLongEnd: opts.OnLongEnd, yield: opts.Yield, computed: opts.Computed, undone: opts.Undone, now: clock.Elapsed, shares: map[string]*Share{},
		queue:  queue{slice: opts.Slice, long: opts.Long, longs: opts.Longs, free: opts.Tokens, running: make([]*Run, 0, opts.Tokens)},
		tokens: opts.Tokens,
	}
	p.overlap(procs)
	p.spare = spare{p: p, clock: clock.System, set: goruntime.GOMAXPROCS}
	if opts.Procs > procs {
		p.spare.most = opts.Procs
	}
	if opts.Clock != nil {
		p.spare.clock = opts.Clock
		began := opts.Clock.Now()
		p.now = func() time.Duration { return opts.Clock.Now().Sub(began) }
	}
	return p, nil
}

// Tokens is Options.Tokens: how many runs hold one at once.
func (p *Processor) Tokens() int { return p.tokens }

// Least is how long a run has held a token at least before OnLong is called in it.
func (p *Processor) Least() time.Duration { return almost(p.queue.slice) }

// Share is what one job gets of the processor. Its methods are safe for concurrent use.
type Share struct {
	p    *Processor
	name string
	account
}

// Job is the share of that name, made if there is none, with this weight from now on. Weights outside of MinWeight to MaxWeight
// are taken as the nearest.
func (p *Processor) Job(name string, weight int) *Share {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shares[name]
	if s == nil {
		s = &Share{p: p, name: name, account: account{index: -1, late: -1}}
		p.shares[name] = s
	}
	w := float64(min(max(weight, MinWeight), MaxWeight))
	if s.weight != 0 && s.weight != w {
		// Slices that run were paid under the old weight, and will be settled under the new one.
		for _, r := range p.queue.running {
			if r.share == s {
				s.virtual += float64(p.queue.slice)/w - float64(p.queue.slice)/s.weight
			}
		}
	}
	if s.active > 0 {
		p.queue.advance(p.now())
		p.queue.weights += w - s.weight
	}
	s.weight = w
	p.queue.moved(s)
	return s
}

// Remove forgets a job. Runs of its share go on; a share made later under the name is another one.
func (p *Processor) Remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.shares, name)
}

// Name is what the share was made under.
func (s *Share) Name() string { return s.name }

// Charge adds work that the host did for the share without a token.
func (s *Share) Charge(d time.Duration) {
	if d <= 0 {
		return
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.queue.charge(s, d)
}

// Usage is what a share used since it was made.
type Usage struct {
	CPU     time.Duration // with a token, up to now
	Host    time.Duration // charged by Charge
	Waited  time.Duration // for a token, by runs that wait no longer
	Grants  uint64        // how often a token was given
	Running int           // runs that hold one
	Waiting int           // runs that wait for one
}

// Usage is what the share used.
func (s *Share) Usage() Usage {
	now := s.p.now()
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	u := Usage{CPU: s.used, Host: s.host, Waited: s.waited, Grants: s.grants}
	for _, r := range s.p.queue.running {
		if r.share == s {
			u.CPU += max(now-r.started, 0)
			u.Running++
		}
	}
	u.Waiting = s.active - u.Running
	return u
}

// Run is one sandbox's place in a share. One goroutine at a time uses it; it is used again and again.
type Run struct {
	share *Share
	wake  chan struct{} // has a value when a token was given to this run while it waited

	// These are under the processor's lock.
	state         state
	since         time.Duration // when it began to wait
	started       time.Duration // of the slice
	used, waited  time.Duration // since it entered
	most          time.Duration // that it may use; 0 means any time
	old           bool
	evicted       bool // its token was taken, and it has not seen that yet. It waits, or was given another, with a value in wake
	counted       bool // among queue.olds, while it runs
	due           bool // its turn has come at last: nobody has it make way before the slice ends
	place         int  // in queue.running
	before, after *Run

	end     atomic.Int64 // of the slice
	preempt atomic.Bool  // it should make way at its next tick
	patient bool         // OnLong is called later; set while it is out
	asked   bool         // OnLong was called since it entered; of the run's goroutine
	told    bool         // OnLongEnd is due; of the run's goroutine
	// These are of the run's goroutine.
	yields time.Duration // when Yield is due
	away   bool          // it computes, or waited, since it entered: the loop that it began in goes on without it
	ticked time.Duration // when it went on after its last Tick, or began
	took   time.Duration // how long the last Tick was after that
	// What Options.Computed said at the last look since the run went on, and when that was; thread 0: there was none. What the run computed since it
	// entered, up to then; and what it may have computed before its first looks, or after the last, which were not much.
	thread   int
	usedThen time.Duration
	lookedAt time.Duration
	computed time.Duration
	unseen   time.Duration
	noted    time.Duration // of computed and unseen, what its share knows
	goes     bool          // it is the run that its thread computes for
}

// Run makes a run of the share, outside of it.
func (s *Share) Run() *Run { return &Run{share: s, wake: make(chan struct{}, 1)} }

// Bound has the run end when it has held a token for more than most since it entered; 0 means that it may for any time. It is called
// while the run is out.
func (r *Run) Bound(most time.Duration) { r.most = most }

// patienceTimes is how many times as many slices as others a patient run has before OnLong.
const patienceTimes = 10

// Patient has OnLong called later in this run: its goroutine has something to do after it, for which it must not be behind others. It is called
// while the run is out.
func (r *Run) Patient(yes bool) { r.patient = yes }

// yieldsPerSlice is how often a slice Options.Yield is called.
const yieldsPerSlice = 10

// A SpentError reports that a run used up the time that Bound gave it.
type SpentError struct{ Used, Max time.Duration }

func (e *SpentError) Error() string {
	return fmt.Sprintf("processor: the run used %v, and may use %v", e.Used, e.Max)
}

// ErrEntered is what Enter says of a run that is in already.
var ErrEntered = errors.New("processor: the run is in already")

// ErrNotRunning is what Tick and Unblock say of a run that they do not fit: one that has not entered, or left.
var ErrNotRunning = errors.New("processor: the run is not in")

// Enter waits for a token. It fails with ctx's cause if ctx ends first, and the run stays out. Leave is due after each Enter, in a
// defer: guests end by panics, too.
func (r *Run) Enter(ctx context.Context) error {
	p := r.share.p
	now := p.now()
	p.mu.Lock()
	if r.state != out {
		p.mu.Unlock()
		return ErrEntered
	}
	r.old, r.used, r.waited, r.asked = false, 0, 0, false
	r.away, r.computed, r.unseen, r.noted = false, 0, 0, 0
	return r.arriveLocked(ctx, now)
}

// arriveLocked asks for a token, waits for it if need be, and unlocks.
func (r *Run) arriveLocked(ctx context.Context, now time.Duration) error {
	p := r.share.p
	granted, victim := p.queue.arrive(r, now)
	if victim != nil {
		victim.preempt.Store(true)
	}
	p.mu.Unlock()
	if granted {
		r.begins(now)
		return nil
	}
	return r.wait(ctx)
}

// begins notes that the run goes on now, with a token that it did not have.
func (r *Run) begins(now time.Duration) {
	r.goesOn(now)
	r.goes, r.thread, r.lookedAt = true, 0, now
}

// goesOn notes that the run goes on now, after it did not: what others may wait for since then counts from now.
func (r *Run) goesOn(now time.Duration) {
	r.ticked, r.yields = now, now+r.share.p.queue.slice/yieldsPerSlice
}

// wait returns when the run was given a token. If ctx ends first it has none, and is out.
func (r *Run) wait(ctx context.Context) error {
	p := r.share.p
	r.away, r.goes = true, false
	loop.Leave(ctx)
	select {
	case <-r.wake:
		if r.begins(p.now()); p.computed != nil {
			r.thread, r.usedThen = p.computed() // it has taken so long that this does not matter, and goes on for a slice without a look
		}
		return nil
	case <-ctx.Done():
	}
	now := p.now()
	var next *Run
	tokens := 0
	p.mu.Lock()
	r.noteLocked(now, true)
	if r.evicted { // a token came meanwhile, and was taken
		r.seenLocked()
		tokens++
	}
	if r.state == waiting {
		p.queue.leave(r, now)
	} else { // one came
		next = p.releaseLocked(r, now, out)
		tokens++
	}
	p.mu.Unlock()
	for range tokens {
		<-r.wake
	}
	next.goOn()
	return context.Cause(ctx)
}

// releaseLocked takes the run's token and gives it to whoever is due, which the caller has go on.
func (p *Processor) releaseLocked(r *Run, now time.Duration, to state) (next *Run) {
	p.queue.stop(r, now, to)
	return p.queue.next(now)
}

// goOn wakes a run that was given a token, if r is one. It is called without the lock: the kernel may well run the one that wakes instead of the
// one that wakes it, which may be behind others and would hold the lock for as long as those have work.
func (r *Run) goOn() {
	if r != nil {
		r.wake <- struct{}{}
	}
}

// Tick is called by the guest's metering, every few microseconds of its work. It returns at once while the slice lasts; then it
// parks the run for as long as others are due. It fails with ctx's cause if ctx ends while it is parked, and with a *SpentError if the
// run is past its bound; the run is out then, and the guest has to end.
func (r *Run) Tick(ctx context.Context) error {
	p := r.share.p
	now := p.now()
	r.took = now - r.ticked
	soon := false
	if now >= r.yields {
		soon = !r.asked && !r.patient && p.onLong != nil && r.share.soon.Load()
		if soon || !r.away || r.thread == 0 { // else the next look would be the first since it waited or blocked, and see nothing
			most := r.look(now)
			r.away = r.away || most
		}
		if r.away {
			loop.Compute(ctx)
			if p.yield != nil {
				p.yield()
			}
		}
		now = p.now()
		r.goesOn(now)
		soon = soon && r.computed >= almost(p.queue.slice)/2
	}
	r.ticked = now
	if int64(now) < r.end.Load() && !r.preempt.Load() && !soon {
		return nil
	}
	r.look(now)
	p.mu.Lock()
	r.noteLocked(now, false)
	if r.evicted {
		r.seenLocked()
		long := r.longLocked()
		p.mu.Unlock()
		if err := r.wait(ctx); err != nil {
			return err
		}
		r.lower(ctx, long)
		return nil
	}
	if r.state != running {
		p.mu.Unlock()
		return ErrNotRunning
	}
	if used := r.used + now - r.started; r.most > 0 && used >= r.most {
		r.noteLocked(now, true)
		next := p.releaseLocked(r, now, out)
		p.mu.Unlock()
		next.goOn()
		return &SpentError{used, r.most}
	}
	next := p.queue.turn(r, now)
	long := r.longLocked()
	p.mu.Unlock()
	if next != r {
		next.goOn()
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
	r.lower(ctx, long)
	return nil
}

// look adds to what the run computed, and reports whether it computed most of the time since the last look. A brief run that the kernel kept waiting is
// no reason to have others take over what its goroutine has to do: that costs more than the run.
func (r *Run) look(now time.Duration) (most bool) {
	p := r.share.p
	took := now - r.lookedAt
	r.lookedAt = now
	if p.computed == nil {
		r.computed += took
		return true
	}
	last, then := r.thread, r.usedThen
	r.thread, r.usedThen = p.computed()
	switch {
	case r.thread == 0:
		r.computed += took // nobody knows
		return true
	case last == r.thread:
		r.computed += r.usedThen - then
		return r.usedThen-then >= took/2
	case last != 0:
		r.computed += took // nor here
	default:
		r.unseen += min(took, p.queue.slice/yieldsPerSlice)
	}
	return false
}

// noteLocked has the run's share know what the run computed, and, once it is over, whether others like it are to be expected.
func (r *Run) noteLocked(now time.Duration, over bool) {
	did := r.computed + r.unseen
	r.share.use(did-r.noted, now)
	r.noted = did
	if long := did >= expected*r.share.p.queue.slice; over || long {
		r.share.ends(long)
	}
}

// longLocked reports whether OnLong is due.
func (r *Run) longLocked() bool {
	return r.old && !r.asked && (!r.patient || r.used >= patienceTimes*time.Duration(r.share.p.queue.long)*r.share.p.queue.slice)
}

// lower calls OnLong if it is due, and the run did not only wait for the kernel to run it. The loop that it began in goes on without it by then.
func (r *Run) lower(ctx context.Context, due bool) {
	p := r.share.p
	least := p.queue.slice * 3 / 2
	if r.share.soon.Load() {
		least = almost(p.queue.slice) / 2
	}
	if !due || p.onLong == nil || r.computed < least || !p.spare.begin() {
		return
	}
	if r.asked = true; !r.away {
		r.away = true
		loop.Compute(ctx)
	}
	if r.told = p.onLong(); !r.told {
		p.spare.end()
	}
}

// seenLocked notes that the run knows that its token was taken.
func (r *Run) seenLocked() {
	r.evicted = false
	r.share.p.queue.evicted--
}

// Block gives the token back before a call that may wait. It does nothing for a run that has none.
func (r *Run) Block() {
	r.release(blocked)
	if r.share.p.undone {
		r.endLong()
		r.asked = false
	}
}

// Unblock waits for a token after Block. It fails like Enter; the run is out then, and the guest has to end.
func (r *Run) Unblock(ctx context.Context) error {
	p := r.share.p
	now := p.now()
	p.mu.Lock()
	if r.state != blocked {
		p.mu.Unlock()
		return ErrNotRunning
	}
	return r.arriveLocked(ctx, now)
}

// Leave gives the token back, if the run holds one, and the run is out. It may be called twice, and after a failed Enter.
func (r *Run) Leave() {
	r.release(out)
	r.endLong()
}

// Rest gives the token back, if the run holds one, and the run is out. Unlike after Leave, which is still due, the goroutine of a long run stays
// behind others: it has something to clear away.
func (r *Run) Rest() { r.release(out) }

// endLong calls OnLongEnd if it is due.
func (r *Run) endLong() {
	if r.told {
		if r.told = false; r.share.p.onLongEnd != nil {
			r.share.p.onLongEnd()
		}
		r.share.p.spare.end()
	}
}

func (r *Run) release(to state) {
	p := r.share.p
	now := p.now()
	var next *Run
	switch since := now - r.lookedAt; {
	case !r.goes:
	case since <= p.queue.slice/yieldsPerSlice:
		r.unseen += since // a look costs more than it is worth
	default:
		r.look(now)
	}
	r.goes = false // what the thread computes from here on is others'
	p.mu.Lock()
	if r.state != out {
		r.noteLocked(now, to == out)
	}
	evicted := r.evicted
	if evicted {
		r.seenLocked()
	}
	granted := r.state == running
	switch {
	case granted:
		next = p.releaseLocked(r, now, to)
	case evicted: // and waits
		p.queue.leave(r, now)
		r.state = to
	case to == out:
		r.state = out
	}
	p.mu.Unlock()
	if evicted && granted {
		<-r.wake // the new token's, which is given back
	}
	next.goOn()
}

// Took is how long the run went on before its last Tick since the one before it, or since it began to go on. It is read by the run's goroutine.
func (r *Run) Took() time.Duration { return r.took }

// Share is what the run is a part of.
func (r *Run) Share() *Share { return r.share }

// Charge adds work that the host did for the run without a token.
func (r *Run) Charge(d time.Duration) { r.share.Charge(d) }

// Waited is the time for which the run waited for a token since it entered. It is read by the run's goroutine.
func (r *Run) Waited() time.Duration {
	r.share.p.mu.Lock()
	defer r.share.p.mu.Unlock()
	return r.waited
}

// Used is the time for which the run held a token since it entered, whole slices and stays. It is read by the run's goroutine.
func (r *Run) Used() time.Duration {
	r.share.p.mu.Lock()
	defer r.share.p.mu.Unlock()
	return r.used
}

// Long reports whether the run is past its first slices since it entered. It is read by the run's goroutine.
func (r *Run) Long() bool {
	r.share.p.mu.Lock()
	defer r.share.p.mu.Unlock()
	return r.old
}
