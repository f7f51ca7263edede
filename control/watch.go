package control

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// watchRetry is how long to wait before a store that failed is asked again.
const watchRetry = time.Second

// served is what was told to be served last. A worker that begins while the store cannot be read gets it: that something
// is not known is no order to stop it.
type served struct {
	revision uint64
	all      map[string]wire.Assignment // by job; nil before the store was read
}

// WatchAssignments sends what changes after revision from, until ctx ends or the store is closed; then the channel is closed. While
// the store cannot be read nothing changes, and what was served goes on. With from 0 a Reset comes first.
func (s *Store) WatchAssignments(ctx context.Context, from uint64) <-chan Change {
	changes := make(chan Change)
	go func() {
		defer close(changes)
		if err := s.watchAssignments(ctx, from, changes); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("watching assignments ended", "err", err)
		}
	}()
	return changes
}

func (s *Store) watchAssignments(ctx context.Context, from uint64, out chan<- Change) error {
	reset, first, failing := from == 0, true, false
	send := func(c Change) error {
		failing = false
		s.note(c)
		select {
		case out <- c:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.mu.Lock()
	at := broker.Revision{Number: from, Mark: s.mark}
	s.mu.Unlock()
	for {
		err := s.tell(ctx, &at, reset, send)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, broker.ErrClosed):
			return err
		case errors.Is(err, broker.ErrCompacted):
			reset, first, failing = true, false, false
			continue
		}
		if !failing {
			s.opts.Log.Error("the store cannot be read; what is served goes on", "err", err)
		}
		if last, ok := s.lastServed(); ok && first && reset {
			if err := send(Change{Revision: last.revision, Reset: true, All: slices.Collect(maps.Values(last.all))}); err != nil {
				return err
			}
		}
		failing = true
		reset, first = reset && at.Number == 0, false
		wait := s.opts.Clock.NewTimer(watchRetry)
		select {
		case <-wait.C():
		case <-ctx.Done():
			wait.Stop()
		}
	}
}

// tell sends all there is, if it is to, and then what changes after at, which it moves on, until it fails.
func (s *Store) tell(ctx context.Context, at *broker.Revision, reset bool, send func(Change) error) error {
	if reset {
		all, n, err := s.Assignments(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		*at = broker.Revision{Number: n, Mark: s.mark}
		s.mu.Unlock()
		if err := send(Change{Revision: n, Reset: true, All: all}); err != nil {
			return err
		}
	}
	for event, err := range s.records.Watch(ctx, jobsPrefix, *at) {
		if err != nil {
			return err
		}
		for _, change := range event.Changes {
			c, err := s.assignmentChange(ctx, event.Revision.Number, change)
			if err != nil {
				return err
			}
			if err := send(c); err != nil {
				return err
			}
		}
		*at = event.Revision
	}
	return nil
}

// assignmentChange is what a change of a job's record means to who serves it.
func (s *Store) assignmentChange(ctx context.Context, revision uint64, change broker.Change) (Change, error) {
	c := Change{Revision: revision, Job: change.Key[len(jobsPrefix):]}
	if change.Deleted {
		return c, nil
	}
	job, err := decode[Job](change.Record)
	if err != nil {
		return c, err
	}
	v, err := s.version(ctx, job.Name, job.Current)
	if errors.Is(err, broker.ErrNotFound) {
		c.Job = "" // a later change, which is still to be told, has removed it
		return c, nil
	}
	if err != nil {
		return c, err
	}
	a, err := assignment(job, v)
	if err != nil {
		return c, err
	}
	c.Assignment = &a
	return c, nil
}

// note remembers what is told.
func (s *Store) note(c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.Reset:
		s.served.all = make(map[string]wire.Assignment, len(c.All))
		for _, a := range c.All {
			s.served.all[a.Job] = a
		}
	case s.served.all == nil:
		return // who asked for changes alone knows the rest
	case c.Assignment != nil:
		s.served.all[c.Job] = *c.Assignment
	case c.Job != "":
		delete(s.served.all, c.Job)
	}
	s.served.revision = c.Revision
}

// lastServed answers a copy of what was told last.
func (s *Store) lastServed() (served, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return served{s.served.revision, maps.Clone(s.served.all)}, s.served.all != nil
}
