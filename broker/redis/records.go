package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/history"
)

var _ broker.Records = (*Records)(nil)

var (
	greetScript  = load("greet")
	numberScript = load("number")
	getScript    = load("get")
	listScript   = load("list")
	commitScript = load("commit")
	logScript    = load("log")
)

// Bounds of one answer of the server. Longer ones are read in parts, so that no call holds up others for long.
const (
	pageItems = 500
	pageBytes = 1 << 20
)

// Records keeps records under one hash tag: two hashes with revisions and values by key, a sorted set that is their order, and a
// stream that is the log of the last commits.
type Records struct {
	link                                       *link
	group                                      group
	meta, revisions, values, index, log, sizes string
	feed                                       *feed

	// seen is the highest number of a commit that was met. A server that has less lost some.
	seen atomic.Uint64
}

func newRecords(l *link) *Records {
	g := l.keys.records()
	r := &Records{link: l, group: g}
	r.meta, r.revisions, r.values = g.key("meta"), g.key("revisions"), g.key("values")
	r.index, r.log, r.sizes = g.key("index"), g.key("log"), g.key("sizes")
	r.feed = newFeed(r)
	return r
}

// run runs a script, and notes how far the store is.
func (r *Records) run(ctx context.Context, s *script, keys []string, args ...any) (reply, error) {
	rep, err := r.link.run(ctx, s, r.group, append([]string{r.meta}, keys...), append([]any{strconv.FormatUint(r.seen.Load(), 10)}, args...)...)
	if err != nil {
		return nil, err
	}
	if w := rep.text(0); w == "ok" || w == "missing" {
		r.saw(rep.number(1))
	}
	return rep, nil
}

func (r *Records) saw(number uint64) {
	for {
		have := r.seen.Load()
		if number <= have || r.seen.CompareAndSwap(have, number) {
			return
		}
	}
}

// greet runs on each new connection, before anything else does: it notes that the server is another process than before.
func (r *Records) greet(ctx context.Context, c *redis.Conn) error {
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	about := parseInfo(info)
	if about["redis_mode"] == "sentinel" { // go-redis calls it for these, too
		return nil
	}
	// Most connections are to the process that was greeted before. Asking first lets them be made when writes are refused.
	run, err := c.HGet(ctx, r.meta, "run").Result()
	if err == nil && run == about["run_id"] {
		return nil
	}
	if err == nil || errors.Is(err, redis.Nil) {
		err = r.greetAs(ctx, c, about["run_id"])
	}
	switch {
	case err == nil, unsent(err) && r.link.cluster != nil: // a node of a Cluster that has no records
		return nil
	}
	return fmt.Errorf("greet: %w", err) // the client takes one layer off
}

func (r *Records) greetAs(ctx context.Context, c *redis.Conn, run string) error {
	rep, err := c.Eval(ctx, greetScript.code().source, []string{r.group.identity, r.meta}, *r.link.identity.Load(), "", run, rand.Text()).Slice()
	if err != nil {
		return err
	}
	if text := reply(rep); text.text(0) == "identity" {
		return r.link.stranger(text.text(1))
	}
	return nil
}

// number is that of the last commit.
func (r *Records) number(ctx context.Context) (uint64, error) {
	rep, err := r.run(ctx, numberScript, nil)
	if err != nil {
		return 0, err
	}
	return rep.number(1), nil
}

// adopt accepts the revision that the server has now.
func (r *Records) adopt(ctx context.Context) error {
	r.seen.Store(0)
	r.feed.restart()
	if _, err := r.number(ctx); err != nil { // has a connection made
		return err
	}
	client, err := r.link.client(ctx, r.group.tag)
	if err != nil {
		return err
	}
	conn := client.Conn() // one that was made before is not greeted by itself
	defer conn.Close()
	if err := r.greet(ctx, conn); err != nil {
		return explain(r.link.target.String(), err)
	}
	_, err = r.number(ctx)
	return err
}

