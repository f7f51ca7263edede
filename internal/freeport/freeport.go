// Package freeport finds ports for servers that tests start as processes of their own.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports come from below those that kernels give to whoever asks for any (32,768 and up on Linux), since clients' connections are given such ports all the
// time, and a port that was free a moment ago is one of theirs when the server wants it.
const first, last = 20_000, 32_000

var (
	mu    sync.Mutex
	taken = map[int]bool{}
)

// Take answers a port of 127.0.0.1 that nobody uses, another one each time.
func Take(t testing.TB) int {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		port := first + rand.IntN(last-first)
		if taken[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		taken[port] = true
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Fatalf("there is no free port from %d to %d", first, last)
	return 0
}
