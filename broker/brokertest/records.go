package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/broker"
)

// Records runs the suite of broker.Records. open answers empty records, and ends them with the test.
func Records(t *testing.T, open func(*testing.T) broker.Records) {
	suite(t, open, map[string]func(*testing.T, broker.Records){
		"a record that was never written is not found":                       unknownRecord,
		"a committed record is read back with its revision":                  recordIsReadBack,
		"a commit whose condition fails changes nothing and names the key":   failedCondition,
		"a commit under the right revisions succeeds":                        conditionsHold,
		"deleting what is not there is no error and no revision":             deleteOfNothing,
		"a commit without writes checks its conditions only":                 commitWithoutWrites,
		"a commit over a bound changes nothing":                              commitOverBound,
		"a commit at a bound succeeds":                                       commitAtBound,
		"a commit that writes a key twice, or an empty one, is invalid":      invalidCommit,
		"the store keeps no hold of the caller's values":                     valuesAreCopied,
		"a list is in order and within its prefix":                           listIsOrdered,
		"a list is read in pages":                                            listInPages,
		"a list shows every commit whole":                                    listIsAtomic,
		"of many who raise one counter each succeeds once per revision":      contendedCounter,
		"a watch yields the commits after its revision, in order":            watchYieldsCommits,
		"a watch waits for the next commit":                                  watchWaits,
		"a watch tells only what is below its prefix":                        watchFilters,
		"a watch of a revision of another store is told to list again":       watchOfAnotherMark,
		"a watch of a revision that is yet to come is told to list again":    watchOfTheFuture,
		"a watch ends with its context":                                      watchEnds,
		"many watchers beside many writers miss nothing and see no disorder": watchersMissNothing,
		"a cancelled context changes nothing":                                cancelledCommit,
		"random commits do what a map would":                                 likeAMap,
	})
}

func commit(t *testing.T, r broker.Records, writes ...broker.Write) broker.Revision {
	t.Helper()
	rev, err := r.Commit(t.Context(), broker.Commit{Writes: writes})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return rev
}

func list(t *testing.T, r broker.Records, want broker.Range) ([]string, broker.Revision) {
	t.Helper()
	records, rev, err := r.List(t.Context(), want)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	texts := make([]string, 0, len(records))
	for _, rec := range records {
		texts = append(texts, rec.Key+"="+string(rec.Value))
	}
	return texts, rev
}

func wantList(t *testing.T, r broker.Records, in broker.Range, want ...string) {
	t.Helper()
	if got, _ := list(t, r, in); !slices.Equal(got, want) {
		t.Errorf("the list of %+v is %q, want %q", in, got, want)
	}
}

func unknownRecord(t *testing.T, r broker.Records) {
	if _, err := r.Get(t.Context(), "a"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("Get answers %v", err)
	}
	if got, rev := list(t, r, broker.Range{}); len(got) != 0 || rev.Number != 0 || rev.Mark == "" {
		t.Errorf("an empty store lists %q at %s", got, rev)
	}
}

func recordIsReadBack(t *testing.T, r broker.Records) {
	first := commit(t, r, put("a", "1"), put("b", "2"))
	second := commit(t, r, put("a", "3"))
	if second.Number != first.Number+1 || first.Mark != second.Mark || first.Mark == "" {
		t.Errorf("revisions are %s and %s", first, second)
	}
	for key, want := range map[string]broker.Record{
		"a": {Key: "a", Value: []byte("3"), Revision: second.Number},
		"b": {Key: "b", Value: []byte("2"), Revision: first.Number},
	} {
		got, err := r.Get(t.Context(), key)
		if err != nil || got.Key != want.Key || !bytes.Equal(got.Value, want.Value) || got.Revision != want.Revision {
			t.Errorf("Get(%q) answers %+v, %v; want %+v", key, got, err, want)
		}
	}
	commit(t, r, put("a", ""))
	if got, err := r.Get(t.Context(), "a"); err != nil || len(got.Value) != 0 {
		t.Errorf("an empty value reads %+v, %v", got, err)
	}
}

