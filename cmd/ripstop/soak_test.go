//go:build soak && linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// usage is what a worker holds.
type usage struct {
	descriptors, mappings int
	goroutines, heap      float64
}

func (s *serverProcess) usage(pid int) usage {
	s.t.Helper()
	var u usage
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	u.descriptors = len(fds)
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	u.mappings = bytes.Count(maps, []byte("\n"))
	_, b := s.call("GET", "/metrics", nil, "")
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		name, value, _ := strings.Cut(sc.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "ripstop_worker_go_goroutines":
			u.goroutines = v
		case "ripstop_worker_go_memstats_heap_inuse_bytes":
			u.heap = v
		}
	}
	return u
}

// settled is the least of what a worker holds over some seconds of quiet: the collector runs when it likes.
func (s *serverProcess) settled(pid int) usage {
	time.Sleep(5 * time.Second) // what the server shows of the worker is up to two seconds old
	least := s.usage(pid)
	for range 20 {
		time.Sleep(time.Second)
		u := s.usage(pid)
		least = usage{min(least.descriptors, u.descriptors), min(least.mappings, u.mappings), min(least.goroutines, u.goroutines), min(least.heap, u.heap)}
		// A little traffic keeps the collector going.
		for range 200 {
			s.get("/hello/")
		}
	}
	return least
}

func TestSoakTwoHundredThousandInvocationsLeaveNothingBehind(t *testing.T) {
	total := int64(200_000)
	if v, err := strconv.ParseInt(os.Getenv("RIPSTOP_SOAK_INVOCATIONS"), 10, 64); err == nil && v > 0 {
		total = v
	}
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	s.deploy("probe", buildProbe(t), "") // a task, whose sandboxes return to their image
	s.deploy("trap", command([]byte{0}), "")
	s.deploy("slow", looping(), "limits: {time: 20ms, concurrency: 2}\n")
	s.deploy("left", looping(), "limits: {time: 5s, concurrency: 2}\n")
	run := func(n int64) {
		var next, wrong atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
				defer client.CloseIdleConnections()
				for {
					i := next.Add(1)
					if i > n {
						return
					}
					path, want, wait := "/hello/", 200, 30*time.Second
					switch {
					case i%50 == 0:
						path, want, wait = "/left/", 0, 10*time.Millisecond
					case i%20 == 0:
						path, want = "/slow/", 504
					case i%5 == 0:
						path, want = "/trap/", 502
					case i%4 == 1:
						path = "/probe/count"
					}
					ctx, cancel := context.WithTimeout(t.Context(), wait)
					r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+s.ingress+path, nil)
					resp, err := client.Do(r)
					if err == nil {
						body, _ := io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						if path == "/probe/count" && strings.TrimSpace(string(body)) != "1" && wrong.Add(1) < 10 {
							t.Errorf("%s: %q: a sandbox kept what the last request left", path, body)
						}
						if want != 0 && resp.StatusCode != want {
							if wrong.Add(1) < 10 {
								t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
							}
						}
					} else if want != 0 && wrong.Add(1) < 10 {
						t.Errorf("%s: %v", path, err)
					}
					cancel()
				}
			})
		}
		wg.Wait()
	}
	run(total / 20) // pools, connections and the collector find their size
	pid := s.workerPID()
	before := s.settled(pid)
	run(total)
	if again := s.workerPID(); again != pid {
		t.Fatalf("the worker died: %d became %d", pid, again)
	}
	after := s.settled(pid)
	t.Logf("before %+v, after %+v", before, after)
	if after.descriptors > before.descriptors+8 || after.mappings > before.mappings+32 || after.goroutines > before.goroutines+16 || after.heap > 1.5*before.heap+16<<20 {
		t.Errorf("the worker grew: before %+v, after %+v", before, after)
	}
}

func TestSoakTwoHundredKillsAmidChangesLoseNothingAcknowledged(t *testing.T) { killAndLook(t, 200) }

func TestSoakAHundredKillsOfRedisAmidChangesLoseNothingAcknowledged(t *testing.T) { killRedis(t, 100) }
