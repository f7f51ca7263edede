//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
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

// These tests kill a server that is being changed over HTTP, again and again, and look each time at what the next one
// has. Each job has one client, so that its changes have an order, and one of them at most is under way at the kill.

// keptVersions is how many versions of a job the server keeps besides the current one.
const keptVersions = 20

// deployed is a version as its client sent it.
type deployed struct {
	text   string // what its URLs answer
	routes int
}

// jobState is what the server should have of a job. Version 0 is no job.
type jobState struct {
	current, latest uint64
	versions        map[uint64]deployed
}

// change is one request for a change.
type change struct {
	kind    string // "deploy", "rollback" or "removal"
	version deployed
	to      uint64 // of a rollback
}

// after is the state that a change leads to.
func (j jobState) after(c change) jobState {
	switch c.kind {
	case "removal":
		return jobState{}
	case "rollback":
		j.current = c.to
		return j
	}
	j.latest++
	j.current = j.latest
	j.versions = maps.Clone(j.versions)
	if j.versions == nil {
		j.versions = map[uint64]deployed{}
	}
	j.versions[j.latest] = c.version
	for kept := slices.Sorted(maps.Keys(j.versions)); len(kept) > keptVersions+1; kept = kept[1:] {
		delete(j.versions, kept[0])
	}
	return j
}

// next draws a change that the server must not refuse.
func (j jobState) next(rng *rand.Rand, job string, n int) change {
	earlier := slices.DeleteFunc(slices.Sorted(maps.Keys(j.versions)), func(v uint64) bool { return v == j.current })
	switch roll := rng.IntN(10); {
	case roll < 2 && j.current != 0:
		return change{kind: "removal"}
	case roll < 5 && len(earlier) > 0:
		return change{kind: "rollback", to: earlier[rng.IntN(len(earlier))]}
	}
	text := fmt.Sprintf("%s %d", job, n)
	if rng.IntN(4) == 0 {
		text = fmt.Sprintf("common %d", rng.IntN(3)) // one blob of several jobs
	}
	return change{kind: "deploy", version: deployed{text, 1 + rng.IntN(3)}}
}

func helloModule(text string) []byte { return saying("Content-Type: text/plain\n\n" + text) }

func routePath(job string, i int) string { return fmt.Sprintf("/%s/%d/", job, i) }

// send asks the server for a change. An error means that nothing was acknowledged.
func (s *serverProcess) send(client *http.Client, job string, c change) (status int, answer []byte, err error) {
	path := "/v1/jobs/" + job
	switch c.kind {
	case "removal":
		return s.try(client, "DELETE", path, nil, "")
	case "rollback":
		return s.try(client, "POST", path+"/rollback", strings.NewReader(fmt.Sprintf(`{"version":%d}`, c.to)), "application/json")
	}
	manifest := "routes:\n"
	for i := range c.version.routes {
		manifest += "  - path: " + routePath(job, i) + "\n"
	}
	body, kind := form(helloModule(c.version.text), manifest)
	return s.try(client, "PUT", path, body, kind)
}

// changer makes changes of one job until the server is gone.
type changer struct {
	job          string
	rng          *rand.Rand
	n            int
	state        jobState
	underWay     *change // sent, and not answered
	acknowledged int
}

func (c *changer) run(s *serverProcess, began func()) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		next := c.state.next(c.rng, c.job, c.n)
		c.n++
		c.underWay = &next
		began()
		status, answer, err := s.send(client, c.job, next)
		if err != nil {
			return
		}
		if status/100 != 2 {
			s.t.Errorf("%s %+v of %+v: %d %s", c.job, next, c.state, status, answer)
			return
		}
		c.state, c.underWay = c.state.after(next), nil
		c.acknowledged++
	}
}