func failedCondition(t *testing.T, r broker.Records) {
	one := commit(t, r, put("a", "1"))
	for _, c := range []struct {
		condition broker.Condition
		have      uint64
	}{
		{broker.Condition{Key: "a"}, one.Number},
		{broker.Condition{Key: "a", Revision: one.Number + 1}, one.Number},
		{broker.Condition{Key: "b", Revision: one.Number}, 0},
	} {
		_, err := r.Commit(t.Context(), broker.Commit{
			Conditions: []broker.Condition{{Key: "a", Revision: one.Number}, c.condition},
			Writes:     []broker.Write{put("c", "x"), del("a")},
		})
		var conflict *broker.ConflictError
		if !errors.Is(err, broker.ErrConflict) || !errors.As(err, &conflict) {
			t.Fatalf("%+v: commit answers %v", c, err)
		}
		if conflict.Key != c.condition.Key || conflict.Want != c.condition.Revision || conflict.Have != c.have {
			t.Errorf("%+v: the conflict is %+v", c, conflict)
		}
	}
	wantList(t, r, broker.Range{}, "a=1")
	if _, rev := list(t, r, broker.Range{}); rev != one {
		t.Errorf("the store is at %s, want %s", rev, one)
	}
}

func conditionsHold(t *testing.T, r broker.Records) {
	one := commit(t, r, put("a", "1"))
	_, err := r.Commit(t.Context(), broker.Commit{
		Conditions: []broker.Condition{{Key: "a", Revision: one.Number}, {Key: "b"}},
		Writes:     []broker.Write{del("a"), put("b", "2")},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantList(t, r, broker.Range{}, "b=2")
}

func deleteOfNothing(t *testing.T, r broker.Records) {
	one := commit(t, r, put("a", "1"))
	if rev := commit(t, r, del("b")); rev != one {
		t.Errorf("deleting nothing went to %s, want %s", rev, one)
	}
	commit(t, r, del("a"), del("b"))
	if _, err := r.Get(t.Context(), "a"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a deleted record reads %v", err)
	}
	two := commit(t, r, put("a", "2"))
	if got, _ := r.Get(t.Context(), "a"); got.Revision != two.Number || two.Number <= one.Number {
		t.Errorf("written again, it is at revision %d", got.Revision)
	}
}

func commitWithoutWrites(t *testing.T, r broker.Records) {
	one := commit(t, r, put("a", "1"))
	rev, err := r.Commit(t.Context(), broker.Commit{Conditions: []broker.Condition{{Key: "a", Revision: one.Number}}})
	if err != nil || rev != one {
		t.Errorf("commit answers %s, %v; want %s", rev, err, one)
	}
	if _, err := r.Commit(t.Context(), broker.Commit{Conditions: []broker.Condition{{Key: "a"}}}); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("commit answers %v", err)
	}
}

func commitOverBound(t *testing.T, r broker.Records) {
	var many, heavy []broker.Write
	for i := range broker.MaxCommitItems + 1 {
		many = append(many, put(fmt.Sprint(i), ""))
	}
	for i := range broker.MaxCommitBytes/broker.MaxValue + 1 {
		heavy = append(heavy, broker.Write{Key: fmt.Sprint(i), Value: make([]byte, broker.MaxValue)})
	}
	for name, c := range map[string]broker.Commit{
		"key":       {Writes: []broker.Write{put(strings.Repeat("k", broker.MaxKey+1), "")}},
		"condition": {Conditions: []broker.Condition{{Key: strings.Repeat("k", broker.MaxKey+1)}}},
		"value":     {Writes: []broker.Write{put("a", ""), put("b", strings.Repeat("v", broker.MaxValue+1))}},
		"items":     {Writes: many},
		"bytes":     {Writes: heavy},
	} {
		if _, err := r.Commit(t.Context(), c); !errors.Is(err, broker.ErrTooLarge) {
			t.Errorf("%s: commit answers %v", name, err)
		}
	}
	wantList(t, r, broker.Range{})
}

func commitAtBound(t *testing.T, r broker.Records) {
	key := strings.Repeat("k", broker.MaxKey)
	commit(t, r, broker.Write{Key: key, Value: bytes.Repeat([]byte{7}, broker.MaxValue)})
	if got, err := r.Get(t.Context(), key); err != nil || len(got.Value) != broker.MaxValue || got.Value[broker.MaxValue-1] != 7 {
		t.Errorf("the largest record reads %d bytes, %v", len(got.Value), err)
	}
	var many []broker.Write
	for i := range broker.MaxCommitItems {
		many = append(many, put(fmt.Sprintf("m%05d", i), "x"))
	}
	commit(t, r, many...)
	if got, _ := list(t, r, broker.Range{Prefix: "m"}); len(got) != broker.MaxCommitItems {
		t.Errorf("%d records were written", len(got))
	}
}

func invalidCommit(t *testing.T, r broker.Records) {
	for name, c := range map[string]broker.Commit{
		"twice":           {Writes: []broker.Write{put("a", "1"), del("a")}},
		"empty key":       {Writes: []broker.Write{put("", "1")}},
		"empty condition": {Conditions: []broker.Condition{{}}, Writes: []broker.Write{put("a", "1")}},
	} {
		if _, err := r.Commit(t.Context(), c); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%s: commit answers %v", name, err)
		}
	}
	wantList(t, r, broker.Range{})
}

