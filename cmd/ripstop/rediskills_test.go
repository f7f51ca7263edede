//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// counter is a client of a guest that counts in a bucket. Each of its requests adds one.
type counter struct {
	acknowledged, sent int
}

// run counts until stop is closed. What is not answered well may have been counted, or not.
func (c *counter) run(s *serverProcess, stop <-chan struct{}) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		select {
		case <-stop:
			return
		default:
		}
		c.sent++
		resp, err := client.Get("http://" + s.ingress + "/probe/tally")
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			c.acknowledged++
		}
	}
}

// changeWhile makes changes of one job until stop is closed. A change that failed while Redis was away may have been made: the server is
// asked what it has, once it can say.
func (c *changer) changeWhile(s *serverProcess, stop <-chan struct{}) error {
	client := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		next := c.state.next(c.rng, c.job, c.n)
		c.n++
		status, answer, err := s.send(client, c.job, next)
		switch {
		case err == nil && status/100 == 2:
			c.state = c.state.after(next)
			c.acknowledged++
			continue
		case err == nil && status != http.StatusServiceUnavailable && status != http.StatusInternalServerError:
			return fmt.Errorf("%s %+v of %+v: %d %s", c.job, next, c.state, status, answer)
		}
		if err := c.settle(s, c.state, c.state.after(next)); err != nil {
			return fmt.Errorf("after %s %+v: %d %s, %v: %w", c.job, next, status, answer, err, err)
		}
	}
}

// settle waits until the server says what it has of the job, which is one of expect.
func (c *changer) settle(s *serverProcess, expect ...jobState) (err error) {
	for end := clock.System.Now().Add(30 * time.Second); clock.System.Now().Before(end); {
		var got jobState
		if got, err = s.found(c.job, expect); err == nil {
			if i := slices.IndexFunc(expect, got.equal); i >= 0 {
				c.state = expect[i]
				return nil
			}
			return fmt.Errorf("it is %+v, want one of %+v", got, expect)
		}
		<-clock.System.NewTimer(20 * time.Millisecond).C()
	}
	return err
}

// killRedis kills Redis, again and again, under a server whose jobs are changed and whose guests count.
func killRedis(t *testing.T, kills int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL())
	s.deploy("probe", buildProbe(t), "limits: {time: 20s}\ncapabilities: {kv: [things]}\n")
	var clients []*changer
	for i, job := range []string{"ant", "bee"} {
		clients = append(clients, &changer{job: job, rng: rand.New(rand.NewPCG(seed, uint64(i+1)))})
	}
	began := clock.System.Now()
	counts := &counter{}
	for n := range kills {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				if err := c.changeWhile(s, stop); err != nil {
					t.Errorf("kill %d: %v", n, err)
				}
			})
		}
		wg.Go(func() { counts.run(s, stop) })
		<-clock.System.NewTimer(time.Duration(rng.IntN(600_000)) * time.Microsecond).C()
		r.Kill()
		<-clock.System.NewTimer(time.Duration(rng.IntN(200)) * time.Millisecond).C()
		r.Restart()
		close(stop)
		wg.Wait()
		for _, c := range clients {
			if err := c.settle(s, c.state); err != nil {
				t.Errorf("kill %d: job %s: %v", n, c.job, err)
			}
		}
		if t.Failed() {
			return
		}
	}
	have := 0
	s.until("the guest to count again", func() bool {
		resp, err := http.Get("http://" + s.ingress + "/probe/tally")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == 200 && json.NewDecoder(resp.Body).Decode(&have) == nil
	})
	counts.acknowledged, counts.sent = counts.acknowledged+1, counts.sent+1
	if have < counts.acknowledged || have > counts.sent {
		t.Errorf("the guest counted to %d; %d were acknowledged and about %d sent", have, counts.acknowledged, counts.sent)
	}
	changes := 0
	for _, c := range clients {
		changes += c.acknowledged
	}
	t.Logf("%d kills of Redis in %s: %d changes acknowledged, all there; counted to %d, of which %d acknowledged", kills, clock.System.Now().Sub(began).Round(time.Second), changes, have, counts.acknowledged)
	if changes < kills || counts.acknowledged < kills {
		t.Errorf("only %d changes and %d counts were acknowledged", changes, counts.acknowledged)
	}
}

func TestARedisKilledAmidChangesKeepsWhatWasAcknowledged(t *testing.T) { killRedis(t, 6) }

func TestAWorkerThatStartsWhileTheStorageIsAwayServesOnceItIsBack(t *testing.T) {
	r := startRedis(t)
	s := startServer(t, "--broker", r.URL())
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	pid := s.workerPID()
	r.Kill()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.until("a worker that cannot read the module", func() bool { return strings.Contains(s.log.String(), "start task") })
	if status, _, body := s.get("/hello/"); status != http.StatusServiceUnavailable {
		t.Errorf("without its module it answers %d %q", status, body)
	}
	r.Restart()
	s.until("the job to be served again", func() bool {
		status, _, body := s.get("/hello/")
		return status == http.StatusOK && body == "hello"
	})
}
