//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/internal/redistest"
	"golang.org/x/sys/unix"
)

// doctor is what the doctor finds, by name.
func doctor(t *testing.T, args ...string) map[string]wall.Measure {
	t.Helper()
	out, code := verb(t, append([]string{"doctor", "--json"}, args...)...)
	var d diagnosis
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 0 {
		t.Fatalf("doctor: %d %s", code, out)
	}
	by := map[string]wall.Measure{}
	for _, c := range d.Checks {
		by[c.Name] = c
	}
	return by
}

// says wants a check to hold or not, with words in its detail.
func says(t *testing.T, m wall.Measure, holds bool, words ...string) {
	t.Helper()
	for _, w := range words {
		if m.Holds != holds || !strings.Contains(m.Detail, w) || strings.Contains(m.Detail, "\n") {
			t.Errorf("%+v; want %v with %q", m, holds, w)
		}
	}
}

// resize bounds the size of files of a running process: beyond it, writes fail as on a full disk.
func resize(t *testing.T, pid int, bytes uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &old); err != nil {
		t.Fatal(err)
	}
	if bytes == 0 {
		bytes = old.Max
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskRefusesChangesAndJobsGoOn(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	resize(t, s.cmd.Process.Pid, 64<<10) // what the databases have already, and not a page more
	refused := false
	for range 40 { // until one needs room that there is not
		status, b := s.tryDeploy("big", append(saying("Content-Type: text/plain\n\nbig"), custom(128<<10)...), "")
		if status == 507 && strings.Contains(string(b), `"code":"storage-full"`) && strings.Contains(string(b), "free some space") {
			refused = true
			break
		}
		if status/100 != 2 {
			t.Fatalf("a deploy on a full disk: %d %s", status, b)
		}
	}
	if !refused {
		t.Error("no deploy was refused")
	}
	if status, _ := s.call("GET", "/v1/jobs/big", nil, ""); status != 404 {
		t.Errorf("what was refused is there: %d", status)
	}
	if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
		t.Errorf("the job answers %d %q", status, body)
	}
	resize(t, s.cmd.Process.Pid, 0)
	s.deploy("big", append(saying("Content-Type: text/plain\n\nbig"), custom(128<<10)...), "")
	if status, _, body := s.get("/big/"); status != 200 || body != "big" {
		t.Errorf("once there is room: %d %q", status, body)
	}
}

// custom is a section that means nothing, of so many bytes.
func custom(n int) []byte {
	body := append([]byte{1, 'x'}, make([]byte, n-2)...)
	head := []byte{0}
	for v := len(body); ; v >>= 7 {
		if v < 0x80 {
			return append(append(head, byte(v)), body...)
		}
		head = append(head, byte(v)|0x80)
	}
}

func TestADamagedStoreIsRefusedOrWhole(t *testing.T) {
	s := startServer(t)
	s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
	s.stop()
	says(t, doctor(t, "--data", s.dir)["broker"], true, "every page and value is as it was written")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	opened := 0
	for _, name := range []string{"records.db", "buckets.db", "queue.db"} {
		path := filepath.Join(s.dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			bad := bytes.Clone(good)
			at := 2*4096 + rng.IntN(len(bad)-2*4096-27)
			for i := range 27 {
				bad[at+i] ^= byte(1 + rng.IntN(255))
			}
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			found := doctor(t, "--data", s.dir)["broker"]
			if !found.Holds {
				says(t, found, false, name, "corrupt", "restore it from a backup")
				if line := refusedStart(t, "--data", s.dir); !strings.Contains(line, name) || !strings.Contains(line, "corrupt") {
					t.Errorf("with damage at %d of %s the start says %q", at, name, line)
				}
			} else { // a free page: nothing is lost
				opened++
				s.start()
				if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
					t.Errorf("with damage at %d of %s the job answers %d %q", at, name, status, body)
				}
				s.stop()
			}
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("of 12 damaged files %d were damaged in a free page", opened)
	s.start()
	if status, _, body := s.get("/hello/"); status != 200 || body != "hello" {
		t.Errorf("afterwards: %d %q", status, body)
	}
}

func TestTheDoctorKnowsARunningServersBrokerAndAStoppedOnes(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	says(t, doctor(t, "--data", none)["broker"], true, "not there yet")
	s := startServer(t)
	at := []string{"--server", "http://" + s.api, "--data", s.dir}
	found := doctor(t, at...)
	says(t, found["broker"], true, "embedded", s.report().Incarnation)
	says(t, found["durability"], true, s.dir, "loss of power")
	inc := s.report().Incarnation
	if err := os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.stop()
	found = doctor(t, "--data", s.dir)
	says(t, found["broker"], true, "embedded", inc, "revision ")
	says(t, found["data directory"], true, s.dir)
	says(t, doctor(t, at...)["broker"], false, "no server answers", "ripstop serve")
	t.Run("a server in the environment", func(t *testing.T) {
		t.Setenv("RIPSTOP_SERVER", "http://"+s.api)
		says(t, doctor(t, "--data", s.dir)["broker"], true, inc, "revision ")
		t.Setenv("RIPSTOP_DATA", s.dir)
		says(t, doctor(t)["broker"], false, "no server answers")
	})

	r := startRedis(t)
	q := startServer(t, "--broker", r.URL())
	at = []string{"--server", "http://" + q.api, "--data", q.dir}
	found = doctor(t, at...)
	says(t, found["broker"], true, "redis", q.report().Incarnation)
	says(t, found["durability"], true, "version 7", "appendfsync always")
	r.Kill()
	q.until("the server to notice", func() bool { return q.report().State != "ready" })
	says(t, doctor(t, at...)["broker"], false, "unavailable since", "is it running")
	q.stop()
	says(t, doctor(t, "--data", q.dir)["broker"], false, "--broker")
	says(t, doctor(t, "--data", q.dir, "--broker", r.URL())["broker"], false, "is it running")
	r.Restart()
	says(t, doctor(t, "--data", q.dir, "--broker", r.URL())["broker"], true, "redis")
	r.Kill()
	r.Wipe()
	r.Restart()
	says(t, doctor(t, "--data", q.dir, "--broker", r.URL())["broker"], false, "ripstop adopt")
	if n := r.Must("DBSIZE"); n != "0" {
		t.Errorf("the doctor wrote %s keys", n)
	}
	weak := redistest.StartTCP(t)
	says(t, doctor(t, "--data", t.TempDir(), "--broker", weak.URL())["durability"], false, "set appendonly to yes")
	says(t, doctor(t, "--data", s.dir, "--broker", "nonsense")["broker"], false, "no scheme")
}