func valuesAreCopied(t *testing.T, r broker.Records) {
	_, from := list(t, r, broker.Range{})
	value := []byte("before")
	commit(t, r, broker.Write{Key: "a", Value: value})
	copy(value, "after!")
	got, err := r.Get(t.Context(), "a")
	if err != nil || string(got.Value) != "before" {
		t.Errorf("the record reads %q, %v", got.Value, err)
	}
	copy(got.Value, "spoilt")
	wantList(t, r, broker.Range{}, "a=before")
	if e, err := events(t, r.Watch(t.Context(), "", from))(); err != nil || string(e.Changes[0].Value) != "before" {
		t.Errorf("the watch tells %+v, %v", e, err)
	}
}

func listIsOrdered(t *testing.T, r broker.Records) {
	commit(t, r, put("b/2", "4"), put("a", "1"), put("b/1", "3"), put("b", "2"), put("b0", "5"), put("\xff", "6"), put("é", "7"))
	wantList(t, r, broker.Range{}, "a=1", "b=2", "b/1=3", "b/2=4", "b0=5", "é=7", "\xff=6")
	wantList(t, r, broker.Range{Prefix: "b/"}, "b/1=3", "b/2=4")
	wantList(t, r, broker.Range{Prefix: "b"}, "b=2", "b/1=3", "b/2=4", "b0=5")
	wantList(t, r, broker.Range{Prefix: "c"})
}

func listInPages(t *testing.T, r broker.Records) {
	var writes []broker.Write
	for i := range 25 {
		writes = append(writes, put(fmt.Sprintf("p/%02d", i), "x"))
	}
	commit(t, r, append(writes, put("o", "x"), put("q", "x"))...)
	var all []string
	after := ""
	for {
		page, _ := list(t, r, broker.Range{Prefix: "p/", After: after, Limit: 10})
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
		after, _, _ = strings.Cut(page[len(page)-1], "=")
	}
	if len(all) != 25 || !slices.IsSorted(all) {
		t.Errorf("pages gave %q", all)
	}
	wantList(t, r, broker.Range{Prefix: "p/", After: "o", Limit: 1}, "p/00=x")
	wantList(t, r, broker.Range{Prefix: "p/", After: "q"})
}

func listIsAtomic(t *testing.T, r broker.Records) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			v := fmt.Sprint(i)
			if _, err := r.Commit(t.Context(), broker.Commit{Writes: []broker.Write{put("a", v), put("z", v)}}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 200 {
		got, rev, err := r.List(t.Context(), broker.Range{})
		if err != nil {
			t.Error(err)
			break
		}
		if len(got) == 0 {
			continue
		}
		if len(got) != 2 || !bytes.Equal(got[0].Value, got[1].Value) || got[0].Revision != rev.Number {
			t.Errorf("a list shows %+v at %s", got, rev)
			break
		}
	}
	cancel()
	wg.Wait()
}

