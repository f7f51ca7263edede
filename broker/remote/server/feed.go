package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/history"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// feed is one watch of all records for all who watch some of them. It keeps the last commits, bounded in number and bytes, and each watcher
// reads them at its own pace: one that is slow delays nobody, and is told to list again when what it has not read is gone.
type feed struct {
	records            broker.Records
	history, histBytes int
	watchers           atomic.Int64
	frames             frames

	mu      sync.Mutex
	log     *history.Log // the commits after some revision; nil before there is one
	failed  error        // why the last log ended
	changed chan struct{}
}

const (
	// feedRetry is how long the feed waits before it asks again, when the broker does not answer.
	feedRetry = 100 * time.Millisecond
	// feedLag is how long a watcher waits for the feed to hear of a commit that it knows of itself, before it asks the broker on its own.
	feedLag = 100 * time.Millisecond
	// feedShare is how much time there is for each watcher between two times that all are told: about twice of what it takes to tell one, so
	// that commits that follow each other fast leave half a processor. What happens meanwhile is told together. The first commit after a while
	// is told at once.
	feedShare = 100 * time.Microsecond
	// feedDelay is how long a watcher waits at most for the next to be told together: with a thousand watchers and more.
	feedDelay = 100 * time.Millisecond
	// feedBatch is how many bytes of events are told together, unless one has more.
	feedBatch = 64 << 10
)

func newFeed(r broker.Records, commits, bytes int) *feed {
	return &feed{records: r, history: commits, histBytes: bytes, changed: make(chan struct{})}
}

// run watches until ctx ends.
func (f *feed) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			err = broker.ErrUnavailable // this process ends; others serve
		}
		f.set(nil, err)
		pause(ctx, nil, feedRetry)
	}
}

// set replaces the log.
func (f *feed) set(log *history.Log, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.log != nil {
		f.log.Close()
	}
	f.log, f.failed = log, err
	close(f.changed)
	f.changed = make(chan struct{})
}

// follow begins a log at the broker's revision and adds to it. While the broker cannot be reached the log stays, and goes on from its end. It
// returns when what follows is not known any more.
func (f *feed) follow(ctx context.Context) error {
	_, at, err := f.records.List(ctx, broker.Range{Limit: 1})
	if err != nil {
		return err
	}
	log := history.New(at, f.history, f.histBytes)
	f.set(log, nil)
	for {
		for e, err := range f.records.Watch(ctx, "", at) {
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil && ends(err):
				return err
			case err != nil:
			case e.Revision.Number != at.Number+1:
				return broker.ErrCompacted
			default:
				at = e.Revision
				log.Add(e)
				continue
			}
			break
		}
		pause(ctx, nil, feedRetry)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// ends says whether an error of a watch means that watching again from the same revision would fail, too.
func ends(err error) bool {
	for _, e := range []error{broker.ErrCompacted, broker.ErrClosed, broker.ErrIncarnation, broker.ErrRewound, broker.ErrCorrupt, broker.ErrNewer, broker.ErrAccess} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause waits for a while, for wake to be closed or for ctx to end.
func pause(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := clock.System.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
	case <-wake:
	case <-ctx.Done():
	}
}

// current answers the log; without one, a channel that is closed when there may be one, and why there is none.
func (f *feed) current() (*history.Log, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log, f.changed, f.failed
}

// watch hands on the commits after a revision, as far as they are below prefix, until ctx ends, or it fails, or handle does. handle is given
// frames of one or more of them.
func (f *feed) watch(ctx context.Context, prefix string, from broker.Revision, handle func([]byte) error) error {
	f.watchers.Add(1)
	defer f.watchers.Add(-1)
	some := func(events ...broker.Event) error {
		var out []byte
		for _, e := range events {
			if e = history.Below(e, prefix); len(e.Changes) == 0 {
				continue
			}
			frame := f.frames.of(e, prefix)
			if len(out) > 0 && len(out)+len(frame) > feedBatch {
				if err := handle(out); err != nil {
					return err
				}
				out = nil
			}
			out = append(out, frame...)
		}
		if len(out) == 0 {
			return nil
		}
		return handle(out)
	}
	at, lagged := from, false
	for {
		log, changed, failed := f.current()
		switch {
		case log != nil:
		case failed != nil && ends(failed):
			return failed
		default:
			pause(ctx, changed, feedRetry)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if failed != nil {
				return failed
			}
			continue
		}
		has, later := log.Has(at)
		switch {
		case has:
			if err := f.read(ctx, log, &at, some); err != nil {
				return err
			}
		case later && !lagged:
			lagged = true // once: the revision may be one that never was
			_, wake, err := log.After(at.Number)
			if err == nil {
				pause(ctx, wake, feedLag)
			}
		default:
			// The broker knows more than the feed does: it is asked, up to where the feed goes on.
			if err := f.catchUp(ctx, log, &at, some); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// read hands on what the log has after a revision, until the log ends (then its error is nil), ctx does, or something fails. A watcher that
// began in the log and has fallen out of it is too slow.
func (f *feed) read(ctx context.Context, log *history.Log, at *broker.Revision, handle func(...broker.Event) error) error {
	told := clock.Elapsed() - feedDelay
	for {
		events, wake, err := log.After(at.Number)
		if errors.Is(err, broker.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(events) > 0 {
			every := min(time.Duration(f.watchers.Load())*feedShare, feedDelay)
			if wait := told + every - clock.Elapsed(); wait > 0 {
				pause(ctx, nil, wait)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if events, _, err = log.After(at.Number); errors.Is(err, broker.ErrClosed) {
					return nil
				} else if err != nil {
					return err
				}
			}
			if err := handle(events...); err != nil {
				return err
			}
			*at, told = events[len(events)-1].Revision, clock.Elapsed()
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// catchUp hands on what the broker has after a revision, until the log goes on from there.
func (f *feed) catchUp(ctx context.Context, log *history.Log, at *broker.Revision, handle func(...broker.Event) error) error {
	for e, err := range f.records.Watch(ctx, "", *at) {
		if err != nil {
			return err
		}
		if err := handle(e); err != nil {
			return err
		}
		*at = e.Revision
		if has, _ := log.Has(*at); has {
			return nil
		}
	}
	return context.Cause(ctx)
}
