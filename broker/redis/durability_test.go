package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// acknowledged writes records and enqueues invocations from several goroutines until stop answers true, and answers what was acknowledged.
func acknowledged(t *testing.T, s *Store, stop func(n int) bool) (records []string, ids []broker.InvocationID) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("w%d-%d", w, i)
				_, cerr := s.Records().Commit(context.Background(), broker.Commit{Writes: []broker.Write{{Key: key, Value: []byte("v")}}})
				if cerr != nil {
					return
				}
				_, qerr := s.Queue().Enqueue(context.Background(), broker.Batch{Job: testJob, Limit: broker.MaxQueueLength, Invocations: []broker.Invocation{{ID: broker.InvocationID(key)}}})
				mu.Lock()
				records = append(records, key)
				if qerr == nil {
					ids = append(ids, broker.InvocationID(key))
				}
				n := len(ids)
				mu.Unlock()
				if stop(n) || qerr != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return records, ids
}

// lost answers how many of what was acknowledged a store does not have.
func lost(t *testing.T, s *Store, records []string, ids []broker.InvocationID) (lostRecords, lostIDs int) {
	t.Helper()
	for _, key := range records {
		if _, err := s.Records().Get(t.Context(), key); errors.Is(err, broker.ErrNotFound) {
			lostRecords++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		if _, err := s.Queue().Status(t.Context(), testJob, id); errors.Is(err, broker.ErrNotFound) {
			lostIDs++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return lostRecords, lostIDs
}

// holes fails the test if something is lost that was acknowledged before something that is not. Keys are of one goroutine and in order.
func holes(t *testing.T, what string, keys []string, there func(key string) error) (gone int) {
	t.Helper()
	for _, key := range keys {
		err := there(key)
		switch {
		case errors.Is(err, broker.ErrNotFound):
			gone++
		case err != nil:
			t.Fatal(err)
		case gone > 0:
			t.Errorf("%s %s is there, and something of before is lost", what, key)
		}
	}
	return gone
}

func TestWhatIsAcknowledgedSurvivesKillingTheServerUnderLoad(t *testing.T) {
	t.Parallel()
	for _, level := range []struct {
		fsync string
		want  Level
	}{{"always", LevelAlways}, {"everysec", LevelSecond}, {"no", LevelSystem}} {
		t.Run(level.fsync, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, "appendonly yes", "appendfsync "+level.fsync)
			s := mustOpen(t, server.URL(), Options{})
			if d := s.Durability()[0]; d.Level != level.want || !strings.Contains(d.String(), "appendfsync "+level.fsync) {
				t.Errorf("the durability is %+v: %s", d, d)
			}
			for round := range 3 {
				var once sync.Once
				var killed sync.WaitGroup
				records, ids := acknowledged(t, s, func(n int) bool {
					if n > 100 {
						once.Do(func() { killed.Go(server.Kill) })
					}
					return false
				})
				killed.Wait()
				server.Restart()
				if level.want == LevelSecond { // the end may be lost, in the order in which it was acknowledged
					if _, err := s.Adopt(t.Context()); err != nil {
						t.Fatalf("%v; the server's log:\n%s", err, server.Log())
					}
					gone := 0
					for w := range 4 {
						of := func(key string) bool { return !strings.HasPrefix(key, fmt.Sprintf("w%d-", w)) }
						gone += holes(t, "record", slices.DeleteFunc(slices.Clone(records), of), func(key string) error {
							_, err := s.Records().Get(t.Context(), key)
							return err
						})
					}
					t.Logf("in round %d, %d of %d commits are lost, of the last two seconds, as stated", round, gone, len(records))
				} else if r, i := lost(t, s, records, ids); r+i > 0 || len(ids) < 100 {
					t.Errorf("in round %d, of %d commits and %d invocations that were acknowledged %d and %d are lost", round, len(records), len(ids), r, i)
				}
				list, _, err := s.Records().List(t.Context(), broker.Range{})
				if err != nil {
					t.Fatal(err)
				}
				var c broker.Commit
				for _, rec := range list {
					c.Writes = append(c.Writes, broker.Write{Key: rec.Key, Delete: true})
				}
				if _, err := s.Records().Commit(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				if err := s.Queue().Purge(t.Context(), testJob); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A loss of power takes the end of the file that was not synced yet. Cutting it off is the same to Redis.
func TestALossOfPowerTakesTheEndOnly(t *testing.T) {
	t.Parallel()
	for _, fsync := range []string{"everysec", "no"} {
		t.Run(fsync, func(t *testing.T) {
			server := redistest.Start(t, "appendonly yes", "appendfsync "+fsync)
			s := mustOpen(t, server.URL(), Options{})
			early, earlyIDs := acknowledged(t, s, func(n int) bool { return n >= 100 })
			files, err := filepath.Glob(filepath.Join(server.Dir, "appendonlydir", "*.incr.aof"))
			if err != nil || len(files) != 1 {
				t.Fatalf("append-only files: %q, %v", files, err)
			}
			redistest.Until(t, "all of it is written", func() bool {
				info := server.Must("INFO", "persistence")
				return strings.Contains(info, "aof_buffer_length:0") && strings.Contains(info, "aof_pending_bio_fsync:0")
			})
			synced, err := os.Stat(files[0])
			if err != nil {
				t.Fatal(err)
			}
			var late []string
			for i := range 50 {
				late = append(late, fmt.Sprint("late", i))
				put(t, s, late[i], "v")
			}
			server.Kill()
			if err := os.Truncate(files[0], synced.Size()+100); err != nil { // in the middle of a commit, which must go whole
				t.Fatal(err)
			}
			server.Restart()
			if _, err := s.Records().Get(t.Context(), early[0]); !errors.Is(err, broker.ErrRewound) {
				t.Errorf("a part that saw the lost commits is told %v", err)
			}
			s = mustOpen(t, server.URL(), Options{Incarnation: s.Incarnation()})
			if r, i := lost(t, s, early, earlyIDs); r+i > 0 {
				t.Errorf("%d commits and %d invocations of before are lost", r, i)
			}
			if r, _ := lost(t, s, late, nil); r != len(late) {
				t.Errorf("of %d late commits %d are lost", len(late), r)
			} else {
				t.Logf("%d commits of the unsynced end are lost, as stated", r)
			}
		})
	}
}

func TestWithoutAFileWhatCameAfterTheSnapshotIsLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	if d := s.Durability()[0]; d.Level != LevelNone || !strings.Contains(d.String(), "appendonly no") {
		t.Errorf("the durability is %+v: %s", d, d)
	}
	early, earlyIDs := acknowledged(t, s, func(n int) bool { return n >= 50 })
	server.Must("SAVE")
	for i := range 50 {
		put(t, s, fmt.Sprint("late", i), "v")
	}
	server.Restart()
	s = mustOpen(t, server.URL(), Options{Incarnation: s.Incarnation()})
	if r, i := lost(t, s, early, earlyIDs); r+i > 0 {
		t.Errorf("%d commits and %d invocations of the snapshot are lost", r, i)
	}
	list, _, err := s.Records().List(t.Context(), broker.Range{Prefix: "late"})
	if err != nil || len(list) > 0 {
		t.Errorf("%d late commits are there, %v", len(list), err)
	}
}

func TestAnAcknowledgementWaitsForReplicas(t *testing.T) {
	t.Parallel()
	group := redistest.StartReplicas(t, 1, "min-replicas-to-write 1", "min-replicas-max-lag 10")
	master, replica := group.Servers[0], group.Servers[1]
	s := mustOpen(t, group.URL(), Options{Replicas: 1})
	if d := s.Durability()[0]; d.Replicas != 1 || d.MinReplicas != 1 || !strings.Contains(d.String(), "most failovers lose nothing") {
		t.Errorf("the durability is %+v: %s", d, d)
	}
	put(t, s, "k", "v")
	if n := replica.Must("HLEN", "{ripstop:records}:revisions"); n != "1" {
		t.Errorf("once acknowledged, the replica has %s records", n)
	}
	// A replica that hangs: what was done is not acknowledged.
	hasty := mustOpen(t, group.URL(), Options{Replicas: 1, ReplicaWait: 100 * time.Millisecond})
	replica.Freeze()
	_, err := hasty.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "unsure"}}})
	replica.Thaw()
	if !errors.Is(err, ErrReplicas) || !strings.Contains(err.Error(), "0 of 1") {
		t.Errorf("with a replica that hangs, commit answers %v", err)
	}
	put(t, s, "k", "v2")
	// One that is gone: nothing is done.
	check := unchanged(t, master)
	replica.Kill()
	redistest.Until(t, "the master misses its replica", func() bool {
		return strings.Contains(master.Must("INFO", "replication"), "connected_slaves:0")
	})
	for what, err := range writes(t.Context(), hasty) {
		if !errors.Is(err, broker.ErrReadOnly) || !strings.Contains(err.Error(), "min-replicas-to-write") {
			t.Errorf("without replicas, %s answers %v", what, err)
		}
	}
	check()
}

func TestAFailoverLosesNothingThatReplicasHad(t *testing.T) {
	t.Parallel()
	group := redistest.StartSentinel(t)
	s := mustOpen(t, group.URL(), Options{Replicas: 1, ReplicaWait: 100 * time.Millisecond})
	_, from, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	var killed sync.WaitGroup
	records, ids := acknowledged(t, s, func(n int) bool {
		if n > 100 {
			once.Do(func() { killed.Go(group.Servers[0].Kill) })
		}
		return false
	})
	killed.Wait()
	// What comes now has no replica to wait for. It goes on as soon as there is a master.
	var rev broker.Revision
	for {
		rev, err = s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "after", Value: []byte("v")}}})
		if err == nil || errors.Is(err, ErrReplicas) {
			break
		}
		if !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, broker.ErrReadOnly) {
			t.Fatalf("while it fails over, commit answers %v", err)
		}
	}
	if r, i := lost(t, s, records, ids); r+i > 0 {
		t.Errorf("of %d commits and %d invocations that a replica had %d and %d are lost", len(records), len(ids), r, i)
	}
	if _, err := s.Records().Get(t.Context(), "after"); err != nil {
		t.Errorf("after the failover (%s), get answers %v", rev, err)
	}
	// The log went along: who watched goes on.
	n := 0
	for e, err := range s.Records().Watch(t.Context(), "", from) {
		if err != nil {
			t.Errorf("a watch across the failover ends with %v", err)
			break
		}
		if n++; e.Changes[0].Key == "after" {
			break
		}
	}
	if n < len(records)+1 {
		t.Errorf("the watch told %d of %d commits", n, len(records)+1)
	}
}
