package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

var testJob = broker.Job{Entitlement: broker.DefaultEntitlement, Name: "job"}

func put(t *testing.T, s *Store, key, value string) broker.Revision {
	t.Helper()
	rev, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: key, Value: []byte(value)}}})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return rev
}

// writes are one of each kind of calls that need room.
func writes(ctx context.Context, s *Store) map[string]error {
	_, commit := s.Records().Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "new", Value: []byte("v")}}})
	_, blob := s.Blobs().Put(ctx, strings.NewReader("new"))
	_, item := s.Buckets().Put(ctx, "bucket", "new", []byte("v"), broker.PutOptions{})
	_, lease := s.Leases().Acquire(ctx, "new", "holder", time.Minute)
	_, enqueue := s.Queue().Enqueue(ctx, broker.Batch{Job: testJob, Invocations: []broker.Invocation{{ID: "new"}}})
	return map[string]error{"commit": commit, "blob": blob, "item": item, "lease": lease, "enqueue": enqueue}
}

// unchanged answers a check that a server holds what it holds now.
func unchanged(t *testing.T, server *redistest.Server) func() {
	digest := server.Must("DEBUG", "DIGEST")
	return func() {
		t.Helper()
		if got := server.Must("DEBUG", "DIGEST"); got != digest {
			t.Error("something was changed")
		}
	}
}

func TestAServerWithoutRoomRefusesWritesAndStillReadsAndDeletes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	put(t, s, "k", "v")
	if _, err := s.Buckets().Put(t.Context(), "bucket", "k", []byte("v"), broker.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	dead := broker.Invocation{ID: "dead", Payload: []byte("p"), MaxAttempts: 1}
	if _, err := s.Queue().Enqueue(t.Context(), broker.Batch{Job: testJob, Invocations: []broker.Invocation{dead}}); err != nil {
		t.Fatal(err)
	}
	check := unchanged(t, server)
	server.Must("CONFIG", "SET", "maxmemory", "1")
	for what, err := range writes(t.Context(), s) {
		if !errors.Is(err, broker.ErrFull) || !strings.Contains(err.Error(), "maxmemory") {
			t.Errorf("%s answers %v", what, err)
		}
	}
	check()
	if rec, err := s.Records().Get(t.Context(), "k"); err != nil || string(rec.Value) != "v" {
		t.Errorf("get answers %+v, %v", rec, err)
	}
	if rec, err := mustOpen(t, server.URL(), Options{}).Records().Get(t.Context(), "k"); err != nil || string(rec.Value) != "v" {
		t.Errorf("over a new connection, get answers %+v, %v", rec, err)
	}
	if st, err := s.Queue().Status(t.Context(), testJob, "dead"); err != nil || st.State != broker.StateWaiting {
		t.Errorf("status answers %+v, %v", st, err)
	}
	if err := s.Buckets().Delete(t.Context(), "bucket", "k", nil); err != nil {
		t.Errorf("what makes room is refused: %v", err)
	}
	if err := s.Queue().Purge(t.Context(), testJob); err != nil {
		t.Errorf("what makes room is refused: %v", err)
	}
	server.Must("CONFIG", "SET", "maxmemory", "0")
	for what, err := range writes(t.Context(), s) {
		if err != nil {
			t.Errorf("with room again, %s answers %v", what, err)
		}
	}
}

func TestAServerThatBecomesAReplicaRefusesWrites(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	put(t, s, "k", "v")
	check := unchanged(t, server)
	server.Must("REPLICAOF", "127.0.0.1", "1")
	for what, err := range writes(t.Context(), s) {
		if !errors.Is(err, broker.ErrReadOnly) || !strings.Contains(err.Error(), "replica") {
			t.Errorf("%s answers %v", what, err)
		}
	}
	check()
	server.Must("REPLICAOF", "NO", "ONE")
	for what, err := range writes(t.Context(), s) {
		if err != nil {
			t.Errorf("as a master again, %s answers %v", what, err)
		}
	}
}

func TestRightsThatAreTakenAwayAreMissedInOneLine(t *testing.T) {
	t.Parallel()
	server := redistest.StartTCP(t)
	user(server, "ripstop")
	s := mustOpen(t, fmt.Sprintf("redis://ripstop:secret@%s", server.Addr()), Options{})
	put(t, s, "k", "v")
	server.Must("ACL", "SETUSER", "ripstop", "-hset", "-set")
	for what, err := range writes(t.Context(), s) {
		if !errors.Is(err, broker.ErrAccess) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s answers %v", what, err)
		}
	}
}

