package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// wantOneLine checks an error that is shown to whoever starts the program.
func wantOneLine(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("the error is %v, want %v", err, want)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has several lines: %v", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error %q has no %q", err, text)
		}
	}
}

func fill(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	for i := range 50 {
		var c broker.Commit
		for j := range 20 {
			c.Writes = append(c.Writes, broker.Write{Key: fmt.Sprintf("key/%02d/%02d", i, j), Value: bytes.Repeat([]byte{byte(i)}, 10*j)})
		}
		if _, err := s.Records().Commit(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if _, err := s.Buckets().Put(ctx, fmt.Sprint("bucket", i%3), fmt.Sprint(i), make([]byte, 300*i), broker.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAReopenedStoreHasWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	fill(t, s)
	before, at, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := s.Blobs().Put(t.Context(), strings.NewReader("blob"))
	if err != nil {
		t.Fatal(err)
	}
	fillQueue(t, s, 0)
	counts, err := s.Queue().Counts(t.Context(), queued)
	if err != nil {
		t.Fatal(err)
	}
	incarnation := s.Incarnation()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s = mustOpen(t, dir, Options{})
	after, now, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil || now != at || len(after) != len(before) || s.Incarnation() != incarnation || len(incarnation) < 16 {
		t.Errorf("%d records at %s of %s, want %d at %s of %s; %v", len(after), now, s.Incarnation(), len(before), at, incarnation, err)
	}
	if _, err := s.Blobs().Stat(t.Context(), blob.Digest); err != nil {
		t.Error(err)
	}
	if u, err := s.Buckets().Usage(t.Context(), "bucket1"); err != nil || u.Items != 7 {
		t.Errorf("the bucket has %+v, %v", u, err)
	}
	if now, err := s.Queue().Counts(t.Context(), queued); err != nil || now[0] != counts[0] || now[0].Length() != 10 {
		t.Errorf("the queue has %+v, want %+v; %v", now, counts, err)
	}
	if list, err := s.Queue().Letters(t.Context(), queued, "", 0); err != nil || len(list) != 1 || list[0].Reason != "x" {
		t.Errorf("the dead letters are %+v, %v", list, err)
	}
	if rev, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "a"}}}); err != nil || rev.Number != at.Number+1 {
		t.Errorf("the next commit is %s, %v", rev, err)
	}
	if other := mustOpen(t, t.TempDir(), Options{}).Incarnation(); other == incarnation {
		t.Error("two stores are the same incarnation")
	}
}

func TestASecondOpenIsRefusedWhileTheFirstLasts(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	_, err := Open(dir, Options{LockTimeout: time.Millisecond})
	wantOneLine(t, err, broker.ErrInUse, filepath.Join(dir, "lock"), "stop that one")
	if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "a"}}}); err != nil {
		t.Errorf("the first one was disturbed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, Options{})
}

func TestAClosedStoreSaysSo(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	_, from, _ := s.Records().List(t.Context(), broker.Range{})
	ended := make(chan error)
	go func() {
		for _, err := range s.Records().Watch(t.Context(), "", from) {
			ended <- err
		}
	}()
	waited := make(chan error)
	want := broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 1, TTL: time.Minute}
	go func() { waited <- s.Queue().Wait(t.Context(), want) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, broker.ErrClosed) {
		t.Errorf("waiting for the queue ended with %v", err)
	}
	if _, err := s.Queue().Enqueue(t.Context(), broker.Batch{Job: queued, Invocations: []broker.Invocation{{ID: "a"}}}); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("enqueue answers %v", err)
	}
	if _, err := s.Queue().Lease(t.Context(), want); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("lease answers %v", err)
	}
	if _, err := s.Leases().Acquire(t.Context(), "a", "b", time.Minute); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("acquire answers %v", err)
	}
	if err := <-ended; !errors.Is(err, broker.ErrClosed) {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := s.Records().Get(t.Context(), "a"); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("get answers %v", err)
	}
	if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "a"}}}); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("commit answers %v", err)
	}
	if _, err := s.Buckets().Put(t.Context(), "b", "k", nil, broker.PutOptions{}); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("put answers %v", err)
	}
}

func TestAWatcherThatFellBehindIsToldToListAgain(t *testing.T) {
	for name, opts := range map[string]Options{"by commits": {History: 3}, "by bytes": {HistoryBytes: 3000}} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, t.TempDir(), opts)
			_, from, _ := s.Records().List(t.Context(), broker.Range{})
			for i := range 5 {
				if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint(i), Value: make([]byte, 900)}}}); err != nil {
					t.Fatal(err)
				}
			}
			for e, err := range s.Records().Watch(t.Context(), "", from) {
				if !errors.Is(err, broker.ErrCompacted) {
					t.Errorf("the watch yields %+v, %v", e, err)
				}
				break
			}
			from.Number = 3
			for e, err := range s.Records().Watch(t.Context(), "", from) {
				if err != nil || e.Revision.Number != 4 {
					t.Errorf("within the history the watch yields %+v, %v", e, err)
				}
				break
			}
		})
	}
}