// Get implements broker.Records.
func (r *Records) Get(ctx context.Context, key string) (broker.Record, error) {
	rep, err := r.run(ctx, getScript, []string{r.revisions, r.values}, key)
	if err != nil {
		return broker.Record{}, fmt.Errorf("get record: %w", err)
	}
	if rep.text(0) == "missing" {
		return broker.Record{}, fmt.Errorf("record %.200q: %w", key, broker.ErrNotFound)
	}
	return broker.Record{Key: key, Value: []byte(rep.text(3)), Revision: rep.number(2)}, nil
}

// Commit implements broker.Records.
func (r *Records) Commit(ctx context.Context, c broker.Commit) (broker.Revision, error) {
	if err := c.Check(); err != nil {
		return broker.Revision{}, fmt.Errorf("commit: %w", err)
	}
	writes := slices.Clone(c.Writes)
	slices.SortFunc(writes, func(a, b broker.Write) int { return strings.Compare(a.Key, b.Key) })
	args := []any{r.link.opts.History, r.link.opts.HistoryBytes, len(c.Conditions)}
	for _, q := range c.Conditions {
		args = append(args, q.Key, strconv.FormatUint(q.Revision, 10))
	}
	for _, w := range writes {
		if w.Delete {
			args = append(args, "-", w.Key, "")
		} else {
			args = append(args, "+", w.Key, string(w.Value))
		}
	}
	rep, err := r.run(ctx, commitScript, []string{r.revisions, r.values, r.index, r.log, r.sizes}, args...)
	switch {
	case err != nil:
		return broker.Revision{}, fmt.Errorf("commit: %w", err)
	case rep.text(0) == "conflict":
		return broker.Revision{}, &broker.ConflictError{Key: rep.text(1), Want: rep.number(2), Have: rep.number(3)}
	}
	return broker.Revision{Number: rep.number(1), Mark: rep.text(2)}, nil
}

// page is a part of a list at a revision.
type page struct {
	records []broker.Record
	at      broker.Revision
	more    bool
}

func (r *Records) page(ctx context.Context, want broker.Range) (p page, err error) {
	limit := pageItems
	if want.Limit > 0 {
		limit = min(limit, want.Limit)
	}
	low, high := lexRange(want.Prefix, want.After)
	rep, err := r.run(ctx, listScript, []string{r.revisions, r.values, r.index}, low, high, limit, pageBytes)
	if err != nil {
		return p, err
	}
	p.at, p.more = broker.Revision{Number: rep.number(1), Mark: rep.text(2)}, rep.number(3) == 1
	for i := 4; i+2 < len(rep); i += 3 {
		p.records = append(p.records, broker.Record{Key: rep.text(i), Revision: rep.number(i + 1), Value: []byte(rep.text(i + 2))})
	}
	return p, nil
}

// lexRange is the range for ZRANGEBYLEX of the keys that begin with prefix and come after a key.
func lexRange(prefix, after string) (low, high string) {
	low, high = "["+prefix, "+"
	if after != "" && after >= prefix {
		low = "(" + after
	}
	// The keys with a prefix end before the prefix whose last byte below 0xff is one higher.
	end := prefix
	for end != "" && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if end != "" {
		high = "(" + end[:len(end)-1] + string([]byte{end[len(end)-1] + 1})
	}
	return low, high
}

// listTries is how often a list is begun again when the log does not reach back to its beginning.
const listTries = 5

// List implements broker.Records. A long list is read in pages, each at a revision of its own; what the log says between two
// pages is done to those that came before, so that all are of the last page's.
func (r *Records) List(ctx context.Context, want broker.Range) ([]broker.Record, broker.Revision, error) {
	var err error
	for range listTries {
		var list []broker.Record
		var at broker.Revision
		if list, at, err = r.list(ctx, want); err == nil {
			return list, at, nil
		}
		if !isCompacted(err) {
			break
		}
	}
	return nil, broker.Revision{}, fmt.Errorf("list records: %w", err)
}