func contendedCounter(t *testing.T, r broker.Records) {
	const workers, each = 8, 10
	compete(t, workers, each, func(int) error {
		rec, err := r.Get(t.Context(), "n")
		if found(err) != nil {
			return err
		}
		_, err = r.Commit(t.Context(), broker.Commit{
			Conditions: []broker.Condition{{Key: "n", Revision: rec.Revision}},
			Writes:     []broker.Write{{Key: "n", Value: append(rec.Value, '.')}},
		})
		return err
	})
	if rec, err := r.Get(t.Context(), "n"); err != nil || len(rec.Value) != workers*each {
		t.Errorf("the counter is %d, %v; want %d", len(rec.Value), err, workers*each)
	}
}

func watchYieldsCommits(t *testing.T, r broker.Records) {
	zero := events(t, r.Watch(t.Context(), "", broker.Revision{}))
	_, from := list(t, r, broker.Range{})
	one := commit(t, r, put("b", "2"), put("a", "1"))
	two := commit(t, r, del("a"), put("c", "3"))
	for name, next := range map[string]func() (broker.Event, error){"from the list": events(t, r.Watch(t.Context(), "", from)), "from the beginning": zero} {
		e, err := next()
		if err != nil || e.Revision != one || len(e.Changes) != 2 || e.Changes[0].Key != "a" || e.Changes[1].Key != "b" || string(e.Changes[0].Value) != "1" || e.Changes[0].Revision != one.Number {
			t.Errorf("%s: the first event is %+v, %v", name, e, err)
		}
		e, err = next()
		if err != nil || e.Revision != two || len(e.Changes) != 2 || !e.Changes[0].Deleted || e.Changes[0].Key != "a" || e.Changes[0].Value != nil || e.Changes[1].Deleted {
			t.Errorf("%s: the second event is %+v, %v", name, e, err)
		}
	}
	if e, err := events(t, r.Watch(t.Context(), "", one))(); err != nil || e.Revision != two {
		t.Errorf("from the first commit, the event is %+v, %v", e, err)
	}
}

func watchWaits(t *testing.T, r broker.Records) {
	_, from := list(t, r, broker.Range{})
	got := make(chan broker.Event)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer close(got)
		for e, err := range r.Watch(ctx, "", from) {
			if err != nil {
				return
			}
			got <- e
		}
	}()
	for range 3 {
		rev := commit(t, r, put("a", "x"))
		if e := <-got; e.Revision != rev {
			t.Errorf("the event is of %s, want %s", e.Revision, rev)
		}
	}
	cancel()
	for range got {
	}
}

func watchFilters(t *testing.T, r broker.Records) {
	_, from := list(t, r, broker.Range{})
	commit(t, r, put("a", "1"))
	two := commit(t, r, put("a/x", "2"), put("b/y", "3"), put("b/z", "4"), put("c", "5"))
	e, err := events(t, r.Watch(t.Context(), "b/", from))()
	if err != nil || e.Revision != two || len(e.Changes) != 2 || e.Changes[0].Key != "b/y" || e.Changes[1].Key != "b/z" {
		t.Errorf("the event is %+v, %v", e, err)
	}
}

func watchOfAnotherMark(t *testing.T, r broker.Records) {
	rev := commit(t, r, put("a", "1"))
	if _, err := events(t, r.Watch(t.Context(), "", broker.Revision{Number: rev.Number, Mark: "another"}))(); !errors.Is(err, broker.ErrCompacted) {
		t.Errorf("the watch ends with %v", err)
	}
}

func watchOfTheFuture(t *testing.T, r broker.Records) {
	rev := commit(t, r, put("a", "1"))
	rev.Number++
	if _, err := events(t, r.Watch(t.Context(), "", rev))(); !errors.Is(err, broker.ErrCompacted) {
		t.Errorf("the watch ends with %v", err)
	}
}

func watchEnds(t *testing.T, r broker.Records) {
	_, from := list(t, r, broker.Range{})
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	next := events(t, r.Watch(ctx, "", from))
	cancel(reason)
	if _, err := next(); !errors.Is(err, reason) {
		t.Errorf("the watch ends with %v", err)
	}
}