func TestAWatcherOfARevisionBeforeAReopeningIsToldToListAgain(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	_, from, _ := s.Records().List(t.Context(), broker.Range{})
	fill(t, s)
	_, last, _ := s.Records().List(t.Context(), broker.Range{})
	_ = s.Close()
	s = mustOpen(t, dir, Options{})
	for _, err := range s.Records().Watch(t.Context(), "", from) {
		if !errors.Is(err, broker.ErrCompacted) {
			t.Errorf("the watch yields %v", err)
		}
	}
	rev, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "new"}}})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range s.Records().Watch(t.Context(), "", last) {
		if err != nil || e.Revision != rev {
			t.Errorf("the watch yields %+v, %v", e, err)
		}
		break
	}
}

func TestAStoreOfANewerProgramIsRefused(t *testing.T) {
	for _, name := range files {
		dir := t.TempDir()
		_ = mustOpen(t, dir, Options{}).Close()
		path := filepath.Join(dir, name)
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put([]byte("format"), []byte("2")) }); err != nil {
			t.Fatal(err)
		}
		_ = db.Close()
		before := read(t, path)
		_, err = Open(dir, Options{})
		wantOneLine(t, err, broker.ErrNewer, path, "newer program")
		if !bytes.Equal(before, read(t, path)) {
			t.Errorf("%s was changed", name)
		}
	}
}

func TestFilesOfDifferentStoresAreRefused(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	_ = mustOpen(t, one, Options{}).Close()
	_ = mustOpen(t, two, Options{}).Close()
	if err := os.Rename(filepath.Join(two, "buckets.db"), filepath.Join(one, "buckets.db")); err != nil {
		t.Fatal(err)
	}
	_, err := Open(one, Options{})
	wantOneLine(t, err, broker.ErrCorrupt, filepath.Join(one, "buckets.db"), "another store")
	if err := os.Remove(filepath.Join(one, "records.db")); err != nil {
		t.Fatal(err)
	}
	_, err = Open(one, Options{})
	wantOneLine(t, err, broker.ErrCorrupt, filepath.Join(one, "records.db"), "gone")
	if err := os.Rename(filepath.Join(one, "buckets.db"), filepath.Join(one, "records.db")); err != nil {
		t.Fatal(err)
	}
	_, err = Open(one, Options{})
	wantOneLine(t, err, broker.ErrCorrupt, filepath.Join(one, "records.db"))
}

func TestAMissingQueueIsNotTakenForAnEmptyOne(t *testing.T) {
	for _, name := range []string{"buckets.db", "queue.db"} {
		dir := t.TempDir()
		_ = mustOpen(t, dir, Options{}).Close()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, Options{})
		wantOneLine(t, err, broker.ErrCorrupt, filepath.Join(dir, name), "gone")
		if !missing(filepath.Join(dir, name)) {
			t.Errorf("%s was made anew", name)
		}
	}
}

func TestAStoreOfBeforeTheQueueGetsOne(t *testing.T) {
	dir := t.TempDir()
	_ = mustOpen(t, dir, Options{}).Close()
	db, err := bolt.Open(filepath.Join(dir, "records.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Delete([]byte("has queue")) }); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	if err := os.Remove(filepath.Join(dir, "queue.db")); err != nil {
		t.Fatal(err)
	}
	fillQueue(t, mustOpen(t, dir, Options{}), 0)
}

func TestEpochsGoOnAfterARestart(t *testing.T) {
	dir, last := t.TempDir(), uint64(0)
	for range 3 {
		s := mustOpen(t, dir, Options{})
		for _, name := range []string{"a", "b"} {
			h, err := s.Leases().Acquire(t.Context(), name, "me", time.Minute)
			if err != nil || h.Epoch <= last {
				t.Errorf("after epoch %d, acquire answers %+v, %v", last, h, err)
			}
			last = h.Epoch
		}
		_ = s.Close()
	}
}

func TestLapsedNamesAreForgotten(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	s := mustOpen(t, t.TempDir(), Options{Clock: c})
	for i := range 20_000 {
		if _, err := s.Leases().Acquire(t.Context(), fmt.Sprint(i), "me", time.Second); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			c.Advance(time.Second)
		}
	}
	if n := len(s.leases.held); n > 2000 {
		t.Errorf("%d names are kept, of which 100 are held", n)
	}
}

