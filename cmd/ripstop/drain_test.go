//go:build unix

package main

import (
	"net"
	"strings"
	"syscall"
	"testing"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
)

// A server that stops answers what it was asked, and refuses other connections meanwhile: who opens them may go elsewhere.
func TestAServerThatStopsAnswersAndRefuses(t *testing.T) {
	s := startServer(t)
	s.deploy("long", hostileModule(w.Loop(w.Br(0))).Bytes(), "limits: {time: 5s}")
	answered := make(chan int, 1)
	go func() {
		status, _, _ := s.get("/long/")
		answered <- status
	}()
	s.until("the request to be under way", func() bool { return s.metric("ripstop_task_inflight", `"long"`) == 1 })
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.until("connections to be refused", func() bool {
		c, err := net.Dial("tcp", s.ingress)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case status := <-answered:
		t.Fatalf("the request was answered with %d before others were refused", status)
	default:
	}
	if status := <-answered; status != 504 {
		t.Errorf("the request is answered with %d", status)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	s.cmd = nil
	if log := s.log.String(); strings.Contains(log, "cut off") || strings.Contains(log, "memories") {
		t.Error(log)
	}
}
