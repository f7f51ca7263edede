//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// These tests kill a server under a load of enqueues, and look whether every invocation that was acknowledged has one result in
// the end. Guests note each attempt in a bucket, so that what ran twice is seen.

// acknowledged is an invocation that the server said it has.
type acknowledged struct {
	id, body string
	finished time.Time // as it was first seen done; zero before
}

// producer enqueues until the server is gone.
type producer struct {
	name string
	rng  *rand.Rand
	n    int
	lost string // the key and body of a request that was not answered; empty: none
	got  []acknowledged
	acks map[string]bool
}

func (p *producer) run(s *serverProcess, began func()) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		key := p.lost
		// What was not answered may be there or not: with its key, asking again makes no second one.
		if key == "" || p.rng.IntN(2) == 0 {
			key = fmt.Sprintf("%s-%d", p.name, p.n)
			p.n++
		}
		query := at(fmt.Sprintf("/attempt?ms=%d", p.rng.IntN(60)))
		switch p.rng.IntN(6) {
		case 0:
			query += "&delay=100ms"
		case 1:
			query += "&priority=5"
		case 2:
			query += "&order=" + p.name
		}
		r, err := http.NewRequest("POST", "http://"+s.api+"/v1/jobs/probe/invocations?"+query, strings.NewReader(key))
		if err != nil {
			s.t.Error(err)
			return
		}
		r.Header.Set("Authorization", "Bearer "+s.token)
		r.Header.Set("Idempotency-Key", key)
		p.lost = key
		began()
		resp, err := client.Do(r)
		if err != nil {
			return
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return
		}
		var e model.Enqueued
		if err := json.Unmarshal(b, &e); resp.StatusCode != http.StatusAccepted || err != nil {
			s.t.Errorf("enqueue: %d %s", resp.StatusCode, b)
			return
		}
		p.lost = ""
		if !p.acks[e.Id] {
			p.acks[e.Id] = true
			p.got = append(p.got, acknowledged{id: e.Id, body: key})
		}
	}
}

// look checks an invocation that has ended: its result is its own, and is the one that it had before. false: it has not ended.
func (a *acknowledged) look(s *serverProcess) bool {
	v := s.invocation("probe", a.id)
	if v.State != model.InvocationStateDone {
		if v.State == model.InvocationStateDead || !a.finished.IsZero() {
			s.t.Errorf("%s is %+v", a.id, v)
		}
		return false
	}
	if !a.finished.IsZero() && !a.finished.Equal(*v.Finished) {
		s.t.Errorf("%s was done at %s, and again at %s", a.id, a.finished, v.Finished)
	}
	a.finished = *v.Finished
	if resp, body := s.result("probe", a.id); resp.StatusCode != http.StatusOK || body != a.body+" <nil>\n" {
		s.t.Errorf("the result of %s (%s) is %d %q", a.id, a.body, resp.StatusCode, body)
	}
	return true
}

// killUnderLoad kills a server, started with args, so often.
func killUnderLoad(t *testing.T, kills int, args ...string) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := startServer(t, args...)
	s.deploy("probe", buildProbe(t), "limits: {time: 20s}\nqueue: {attempts: 100, backoff: {first: 10ms, max: 100ms}}\ncapabilities: {kv: [things]}\n")
	var producers []*producer
	for i := range 4 {
		producers = append(producers, &producer{name: fmt.Sprintf("p%d", i), rng: rand.New(rand.NewPCG(seed, uint64(i+1))), acks: map[string]bool{}})
	}
	began := clock.System.Now()
	for range kills {
		var wg sync.WaitGroup
		first := make(chan struct{})
		open := sync.OnceFunc(func() { close(first) })
		for _, p := range producers {
			wg.Go(func() { p.run(s, open) })
		}
		<-first
		<-clock.System.NewTimer(time.Duration(rng.IntN(1_000_000)) * time.Microsecond).C()
		s.killed(rng.IntN(2) == 0)
		wg.Wait()
		s.start()
		for _, p := range producers {
			for range min(4, len(p.got)) { // some of what is done must stay so
				p.got[rng.IntN(len(p.got))].look(s)
			}
		}
		if t.Failed() {
			return
		}
	}
	count, twice := 0, 0
	for _, p := range producers {
		for i := range p.got {
			a := &p.got[i]
			s.until(a.id+" to be done", func() bool { return a.look(s) || t.Failed() })
			if t.Failed() {
				return
			}
		}
	}
	runs := s.counted("probe")
	for _, p := range producers {
		for _, a := range p.got {
			count++
			switch n := runs[a.id]; {
			case n == 0:
				t.Errorf("%s has a result, and never ran", a.id)
			case n > 1:
				twice++
			}
		}
	}
	t.Logf("%d kills in %s: %d invocations acknowledged, each has one result; %d of them ran more than once", kills, clock.System.Now().Sub(began).Round(time.Second), count, twice)
	if count < kills {
		t.Errorf("only %d were acknowledged", count)
	}
}

func TestAServerKilledUnderLoadLosesNoAcknowledgedInvocation(t *testing.T) {
	if testing.Short() {
		killUnderLoad(t, 3)
		return
	}
	killUnderLoad(t, 10)
}
