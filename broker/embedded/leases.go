package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

var _ broker.Leases = (*Leases)(nil)

// epochBlock is how many epochs are set aside with one write.
const epochBlock = 1 << 20

var epochsKey = []byte("epochs") // in metaBucket: the last one set aside

// Leases keeps leases in memory: all who could hold one are in this process, or end with it. Epochs go on after a restart.
type Leases struct {
	db    *database
	clock clock.Clock

	setAside sync.Mutex // held while epochs are set aside; before mu

	mu       sync.Mutex
	held     map[string]broker.Hold
	last     uint64 // epoch given out
	reserved uint64 // epochs up to this one may be given out
	sweep    int    // of the names in held, when those that lapsed were last thrown out
}

func newLeases(db *database, c clock.Clock) *Leases {
	return &Leases{db: db, clock: c, held: map[string]broker.Hold{}}
}

func (l *Leases) heldLocked(name string, now time.Time) (broker.Hold, bool) {
	h, ok := l.held[name]
	return h, ok && now.Before(h.Until)
}

// reserve sees to it that there is an epoch to give out.
func (l *Leases) reserve(ctx context.Context) error {
	l.setAside.Lock()
	defer l.setAside.Unlock()
	l.mu.Lock()
	enough := l.last < l.reserved
	l.mu.Unlock()
	if enough {
		return nil
	}
	var from uint64
	err := l.db.update(ctx, &change{do: func(tx *bolt.Tx) (bool, error) {
		meta := tx.Bucket(metaBucket)
		if v := meta.Get(epochsKey); v != nil {
			n, err := parseEpoch(l.db.path, v)
			if err != nil {
				return false, err
			}
			from = n
		}
		try(meta.Put(epochsKey, formatEpoch(from+epochBlock)))
		return true, nil
	}})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.reserved = from, from+epochBlock
	return nil
}

func parseEpoch(path string, b []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return 0, damaged(path, epochsKey)
	}
	return n, nil
}

func formatEpoch(n uint64) []byte { return strconv.AppendUint(nil, n, 10) }

// Acquire implements broker.Leases.
func (l *Leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (broker.Hold, error) {
	h := broker.Hold{Name: name, Holder: holder, TTL: ttl}
	if err := cmp.Or(context.Cause(ctx), h.Check()); err != nil {
		return broker.Hold{}, fmt.Errorf("acquire: %w", err)
	}
	for {
		if err := l.reserve(ctx); err != nil {
			return broker.Hold{}, fmt.Errorf("acquire %.80q: %w", name, err)
		}
		if got, err, ok := l.take(h); ok {
			return got, err
		}
	}
}

// take gives out a name; ok is false if there is no epoch left to give with it.
func (l *Leases) take(h broker.Hold) (got broker.Hold, err error, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if have, held := l.heldLocked(h.Name, now); held {
		return broker.Hold{}, &broker.HeldError{Hold: have, Left: have.Until.Sub(now)}, true
	}
	if l.last >= l.reserved {
		return broker.Hold{}, nil, false
	}
	l.last++
	h.Epoch, h.Until = l.last, now.Add(h.TTL)
	l.held[h.Name] = h
	if len(l.held) > 2*l.sweep+1000 {
		for name, h := range l.held {
			if !now.Before(h.Until) {
				delete(l.held, name)
			}
		}
		l.sweep = len(l.held)
	}
	return h, nil, true
}

// Renew implements broker.Leases.
func (l *Leases) Renew(ctx context.Context, holds ...broker.Hold) (renewed []broker.Hold, err error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckRenewals(holds)); err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	var errs []error
	for i, h := range holds {
		have, ok := l.heldLocked(h.Name, now)
		if !ok || have.Epoch != h.Epoch {
			errs = append(errs, &broker.LostError{Name: h.Name, Index: i})
			continue
		}
		have.TTL, have.Until = h.TTL, now.Add(h.TTL)
		l.held[h.Name] = have
		renewed = append(renewed, have)
	}
	return renewed, errors.Join(errs...)
}

// Release implements broker.Leases.
func (l *Leases) Release(ctx context.Context, h broker.Hold) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[h.Name].Epoch == h.Epoch {
		delete(l.held, h.Name)
	}
	return nil
}

// Holders implements broker.Leases.
func (l *Leases) Holders(ctx context.Context, names ...string) ([]broker.Hold, error) {
	if err := cmp.Or(context.Cause(ctx), broker.CheckNames(names)); err != nil {
		return nil, fmt.Errorf("holders: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	holds := make([]broker.Hold, len(names))
	for i, name := range names {
		if h, ok := l.heldLocked(name, now); ok {
			holds[i] = h
		}
	}
	return holds, nil
}
