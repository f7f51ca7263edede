package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// groupSuites runs the suites; with -short, as under the race detector, which has seen them on a single server, a little of each.
func groupSuites(t *testing.T, url string) {
	t.Helper()
	if testing.Short() {
		everyContract(t, mustOpen(t, url, Options{}))
		return
	}
	suites(t, url)
}

func TestAClusterOfThreePassesTheSuites(t *testing.T) {
	t.Parallel()
	groupSuites(t, redistest.StartCluster(t).URL())
}

func TestAServerBehindSentinelPassesTheSuites(t *testing.T) {
	t.Parallel()
	groupSuites(t, redistest.StartSentinel(t).URL())
}

// Slots of a Cluster move while they are used. Keys of one tag are for a while on two nodes: what comes then waits.
func TestSlotsMayMoveWhileTheyAreUsed(t *testing.T) {
	t.Parallel()
	group := redistest.StartCluster(t)
	s := mustOpen(t, group.URL(), Options{})
	everyContract(t, s)
	_, from, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	n := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint("k", n), Value: []byte("v")}}}); err != nil {
				t.Errorf("while its slot moves, commit answers %v", err)
				return
			}
			n++
		}
	})
	ids := map[*redistest.Server]string{}
	for _, server := range group.Servers {
		ids[server] = server.Must("CLUSTER", "MYID")
	}
	slot := slotOf(s.records.group.tag)
	owner := group.Servers[int(slot)*3/slots]
	for range 3 {
		next := group.Servers[0]
		if next == owner {
			next = group.Servers[1]
		}
		next.Must("CLUSTER", "SETSLOT", fmt.Sprint(slot), "IMPORTING", ids[owner])
		owner.Must("CLUSTER", "SETSLOT", fmt.Sprint(slot), "MIGRATING", ids[next])
		for {
			keys := owner.Must("CLUSTER", "GETKEYSINSLOT", fmt.Sprint(slot), "1")
			if keys == "" {
				break
			}
			owner.Must("MIGRATE", "127.0.0.1", fmt.Sprint(next.Port), keys, "0", "5000")
		}
		for _, server := range []*redistest.Server{next, owner, group.Servers[2]} {
			server.Must("CLUSTER", "SETSLOT", fmt.Sprint(slot), "NODE", ids[next])
		}
		owner = next
		redistest.Until(t, "all nodes have heard of the move", func() bool {
			epochs := map[string]bool{}
			for _, server := range group.Servers {
				_, rest, _ := strings.Cut(server.Must("CLUSTER", "INFO"), "cluster_current_epoch:")
				epoch, _, _ := strings.Cut(rest, "\r\n")
				epochs[epoch] = true
			}
			return len(epochs) == 1
		})
	}
	before, err := s.Records().Get(t.Context(), "k0")
	cancel()
	wg.Wait()
	if err != nil || before.Revision == 0 {
		t.Errorf("get answers %+v, %v", before, err)
	}
	list, at, err := s.Records().List(t.Context(), broker.Range{Prefix: "k"})
	if err != nil || len(list) != n || at.Number != from.Number+uint64(n) {
		t.Errorf("%d commits were acknowledged; the list has %d at %s, %v", n, len(list), at, err)
	}
	if t.Failed() || n == 0 {
		t.Fatalf("%d commits were acknowledged; a watch for the last of them might never end", n)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := 0
	for e, err := range s.Records().Watch(ctx, "", from) {
		if err != nil {
			t.Errorf("the watch ends with %v", err)
			break
		}
		if seen++; e.Revision == at {
			break
		}
	}
	if seen != n {
		t.Errorf("the watch told %d of %d commits", seen, n)
	}
}

func TestANodeOfAClusterThatWasRestartedEmptyIsNoticed(t *testing.T) {
	t.Parallel()
	group := redistest.StartCluster(t)
	s := mustOpen(t, group.URL(), Options{})
	bucket := func(i int) string { return fmt.Sprint("bucket", i) }
	for i := range 20 {
		if _, err := s.Buckets().Put(t.Context(), bucket(i), "k", []byte("v"), broker.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	empty := group.Servers[1]
	empty.Restart()
	redistest.Until(t, "the cluster is up again", func() bool {
		for _, server := range group.Servers {
			if info, err := server.Do("CLUSTER", "INFO"); err != nil || !strings.Contains(info, "cluster_state:ok") {
				return false
			}
		}
		return true
	})
	noticed, kept := 0, 0
	for i := range 20 {
		_, err := s.Buckets().Get(t.Context(), bucket(i), "k")
		switch {
		case err == nil:
			kept++
		case errors.Is(err, broker.ErrIncarnation):
			noticed++
		default:
			t.Errorf("get answers %v", err)
		}
	}
	if noticed == 0 || kept == 0 {
		t.Errorf("%d buckets are kept, of %d it is noticed that they are gone", kept, noticed)
	}
}
