package wall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/runtime/image"
)

// The test binary runs itself as the worker that a guest has taken over: it confines itself and then tries things.

const workerVariable = "RIPSTOP_WALL_TEST"

// orders are what a worker of these tests is told.
type orders struct {
	Confined bool
	Without  string // a system call that the kernel does not have
	Outside  string // a directory that was not granted
	Granted  string // one that was
	ReadOnly string // one that was, for reading
	Parent   int    // process id
	Secret   uint64 // address of the parent's secret
	Address  string // of a listener that must not be reached
	Attempts []string
}

// answer is what it prints.
type answer struct {
	Measures []Measure
	Errors   map[string]string // by attempt; "" where it worked
	Threads  []string          // seccomp and no_new_privs of each thread, as the parent reads them
}

func TestMain(m *testing.M) {
	if text := os.Getenv(workerVariable); text != "" {
		var o orders
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			panic(err)
		}
		worker(o)
		return
	}
	os.Exit(m.Run())
}

const listenerFD = 3 // what a worker of these tests inherits on purpose; 4 is one that it inherits by chance

// world is what an attempt finds.
type world struct {
	orders
	pagemap *os.File
	space   *image.Space
}

func worker(o orders) {
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		panic(err)
	}
	w := &world{o, pagemap, nil}
	if slices.Contains(o.Attempts, "return to an image") {
		if w.space, err = image.NewSpace(image.SpaceOptions{}); err != nil {
			panic(err)
		}
	}
	work := make(chan func())
	// A thread that was there before the wall: it must be behind it, too.
	go func() {
		goruntime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	work <- func() {}
	a := answer{Errors: map[string]string{}}
	if o.Without != "" {
		if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{Names: []string{o.Without}, Action: refuse(unix.ENOSYS)}},
		}}); err != nil {
			panic(err)
		}
	}
	if o.Confined {
		a.Measures = Enter(Options{Read: []string{o.ReadOnly}, Write: []string{o.Granted, filepath.Join(o.Granted, "not there")}, Descriptors: []int{listenerFD}})
	}
	for _, name := range o.Attempts {
		text := func(err error) string {
			if err == nil {
				return ""
			}
			return err.Error()
		}
		a.Errors[name] = text(attempts[name](w))
		if !o.Confined {
			continue
		}
		done := make(chan string)
		work <- func() { go func(s string) { done <- s }(text(attempts[name](w))) }
		if s := <-done; (s == "") != (a.Errors[name] == "") {
			a.Errors[name] = fmt.Sprintf("one thread: %q, another: %q", a.Errors[name], s)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
		panic(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent has looked at us
}

// run starts a worker and answers what it found.
func run(t *testing.T, o orders, look func(pid int)) answer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inherited, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	stray, err := os.Open(filepath.Join(o.Outside, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{workerVariable + "=" + string(text)}
	cmd.ExtraFiles = []*os.File{inherited, stray}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // the client of the attempt to serve
		for {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "ping")
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	var a answer
	err = json.NewDecoder(stdout).Decode(&a)
	if err == nil && look != nil {
		look(cmd.Process.Pid)
	}
	_ = stdin.Close()
	wait := cmd.Wait()
	if err != nil || wait != nil {
		t.Fatalf("the worker failed: %v, %v\n%s", err, wait, stderr.String())
	}
	return a
}

const parentSecret = "sEcReT!!"

// stage makes what the attempts act on.
func stage(t *testing.T) orders {
	t.Helper()
	o := orders{Outside: t.TempDir(), Granted: t.TempDir(), ReadOnly: t.TempDir(), Parent: os.Getpid()}
	secret := []byte(parentSecret)
	o.Secret = uint64(uintptr(unsafe.Pointer(&secret[0])))
	for _, path := range []string{
		filepath.Join(o.Outside, "secret"), filepath.Join(o.Outside, "moved"), filepath.Join(o.Outside, "removed"), filepath.Join(o.Outside, "cut"), filepath.Join(o.ReadOnly, "file"),
	} {
		if err := os.WriteFile(path, secret, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(o.Outside, "secret"), filepath.Join(o.Granted, "link")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Address = l.Addr().String()
	local, err := net.Listen("unix", "@ripstop-wall-test-"+o.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		goruntime.KeepAlive(secret)
		_ = l.Close()
		_ = local.Close()
	})
	return o
}

func needAll(t *testing.T) {
	t.Helper()
	for _, m := range Probe() {
		if !m.Holds {
			t.Skipf("%s: %s", m.Name, m.Detail)
		}
	}
}

func TestAConfinedWorkerDoesItsWorkAndNothingElse(t *testing.T) {
	needAll(t)
	o := stage(t)
	o.Confined = true
	for name := range attempts {
		o.Attempts = append(o.Attempts, name)
	}
	slices.Sort(o.Attempts)
	a := run(t, o, func(pid int) {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil || len(tasks) < 4 {
			t.Errorf("%d threads, %v", len(tasks), err)
		}
		for _, task := range tasks {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // the thread has ended since
			}
			if err != nil {
				t.Error(err)
			}
			for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"} {
				if !strings.Contains(string(b), want+"\n") {
					t.Errorf("a thread's status lacks %q:\n%s", want, b)
				}
			}
		}
	})
	for _, m := range a.Measures {
		if !m.Holds {
			t.Errorf("%s does not hold: %s", m.Name, m.Detail)
		}
	}
	for _, name := range o.Attempts {
		err, wanted := a.Errors[name], slices.Contains(works, name)
		if wanted && err != "" {
			t.Errorf("%q fails: %s", name, err)
		}
		if !wanted && err == "" {
			t.Errorf("%q works", name)
		}
	}
	// The reasons, where it matters which part refused.
	for name, want := range map[string]error{
		"read a file outside": unix.EACCES, "follow a link outside": unix.EACCES, "use a held directory": unix.EACCES, "write where it may read": unix.EACCES,
		"open the parent's memory": unix.EACCES, "execute a program": unix.EPERM, "execute memory": unix.EPERM, "make a process": unix.EPERM,
		"read the parent's memory": unix.EPERM, "trace the parent": unix.EPERM, "connect": unix.EPERM, "io_uring": unix.EPERM, "make a process as clone": unix.ENOSYS,
	} {
		if !strings.HasSuffix(a.Errors[name], want.Error()) {
			t.Errorf("%q: %s, wanted %v", name, a.Errors[name], want)
		}
	}
}

// The attempts mean something: without the wall they work.
func TestWithoutTheWallTheSameAttemptsWork(t *testing.T) {
	names := []string{
		"read a file outside", "write a file outside", "make a file outside", "list a directory outside", "follow a link outside", "go through the process's root",
		"use a held directory", "read what was inherited by chance", "cut a file outside short", "open a file to others", "remove a file outside",
		"connect", "send a datagram", "connect a local socket", "listen", "make a pair of sockets", "make a process", "execute a program", "execute memory",
		"signal the parent", "signal a thread outside", "have the kernel signal it",
	}
	if os.Geteuid() == 0 { // an ordinary user may be kept from these in other ways
		names = append(names, "trace the parent", "read the parent's memory", "write the parent's memory", "open the parent's memory", "read the parent's environment",
			"take a descriptor of the parent", "limit the parent", "slow the parent", "link a file outside into the grant", "move a file outside into the grant")
	}
	for _, name := range append(names, works...) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := stage(t)
			o.Attempts = []string{name}
			if strings.HasPrefix(name, "execute") { // the worker is gone then
				if err := executed(t, o); err != nil {
					t.Error(err)
				}
				return
			}
			if a := run(t, o, nil); a.Errors[name] != "" {
				t.Error(a.Errors[name])
			}
		})
	}
}