func TestAServerThatWasRestartedEmptyIsNoticed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	first := s.Incarnation()
	rev := put(t, s, "k", "v")
	server.Restart()
	for what, err := range writes(t.Context(), s) {
		if !errors.Is(err, broker.ErrIncarnation) || !strings.Contains(err.Error(), "ripstop adopt") {
			t.Errorf("%s answers %v", what, err)
		}
	}
	if _, _, err := s.Records().List(t.Context(), broker.Range{}); !errors.Is(err, broker.ErrIncarnation) {
		t.Errorf("an empty server is taken for an empty store: %v", err)
	}
	for _, err := range s.Records().Watch(t.Context(), "", rev) {
		if !errors.Is(err, broker.ErrIncarnation) {
			t.Errorf("a watch ends with %v", err)
		}
	}
	if n := server.Must("DBSIZE"); n != "0" {
		t.Errorf("%s keys were written", n)
	}
	refuses(t, server.URL(), Options{Incarnation: first}, broker.ErrIncarnation, "restarted without its data")
	if n := server.Must("DBSIZE"); n != "0" {
		t.Errorf("%s keys were written", n)
	}
	second, err := s.Adopt(t.Context())
	if err != nil || second == first || s.Incarnation() != second {
		t.Fatalf("adopt answers %q, %v; the first was %q", second, err, first)
	}
	for what, err := range writes(t.Context(), s) {
		if err != nil {
			t.Errorf("once adopted, %s answers %v", what, err)
		}
	}
	for _, err := range s.Records().Watch(t.Context(), "", rev) {
		if !errors.Is(err, broker.ErrCompacted) {
			t.Errorf("a watch of the lost store's revision yields %v", err)
		}
		break
	}
}

func TestAFlushedServerIsNoticedWhileItIsConnected(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	put(t, s, "k", "v")
	server.Must("FLUSHALL")
	for what, err := range writes(t.Context(), s) {
		if !errors.Is(err, broker.ErrIncarnation) {
			t.Errorf("%s answers %v", what, err)
		}
	}
	other := mustOpen(t, server.URL(), Options{}) // as another process that knows nothing of the first store
	if _, err := s.Records().Get(t.Context(), "k"); !errors.Is(err, broker.ErrIncarnation) || !strings.Contains(err.Error(), other.Incarnation()) {
		t.Errorf("get answers %v", err)
	}
}

func TestAStoreThatLostItsLastCommitsIsNoticed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	for i := range 5 {
		put(t, s, fmt.Sprint("k", i), "v")
	}
	server.Must("SAVE")
	var last broker.Revision
	for i := range 5 {
		last = put(t, s, fmt.Sprint("lost", i), "v")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := make(chan error, 1)
	go func() {
		for _, err := range s.Records().Watch(ctx, "", last) {
			watch <- err
		}
	}()
	server.Restart()
	if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "k"}}}); !errors.Is(err, broker.ErrRewound) || !strings.Contains(err.Error(), "it is at 5") {
		t.Errorf("commit answers %v", err)
	}
	if _, err := s.Records().Get(t.Context(), "k0"); !errors.Is(err, broker.ErrRewound) {
		t.Errorf("get answers %v", err)
	}
	if _, _, err := s.Records().List(t.Context(), broker.Range{}); !errors.Is(err, broker.ErrRewound) {
		t.Errorf("list answers %v", err)
	}
	if err := <-watch; !errors.Is(err, broker.ErrRewound) {
		t.Errorf("the watch yields %v", err)
	}
	if inc, err := s.Adopt(t.Context()); err != nil || inc != s.Incarnation() {
		t.Fatalf("adopt answers %q, %v", inc, err)
	}
	list, at, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil || len(list) != 5 || at.Number != 5 || at.Mark == last.Mark {
		t.Errorf("the list has %d records at %s, %v", len(list), at, err)
	}
	// The numbers that were lost are given again, and are not mistaken for those that were lost.
	for i := range 6 {
		put(t, s, fmt.Sprint("new", i), "v")
	}
	for _, c := range []struct {
		from broker.Revision
		want error
	}{{last, broker.ErrCompacted}, {broker.Revision{Number: 6, Mark: last.Mark}, broker.ErrCompacted}, {broker.Revision{Number: 5, Mark: last.Mark}, nil}, {at, nil}} {
		for e, err := range s.Records().Watch(t.Context(), "", c.from) {
			if !errors.Is(err, c.want) || c.want == nil && (e.Revision.Number != 6 || e.Changes[0].Key != "new0") {
				t.Errorf("a watch from %s yields %+v, %v; want %v", c.from, e, err, c.want)
			}
			break
		}
	}
}

func TestAWatchGoesOnAcrossARestartThatLosesNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "appendonly yes", "appendfsync always")
	s := mustOpen(t, server.URL(), Options{})
	_, from, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(got)
		for e, err := range s.Records().Watch(ctx, "", from) {
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("the watch ends with %v", err)
				}
				return
			}
			got <- e.Changes[0].Key
		}
	})
	for i := range 4 {
		key := fmt.Sprint("k", i)
		put(t, s, key, "v")
		if k := <-got; k != key {
			t.Errorf("the watch tells %q, want %q", k, key)
		}
		server.Restart()
	}
	cancel()
	for range got {
	}
	wg.Wait()
}

