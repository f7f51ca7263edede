// Package redistest starts real Redis servers for tests: one, a Sentinel with a master and a replica, or a Cluster of three.
// They listen on a unix socket or on loopback, keep their files in a temporary folder and end with the test.
//
// A test fails when redis-server is missing, as it is needed to say anything about the Redis backend.
package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/freeport"
)

// Missing is what to do when there is no redis-server.
const Missing = "redis-server is not installed; run: apt-get install redis-server"

// startTimeout is how long a server may take to accept connections. It is for machines that do other things too.
const startTimeout = 20 * time.Second

// Server is a redis-server process.
type Server struct {
	Dir    string // its folder
	Socket string // path of its unix socket
	Port   int    // on 127.0.0.1; 0: only the socket

	t        testing.TB
	settings []string
	sentinel bool
	tls      bool

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	log  strings.Builder
}

// Start starts a server that listens on a unix socket. Settings are lines of redis.conf ("appendonly yes"); without any, nothing is
// written to disk. It ends with the test.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	return start(t, 0, settings)
}

// StartTCP starts a server that listens on a port of 127.0.0.1, too.
func StartTCP(t testing.TB, settings ...string) *Server {
	t.Helper()
	return start(t, freeport.Take(t), settings)
}

// StartTLS starts a server that speaks TLS only on its port of 127.0.0.1; its socket speaks plainly. Settings name certificates.
func StartTLS(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := newServer(t, freeport.Take(t), settings)
	s.tls = true
	s.Restart()
	return s
}

func start(t testing.TB, port int, settings []string) *Server {
	t.Helper()
	s := newServer(t, port, settings)
	s.Restart()
	return s
}

func sentinelServer(t testing.TB, master int) *Server {
	t.Helper()
	s := newServer(t, freeport.Take(t), []string{
		fmt.Sprintf("sentinel monitor mymaster 127.0.0.1 %d 2", master), "sentinel down-after-milliseconds mymaster 500",
		"sentinel failover-timeout mymaster 3000", "sentinel parallel-syncs mymaster 1",
	})
	s.sentinel = true
	s.Restart()
	return s
}

func newServer(t testing.TB, port int, settings []string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis") // t.TempDir's names are too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{Dir: dir, Socket: filepath.Join(dir, "redis.sock"), Port: port, t: t, settings: settings}
	t.Cleanup(s.Kill)
	return s
}

// Restart starts the server again in the same place, with what it has on disk. It kills the running one first.
func (s *Server) Restart(more ...string) {
	s.t.Helper()
	s.Kill()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		s.t.Fatal(Missing)
	}
	conf := []string{
		"bind 127.0.0.1", fmt.Sprintf("port %d", s.Port), "dir " + s.Dir,
		"unixsocket " + s.Socket, `save ""`, "enable-debug-command yes", "daemonize no", `logfile ""`,
	}
	if s.tls {
		conf[1] = fmt.Sprintf("port 0\ntls-port %d", s.Port)
	}
	conf = append(append(conf, s.settings...), more...)
	file := filepath.Join(s.Dir, "redis.conf")
	args := []string{file}
	if s.sentinel {
		conf = append([]string{"bind 127.0.0.1", fmt.Sprintf("port %d", s.Port), "dir " + s.Dir}, s.settings...)
		args = append(args, "--sentinel")
	}
	if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	ready, done := make(chan struct{}), make(chan struct{})
	go s.follow(cmd, out, ready, done)
	s.mu.Lock()
	s.cmd, s.done = cmd, done
	s.mu.Unlock()
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case <-ready:
	case <-done:
		s.t.Fatalf("redis-server ended at once:\n%s", s.Log())
	case <-limit.C:
		s.t.Fatalf("redis-server does not accept connections after %s:\n%s", startTimeout, s.Log())
	}
}

// follow reads the log until the process ends. ready is closed when it accepts connections.
func (s *Server) follow(cmd *exec.Cmd, out io.Reader, ready, done chan struct{}) {
	defer close(done)
	said := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		s.mu.Lock()
		s.log.WriteString(lines.Text() + "\n")
		s.mu.Unlock()
		// The first is the last line of a server's start, that about its socket; the second that of a Sentinel's.
		if !said && (strings.Contains(lines.Text(), "ready to accept connections at") || strings.Contains(lines.Text(), "Sentinel ID is")) {
			said = true
			close(ready)
		}
	}
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // how it ended is of no interest: tests kill it
}

// Log is what the server has logged so far.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Kill ends the process at once, as kill -9 does, and waits until it is gone. It may be called twice.
func (s *Server) Kill() { s.signal(syscall.SIGKILL, true) }

// Stop ends the process in order and waits until it is gone.
func (s *Server) Stop() { s.signal(syscall.SIGTERM, true) }

// Freeze stops the process in its tracks, as a machine does that hangs; Thaw lets it go on.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP, false) }

// Thaw ends what Freeze began.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT, false) }

func (s *Server) signal(sig syscall.Signal, end bool) {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	select {
	case <-done: // its number may be another process's by now
		return
	default:
	}
	_ = cmd.Process.Signal(sig)
	if end {
		<-done
	}
}

// Wipe removes what a stopped server has on disk, so that it starts empty.
func (s *Server) Wipe() {
	s.t.Helper()
	for _, name := range []string{"appendonlydir", "dump.rdb"} {
		if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// URL is how a client reaches the server.
func (s *Server) URL() string {
	if s.Port != 0 {
		return fmt.Sprintf("redis://127.0.0.1:%d", s.Port)
	}
	return "unix://" + s.Socket
}

// Addr is "127.0.0.1:port".
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.Port) }

// Do runs a command and answers its reply as text; an array's elements stand on lines of their own.
func (s *Server) Do(args ...string) (string, error) {
	network, addr := "unix", s.Socket
	if s.Port != 0 && !s.tls {
		network, addr = "tcp", s.Addr()
	}
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write(appendCommand(nil, args)); err != nil {
		return "", err
	}
	return readReply(bufio.NewReader(c))
}

// Must is Do for commands that have to succeed.
func (s *Server) Must(args ...string) string {
	s.t.Helper()
	out, err := s.Do(args...)
	if err != nil {
		s.t.Fatalf("redis %s: %v", strings.Join(args, " "), err)
	}
	return out
}
