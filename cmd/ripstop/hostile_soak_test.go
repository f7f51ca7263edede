//go:build soak && linux

package main

import (
	"testing"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

func TestSoakHostileGuestsDisturbNobody(t *testing.T) {
	// It takes minutes, and a machine that does nothing else.
	s := startServer(t, "--compile-time", "1s")
	s.deploy("quick", w.Task(w.TaskResponse(200, "content-type", "text/plain", "quick"), 1), "")
	n := newNeighbour(s, "quick", time.Second)
	check := func(name string, most float64, voices int, noise func(testing.TB)) {
		t.Run(name, func(t *testing.T) {
			d := n.within(t, most, 4, 3, voices, func() { noise(t) })
			s.until("metrics", func() bool { _, c := s.pause(); return c >= 0 })
			pause, count := s.pause()
			t.Logf("%.2f times (%v quiet, %v loud); longest pause of %v collections: %v", d.ratio, d.quiet, d.loud, count, pause)
			if d.ratio > most {
				t.Errorf("the neighbour's p99 is %.2f times what it is alone, at best", d.ratio)
			}
			if pause > 10*time.Millisecond {
				t.Errorf("the collector stopped the worker for %v", pause)
			}
		})
	}
	for name, h := range hostiles() {
		most, voices := max(h.most, 2), h.clients()
		if h.refused == "" {
			s.deploy("hostile", h.module, h.manifest)
		}
		check(name, most, voices, func(t testing.TB) { h.attack(t, s, "hostile") })
	}
	s.deploy("held", reading(), "limits: {time: 300ms}\n")
	check("requests held open", 2, 8, func(t testing.TB) { holdOpen(t, s, "held") })
}
