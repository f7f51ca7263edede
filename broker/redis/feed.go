package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/history"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// feed reads the log of the records with one connection for all who watch. It begins with the first of them.
type feed struct {
	records *Records
	reader  sync.WaitGroup

	mu      sync.Mutex
	stop    context.CancelFunc // of the reader; nil before it begins
	log     *history.Log       // the commits after some revision; closed when what follows it does not follow
	failed  error              // why there is no log
	changed chan struct{}
}

const (
	feedBlock = 2 * time.Second // the reader looks so often whether the store is still the same
	feedRetry = 100 * time.Millisecond
	// watchRetry is how long a watcher waits for the feed before it asks the server itself.
	watchRetry = 250 * time.Millisecond
)

func newFeed(r *Records) *feed { return &feed{records: r, changed: make(chan struct{})} }

// close ends watches with broker.ErrClosed. The reader ends when its connection is closed; wait waits for that.
func (f *feed) close() {
	f.set(nil, broker.ErrClosed)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		f.stop()
	}
}

func (f *feed) wait() { f.reader.Wait() }

// restart lets all watchers ask the server where they are.
func (f *feed) restart() { f.set(nil, nil) }

// set replaces the log. With an error, watchers end with it.
func (f *feed) set(log *history.Log, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(f.failed, broker.ErrClosed) {
		return
	}
	if f.log != nil {
		f.log.Close()
	}
	f.log, f.failed = log, err
	close(f.changed)
	f.changed = make(chan struct{})
}

// current answers the log, or a channel that is closed when there may be another.
func (f *feed) current() (*history.Log, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return nil, nil, f.failed
	}
	if f.stop == nil {
		ctx, cancel := context.WithCancel(context.Background()) // it serves all watchers, not only the first
		f.stop = cancel
		f.reader.Go(func() { f.read(ctx) })
	}
	return f.log, f.changed, nil
}

// watch hands on the commits after a revision until handle answers false (then its error is nil) or it fails.
func (r *Records) watch(ctx context.Context, from broker.Revision, handle func(broker.Event) bool) error {
	at := from
	for {
		log, changed, err := r.feed.current()
		if err != nil {
			return err
		}
		// The server says whether what follows is known. Until the feed reaches back to here, it tells it, too.
		for {
			events, now, err := r.readLog(ctx, at)
			if errors.Is(err, broker.ErrUnavailable) {
				log = nil // it comes back, or ctx ends
				break
			}
			if err != nil {
				return err
			}
			for _, e := range events {
				if at = e.Revision; !handle(e) {
					return nil
				}
			}
			if len(events) == 0 {
				if at.Mark != now.Mark && at.Number == now.Number {
					at = now
				}
				break
			}
			if log != nil {
				if _, _, err := log.After(at.Number); err == nil {
					break
				}
			}
		}
		for log != nil {
			events, wake, err := log.After(at.Number)
			if errors.Is(err, broker.ErrCompacted) {
				break // too slow for the feed, but perhaps not for the server's log
			}
			if err != nil {
				log = nil
				break
			}
			for _, e := range events {
				if at = e.Revision; !handle(e) {
					return nil
				}
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-wake:
			}
		}
		if log == nil {
			pause(ctx, changed, watchRetry) // the feed is about to begin
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// read follows the log until ctx ends. What it cannot follow ends the log, and another one begins.
func (f *feed) read(ctx context.Context) {
	for ctx.Err() == nil {
		_ = f.follow(ctx) // who watches asks the server, and is told the same
		pause(ctx, nil, feedRetry)
	}
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

// follow begins a log at the store's revision and adds to it. It returns when the connection breaks or the history does.
func (f *feed) follow(ctx context.Context) error {
	r := f.records
	rep, err := r.run(ctx, numberScript, nil)
	if err != nil {
		return err
	}
	at := broker.Revision{Number: rep.number(1), Mark: rep.text(2)}
	log := history.New(at, r.link.opts.History, r.link.opts.HistoryBytes)
	f.set(log, nil)
	for {
		entries, err := f.next(ctx, at)
		if err != nil {
			// Another connection may be one to another server: what follows has to be asked for again.
			f.set(nil, nil)
			return err
		}
		for _, e := range entries {
			if e.Revision.Number != at.Number+1 {
				f.set(nil, nil)
				return broker.ErrCompacted
			}
			at = e.Revision
			r.saw(at.Number)
			log.Add(e)
		}
		if len(entries) > 0 {
			continue
		}
		if _, _, err := r.readSome(ctx, at, 0); err != nil { // is the store the same as before?
			f.set(nil, nil)
			return err
		}
	}
}

// next waits for commits after a revision; for none, if there are none for a while.
func (f *feed) next(ctx context.Context, at broker.Revision) ([]broker.Event, error) {
	r := f.records
	client, err := r.link.client(ctx, r.group.tag)
	if err != nil {
		return nil, err
	}
	streams, err := client.XRead(ctx, &redis.XReadArgs{
		Streams: []string{r.log, strconv.FormatUint(at.Number, 10) + "-1"}, Count: 64, Block: feedBlock,
	}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		if unsent(err) && r.link.cluster != nil {
			r.link.cluster.ReloadState(ctx)
		}
		return nil, explain(r.link.target.String(), err)
	}
	var events []broker.Event
	for _, s := range streams {
		for _, m := range s.Messages {
			mark, _ := m.Values["m"].(string)
			changes, _ := m.Values["c"].(string)
			e, err := parseEvent(m.ID, mark, changes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.link.target, err)
			}
			events = append(events, e)
		}
	}
	return events, nil
}

func isCompacted(err error) bool { return errors.Is(err, broker.ErrCompacted) }

// parseEvent reads an entry of the log: its ID is the commit's number and "-1", its changes stand one after another: '+' or '-', the
// lengths of key and value in four bytes each, big-endian, key, value. It fails with broker.ErrCorrupt.
func parseEvent(id, mark, changes string) (broker.Event, error) {
	bad := func() (broker.Event, error) {
		return broker.Event{}, fmt.Errorf("entry %.40q of the log: %w", id, broker.ErrCorrupt)
	}
	text, _ := strings.CutSuffix(id, "-1")
	number, err := parseUint(text)
	if err != nil || id != strconv.FormatUint(number, 10)+"-1" {
		return bad()
	}
	e := broker.Event{Revision: broker.Revision{Number: number, Mark: mark}}
	for changes != "" {
		const head = 9
		if len(changes) < head {
			return bad()
		}
		op := changes[0]
		k, v := uint64(binary.BigEndian.Uint32([]byte(changes[1:5]))), uint64(binary.BigEndian.Uint32([]byte(changes[5:head])))
		if changes = changes[head:]; k+v > uint64(len(changes)) || op != '+' && op != '-' || op == '-' && v > 0 {
			return bad()
		}
		c := broker.Change{Record: broker.Record{Key: changes[:k], Revision: number}, Deleted: op == '-'}
		if !c.Deleted {
			c.Value = []byte(changes[k : k+v])
		}
		e.Changes = append(e.Changes, c)
		changes = changes[k+v:]
	}
	return e, nil
}