func TestASlowServerIsWaitedForUntilTheTimeout(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	hasty := mustOpen(t, server.URL(), Options{Timeout: 200 * time.Millisecond})
	put(t, s, "k", "v")
	slept := make(chan error, 1)
	go func() {
		_, err := server.Do("DEBUG", "SLEEP", "1.5")
		slept <- err
	}()
	for { // until it sleeps
		begin := clock.System.Now()
		_, err := hasty.Records().Get(t.Context(), "k")
		if err == nil {
			continue
		}
		if d := clock.System.Now().Sub(begin); !errors.Is(err, broker.ErrUnavailable) || d > time.Second {
			t.Errorf("get answers %v after %s", err, d)
		}
		break
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Records().Get(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("get answers %v", err)
	}
	put(t, s, "k", "after")
	if err := <-slept; err != nil {
		t.Fatal(err)
	}
	if rec, err := hasty.Records().Get(t.Context(), "k"); err != nil || string(rec.Value) != "after" {
		t.Errorf("get answers %+v, %v", rec, err)
	}
}

func TestABlobThatIsNotItsDigestsFailsAtReadingAndHealsWhenItIsPutAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	content := bytes.Repeat([]byte("0123456789abcdef"), (5<<19)/16)
	blob, err := s.Blobs().Put(t.Context(), bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	read := func() error {
		r, err := s.Blobs().Open(t.Context(), blob.Digest)
		if err != nil {
			return err
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err == nil && !bytes.Equal(got, content) {
			t.Error("the blob reads differently")
		}
		return err
	}
	chunk := s.blobs.link.keys.blob(blob.Digest).chunk
	for what, damage := range map[string][]string{
		"a byte of a chunk":  {"SETRANGE", chunk(1), "77", "x"},
		"a chunk":            {"DEL", chunk(2)},
		"a chunk's end":      {"SET", chunk(0), "short"},
		"bytes over the end": {"APPEND", chunk(2), "more"},
	} {
		server.Must(damage...)
		if err := read(); !errors.Is(err, broker.ErrCorrupt) || !strings.Contains(err.Error(), "put the blob again") {
			t.Errorf("without %s, reading answers %v", what, err)
		}
		if _, err := s.Blobs().Put(t.Context(), bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if err := read(); err != nil {
			t.Errorf("put again after it lost %s: %v", what, err)
		}
	}
	if _, err := mustOpen(t, server.URL(), Options{MaxBlob: 1000}).Blobs().Put(t.Context(), bytes.NewReader(content[:1001])); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("a blob over the limit: %v", err)
	}
}

func TestAWatcherThatFellBehindListsAgain(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, redistest.Start(t).URL(), Options{History: 4})
	first := put(t, s, "k", "0")
	for i := range 3 {
		put(t, s, "k", fmt.Sprint(i))
	}
	for e, err := range s.Records().Watch(t.Context(), "", first) {
		if err != nil || e.Revision.Number != 2 {
			t.Errorf("within the log, the watch yields %+v, %v", e, err)
		}
		break
	}
	n, want := 0, error(nil)
	for _, err := range s.Records().Watch(t.Context(), "", first) {
		if want = err; err != nil {
			break
		}
		if n++; n == 1 { // while it handles the first, many more come
			for i := range 20 {
				put(t, s, "k", fmt.Sprint(i))
			}
		}
	}
	if !errors.Is(want, broker.ErrCompacted) {
		t.Errorf("the watch ends with %v", want)
	}
	for _, err := range s.Records().Watch(t.Context(), "", first) {
		if !errors.Is(err, broker.ErrCompacted) {
			t.Errorf("a watch from before the log yields %v", err)
		}
		break
	}
	big := mustOpen(t, redistest.Start(t).URL(), Options{HistoryBytes: 2500})
	_, from, _ := big.Records().List(t.Context(), broker.Range{})
	for range 5 {
		put(t, big, "k", strings.Repeat("x", 1000))
	}
	for _, err := range big.Records().Watch(t.Context(), "", from) {
		if !errors.Is(err, broker.ErrCompacted) {
			t.Errorf("a watch from before the bytes that are kept yields %v", err)
		}
		break
	}
}

func TestALongListIsOfOneMoment(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, redistest.Start(t).URL(), Options{})
	const n = 3*pageItems + 7
	for i := 0; i < n; i += 500 {
		var c broker.Commit
		for j := i; j < min(i+500, n); j++ {
			c.Writes = append(c.Writes, broker.Write{Key: fmt.Sprintf("k%05d", j), Value: []byte("v")})
		}
		if _, err := s.Records().Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	// Each commit moves a record from one end to the other and changes those at both ends alike.
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			v := []byte(fmt.Sprint(i))
			from, to := "a-moving", "z-moving"
			if i%2 == 0 {
				from, to = to, from
			}
			if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{
				{Key: "k00000", Value: v}, {Key: fmt.Sprintf("k%05d", n-1), Value: v}, {Key: from, Delete: true}, {Key: to, Value: v},
			}}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	lists := 0
	for lists < 20 && !t.Failed() {
		list, at, err := s.Records().List(t.Context(), broker.Range{})
		if err != nil {
			t.Error(err)
			break
		}
		if len(list) == n { // before the first commit
			continue
		}
		lists++
		moved, first, last := list[0], list[0], list[len(list)-1]
		if moved.Key == "a-moving" {
			first = list[1]
		} else {
			moved, last = last, list[len(list)-2]
		}
		if len(list) != n+1 || string(first.Value) != string(last.Value) || string(moved.Value) != string(first.Value) || first.Revision != at.Number {
			t.Errorf("at %s, a list of %d has %s=%s, %s=%s, %s=%s", at, len(list), first.Key, first.Value, last.Key, last.Value, moved.Key, moved.Value)
		}
		some, _, err := s.Records().List(t.Context(), broker.Range{Prefix: "k", After: "k00100", Limit: pageItems + 50})
		if err != nil || len(some) != pageItems+50 || some[0].Key != "k00101" || some[len(some)-1].Key != fmt.Sprintf("k%05d", 100+pageItems+50) {
			t.Errorf("a limited list has %d records, %v", len(some), err)
		}
	}
	cancel()
	wg.Wait()
}