func (r *Records) list(ctx context.Context, want broker.Range) ([]broker.Record, broker.Revision, error) {
	p, err := r.page(ctx, want)
	if err != nil {
		return nil, broker.Revision{}, err
	}
	if !p.more || len(p.records) == want.Limit {
		return p.records, p.at, nil
	}
	have := map[string]broker.Record{}
	at := p.at
	for {
		for _, rec := range p.records {
			have[rec.Key] = rec
		}
		if !p.more || want.Limit > 0 && len(have) >= want.Limit {
			break
		}
		last := want.After
		if n := len(p.records); n > 0 {
			last = p.records[n-1].Key
		}
		rest := broker.Range{Prefix: want.Prefix, After: last}
		if p, err = r.page(ctx, rest); err != nil {
			return nil, broker.Revision{}, err
		}
		if err := r.bring(ctx, have, want, last, at, p.at); err != nil {
			return nil, broker.Revision{}, err
		}
		at = p.at
		if len(p.records) == 0 {
			p.more = false
		}
	}
	list := slices.SortedFunc(maps.Values(have), func(a, b broker.Record) int { return strings.Compare(a.Key, b.Key) })
	if want.Limit > 0 && len(list) > want.Limit {
		list = list[:want.Limit]
	}
	return list, at, nil
}

// bring does to a list of the keys up to last what happened to them after a revision and up to another.
func (r *Records) bring(ctx context.Context, have map[string]broker.Record, want broker.Range, last string, at, to broker.Revision) error {
	for at.Number < to.Number {
		events, _, err := r.readLog(ctx, at)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return fmt.Errorf("%w: the log ends at %s", broker.ErrCompacted, at)
		}
		for _, e := range events {
			if e.Revision.Number > to.Number {
				return nil
			}
			at = e.Revision
			for _, c := range history.Below(e, want.Prefix).Changes {
				switch {
				case c.Key <= want.After || c.Key > last:
				case c.Deleted:
					delete(have, c.Key)
				default:
					rec := c.Record
					rec.Value = slices.Clone(rec.Value)
					have[c.Key] = rec
				}
			}
		}
	}
	return nil
}

// readLog reads commits after a revision: some of them, and how far the store is. It fails with broker.ErrCompacted.
func (r *Records) readLog(ctx context.Context, from broker.Revision) ([]broker.Event, broker.Revision, error) {
	return r.readSome(ctx, from, 64)
}

// readSome is readLog of at most count commits; with 0, it only asks whether the revision is known.
func (r *Records) readSome(ctx context.Context, from broker.Revision, count int) ([]broker.Event, broker.Revision, error) {
	rep, err := r.run(ctx, logScript, []string{r.log}, strconv.FormatUint(from.Number, 10), from.Mark, count, pageBytes)
	switch {
	case err != nil:
		return nil, broker.Revision{}, err
	case rep.text(0) == "compacted":
		return nil, broker.Revision{}, broker.ErrCompacted
	}
	var events []broker.Event
	for i := 3; i+2 < len(rep); i += 3 {
		e, err := parseEvent(rep.text(i), rep.text(i+1), rep.text(i+2))
		if err != nil {
			return nil, broker.Revision{}, fmt.Errorf("%s: %w", r.link.target, err)
		}
		events = append(events, e)
	}
	return events, broker.Revision{Number: rep.number(1), Mark: rep.text(2)}, nil
}

// Watch implements broker.Records.
func (r *Records) Watch(ctx context.Context, prefix string, from broker.Revision) iter.Seq2[broker.Event, error] {
	return func(yield func(broker.Event, error) bool) {
		if err := r.watch(ctx, from, func(e broker.Event) bool {
			e = history.Below(e, prefix)
			return len(e.Changes) == 0 || yield(e, nil)
		}); err != nil {
			yield(broker.Event{}, cmp.Or(context.Cause(ctx), fmt.Errorf("watch %.200q from %s: %w", prefix, from, err)))
		}
	}
}
