package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/runtime"
)

// TestMain lets the test binary be the program: its server then starts workers and checkers of the test binary, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		taken = overrun
		main()
	}
	os.Exit(m.Run())
}

// overrun is what hostile native code in a worker tries. It reports on standard error, which the worker shares with its server.
func overrun(c workerConfig) {
	data := filepath.Dir(filepath.Dir(c.CodeDirs[runtime.Wazero]))
	parent := strconv.Itoa(os.Getppid())
	tried := map[string]error{
		"seals":       list(filepath.Join(data, "cache", "seals")),
		"code":        os.WriteFile(filepath.Join(c.CodeDirs[runtime.Wazero], "mine"), nil, 0o600),
		"volume":      os.WriteFile(filepath.Join(c.Volumes["shared"], "mine"), nil, 0o600),
		"fixed":       os.WriteFile(filepath.Join(c.Volumes["fixed"], "mine"), nil, 0o600),
		"credentials": credentials(data),
		"passwords":   read("/etc/passwd"),
		"memory":      read("/proc/" + parent + "/mem"),
		"environment": read("/proc/" + parent + "/environ"),
		"trace":       unix.PtraceAttach(os.Getppid()),
		"execute":     exec.Command("/bin/true").Run(),
		"signal":      unix.Kill(os.Getppid(), 0),
		"connect":     dial("127.0.0.1:1"), // nobody is there, which it must not learn
	}
	result := map[string]string{"own environment": strings.Join(os.Environ(), "\n")}
	for name, err := range tried {
		result[name] = ""
		if err != nil {
			result[name] = err.Error()
		}
	}
	b, err := json.Marshal(result)
	fmt.Fprintf(os.Stderr, "taken: %s %v\n", b, err)
}

func dial(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_ = f.Close()
	return nil
}

func list(dir string) error {
	_, err := os.ReadDir(dir)
	return err
}

// credentials succeeds if any file of the data directory but the cache's can be read, or the directory listed.
func credentials(data string) error {
	if _, err := os.ReadDir(data); err == nil {
		return nil
	}
	for _, name := range []string{tokenFile, "secret.key", codeKeyFile, "records.db", "buckets.db"} {
		if err := read(filepath.Join(data, name)); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil // one that is not there would make this test pass for nothing
		}
	}
	return fs.ErrPermission
}

func TestAWorkerThatWasTakenOverReachesNothingButItsGrant(t *testing.T) {
	for _, m := range wall.Probe() {
		if !m.Holds {
			t.Skipf("%s: %s", m.Name, m.Detail)
		}
	}
	const secret = "sEcReT-of-the-server"
	shared := t.TempDir()
	t.Setenv("RIPSTOP_TEST_SECRET", secret)
	s := &serverProcess{t: t, program: os.Args[0], args: []string{"--volume", "shared=" + shared, "--volume", "fixed=" + t.TempDir() + ":ro"}, dir: filepath.Join(t.TempDir(), "data"), api: freePort(t), ingress: freePort(t)}
	s.start()
	t.Cleanup(s.stop)
	_, rest, ok := strings.Cut(s.log.String(), "taken: ")
	if !ok {
		t.Fatalf("the worker did not try:\n%s", s.log.String())
	}
	var result map[string]string
	if err := json.NewDecoder(strings.NewReader(rest)).Decode(&result); err != nil {
		t.Fatal(err)
	}
	for name, err := range result {
		switch name {
		case "own environment":
			if strings.Contains(err, secret) || strings.Contains(err, s.token) {
				t.Errorf("the worker's environment has a secret: %s", err)
			}
		case "volume":
			if err != "" {
				t.Errorf("%s: %s", name, err)
			}
		default:
			if !strings.Contains(err, "not permitted") && !strings.Contains(err, "permission denied") {
				t.Errorf("%s: %q", name, err)
			}
		}
	}
	if strings.Contains(s.log.String(), "has gaps") {
		t.Errorf("the wall has gaps:\n%s", s.log.String())
	}
}
