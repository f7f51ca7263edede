//go:build unix

package main

import (
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"
)

// A neighbour is a job under steady load, which tells how much another one disturbs it: latencies are measured in quiet and loud windows that
// take turns, and only their ratio counts, as nobody knows what else the machine does.
type neighbour struct {
	server *serverProcess
	job    string
	client *http.Client
	every  time.Duration // between requests
	window time.Duration
}

func newNeighbour(s *serverProcess, job string, window time.Duration) *neighbour {
	return &neighbour{server: s, job: job, every: 4 * time.Millisecond, window: window,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}}
}

// listen is one window: it answers the latency that one request in a hundred exceeds. A request that does not succeed fails the test.
func (n *neighbour) listen(t testing.TB) time.Duration {
	// The collector of this process is no neighbour: the clients are meant to be on machines of their own.
	debug.FreeOSMemory()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var (
		mu   sync.Mutex
		took []time.Duration
		wg   sync.WaitGroup
	)
	tick := time.NewTicker(n.every)
	defer tick.Stop()
	for range int(n.window / n.every) {
		<-tick.C
		wg.Go(func() {
			began := time.Now()
			resp, err := n.client.Get("http://" + n.server.ingress + "/" + n.job + "/")
			if err != nil {
				t.Error(err)
				return
			}
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			d := time.Since(began)
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("the neighbour answered %d, %v", resp.StatusCode, err)
			}
			mu.Lock()
			took = append(took, d)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.Sort(took)
	if len(took) == 0 {
		return 0
	}
	return took[len(took)*99/100]
}

// disturbance is what was measured of a neighbour.
type disturbance struct {
	ratio       float64 // median over rounds of the loud window over the quiet ones around it
	quiet, loud time.Duration
}

// disturb measures rounds of windows: quiet, loud, quiet, … noise runs in loud windows, in as many goroutines as voices, again and again.
func (n *neighbour) disturb(t testing.TB, rounds, voices int, noise func()) disturbance {
	n.listen(t) // connections and sandboxes are there after it
	var quiets, louds []time.Duration
	var ratios []float64
	before := n.listen(t)
	for range rounds {
		stop := again(voices, noise)
		loud := n.listen(t)
		stop()
		after := n.listen(t)
		quiets, louds = append(quiets, after), append(louds, loud)
		ratios = append(ratios, float64(loud)/float64((before+after)/2))
		before = after
	}
	return disturbance{middle(ratios), middle(quiets), middle(louds)}
}

// again calls f in n goroutines, over and over, until stop is called, which waits for them.
func again(n int, f func()) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					f()
				}
			}
		})
	}
	return func() { close(done); wg.Wait() }
}

func middle[T ~int64 | ~float64](of []T) T {
	slices.Sort(of)
	return of[len(of)/2]
}
