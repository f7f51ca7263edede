//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

// These tests kill a server, and the Redis it keeps its queue in, under a load of enqueues, and look whether every invocation that was
// acknowledged has one result in the end. Guests note each attempt in a bucket, so that what ran twice is seen.

// request is what is enqueued, and how it has to end.
type request struct {
	key, query string
	state      model.InvocationState
	calls      bool // has a callback
}

// acknowledged is an invocation that the server said it has.
type acknowledged struct {
	request
	id       string
	finished time.Time // as it was first seen to have ended; zero before
}

// producer enqueues until it is told to stop.
type producer struct {
	name string
	rng  *rand.Rand
	hook string // that callbacks go to
	n    int
	lost *request // that was not answered
	got  []acknowledged
	acks map[string]bool
}

// next makes up a request. One in eight fails twice and is a dead letter then.
func (p *producer) next() *request {
	r := &request{key: fmt.Sprintf("%s-%d", p.name, p.n), state: model.InvocationStateDone}
	p.n++
	path, query := fmt.Sprintf("/attempt?ms=%d", p.rng.IntN(40)), ""
	if p.rng.IntN(8) == 0 {
		r.state, path, query = model.InvocationStateDead, path+"&fail=1", "&attempts=2"
	}
	if p.rng.IntN(4) == 0 {
		r.calls, query = true, query+"&callback="+url.QueryEscape(p.hook)
	}
	switch p.rng.IntN(6) {
	case 0:
		query += "&delay=100ms"
	case 1:
		query += "&priority=5"
	case 2:
		query += fmt.Sprintf("&order=%s-%d", p.name, p.n/32) // each kill holds up an order until the lease of the first in it ends
	}
	r.query = at(path) + query
	return r
}

// run enqueues until stop is closed. began is called when the first request is about to be sent. away says that the storage may be, so that
// the server may say so.
func (p *producer) run(s *serverProcess, away bool, began func(), stop <-chan struct{}) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		select {
		case <-stop:
			return
		default:
		}
		// What was not answered may be there or not: with its key, asking again makes no second one.
		if p.lost == nil || p.rng.IntN(2) == 0 {
			p.lost = p.next()
		}
		began()
		e, status, err := p.enqueue(s, client)
		switch {
		case err != nil || away && (status == http.StatusServiceUnavailable || status == http.StatusInternalServerError):
			<-clock.System.NewTimer(5 * time.Millisecond).C()
			continue
		case status != http.StatusAccepted || e.Id == "":
			s.t.Errorf("enqueue: %d %+v", status, e)
			return
		}
		if !p.acks[e.Id] {
			p.acks[e.Id] = true
			p.got = append(p.got, acknowledged{request: *p.lost, id: e.Id})
		}
		p.lost = nil
		<-clock.System.NewTimer(time.Duration(p.rng.IntN(10)) * time.Millisecond).C() // guests take their time, too
	}
}

