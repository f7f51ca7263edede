//go:build unix

package main

import (
	"context"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// metric is the value of a series whose labels hold all of these; -1 if there is none.
func (s *serverProcess) metric(name string, labels ...string) float64 {
	s.t.Helper()
	_, b := s.call("GET", "/metrics", nil, "")
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(?:\{(.*)\})? (\S+)$`).FindAllStringSubmatch(string(b), -1) {
		all := true
		for _, l := range labels {
			all = all && strings.Contains(m[1], l)
		}
		if v, err := strconv.ParseFloat(m[2], 64); all && err == nil {
			return v
		}
	}
	return -1
}

func TestAnInvocationEndsByItsFuelOrItsTimeAtTheProcessor(t *testing.T) {
	s := startServer(t)
	s.deploy("fuel", looping(), "limits: {fuel: 1000000}\n")
	s.deploy("cpu", looping(), "weight: 50\nlimits: {cpu: 50ms}\n")
	for job, log := range map[string]string{"fuel": "fuel limit: ", "cpu": "50ms allowed"} {
		if status, _, body := s.get("/" + job + "/"); status != 502 || !strings.Contains(body, `"code":"limit"`) || !strings.Contains(body, "its "+job+" limit") {
			t.Errorf("%s: %d %s", job, status, body)
		}
		s.until("the log to say why", func() bool {
			_, b := s.call("GET", "/v1/jobs/"+job+"/logs?tail=10", nil, "")
			return strings.Contains(string(b), log)
		})
	}
	s.until("the metrics to say how much was used", func() bool {
		return s.metric("faas_cpu_usage_seconds_sum", `job="cpu"`) >= 0.05 && s.metric("ripstop_task_cpu_seconds_total", `job="cpu"`) >= 0.05 &&
			s.metric("ripstop_task_cpu_waited_seconds_total", `job="cpu"`) >= 0
	})
}

func TestEndlessJobsShareTheProcessorByWeight(t *testing.T) {
	s := startServer(t)
	weights := map[string]string{"one": "1", "two": "2", "four": "4"}
	for job, weight := range weights {
		s.deploy(job, looping(), "weight: "+weight+"\nlimits: {time: 1m, concurrency: 2}\n")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for job := range weights {
		for range 2 { // as many as there are tokens, so that each could use all
			go func() {
				r, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.ingress+"/"+job+"/", nil)
				if err != nil {
					return
				}
				if resp, err := http.DefaultClient.Do(r); err == nil {
					_ = resp.Body.Close()
				}
			}()
		}
	}
	used := func() (all [3]float64) {
		for i, job := range []string{"one", "two", "four"} {
			all[i] = s.metric("ripstop_task_cpu_seconds_total", `job="`+job+`"`)
		}
		return all
	}
	s.until("all to compute", func() bool { u := used(); return min(u[0], u[1], u[2]) > 0.05 })
	before := used()
	s.until("seven seconds of work", func() bool { u := used(); return u[0]+u[1]+u[2]-before[0]-before[1]-before[2] >= 7 })
	after := used()
	var share [3]float64
	for i := range share {
		share[i] = after[i] - before[i]
	}
	sum := share[0] + share[1] + share[2]
	for i, weight := range []float64{1, 2, 4} {
		if want := sum * weight / 7; share[i] < 0.9*want || share[i] > 1.1*want {
			t.Errorf("weight %v got %.2f s of %.2f s, and should get %.2f s", weight, share[i], sum, want)
		}
	}
	t.Logf("%.2f : %.2f : %.2f s", share[0], share[1], share[2])
}
