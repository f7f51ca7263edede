//go:build linux

package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

func TestAServerThatIsKilledTakesItsWorkerWithItAndStartsAgain(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	pid := s.workerPID()
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	s.until("the worker to be gone", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
		return err != nil
	})
	s.start()
	if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
		t.Errorf("after the restart: %d %q", status, body)
	}
}

func TestAWorkerHoldsNothingOfTheServersEnvironment(t *testing.T) {
	t.Setenv("SECRET_OF_THE_SERVER", "x")
	s := startServer(t)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.workerPID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range splitNUL(b) {
		if len(v) >= 6 && v[:6] == "SECRET" || len(v) >= 5 && v[:5] == "HOME=" {
			t.Errorf("the worker has %s", v)
		}
	}
}

func splitNUL(b []byte) (list []string) {
	begin := 0
	for i, c := range b {
		if c == 0 {
			list = append(list, string(b[begin:i]))
			begin = i + 1
		}
	}
	return list
}