func TestWhoWaitsForAQueueIsWokenByAnotherProcess(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	a, b := mustOpen(t, server.URL(), Options{}), mustOpen(t, server.URL(), Options{})
	for i := range 3 {
		rung := a.Queue().bell.listen()
		redistest.Until(t, "the subscription stands", func() bool {
			return server.Must("PUBSUB", "NUMSUB", "ripstop:bell") == "ripstop:bell\n1"
		})
		if _, err := b.Queue().Enqueue(t.Context(), broker.Batch{Job: testJob, Invocations: []broker.Invocation{{ID: broker.InvocationID(fmt.Sprint(i))}}}); err != nil {
			t.Fatal(err)
		}
		<-rung
	}
}

// A disk that cannot be written to: Redis itself refuses writes once a snapshot has failed.
func TestAServerThatCannotWriteToItsDiskRefusesWritesAndStillReads(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "save 3600 1", "enable-protected-configs yes")
	s := mustOpen(t, server.URL(), Options{})
	put(t, s, "k", "v")
	gone := filepath.Join(server.Dir, "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	server.Must("CONFIG", "SET", "dir", gone)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	server.Must("BGSAVE")
	redistest.Until(t, "the snapshot has failed", func() bool {
		return strings.Contains(server.Must("INFO", "persistence"), "rdb_last_bgsave_status:err")
	})
	check := unchanged(t, server)
	for what, err := range writes(t.Context(), s) {
		if !errors.Is(err, broker.ErrReadOnly) || !strings.Contains(err.Error(), "its disk") {
			t.Errorf("%s answers %v", what, err)
		}
	}
	check()
	if rec, err := s.Records().Get(t.Context(), "k"); err != nil || string(rec.Value) != "v" {
		t.Errorf("get answers %+v, %v", rec, err)
	}
	server.Must("CONFIG", "SET", "dir", server.Dir)
	server.Must("BGSAVE")
	redistest.Until(t, "a snapshot has succeeded", func() bool {
		return strings.Contains(server.Must("INFO", "persistence"), "rdb_last_bgsave_status:ok")
	})
	for what, err := range writes(t.Context(), s) {
		if err != nil {
			t.Errorf("with its disk again, %s answers %v", what, err)
		}
	}
}

func TestAFullDiskIsToldFromOthers(t *testing.T) {
	t.Parallel()
	full := "MISCONF Errors writing to the AOF file: No space left on device"
	url := redistest.Fake(t, func(command []string) string {
		switch strings.ToUpper(command[0]) {
		case "INFO":
			return redistest.Bulk("redis_version:7.0.0\r\nrole:master\r\n")
		case "HELLO", "CLIENT", "CONFIG":
			return "-ERR unknown command\r\n"
		case "EVAL": // which rights are missing
			return "*0\r\n"
		case "GET":
			return "$-1\r\n"
		}
		return "-" + full + "\r\n"
	})
	refuses(t, url, Options{}, broker.ErrFull, "free some space")
}