// executed runs a worker that becomes /bin/true, and so says nothing and ends well.
func executed(t *testing.T, o orders) error {
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{workerVariable + "=" + string(text)}
	out, err := cmd.CombinedOutput()
	if err == nil && len(out) > 0 {
		err = fmt.Errorf("it said %s", out)
	}
	return err
}

func TestAPartThatTheKernelLacksLeavesTheOthersStanding(t *testing.T) {
	needAll(t)
	for without, c := range map[string]struct {
		missing       string
		refused, open []string
	}{
		"landlock_create_ruleset": {landlockName, []string{"connect", "execute a program", "read the parent's memory", "trace the parent", "cut a file outside short"}, []string{"read a file outside"}},
		"seccomp":                 {seccompName, []string{"read a file outside", "follow a link outside", "open the parent's memory", "connect", "write where it may read"}, []string{"make a pair of sockets"}},
	} {
		t.Run(without, func(t *testing.T) {
			o := stage(t)
			o.Confined, o.Without = true, without
			o.Attempts = slices.Concat(c.refused, c.open, works)
			a := run(t, o, nil)
			for _, m := range a.Measures {
				if m.Holds == (m.Name == c.missing) || m.Holds == (m.Cost != "") {
					t.Errorf("%+v", m)
				}
			}
			for _, name := range o.Attempts {
				if refused := a.Errors[name] != ""; refused != slices.Contains(c.refused, name) {
					t.Errorf("%q: %q", name, a.Errors[name])
				}
			}
		})
	}
}

func TestEveryCallOfTheListIsOneOfAnArchitecture(t *testing.T) {
	known := func(name string) bool {
		for _, i := range []*arch.Info{arch.X86_64, arch.AARCH64} {
			if _, ok := i.SyscallNames[name]; ok {
				return true
			}
		}
		return false
	}
	seen := map[string]bool{}
	for _, names := range allowed {
		for _, name := range names {
			if !known(name) || seen[name] {
				t.Errorf("%s is unknown, or there twice", name)
			}
			seen[name] = true
		}
	}
	for _, c := range conditional(1) {
		if !known(c.Name) || seen[c.Name] {
			t.Errorf("%s is unknown, or allowed without conditions", c.Name)
		}
	}
	p, err := filter(1)
	if err != nil {
		t.Fatal(err)
	}
	code, err := p.Assemble()
	if err != nil || len(code) > 4096 { // BPF_MAXINSNS
		t.Errorf("%d instructions, %v", len(code), err)
	}
	if p.DefaultAction != seccomp.ActionErrno {
		t.Errorf("other calls are not refused: %v", p.DefaultAction)
	}
}

func TestGapsAreLoggedInOneLineAndNothingIsSaidWithoutAny(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	Log(log, []Measure{measure(seccompName, "", nil)})
	if out.Len() > 0 {
		t.Errorf("it said %s", out.String())
	}
	Log(log, []Measure{measure(landlockName, "", errors.New("switched off")), measure(limits, "", nil), measure(hidden, "", errors.New("refused"))})
	got := out.String()
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, "landlock (switched off); hidden memory (refused)") || !strings.Contains(got, "token") || strings.Contains(got, limits) {
		t.Errorf("it said %s", got)
	}
}
