//go:build unix

package main

import (
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
