package main

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// mostLowered is how many threads of a worker may have a lower priority at once (package processor).
const mostLowered = 256

// priority is that of a thread, as the system call answers it: the higher, the less nice.
func priority(t *testing.T, id int) int {
	t.Helper()
	p, err := unix.Getpriority(unix.PRIO_PROCESS, id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// lowered is how many threads of a process have a lower priority than normal.
func lowered(t *testing.T, pid, normal int) (n int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		if p, err := unix.Getpriority(unix.PRIO_PROCESS, id); err == nil && p < normal {
			n++
		}
	}
	return n
}

// TestMoreLongRunsThanThreadsMayBeLowered has more guests compute for long at once than threads may be lowered for. A neighbour answers all the while,
// all end at their deadline, and the same again: nothing of the bound is lost.
func TestMoreLongRunsThanThreadsMayBeLowered(t *testing.T) {
	const guests = 300
	s := startServer(t)
	s.deploy("endless", looping(), "limits: {time: 8s, concurrency: 310, memory: 1MiB}\n")
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "limits: {time: 1m}\n")
	worker := s.workerPID()
	normal := priority(t, worker) // of its first thread, which may be lowered as any other later
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: guests}}
	defer client.CloseIdleConnections()
	for round := range 2 {
		var all sync.WaitGroup
		var over atomic.Bool // the first has ended: others may take its place while threads are counted
		for range guests {
			all.Go(func() {
				defer over.Store(true)
				resp, err := client.Get("http://" + s.ingress + "/endless/")
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 504 || !strings.Contains(string(body), `"code":"deadline"`) {
					t.Errorf("an endless guest ended with %d %s, %v", resp.StatusCode, body, err)
				}
			})
		}
		most, answered := 0, 0
		for !over.Load() {
			s.answers("hello", "hello")
			answered++
			if n := lowered(t, worker, normal); !over.Load() {
				most = max(most, n)
			}
		}
		all.Wait()
		if most != mostLowered {
			t.Errorf("in round %d, up to %d threads were lowered, want %d", round, most, mostLowered)
		}
		s.until("no thread to be lowered", func() bool { return lowered(t, worker, normal) == 0 })
		t.Logf("round %d: %d threads were lowered, and the neighbour answered %d times", round, most, answered)
	}
	if now := s.workerPID(); now != worker {
		t.Errorf("the worker was %d and is %d", worker, now)
	}
	if !strings.Contains(s.log.String(), "a guest that computes delays requests") {
		t.Error("it is not said that guests go on as they were")
	}
}
