package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// childVariable names the environment variable that makes this program one of its own children.
const childVariable = "RIPSTOP_BENCH_CHILD"

// children are programs that a comparison needs in a process of their own.
var children = map[string]func(args []string) error{
	"echo":      echoServer,
	"load":      loadClient,
	"plainhost": plainHost,
}

// process is a running program, with all that it started.
type process struct {
	cmd  *exec.Cmd
	log  string // file with its output
	done chan struct{}
	once sync.Once
}

// start runs a program in a process group of its own until stop, or until ctx ends. Its output goes to a file in the cache.
func (b *bench) start(ctx context.Context, name, dir string, env []string, program string, args ...string) (*process, error) {
	out, err := os.Create(filepath.Join(b.cache, name+".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd: cmd, log: out.Name(), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended shows in its log
		close(p.done)
	}()
	return p, nil
}

// startChild runs this program as one of its children.
func (b *bench) startChild(ctx context.Context, child string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return b.start(ctx, child, b.cache, []string{childVariable + "=" + child}, self, args...)
}

// stop ends the program and waits until it is gone. A program that does not end when asked to is killed.
func (p *process) stop() {
	p.once.Do(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
		}
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // and whatever it left behind
		<-p.done
	})
}

// kill ends the program at once.
func (p *process) kill() {
	p.once.Do(func() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	})
}

// answers waits until url gives any answer.
func (p *process) answers(ctx context.Context, url string) error {
	for range 200 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.cmd.Path, tail(p.log))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not answer within 10 s: %s", url, tail(p.log))
}

// tail is the end of a file.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-2000):])
}

// output runs a program to its end and answers what it printed. An error shows the end of its messages.
func output(ctx context.Context, dir string, env []string, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out, messages bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &messages
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		text := bytes.TrimSpace(append(messages.Bytes(), out.Bytes()...))
		return nil, fmt.Errorf("%s %v: %w: %s", filepath.Base(program), args, err, text[max(0, len(text)-2000):])
	}
	return out.Bytes(), nil
}

// freeAddress is an address of this machine at which nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