// A step does a bounded part of what time has done, and the next ones the rest.
func TestManyDelaysThatEndAtOnceAreAllSeen(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	s := mustOpen(t, t.TempDir(), Options{Clock: c})
	const n = 2*maxSettled + 500
	for i := 0; i < n; i += 500 {
		b := broker.Batch{Job: queued}
		for k := range 500 {
			b.Invocations = append(b.Invocations, broker.Invocation{ID: broker.InvocationID(fmt.Sprint(i + k)), Delay: time.Minute, ResultTTL: time.Minute, MaxAttempts: 1})
		}
		if _, err := s.Queue().Enqueue(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	c.Advance(time.Minute)
	seen := 0
	want := broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 1000, TTL: time.Minute}
	for {
		ls, err := s.Queue().Lease(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		if seen += len(ls); len(ls) == 0 {
			break
		}
	}
	counts, err := s.Queue().Counts(t.Context(), queued)
	if err != nil || seen != n || counts[0].Leased != n {
		t.Errorf("%d of %d were leased: %+v, %v", seen, n, counts, err)
	}
	c.Advance(time.Minute) // all leases run out at their last attempt
	if ls, err := s.Queue().Lease(t.Context(), want); err != nil || len(ls) > 0 {
		t.Errorf("%d were leased, %v", len(ls), err)
	}
	if counts, err = s.Queue().Counts(t.Context(), queued); err != nil || counts[0].Dead != n {
		t.Errorf("the counts are %+v, %v", counts, err)
	}
}

// Nobody enqueues any more, and a worker waits.
func TestWhatHasExpiredIsDeletedFromTheDisk(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	s := mustOpen(t, t.TempDir(), Options{Clock: c})
	b := broker.Batch{Job: queued}
	for i := range 20 {
		b.Invocations = append(b.Invocations, broker.Invocation{ID: broker.InvocationID(fmt.Sprint(i)), Payload: []byte("x"), Key: fmt.Sprint(i), ResultTTL: time.Minute})
	}
	if _, err := s.Queue().Enqueue(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want := broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 100, TTL: time.Minute}
	ls, err := s.Queue().Lease(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range ls {
		if err := s.Queue().Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte("y")}); err != nil {
			t.Fatal(err)
		}
	}
	waited := make(chan error)
	go func() { waited <- s.Queue().Wait(t.Context(), want) }()
	c.Advance(time.Minute + sweepAfter)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if ls, err := s.Queue().Lease(t.Context(), want); err != nil || len(ls) > 0 {
		t.Errorf("%d were leased, %v", len(ls), err)
	}
	err = s.queue.db.view(func(tx *bolt.Tx) error {
		return tx.Bucket(queueBucket).Bucket(jobKey(queued)).ForEach(func(k, _ []byte) error {
			if string(k) != "n" {
				t.Errorf("%q is left", k)
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAFirstStartThatWasCutOffBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "records.db.new"), []byte("half of a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, Options{})
	if !missing(filepath.Join(dir, "records.db.new")) {
		t.Error("the half is still there")
	}
}

func TestALeftoverUploadIsDeletedAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	_ = mustOpen(t, dir, Options{}).Close()
	left := filepath.Join(dir, "blobs", "tmp", "put-123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, Options{})
	if !missing(left) {
		t.Error("it is still there")
	}
}

func TestADamagedBlobIsNotReadToItsEnd(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	blob, err := s.Blobs().Put(t.Context(), strings.NewReader("the right bytes"))
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{"the wrong bytes", "the right", "the right bytes and more", ""} {
		if err := os.WriteFile(s.Blobs().path(blob.Digest), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := s.Blobs().Open(t.Context(), blob.Digest)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(r)
		wantOneLine(t, err, broker.ErrCorrupt, s.Blobs().path(blob.Digest), "put the blob again")
		_ = r.Close()
	}
	if _, err := s.Blobs().Put(t.Context(), strings.NewReader("the right bytes")); err != nil {
		t.Fatal(err)
	}
	r, err := s.Blobs().Open(t.Context(), blob.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "the right bytes" {
		t.Errorf("put again, it reads %q, %v", b, err)
	}
}

func TestFoldersAndFilesAreTheOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := mustOpen(t, dir, Options{})
	if _, err := s.Blobs().Put(t.Context(), strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestChangesThatWaitShareACommit(t *testing.T) {
	commits := 0
	entered, leave := make(chan struct{}), make(chan struct{})
	s := mustOpen(t, t.TempDir(), Options{beforeCommits: func() {
		if commits++; commits == 1 {
			close(entered)
			<-leave
		}
	}})
	const n = 20
	errs := make(chan error, n+1)
	do := func(i int) {
		_, err := s.Records().Commit(context.Background(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint(i)}}})
		errs <- err
	}
	go do(0)
	<-entered
	for i := range n {
		go do(i + 1)
	}
	for waiting := 0; waiting < n; {
		s.records.db.mu.Lock()
		waiting = len(s.records.db.queue)
		s.records.db.mu.Unlock()
	}
	close(leave)
	for range n + 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if commits != 2 {
		t.Errorf("%d changes took %d commits", n+1, commits)
	}
	if list, at, err := s.Records().List(t.Context(), broker.Range{}); err != nil || len(list) != n+1 || at.Number != n+1 {
		t.Errorf("%d records at %s, %v", len(list), at, err)
	}
}

func TestOptionsBelowZeroAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Open(dir, Options{History: -1}); !errors.Is(err, broker.ErrInvalid) {
		t.Errorf("open answers %v", err)
	}
	if !missing(dir) {
		t.Error("a folder was made")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