func (p *producer) enqueue(s *serverProcess, client *http.Client) (e model.Enqueued, status int, err error) {
	r, err := http.NewRequest("POST", "http://"+s.api+"/v1/jobs/probe/invocations?"+p.lost.query, strings.NewReader(p.lost.key))
	if err != nil {
		return e, 0, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	r.Header.Set("Idempotency-Key", p.lost.key)
	resp, err := client.Do(r)
	if err != nil {
		return e, 0, err
	}
	defer resp.Body.Close()
	return e, resp.StatusCode, json.NewDecoder(resp.Body).Decode(&e)
}

// look checks an invocation that has ended: it ended as it has to, its result is its own, and is the one that it had before. false: it has
// not ended, or its callback is not over.
func (a *acknowledged) look(s *serverProcess) bool {
	v := s.invocation("probe", a.id)
	if v.State != a.state {
		if v.State == model.InvocationStateDead || v.State == model.InvocationStateDone || !a.finished.IsZero() {
			s.t.Errorf("%s, which has to end as %s, is %+v", a.id, a.state, v)
		}
		return false
	}
	if !a.finished.IsZero() && !a.finished.Equal(*v.Finished) {
		s.t.Errorf("%s had ended at %s, and again at %s", a.id, a.finished, v.Finished)
	}
	a.finished = *v.Finished
	resp, body := s.result("probe", a.id)
	switch a.state {
	case model.InvocationStateDone:
		if resp.StatusCode != http.StatusOK || body != a.key+" <nil>\n" {
			s.t.Errorf("the result of %s (%s) is %d %q", a.id, a.key, resp.StatusCode, body)
		}
	case model.InvocationStateDead:
		if resp.StatusCode != http.StatusBadGateway || v.Attempts != 2 {
			s.t.Errorf("the result of %s (%s), which is a dead letter, is %d %q after %d attempts", a.id, a.key, resp.StatusCode, body, v.Attempts)
		}
	}
	return !a.calls || v.Callback != nil && *v.Callback != model.InvocationCallbackPending
}

// hook takes callbacks, and refuses one in eight.
type hook struct {
	mu   sync.Mutex
	rng  *rand.Rand
	told map[string]int // invocation, space, what is told of it → how often
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rng.IntN(8) == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	h.told[r.Header.Get("Ce-Id")+" "+strings.TrimPrefix(r.Header.Get("Ce-Type"), "dev.ripstop.invocation.")]++
}

// kills says how often something is killed, in what order chance will have it.
type kills struct {
	server int
	redis  int      // 0: the queue is not in a Redis of the test's own. One in four takes the server along
	args   []string // of the server
}

// killUnderLoad kills while four clients enqueue.
func killUnderLoad(t *testing.T, k kills) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var r *redistest.Server
	if k.redis > 0 {
		r = startRedis(t)
		k.args = append(k.args, "--broker", r.URL())
	}
	calls := &hook{rng: rand.New(rand.NewPCG(seed, 99)), told: map[string]int{}}
	receiver := httptest.NewServer(calls)
	defer receiver.Close()
	s := startServer(t, k.args...)
	s.deploy("probe", buildProbe(t), "limits: {time: 20s}\nqueue: {attempts: 100, backoff: {first: 10ms, max: 100ms}}\ncapabilities: {kv: [things], fetch: [{scheme: http, host: 127.0.0.1, port: "+
		receiver.URL[strings.LastIndex(receiver.URL, ":")+1:]+", private: true}]}\n")
	var producers []*producer
	for i := range 4 {
		producers = append(producers, &producer{name: fmt.Sprintf("p%d", i), rng: rand.New(rand.NewPCG(seed, uint64(i+1))), hook: receiver.URL, acks: map[string]bool{}})
	}
	began, together := clock.System.Now(), 0
	left := k
	for left.server+left.redis > 0 {
		var wg sync.WaitGroup
		first, stop := make(chan struct{}), make(chan struct{})
		open := sync.OnceFunc(func() { close(first) })
		for _, p := range producers {
			wg.Go(func() { p.run(s, r != nil, open, stop) })
		}
		<-first
		<-clock.System.NewTimer(time.Duration(rng.IntN(1_000_000)) * time.Microsecond).C()
		if rng.IntN(left.server+left.redis) < left.redis {
			left.redis--
			r.Kill()
			<-clock.System.NewTimer(time.Duration(rng.IntN(200)) * time.Millisecond).C()
			both := rng.IntN(4) == 0
			if both {
				together++
				s.killed(rng.IntN(2) == 0)
			}
			r.Restart()
			if both {
				s.start()
			}
			// With the storage back, some are enqueued again.
			<-clock.System.NewTimer(time.Duration(rng.IntN(100)) * time.Millisecond).C()
			close(stop)
			wg.Wait()
			s.until("the storage to be back", func() bool {
				status, _ := s.call("GET", "/v1/jobs/probe/queue", nil, "")
				return status == http.StatusOK
			})
		} else {
			left.server--
			s.killed(rng.IntN(2) == 0)
			close(stop)
			wg.Wait()
			s.start()
		}
		s.until("guests to come near", func() bool { // else the queue fills up: while the server is away they do nothing
			var counts model.QueueCounts
			_, b := s.call("GET", "/v1/jobs/probe/queue", nil, "")
			return json.Unmarshal(b, &counts) == nil && counts.Ready < 500
		})
		for _, p := range producers {
			for range min(4, len(p.got)) { // some of what has ended must stay so
				p.got[rng.IntN(len(p.got))].look(s)
			}
		}
		if t.Failed() {
			return
		}
	}
	took := clock.System.Now().Sub(began).Round(time.Second)
	t.Logf("%d kills of the server, %d of Redis, of which %d took the server along, in %s", k.server, k.redis, together, took)
	for _, p := range producers {
		for i := range p.got {
			a := &p.got[i]
			s.until(a.id+" to have ended", func() bool { return a.look(s) || t.Failed() })
			if t.Failed() {
				return
			}
		}
	}
	runs := s.counted("probe")
	calls.mu.Lock()
	told := maps.Clone(calls.told)
	calls.mu.Unlock()
	count, twice, letters, called, toldTwice := 0, 0, 0, 0, 0
	for _, p := range producers {
		for _, a := range p.got {
			count++
			attempts := 1
			if a.state == model.InvocationStateDead {
				letters, attempts = letters+1, 2
			}
			switch n := runs[a.id]; {
			case n == 0 && a.state == model.InvocationStateDone:
				t.Errorf("%s has a result, and never ran", a.id)
			case n > attempts:
				twice++
			}
			if !a.calls {
				continue
			}
			called++
			n := told[a.id+" "+string(a.state)]
			if v := s.invocation("probe", a.id); n == 0 && *v.Callback == model.InvocationCallbackDone {
				t.Errorf("nobody was told of the end of %s", a.id)
			} else if n > 1 {
				toldTwice++
			}
			for _, other := range []model.InvocationState{model.InvocationStateDone, model.InvocationStateDead} {
				if n := told[a.id+" "+string(other)]; other != a.state && n > 0 {
					t.Errorf("%s ended as %s, and %d were told that it is %s", a.id, a.state, n, other)
				}
			}
		}
	}
	t.Logf("%d invocations acknowledged, each has one result, %d of them that of a dead letter; %d ran more often than they had to; %d had a callback, of which %d were told more than once",
		count, letters, twice, called, toldTwice)
	if count < 10 {
		t.Errorf("only %d were acknowledged", count)
	}
}

func TestAServerKilledUnderLoadLosesNoAcknowledgedInvocation(t *testing.T) {
	if testing.Short() {
		killUnderLoad(t, kills{server: 3})
		return
	}
	killUnderLoad(t, kills{server: 10})
}

func TestARedisKilledUnderLoadLosesNoAcknowledgedInvocation(t *testing.T) {
	if testing.Short() {
		killUnderLoad(t, kills{server: 1, redis: 2})
		return
	}
	killUnderLoad(t, kills{server: 2, redis: 5})
}
