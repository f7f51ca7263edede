package model

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/ripstop-vm/ripstop/broker"
)

var _ broker.Records = (*Records)(nil)

// Records are a Broker's records.
type Records Broker

type records struct {
	data   map[string]broker.Record
	number uint64         // of the last commit
	floor  uint64         // commits after this one are in events
	events []broker.Event // in order
}

func (r *Records) revision() broker.Revision {
	return broker.Revision{Number: r.records.number, Mark: r.opts.Mark}
}

// Get implements broker.Records.
func (r *Records) Get(ctx context.Context, key string) (broker.Record, error) {
	if err := context.Cause(ctx); err != nil {
		return broker.Record{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.records.data[key]
	if !ok {
		return broker.Record{}, fmt.Errorf("record %.200q: %w", key, broker.ErrNotFound)
	}
	rec.Value = bytes.Clone(rec.Value)
	return rec, nil
}

// List implements broker.Records.
func (r *Records) List(ctx context.Context, want broker.Range) (list []broker.Record, at broker.Revision, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, broker.Revision{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(r.records.data)) {
		if strings.HasPrefix(k, want.Prefix) && (want.After == "" || k > want.After) && (want.Limit <= 0 || len(list) < want.Limit) {
			rec := r.records.data[k]
			rec.Value = bytes.Clone(rec.Value)
			list = append(list, rec)
		}
	}
	return list, r.revision(), nil
}

// Commit implements broker.Records.
func (r *Records) Commit(ctx context.Context, c broker.Commit) (broker.Revision, error) {
	if err := cmp.Or(context.Cause(ctx), c.Check()); err != nil {
		return broker.Revision{}, fmt.Errorf("commit: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, q := range c.Conditions {
		if i > 0 && r.bugs[ConditionsForgotten] {
			break
		}
		if have := r.records.data[q.Key].Revision; have != q.Revision {
			return broker.Revision{}, &broker.ConflictError{Key: q.Key, Want: q.Revision, Have: have}
		}
	}
	var changes []broker.Change
	number, puts := r.records.number+1, false
	for _, w := range c.Writes {
		_, there := r.records.data[w.Key]
		switch {
		case !w.Delete:
			changes = append(changes, broker.Change{Record: broker.Record{Key: w.Key, Value: bytes.Clone(w.Value), Revision: number}})
			puts = true
		case there:
			changes = append(changes, broker.Change{Record: broker.Record{Key: w.Key, Revision: number}, Deleted: true})
		}
	}
	if len(changes) == 0 {
		return r.revision(), nil
	}
	for _, ch := range changes {
		if ch.Deleted {
			delete(r.records.data, ch.Key)
		} else {
			r.records.data[ch.Key] = ch.Record
		}
	}
	if !puts && r.bugs[RevisionReused] {
		return r.revision(), nil
	}
	r.records.number = number
	slices.SortFunc(changes, func(a, b broker.Change) int { return strings.Compare(a.Key, b.Key) })
	r.records.events = append(r.records.events, broker.Event{Revision: r.revision(), Changes: changes})
	if over := len(r.records.events) - r.opts.History; r.opts.History > 0 && over > 0 {
		r.records.floor += uint64(over)
		r.records.events = r.records.events[over:]
	}
	(*Broker)(r).wakeLocked()
	return r.revision(), nil
}

// after answers the commits after a revision, and a channel that is closed at the next one.
func (r *Records) after(at broker.Revision) ([]broker.Event, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at != (broker.Revision{}) && at.Mark != r.opts.Mark || at.Number > r.records.number || at.Number < r.records.floor {
		return nil, nil, broker.ErrCompacted
	}
	return slices.Clone(r.records.events[at.Number-r.records.floor:]), r.changed, nil
}

// Watch implements broker.Records.
func (r *Records) Watch(ctx context.Context, prefix string, from broker.Revision) iter.Seq2[broker.Event, error] {
	return func(yield func(broker.Event, error) bool) {
		for {
			events, changed, err := r.after(from)
			if err != nil {
				yield(broker.Event{}, fmt.Errorf("watch %q from %s: %w", prefix, from, err))
				return
			}
			for _, e := range events {
				from = e.Revision
				e.Changes = slices.DeleteFunc(slices.Clone(e.Changes), func(c broker.Change) bool { return !strings.HasPrefix(c.Key, prefix) })
				if len(e.Changes) > 0 && !yield(e, nil) {
					return
				}
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				yield(broker.Event{}, context.Cause(ctx))
				return
			case <-changed:
			}
		}
	}
}