// found reads what the server has of a job, and checks that its parts fit together. The texts are what URLs answer.
func (s *serverProcess) found(job string, expect []jobState) (jobState, error) {
	var out jobState
	path := "/v1/jobs/" + job
	status, b := s.call("GET", path, nil, "")
	if status == http.StatusNotFound {
		for i := range 3 {
			if status, _, body := s.get(routePath(job, i)); status != http.StatusNotFound {
				return out, fmt.Errorf("there is no job, but route %d answers %d %q", i, status, body)
			}
		}
		if status, b := s.call("GET", path+"/versions", nil, ""); status != http.StatusNotFound {
			return out, fmt.Errorf("there is no job, but versions: %d %s", status, b)
		}
		return out, nil
	}
	var shown struct {
		Version, Latest uint64
		Module          string
		Routes          []struct{ Path string }
	}
	if err := json.Unmarshal(b, &shown); status != http.StatusOK || err != nil {
		return out, fmt.Errorf("the job: %d %s", status, b)
	}
	out = jobState{current: shown.Version, latest: shown.Latest, versions: map[uint64]deployed{}}
	var list struct {
		Versions []struct {
			Version  uint64
			Current  bool
			Module   string
			Manifest struct{ Routes []struct{ Path string } }
		}
	}
	status, b = s.call("GET", path+"/versions", nil, "")
	if err := json.Unmarshal(b, &list); status != http.StatusOK || err != nil {
		return out, fmt.Errorf("its versions: %d %s", status, b)
	}
	texts := map[string]string{} // by digest, of what may have been deployed
	for _, e := range expect {
		for _, v := range e.versions {
			texts[fmt.Sprintf("%x", sha256.Sum256(helloModule(v.text)))] = v.text
		}
	}
	for _, v := range list.Versions {
		text, ok := texts[v.Module]
		if !ok || v.Current != (v.Version == out.current) {
			return out, fmt.Errorf("version %d of module %s, current %v: nobody deployed it so", v.Version, v.Module, v.Current)
		}
		out.versions[v.Version] = deployed{text, len(v.Manifest.Routes)}
	}
	now, ok := out.versions[out.current]
	if !ok || len(shown.Routes) != now.routes {
		return out, fmt.Errorf("current is %d with %d routes, of %+v", out.current, len(shown.Routes), out.versions)
	}
	if status, b := s.call("GET", path+"/module", nil, ""); status != http.StatusOK || !bytes.Equal(b, helloModule(now.text)) || fmt.Sprintf("%x", sha256.Sum256(b)) != shown.Module {
		return out, fmt.Errorf("the module of version %d: %d, %d bytes", out.current, status, len(b))
	}
	for i := range 3 {
		status, _, body := s.get(routePath(job, i))
		if i < now.routes && (status != http.StatusOK || body != now.text) || i >= now.routes && status != http.StatusNotFound {
			return out, fmt.Errorf("route %d of %+v answers %d %q", i, now, status, body)
		}
	}
	return out, nil
}

func (j jobState) equal(o jobState) bool {
	return j.current == o.current && j.latest == o.latest && maps.Equal(j.versions, o.versions)
}

// killed kills the server and waits until nothing of it runs. alone leaves it to the server's children to see that.
func (s *serverProcess) killed(alone bool) {
	pid := s.cmd.Process.Pid
	if !alone {
		pid = -pid
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Error(err)
	}
	_ = s.cmd.Wait() // until its children have closed the log, too
}

func killAndLook(t *testing.T, kills int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := startServer(t)
	var clients []*changer
	for i, job := range []string{"ant", "bee", "cat", "dog"} {
		clients = append(clients, &changer{job: job, rng: rand.New(rand.NewPCG(seed, uint64(i+1)))})
	}
	underWay, whole := map[string]int{}, map[string]int{}
	starts, began := 0, clock.System.Now()
	for n := range kills {
		if n > 0 && rng.IntN(8) == 0 { // a start, too, may be killed, and changes nothing
			s.killed(rng.IntN(2) == 0)
			s.launch()
			<-clock.System.NewTimer(time.Duration(rng.IntN(300)) * time.Millisecond).C()
			s.killed(rng.IntN(2) == 0)
			s.start()
			starts++
		}
		var wg sync.WaitGroup
		first := make(chan struct{})
		open := sync.OnceFunc(func() { close(first) })
		for _, c := range clients {
			wg.Go(func() { c.run(s, open) })
		}
		<-first
		<-clock.System.NewTimer(time.Duration(rng.IntN(1_500_000)) * time.Microsecond).C()
		s.killed(rng.IntN(2) == 0)
		wg.Wait()
		s.start()
		for _, c := range clients {
			expect := []jobState{c.state}
			if c.underWay != nil {
				underWay[c.underWay.kind]++
				expect = append(expect, c.state.after(*c.underWay))
			}
			got, err := s.found(c.job, expect)
			if err != nil {
				t.Fatalf("kill %d: job %s: %v; want one of %+v", n, c.job, err, expect)
			}
			i := slices.IndexFunc(expect, got.equal)
			if i < 0 {
				t.Fatalf("kill %d: job %s is %+v, want one of %+v", n, c.job, got, expect)
			}
			if i == 1 {
				whole[c.underWay.kind]++
			}
			c.state, c.underWay = expect[i], nil
		}
		if t.Failed() {
			return
		}
	}
	acknowledged := 0
	for _, c := range clients {
		acknowledged += c.acknowledged
	}
	t.Logf("%d kills, %d more during a start, in %s: %d changes acknowledged, all there; under way %v, of which whole without an answer %v, the others absent",
		kills, starts, clock.System.Now().Sub(began).Round(time.Second), acknowledged, underWay, whole)
	if acknowledged < kills {
		t.Errorf("only %d changes were acknowledged", acknowledged)
	}
}

func TestAServerKilledAmidChangesKeepsWhatItAcknowledgedAndHalvesNothing(t *testing.T) {
	killAndLook(t, 12)
}
