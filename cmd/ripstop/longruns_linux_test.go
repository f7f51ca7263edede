package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
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
	normal := priority(t, worker) // of its first thread, which runs no guest
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
			if p := priority(t, worker); p != normal {
				t.Fatalf("the worker's first thread, which cannot end, has the priority %d, not %d", p, normal)
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

// verbose is a task that computes for long, and then answers with more than a connection takes.
func verbose() []byte {
	const buffer, capacity, answer, size = 4 << 10, 4 << 10, 16 << 10, 12 << 20
	head := w.TaskResponse(200, "content-type", "text/plain", "")
	head = append(head[:len(head)-4], 0, 0, size>>16, 0) // the body is what follows
	// Some 20 ms, which is twice as long as it takes to count as long.
	work := w.Cat(w.I32Const(20_000_000), w.LocalSet(1),
		w.Loop(w.LocalGet(1), w.I32Const(1), []byte{0x6b}, []byte{0x22, 1}, []byte{0x0d, 0})) // local.tee, br_if
	return (&w.Module{
		Memory: []uint32{(answer+size)>>16 + 2},
		Data:   []w.Data{{Offset: answer, Bytes: head}},
		Funcs: []w.Func{
			{Export: "ripstop_buffer", Type: w.Type{Results: []byte{w.I64}}, Body: w.I64Const(buffer<<32 | capacity)},
			{Export: "ripstop_handle", Type: w.Type{Params: []byte{w.I32}, Results: []byte{w.I64}}, Locals: []byte{w.I32},
				Body: w.Cat(work, w.I64Const(answer<<32|int64(len(head)+size)))},
		},
	}).Bytes()
}

// TestLongRunsWhoseAnswersNobodyReadsHoldNoMoreThreads has more guests compute for long, one after another, than threads may be lowered for, and answer
// clients that do not read. A thread that cannot be raised again is held up to the end of its request.
func TestLongRunsWhoseAnswersNobodyReadsHoldNoMoreThreads(t *testing.T) {
	const guests = mostLowered + 40
	s := startServer(t)
	s.deploy("verbose", verbose(), "limits: {time: 1m, concurrency: 300, memory: 16MiB, response: 16MiB}\n")
	worker := s.workerPID()
	normal := priority(t, worker)
	for range guests {
		c, err := net.Dial("tcp", s.ingress)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		if _, err := io.WriteString(c, "GET /verbose/ HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 12)
		if _, err := io.ReadFull(c, head); err != nil || string(head) != "HTTP/1.1 200" {
			t.Fatalf("the answer begins with %q, %v", head, err)
		}
	}
	if n := lowered(t, worker, normal); n > mostLowered {
		t.Errorf("%d threads are lowered, want at most %d", n, mostLowered)
	}
}