func watchersMissNothing(t *testing.T, r broker.Records) {
	const writers, each, watchers = 4, 25, 4
	_, from := list(t, r, broker.Range{})
	var wg sync.WaitGroup
	for range watchers {
		wg.Go(func() {
			last, seen := from.Number, 0
			for e, err := range r.Watch(t.Context(), "w/", from) {
				if err != nil {
					t.Errorf("the watch ends with %v", err)
					return
				}
				if e.Revision.Number <= last {
					t.Errorf("revision %d came after %d", e.Revision.Number, last)
				}
				last = e.Revision.Number
				if seen += len(e.Changes); seen == writers*each {
					return
				}
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := r.Commit(t.Context(), broker.Commit{Writes: []broker.Write{put(fmt.Sprintf("w/%d/%d", w, i), "x")}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func cancelledCommit(t *testing.T, r broker.Records) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Commit(ctx, broker.Commit{Writes: []broker.Write{put("a", "1")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("commit answers %v", err)
	}
	wantList(t, r, broker.Range{})
}

// likeAMap does random commits on the records and on a map, and compares answers, contents and what a watcher was told.
func likeAMap(t *testing.T, r broker.Records) {
	_, from := list(t, r, broker.Range{})
	told := events(t, r.Watch(t.Context(), "", from))
	followed := map[string]string{}     // what the watcher knows
	model := map[string]broker.Record{} // what should be there
	at := from
	key := rapid.SampledFrom([]string{"a", "a/1", "a/2", "b", "b/1", "c"})
	rapid.Check(t, func(t *rapid.T) {
		var c broker.Commit
		holds := true
		for range rapid.IntRange(0, 3).Draw(t, "conditions") {
			k := key.Draw(t, "key")
			rev := model[k].Revision
			if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
				rev += uint64(rapid.IntRange(1, 3).Draw(t, "by"))
				holds = false
			}
			c.Conditions = append(c.Conditions, broker.Condition{Key: k, Revision: rev})
		}
		for _, k := range rapid.SliceOfNDistinct(key, 0, 4, rapid.ID[string]).Draw(t, "writes") {
			if rapid.Bool().Draw(t, "delete") {
				c.Writes = append(c.Writes, del(k))
			} else {
				c.Writes = append(c.Writes, put(k, rapid.StringN(0, 10, 40).Draw(t, "value")))
			}
		}
		rev, err := r.Commit(context.Background(), c)
		if holds != (err == nil) || err != nil && !errors.Is(err, broker.ErrConflict) {
			t.Fatalf("commit %+v answers %v", c, err)
		}
		if err == nil {
			changed := false
			for _, w := range c.Writes {
				_, there := model[w.Key]
				changed = changed || !w.Delete || there
			}
			if changed {
				at.Number++
			}
			if rev != at {
				t.Fatalf("the commit is %s, want %s", rev, at)
			}
			for _, w := range c.Writes {
				if w.Delete {
					delete(model, w.Key)
				} else {
					model[w.Key] = broker.Record{Key: w.Key, Value: w.Value, Revision: at.Number}
				}
			}
			if changed {
				e, err := told()
				if err != nil || e.Revision != at {
					t.Fatalf("the watcher is told %+v, %v; want %s", e, err, at)
				}
				for _, ch := range e.Changes {
					if ch.Deleted {
						delete(followed, ch.Key)
					} else {
						followed[ch.Key] = string(ch.Value)
					}
				}
			}
		}
		got, now, err := r.List(context.Background(), broker.Range{})
		if err != nil || now != at || len(got) != len(model) || len(followed) != len(model) {
			t.Fatalf("the list is %+v at %s, %v; want %+v at %s; the watcher knows %v", got, now, err, model, at, followed)
		}
		for i, k := range slices.Sorted(maps.Keys(model)) {
			want := model[k]
			if got[i].Key != k || !bytes.Equal(got[i].Value, want.Value) || got[i].Revision != want.Revision || followed[k] != string(want.Value) {
				t.Fatalf("record %q is %+v, want %+v; the watcher knows %q", k, got[i], want, followed[k])
			}
		}
	})
}
