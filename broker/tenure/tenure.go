// Package tenure lets one server at a time change a store that several can reach. A server that was replaced goes on with
// what it has and changes nothing.
//
// The tenure is a lease. Its fence is a record that each tenure writes anew: all commits through Records are conditional on it, so
// that a server which was replaced and does not know it yet changes no record either.
package tenure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

const (
	leaseName = "server"
	fenceKey  = "server"
	schema    = 1
	// 10 s: a server that is started in the place of one that is gone waits no longer, and one that others cannot reach for some
	// seconds keeps its place.
	defaultTTL  = 10 * time.Second
	releaseTime = 2 * time.Second
)

// ErrTaken: another server has the store. Nothing changed.
var ErrTaken = errors.New("another server has taken over the store")

// Options configures a Tenure. Leases, Records and Holder are required.
type Options struct {
	Leases  broker.Leases
	Records broker.Records
	// Holder names this server for people, and among all that use the store. Who opens a tenure under it is sure that the process
	// before, which had the same name, is gone: it takes its place at once.
	Holder string
	TTL    time.Duration   // 0 means 10 s
	Clock  clock.Clock     // nil means the system clock
	Told   func(err error) // is called when the state has changed, nil for well; may be nil
}

// State is how a tenure is.
type State struct {
	Err   error // why the store cannot be used, as of the last renewal; nil if it can
	Since time.Time
	Epoch uint64
}

// Tenure is a store that this server may change. Close ends it.
type Tenure struct {
	opts Options

	taking sync.Mutex // held while the store is taken; before mu

	mu    sync.Mutex
	state State
	hold  broker.Hold
	fence uint64 // revision of the record; 0 while another server has the store
}

// document is the fence.
type document struct {
	Schema int       `json:"schema"`
	Holder string    `json:"holder"`
	Epoch  uint64    `json:"epoch"`
	Since  time.Time `json:"since"`
}

