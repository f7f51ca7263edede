//go:build unix

package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

const killFolder = "RIPSTOP_TEST_KILL_FOLDER"

// workUntilKilled enqueues and works on a queue, and prints what was acknowledged.
func workUntilKilled(dir string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	ctx, q, run := context.Background(), s.Queue(), clock.System.Now().UnixNano()
	var mu sync.Mutex
	say := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(words...)
	}
	errs := make(chan error)
	for p := range 3 {
		go func() {
			for i := 0; ; i++ {
				b := broker.Batch{Job: queued}
				for k := range 2 {
					b.Invocations = append(b.Invocations, broker.Invocation{ID: broker.InvocationID(fmt.Sprintf("%d-%d-%d-%d", run, p, i, k)), Payload: make([]byte, 100), MaxAttempts: broker.MaxAttempts})
				}
				if _, err := q.Enqueue(ctx, b); err != nil {
					errs <- err
					return
				}
				for _, v := range b.Invocations {
					say("enqueued", v.ID)
				}
			}
		}()
		go func() {
			for {
				ls, err := q.Lease(ctx, broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 2, TTL: broker.MinLeaseTTL})
				for _, l := range ls {
					payload := fmt.Sprintf("%s-by-%d-%d", l.ID, run, p)
					if err := q.Complete(ctx, l, broker.Result{Outcome: broker.OutcomeDone, Payload: []byte(payload)}); err == nil {
						say("completed", l.ID, payload)
					} else if !errors.Is(err, broker.ErrLeaseLost) {
						errs <- err
						return
					}
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// killRounds kills a process at work, again and again, and checks that what it acknowledged is there.
func killRounds(t *testing.T, rounds int) {
	dir := filepath.Join(t.TempDir(), "data")
	enqueued, completed := map[broker.InvocationID]bool{}, map[broker.InvocationID]string{}
	for range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killFolder+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, after := bufio.NewScanner(out), 1+rand.IntN(200)
		for n := 0; lines.Scan(); n++ {
			if n == after {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			words := strings.Fields(lines.Text())
			switch {
			case len(words) == 2 && words[0] == "enqueued":
				enqueued[broker.InvocationID(words[1])] = true
			case len(words) == 3 && words[0] == "completed":
				id := broker.InvocationID(words[1])
				if completed[id] != "" {
					t.Errorf("%s was completed twice, with %s and %s", id, completed[id], words[2])
				}
				completed[id] = words[2]
			case n < after:
				t.Fatalf("the process says %q", lines.Text())
			}
		}
		_ = cmd.Wait()
	}
	if len(enqueued) == 0 || len(completed) == 0 {
		t.Fatalf("%d were enqueued and %d completed", len(enqueued), len(completed))
	}
	t.Logf("%d kills: %d invocations were acknowledged, and %d results", rounds, len(enqueued), len(completed))
	s := mustOpen(t, dir, Options{})
	for id := range enqueued {
		st, err := s.Queue().Status(t.Context(), queued, id)
		if err != nil || st.State == broker.StateDead {
			t.Errorf("%s is %+v, %v", id, st, err)
		}
	}
	for id, payload := range completed {
		if r, err := s.Queue().Result(t.Context(), queued, id); err != nil || string(r.Payload) != payload {
			t.Errorf("the result of %s is %q, %v; want %s", id, r.Payload, err, payload)
		}
	}
	// All the others end, too.
	deadline := clock.System.Now().Add(time.Minute)
	for {
		ls, err := s.Queue().Lease(t.Context(), broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: broker.MaxBatch, TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, l := range ls {
			if completed[l.ID] != "" {
				t.Errorf("%s was leased after it had ended", l.ID)
			}
			wg.Go(func() {
				if err := s.Queue().Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		counts, err := s.Queue().Counts(t.Context(), queued)
		if err != nil || clock.System.Now().After(deadline) {
			t.Fatalf("the counts are %+v, %v", counts, err)
		}
		if counts[0] == (broker.Counts{}) {
			break
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*broker.MinLeaseTTL)
		_ = s.Queue().Wait(ctx, broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 1, TTL: time.Minute})
		cancel()
	}
	for id := range enqueued {
		if _, err := s.Queue().Result(t.Context(), queued, id); err != nil {
			t.Errorf("%s has no result: %v", id, err)
		}
	}
}

func TestAKilledProcessLosesNothingItAcknowledged(t *testing.T) { killRounds(t, 8) }
