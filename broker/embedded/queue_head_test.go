package embedded

import (
	"errors"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
)

func TestAHeadKeepsWhatANewerProgramWrote(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	q := s.Queue()
	if _, err := q.Enqueue(t.Context(), broker.Batch{Job: queued, Invocations: []broker.Invocation{{ID: "a"}}}); err != nil {
		t.Fatal(err)
	}
	rewrite := func(schema uint64, edit func(string) string) (now string) {
		t.Helper()
		key := idKey('h', "a")
		err := q.db.update(t.Context(), &change{do: func(tx *bolt.Tx) (bool, error) {
			b := tx.Bucket(queueBucket).Bucket(jobKey(queued))
			_, value, _ := unseal(key, b.Get(key))
			now = edit(string(value))
			return true, b.Put(key, seal(key, schema, []byte(now)))
		}})
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	rewrite(broker.QueueSchema, func(v string) string { return strings.Replace(v, "{", `{"region":{"name":"north"},`, 1) })
	ls, err := q.Lease(t.Context(), broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 1, TTL: time.Minute})
	if err != nil || len(ls) != 1 {
		t.Fatalf("%+v were leased, %v", ls, err)
	}
	if err := q.Complete(t.Context(), ls[0], broker.Result{Outcome: broker.OutcomeDone}); err != nil {
		t.Fatal(err)
	}
	now := rewrite(broker.QueueSchema+1, func(v string) string { return v })
	if !strings.Contains(now, `"region":{"name":"north"}`) || !strings.Contains(now, `"state":"done"`) || strings.Count(now, `"seq"`) != 1 {
		t.Errorf("the head has become %s", now)
	}
	if st, err := q.Status(t.Context(), queued, "a"); !errors.Is(err, broker.ErrNewer) {
		t.Errorf("a head of a newer schema is %+v, %v", st, err)
	}
}

// FuzzParseHead: no bytes under a right checksum make a head panic, and what is read is written so that it reads the same.
func FuzzParseHead(f *testing.F) {
	f.Add([]byte(`{"seq":1,"state":"waiting","place":"ready","run":{"max":5}}`), int64(0))
	f.Add([]byte(`{"state":"leased","run":{"max":1,"attempts":1,"until":5},"order":"o","key":"k","callback":"pending","new":[1]}`), int64(9))
	f.Add([]byte(`{"state":"dead","letter":true,"priority":-300,"ttl":-1}`), int64(1<<62))
	f.Add([]byte(`{"SEQ":1,"seq":2,"x":null}`), int64(1))
	f.Add([]byte(`[`), int64(1))
	f.Fuzz(func(t *testing.T, value []byte, now int64) {
		key := idKey('h', "id")
		h, err := parseHead("path", key, seal(key, broker.QueueSchema, value))
		if err != nil {
			if !errors.Is(err, broker.ErrCorrupt) {
				t.Errorf("parsing answers %v", err)
			}
			return
		}
		again, err := parseHead("path", key, h.bytes())
		if err != nil || string(again.bytes()) != string(h.bytes()) || len(again.unknown) != len(h.unknown) {
			t.Fatalf("%q is written as %q, which reads %+v, %v", value, h.bytes(), again, err)
		}
		h.settle(stamp(now))
		h.entries()
		h.status()
	})
}