// Open takes the store. It waits for the end of a tenure that nobody renews, and fails with broker.ErrInUse once it sees that
// another server lives.
func Open(ctx context.Context, opts Options) (*Tenure, error) {
	if opts.TTL == 0 {
		opts.TTL = defaultTTL
	}
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	t := &Tenure{opts: opts}
	var seen *broker.HeldError
	for {
		err := t.take(ctx)
		held, ok := errors.AsType[*broker.HeldError](err)
		if !ok {
			if err != nil {
				return nil, err
			}
			t.state.Since = opts.Clock.Now()
			return t, nil
		}
		if seen != nil && (held.Hold.Epoch != seen.Hold.Epoch || held.Hold.Until.After(seen.Hold.Until)) {
			return nil, fmt.Errorf("the store is %w: server %s has it; stop that one first, or give this one a store of its own (another database, or ?prefix=NAME in the URL)",
				broker.ErrInUse, held.Hold.Holder)
		}
		seen = held
		wait := opts.Clock.NewTimer(min(held.Left+10*time.Millisecond, opts.TTL/8))
		select {
		case <-wait.C():
		case <-ctx.Done():
			wait.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// take acquires the lease and writes the fence.
func (t *Tenure) take(ctx context.Context) error {
	t.taking.Lock()
	defer t.taking.Unlock()
	h, err := t.opts.Leases.Acquire(ctx, leaseName, t.opts.Holder, t.opts.TTL)
	if held, ok := errors.AsType[*broker.HeldError](err); ok && held.Hold.Holder == t.opts.Holder {
		// The process before this one, or this one's call whose answer was lost.
		if err := t.opts.Leases.Release(ctx, held.Hold); err != nil {
			return err
		}
		h, err = t.opts.Leases.Acquire(ctx, leaseName, t.opts.Holder, t.opts.TTL)
	}
	if err != nil {
		return err
	}
	var have uint64
	switch r, err := t.opts.Records.Get(ctx, fenceKey); {
	case err == nil:
		var d document
		if err := json.Unmarshal(r.Value, &d); err != nil {
			return fmt.Errorf("read record %s: %w: %w", fenceKey, broker.ErrCorrupt, err)
		}
		if d.Schema > schema {
			return fmt.Errorf("read record %s: schema %d: %w", fenceKey, d.Schema, broker.ErrNewer)
		}
		have = r.Revision
	case !errors.Is(err, broker.ErrNotFound):
		return err
	}
	value, err := json.Marshal(document{Schema: schema, Holder: t.opts.Holder, Epoch: h.Epoch, Since: t.opts.Clock.Now().UTC()})
	if err != nil {
		return err
	}
	at, err := t.opts.Records.Commit(ctx, broker.Commit{Conditions: []broker.Condition{{Key: fenceKey, Revision: have}}, Writes: []broker.Write{{Key: fenceKey, Value: value}}})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hold, t.fence, t.state.Epoch = h, at.Number, h.Epoch
	return nil
}

// Run keeps the tenure until ctx ends, and takes the store again when it has lost it.
func (t *Tenure) Run(ctx context.Context) error {
	tick := t.opts.Clock.NewTicker(t.opts.TTL / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C():
			t.renew(ctx)
		}
	}
}

// Retake finds out at once how the store is, and takes it if it is free.
func (t *Tenure) Retake(ctx context.Context) error {
	t.renew(ctx)
	return t.State().Err
}

func (t *Tenure) renew(ctx context.Context) {
	t.mu.Lock()
	hold, fenced := t.hold, t.fence != 0
	t.mu.Unlock()
	err := error(broker.ErrLeaseLost)
	if fenced {
		_, err = t.opts.Leases.Renew(ctx, hold)
	}
	if errors.Is(err, broker.ErrLeaseLost) {
		err = t.take(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	if held, ok := errors.AsType[*broker.HeldError](err); ok {
		err = fmt.Errorf("%w: %s; stop one of the two", ErrTaken, held.Hold.Holder)
	}
	t.mu.Lock()
	if errors.Is(err, ErrTaken) {
		t.fence = 0
	}
	changed := (err == nil) != (t.state.Err == nil) || err != nil && err.Error() != t.state.Err.Error()
	if changed {
		t.state.Err, t.state.Since = err, t.opts.Clock.Now()
	}
	t.mu.Unlock()
	if changed && t.opts.Told != nil {
		t.opts.Told(err)
	}
}

// State answers how the tenure is.
func (t *Tenure) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// Close lets another server have the store at once.
func (t *Tenure) Close(ctx context.Context) error {
	t.mu.Lock()
	hold := t.hold
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	return t.opts.Leases.Release(ctx, hold)
}

// Records are the store's records, which change only while this server has the store: commits fail with ErrTaken when it
// does not. A commit has room for one condition less, and the fence is the one record that is not the caller's.
func (t *Tenure) Records() broker.Records { return &records{t.opts.Records, t} }

type records struct {
	broker.Records
	tenure *Tenure
}

// Commit implements broker.Records.
func (r *records) Commit(ctx context.Context, c broker.Commit) (broker.Revision, error) {
	t := r.tenure
	conditions := slices.Clip(c.Conditions)
	for {
		t.mu.Lock()
		fence, why := t.fence, t.state.Err
		t.mu.Unlock()
		if fence == 0 {
			return broker.Revision{}, fmt.Errorf("%w; nothing was changed", why)
		}
		c.Conditions = append(conditions, broker.Condition{Key: fenceKey, Revision: fence})
		at, err := r.Records.Commit(ctx, c)
		conflict, ok := errors.AsType[*broker.ConflictError](err)
		if !ok || conflict.Key != fenceKey {
			return at, err
		}
		t.mu.Lock()
		again := t.fence != fence // taken anew by this server, meanwhile
		t.mu.Unlock()
		if !again {
			return broker.Revision{}, fmt.Errorf("%w; nothing was changed", ErrTaken)
		}
	}
}
